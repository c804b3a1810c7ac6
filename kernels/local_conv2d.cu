#include "common.cuh"
#include "geometry.cuh"
#include "sums.cuh"
// A convolution with different filters for each output pixel, and its gradients:
//   y[n, p, q, o] = b[p, q, o] + sum over i, j, c of x[n, p stride + i - pad, q stride + j - pad, c] * w[p, q, i, j, c, o]
//   dx[n, h, w, c] = sum over the windows (p, q) that contain the pixel, and over o, of dy[n, p, q, o] * w[p, q, i, j, c, o]
//   dw[p, q, i, j, c, o] = sum over n of dy[n, p, q, o] * x[n, …, c]   db[p, q, o] = sum over n of dy[n, p, q, o]
//   x, dx (N, H, W, C)   w, dw (OH, OW, KH, KW, C, O)   b, db (OH, OW, O)   y, dy (N, OH, OW, O)
// Sums over taps, filters and images run in their order. Gradients of w and b are float for every T.
//
// No filter is used twice in an image, so the filters are most of the bytes, and each is read once for
// IMAGES images or more. In the forward pass a thread computes one output of as many images, and
// neighbouring threads read neighbouring filters. In the input gradient neighbouring threads hold
// neighbouring channels, whose filters lie apart: a block reads them in rows, into shared memory, and
// uses them for the images of all its threads. In the weight gradient a thread computes V channels of
// a filter.
// Alignment: V = 4 needs x (forward and weight gradient) and C, or dy and O (input gradient), aligned
// to four elements; V = 1 needs nothing.
// Bound: memory, by w: 4 bytes per element, read (or written) once, for N products; above about 30
// images, arithmetic.

#define IMAGES 8  // of a thread

// The row and the column of x under tap (i, j) of window (p, q).
#define TAP_ROW(g, p, i) ((p) * (g).stride_h + (i) * (g).dilation_h - (g).pad_top)
#define TAP_COLUMN(g, q, j) ((q) * (g).stride_w + (j) * (g).dilation_w - (g).pad_left)

// sum[k] += v[u] f[u] for the images k, which are `image` elements apart and begin at `from`. Images
// beyond `last` take the elements of the last one; nothing of theirs is stored.
template <int V, typename T>
__device__ __forceinline__ void add_products(float (&sum)[IMAGES], const T* from, int64 image, int last, const float (&f)[V]) {
#pragma unroll
    for (int k = 0; k < IMAGES; ++k) {
        float v[V];
        load<V>(v, from);
#pragma unroll
        for (int u = 0; u < V; ++u) sum[k] += v[u] * f[u];
        if (k < last) from += image;
    }
}

template <typename T, int V>
__global__ void __launch_bounds__(THREADS, 2) local_conv2d_forward(
        const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ OR_NULL b, T* __restrict__ y, Geometry g) {
    const int64 pixels = (int64)g.OH * g.OW, image = (int64)g.H * g.W * g.C;
    const int tiles = (g.N + IMAGES - 1) / IMAGES;
    GRID_STRIDE_LOOP(idx, pixels * tiles * g.O) {
        const int o = idx % g.O, n = idx / g.O % tiles * IMAGES, last = g.N - 1 - n;
        const int64 pixel = idx / g.O / tiles;
        const int p = pixel / g.OW, q = pixel % g.OW;
        float sum[IMAGES];
#pragma unroll
        for (int k = 0; k < IMAGES; ++k) sum[k] = b ? to_float(b[pixel * g.O + o]) : 0.0f;
        for (int i = 0; i < g.KH; ++i) {
            const int row = TAP_ROW(g, p, i);
            for (int j = 0; j < g.KW; ++j) {
                const int column = TAP_COLUMN(g, q, j);
                if (!inside(row, g.H) || !inside(column, g.W)) continue;
                const T* from = x + n * image + ((int64)row * g.W + column) * g.C;
                const T* filter = w + ((pixel * g.KH + i) * g.KW + j) * g.C * g.O + o;
                for (int c = 0; c < g.C; c += V) {
                    float f[V];
#pragma unroll
                    for (int u = 0; u < V; ++u) f[u] = to_float(filter[(int64)(c + u) * g.O]);
                    add_products<V>(sum, from + c, image, last, f);
                }
            }
        }
#pragma unroll
        for (int k = 0; k < IMAGES; ++k)
            if (k <= last) from_float(y[((n + k) * pixels + pixel) * g.O + o], sum[k]);
    }
}

