// Code that all kernels share: names of integers, the grid-stride loop, loads of one, four or eight elements,
// activations and reductions.
//
// Elements are stored as T (float, half or bfloat16), and computed with as float. NVRTC has no <cstdint>
// and no INFINITY, so the integers get their names here.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

typedef long long int64;
typedef unsigned long long uint64;
typedef unsigned int uint32;
typedef unsigned short uint16;
typedef unsigned char uint8;
typedef __nv_bfloat16 bfloat16;

#include "ptx.cuh"

// Marks of pointer parameters. OR_NULL: it may be null. UPDATED: its old content is read before it is
// overwritten. ADDED_TO: the same, where the kernel's `accumulate` is not 0. They are empty for the
// compiler; the host reads them when it checks a launch and counts its bytes.
#define OR_NULL
#define UPDATED
#define ADDED_TO

// Every thread takes elements that are a whole grid apart, so that any grid covers any count. The index
// has 64 bits, for a tensor may have more than 2^31 elements.
#define GRID_STRIDE_LOOP(i, count)                                                                  \
    for (int64 i = blockIdx.x * (int64)blockDim.x + threadIdx.x, step_ = (int64)gridDim.x * blockDim.x; i < (count); i += step_)

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(half value) { return __half2float(value); }
__device__ __forceinline__ float to_float(bfloat16 value) { return __bfloat162float(value); }

// Rounds to the nearest, ties to even. A value that is too large becomes infinite, and NaN stays NaN.
// sm_75 rounds bfloat16 in software.
__device__ __forceinline__ void from_float(float& to, float value) { to = value; }
__device__ __forceinline__ void from_float(half& to, float value) { to = __float2half_rn(value); }
__device__ __forceinline__ void from_float(bfloat16& to, float value) { to = __float2bfloat16_rn(value); }

// The type in which one load or store moves V elements of type T.
template <int BYTES> struct Piece;
template <> struct Piece<16> { typedef float4 Bits; };
template <> struct Piece<8> { typedef uint2 Bits; };
template <> struct Piece<4> { typedef uint32 Bits; };
template <> struct Piece<2> { typedef uint16 Bits; };
template <> struct Piece<1> { typedef uint8 Bits; };
template <typename T, int V> using Bits = typename Piece<V * sizeof(T)>::Bits;

// How many of V elements one load or store moves, for V = 4 and 8: all, if they have no more than 16 bytes.
template <typename T, int V> constexpr int moved_at_once = V * sizeof(T) > 16 ? 16 / sizeof(T) : V;

// v[0 … V - 1] = p[0 … V - 1]. For V = 4 and 8, p must be aligned to 16 bytes, or to V elements if they
// have fewer. It is one load, or two for eight elements of float.
template <int V, typename T>
__device__ __forceinline__ void load(float (&v)[V], const T* p) {
    if constexpr (V == 4 || V == 8) {
        constexpr int EACH = moved_at_once<T, V>;
#pragma unroll
        for (int first = 0; first < V; first += EACH) {
            const auto all = *reinterpret_cast<const Bits<T, EACH>*>(p + first);
#pragma unroll
            for (int u = 0; u < EACH; ++u) v[first + u] = to_float(reinterpret_cast<const T*>(&all)[u]);
        }
    } else {
#pragma unroll
        for (int u = 0; u < V; ++u) v[u] = to_float(p[u]);
    }
}

// p[0 … V - 1] = v[0 … V - 1], as for `load`.
template <int V, typename T>
__device__ __forceinline__ void store(T* p, const float (&v)[V]) {
    if constexpr (V == 4 || V == 8) {
        constexpr int EACH = moved_at_once<T, V>;
#pragma unroll
        for (int first = 0; first < V; first += EACH) {
            Bits<T, EACH> all;
#pragma unroll
            for (int u = 0; u < EACH; ++u) from_float(reinterpret_cast<T*>(&all)[u], v[first + u]);
            *reinterpret_cast<Bits<T, EACH>*>(p + first) = all;
        }
    } else {
#pragma unroll
        for (int u = 0; u < V; ++u) from_float(p[u], v[u]);
    }
}

