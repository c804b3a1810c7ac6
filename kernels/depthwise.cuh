#include "geometry.cuh"
// Patches of pixels, and strips of a row of pixels, that one thread of a depthwise kernel computes
// or loads, for V neighbouring channels: see conv2d_depthwise.cu.

// Pixels of a thread's patch, and of a strip. With a pool, a patch is two of its windows.
#define ROWS 2
#define COLS 4
// Channels of a block at most: 128 bytes of float.
#define SLICE 32

// As `inside`, in one comparison.
__device__ __forceinline__ bool within(int at, int extent) { return (uint32)at < (uint32)extent; }

// v[at … at + V - 1] = p[0 … V - 1].
template <int V, int N, typename T>
__device__ __forceinline__ void load_piece(float (&v)[N], int at, const T* p) {
    float piece[V];
    load<V>(piece, p);
#pragma unroll
    for (int u = 0; u < V; ++u) v[at + u] = piece[u];
}

// v[at … at + V - 1] += p[0 … V - 1].
template <int V, int N, typename T>
__device__ __forceinline__ void add_piece(float (&v)[N], int at, const T* p) {
    float piece[V];
    load<V>(piece, p);
#pragma unroll
    for (int u = 0; u < V; ++u) v[at + u] += piece[u];
}

template <int V, int N, typename T>
__device__ __forceinline__ void store_piece(T* p, const float (&v)[N], int at) {
    float piece[V];
#pragma unroll
    for (int u = 0; u < V; ++u) piece[u] = v[at + u];
    store<V>(p, piece);
}

// in = pixels of a row of x from `col` on, `step` apart; zeros outside.
template <int V, int N, typename T>
__device__ __forceinline__ void load_strip(
        float (&in)[N], const T* x, const Geometry& g, int n, int row, int col, int step, int channel) {
    const bool there = within(row, g.H);
    const T* at = x + (int64)((n * g.H + row) * g.W + col) * g.C + channel;
    const int64 apart = (int64)step * g.C;
#pragma unroll
    for (int k = 0; k < N / V; ++k, at += apart)
        if (there & within(col + k * step, g.W)) load_piece<V>(in, k * V, at);
}

// Where a pixel of the padded image stands in dy: a whole number of strides; -1 if it is none.
__device__ __forceinline__ int place(int at, int stride) { return at >= 0 && at % stride == 0 ? at / stride : -1; }

// COUNT pixels of dy on their way through the gate: they are loaded first, and then the gate opens
// for all of them.
template <int COUNT, int V, typename T>
struct Gated {
    float dy[COUNT * V] = {}, y[COUNT * V] = {};

    // Pixels (p, q), (p, q + 1) … of image n; zeros outside.
    __device__ __forceinline__ void load_strip(
            const T* dys, const T* ys, const Geometry& g, int n, int p, int q, int o, Activation f) {
        const bool there = within(p, g.OH), gated = there & (f.kind != ACTIVATION_NONE);
        const int64 first = (int64)((n * g.OH + p) * g.OW + q) * g.O + o;
        const T *dy_at = dys + first, *y_at = ys + first;
#pragma unroll
        for (int k = 0; k < COUNT; ++k, dy_at += g.O)
            if (there & within(q + k, g.OW)) load_piece<V>(dy, k * V, dy_at);
#pragma unroll
        for (int k = 0; k < COUNT; ++k, y_at += g.O)
            if (gated & within(q + k, g.OW)) load_piece<V>(y, k * V, y_at);
    }
    // Pixel (p, q) becomes the k-th.
    __device__ __forceinline__ void load(
            int k, const T* dys, const T* ys, const Geometry& g, int n, int p, int q, int o, Activation f) {
        if (!within(p, g.OH) || !within(q, g.OW)) return;
        const int pixel = (n * g.OH + p) * g.OW + q;
        const int64 at = (int64)pixel * g.O + o;
        load_piece<V>(dy, k * V, dys + at);
        if (f.kind != ACTIVATION_NONE) load_piece<V>(y, k * V, ys + at);
    }
    __device__ __forceinline__ void open(Activation f) { undo_activation<COUNT * V>(f, dy, y); }
};

// Where this thread's patch stands in images of `height` x `width` results, and its channels. The
// block's threads are (lanes, patches of a row, rows of patches), counted over all images.
struct Patch {
    int n, row, col, channel;
    bool there;

    template <int V>
    __device__ __forceinline__ static Patch find(int images, int height, int width, int channels) {
        const int slices = (channels + blockDim.x * V - 1) / (blockDim.x * V);
        const int tiles = (width + blockDim.y * COLS - 1) / (blockDim.y * COLS), down = (height + ROWS - 1) / ROWS;
        const int tile = blockIdx.x / slices, row = tile / tiles * blockDim.z + threadIdx.z;
        Patch at;
        at.n = row / down, at.row = row % down * ROWS, at.col = (tile % tiles * blockDim.y + threadIdx.y) * COLS;
        at.channel = (blockIdx.x % slices * blockDim.x + threadIdx.x) * V;
        at.there = at.n < images && at.col < width && at.channel < channels;
        return at;
    }
};