// A block takes a pixel of x, `across` channels, a power of two up to WARP, and IMAGES images for each
// thread that holds the same channel.
template <typename T, int V>
__global__ void __launch_bounds__(THREADS, 2) local_conv2d_input_grad(
        const T* __restrict__ dy, const T* __restrict__ w, T* __restrict__ dx, Geometry g, int across) {
    __shared__ float filters[WARP][WARP + 1];  // of a channel each: up to WARP outputs
    const int lane = threadIdx.x % across, images = blockDim.x / across * IMAGES;
    const int tiles = (g.N + images - 1) / images, channel_tiles = (g.C + across - 1) / across;
    const int64 pixels = (int64)g.OH * g.OW;
    for (int64 idx = blockIdx.x; idx < (int64)g.H * g.W * channel_tiles * tiles; idx += gridDim.x) {  // the same for the block
        const int n = idx % tiles * images + threadIdx.x / across * IMAGES, last = g.N - 1 - n;
        const int c = idx / tiles % channel_tiles * across, channels = min(across, g.C - c);
        const int column = idx / tiles / channel_tiles % g.W, row = idx / tiles / channel_tiles / g.W;
        float sum[IMAGES] = {};
        for (int i = 0; i < g.KH; ++i) {
            const int down = row + g.pad_top - i * g.dilation_h, p = down / g.stride_h;
            if (down < 0 || down % g.stride_h || p >= g.OH) continue;
            for (int j = 0; j < g.KW; ++j) {
                const int right = column + g.pad_left - j * g.dilation_w, q = right / g.stride_w;
                if (right < 0 || right % g.stride_w || q >= g.OW) continue;
                const int64 pixel = (int64)p * g.OW + q;
                const T* filter = w + (((pixel * g.KH + i) * g.KW + j) * g.C + c) * g.O;
                for (int o = 0; o < g.O; o += WARP) {
                    const int outputs = min(WARP, g.O - o);
                    __syncthreads();  // the filters before have been used
#pragma unroll 4
                    for (int e = threadIdx.x; e < channels * outputs; e += blockDim.x)
                        filters[e / outputs][e % outputs] = to_float(filter[(int64)(e / outputs) * g.O + o + e % outputs]);
                    __syncthreads();
                    if (lane >= channels || last < 0) continue;  // both barriers of a turn lie before this
                    const T* from = dy + (n * pixels + pixel) * g.O + o;
                    for (int at = 0; at < outputs; at += V) {
                        float f[V];
#pragma unroll
                        for (int u = 0; u < V; ++u) f[u] = filters[lane][at + u];
                        add_products<V>(sum, from + at, pixels * g.O, last, f);
                    }
                }
            }
        }
#pragma unroll
        for (int k = 0; k < IMAGES; ++k)
            if (lane < channels && k <= last)
                from_float(dx[(((int64)(n + k) * g.H + row) * g.W + column) * g.C + c + lane], sum[k]);
    }
}

template <typename T, int V>
__global__ void __launch_bounds__(THREADS, 4) local_conv2d_weight_grad(
        const T* __restrict__ dy, const T* __restrict__ x, float* __restrict__ ADDED_TO dw,
        float* __restrict__ ADDED_TO OR_NULL db, Geometry g, int accumulate) {
    const int64 pixels = (int64)g.OH * g.OW, threads = pixels * g.KH * g.KW * (g.C / V) * g.O;
    GRID_STRIDE_LOOP(idx, threads + (db ? pixels * g.O : 0)) {
        const bool bias = idx >= threads;
        const int64 tap = idx / g.O;  // (p, q, i, j, c / V)
        const int64 pixel = bias ? (idx - threads) / g.O : tap / (g.C / V) / g.KW / g.KH;
        const int o = idx % g.O, c = tap % (g.C / V) * V, i = tap / (g.C / V) / g.KW % g.KH, j = tap / (g.C / V) % g.KW;
        const int row = TAP_ROW(g, (int)(pixel / g.OW), i), column = TAP_COLUMN(g, (int)(pixel % g.OW), j);
        const T* of = dy + pixel * g.O + o;
        const T* from = x + ((int64)row * g.W + column) * g.C + c;
        Sum sum[V];
        if (bias)
            for (int64 n = 0; n < g.N; ++n) sum[0].add(to_float(of[n * pixels * g.O]));
        else if (inside(row, g.H) && inside(column, g.W))
#pragma unroll 4
            for (int64 n = 0; n < g.N; ++n) {
                const float d = to_float(of[n * pixels * g.O]);
                float v[V];
                load<V>(v, from + n * g.H * g.W * g.C);
#pragma unroll
                for (int u = 0; u < V; ++u) sum[u].add(d * v[u]);
            }
        float* to = bias ? db + (idx - threads) : dw + tap * V * g.O + o;
#pragma unroll
        for (int u = 0; u < V; ++u)
            if (u == 0 || !bias) to[u * g.O] = accumulate ? to[u * g.O] + sum[u].value() : sum[u].value();
    }
}