// V elements as they lie in memory: loaded now, converted when they are read. A row that is under way
// takes half as many registers as its floats would.
template <typename T, int V>
struct Stored {
    Bits<T, V> bits;

    __device__ __forceinline__ void load(const T* p) { bits = *reinterpret_cast<const Bits<T, V>*>(p); }
    __device__ __forceinline__ void read(float (&v)[V]) const {
#pragma unroll
        for (int u = 0; u < V; ++u) v[u] = to_float(reinterpret_cast<const T*>(&bits)[u]);
    }
};

template <int COUNT> struct Elements { static constexpr int count = COUNT; };

constexpr int widest(int a) { return a; }
template <typename... Sizes>
constexpr int widest(int a, Sizes... others) { return a > widest(others...) ? a : widest(others...); }

// The loop of an elementwise kernel on `arrays`: calls of(Elements<V>(), i) for the elements i … i + V - 1,
// which together are all `count`. Where an array has 16 bits, V elements are a piece of 16 bytes of the widest
// array, if all arrays are aligned to pieces and `whole` says so; the elements after the last piece come one
// by one. The host knows V as `piece_of_each`.
template <typename Of, typename... Arrays>
__device__ __forceinline__ void each_piece(int64 count, bool whole, Of of, const Arrays*... arrays) {
    if constexpr (((sizeof(Arrays) == 2) || ...)) {
        constexpr int V = 16 / widest(sizeof(Arrays)...);
        const int64 pieces = whole && (((uint64)arrays % (V * sizeof(Arrays)) == 0) && ...) ? count / V : 0;
        GRID_STRIDE_LOOP(i, pieces) of(Elements<V>(), i * V);
#pragma unroll 1  // for these are few
        GRID_STRIDE_LOOP(i, count - pieces * V) of(Elements<1>(), pieces * V + i);
    } else {
        GRID_STRIDE_LOOP(i, count) of(Elements<1>(), i);
    }
}

// Whether a matrix with rows of `columns` elements can be loaded and stored by fours.
template <typename T>
__device__ __forceinline__ bool comes_in_fours(const T* matrix, int64 columns) {
    return columns % 4 == 0 && (uint64)matrix % (4 * sizeof(T)) == 0;
}

// An elementwise function whose gradient follows from its output. `kind` is one of the numbers below, which
// are the positions in gpunet.backends.contract.activation.ACTIVATIONS counted from 1. Those that are a line
// between two limits share the last one: y = slope (x + shift), no less than low and no more than high.
struct Activation {
    int kind;
    float slope, shift, low, high;  // slope also holds the alpha of ELU
};

#define ACTIVATION_NONE 0
#define ACTIVATION_RELU 1
#define ACTIVATION_LEAKY_RELU 2
#define ACTIVATION_SIGMOID 3
#define ACTIVATION_TANH 4
#define ACTIVATION_ELU 5
#define ACTIVATION_LINE 6

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// v = f(v), with one branch for all of v: one for each element would cost more than most functions do.
// Comparisons are written `x <= 0 ? … : x`, which lets NaN pass, since a comparison with NaN is false;
// fmaxf(NaN, 0) would be 0.
template <int V>
__device__ __forceinline__ void activate(Activation f, float (&v)[V]) {
    const auto all = [&](auto of) {
#pragma unroll
        for (int u = 0; u < V; ++u) v[u] = of(v[u]);
    };
    switch (f.kind) {
        case ACTIVATION_RELU: return all([](float x) { return x <= 0.0f ? 0.0f : x; });
        case ACTIVATION_LEAKY_RELU: return all([&](float x) { return x <= 0.0f ? f.slope * x : x; });
        case ACTIVATION_SIGMOID: return all([](float x) { return sigmoid(x); });
        case ACTIVATION_TANH: return all([](float x) { return tanhf(x); });
        case ACTIVATION_ELU: return all([&](float x) { return x <= 0.0f ? f.slope * expm1f(x) : x; });
        case ACTIVATION_LINE: return all([&](float x) {
            const float y = f.slope * (x + f.shift);
            return y <= f.low ? f.low : y >= f.high ? f.high : y;
        });
    }
}

// The same for ReLU or none, or for ANY: in the unrolled end of a product, the code of all activations
// would be many times as long as the product.
template <bool ANY, int V>
__device__ __forceinline__ void activate_results(Activation f, float (&v)[V]) {
    if constexpr (ANY) return activate<V>(f, v);
#pragma unroll
    for (int u = 0; u < V; ++u) v[u] = (f.kind == ACTIVATION_RELU) & (v[u] <= 0.0f) ? 0.0f : v[u];
}

// dy = the gradient of the activation's input, from that of its output y.
template <int V>
__device__ __forceinline__ void undo_activation(Activation f, float (&dy)[V], const float (&y)[V]) {
    const auto all = [&](auto of) {
#pragma unroll
        for (int u = 0; u < V; ++u) dy[u] = of(dy[u], y[u]);
    };
    switch (f.kind) {
        case ACTIVATION_RELU: return all([](float dy, float y) { return y <= 0.0f ? 0.0f : dy; });
        case ACTIVATION_LEAKY_RELU: return all([&](float dy, float y) { return y <= 0.0f ? f.slope * dy : dy; });
        case ACTIVATION_SIGMOID: return all([](float dy, float y) { return dy * y * (1.0f - y); });
        case ACTIVATION_TANH: return all([](float dy, float y) { return dy * (1.0f - y * y); });
        case ACTIVATION_ELU: return all([&](float dy, float y) { return y <= 0.0f ? (y + f.slope) * dy : dy; });
        case ACTIVATION_LINE: return all([&](float dy, float y) { return y <= f.low || y >= f.high ? 0.0f : f.slope * dy; });
    }
}

// v = dy[at …] after `undo_activation` with y[at …]: the gate of a gradient kernel. Without an activation
// y is not read, and may be null.
template <int V, typename T>
__device__ __forceinline__ void load_gated(float (&v)[V], const T* dy, const T* y, int64 at, Activation f) {
    load<V>(v, dy + at);
    if (f.kind != ACTIVATION_NONE) {
        float out[V];
        load<V>(out, y + at);
        undo_activation<V>(f, v, out);
    }
}

#define NOT_A_NUMBER __int_as_float(0x7fffffff)

__device__ __forceinline__ bool is_nan(float x) { return x != x; }

// Whether (x, i) wins over (best, j): NaN wins over all numbers, then the larger one, then the earlier.
__device__ __forceinline__ bool precedes(float x, int64 i, float best, int64 j) {
    if (is_nan(x) || is_nan(best)) return is_nan(x) && (!is_nan(best) || i < j);
    return x > best || (x == best && i < j);
}

// The host reads WARP and THREADS here: the threads of a warp, and those of a block unless a kernel's launch bounds say otherwise.
#define WARP 32
#define THREADS 256
#define WARPS (THREADS / WARP)
#define ALL_LANES 0xffffffffu

// The sum over a warp, equal in all lanes and always in the same order. Every lane must call it.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(ALL_LANES, x, distance);
    return x;
}

// The sum over a block of at most 1024 threads in whole warps, equal in all threads, in a fixed order.
__device__ __forceinline__ float block_sum(float x) {
    __shared__ float of_warp[WARP];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    x = warp_sum(x);
    __syncthreads();  // an earlier call may still read of_warp
    if (lane == 0) of_warp[warp] = x;
    __syncthreads();
    float total = 0.0f;
    for (int i = 0; i < blockDim.x / WARP; ++i) total += of_warp[i];
    return total;
}
