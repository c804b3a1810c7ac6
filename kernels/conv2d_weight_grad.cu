#include "common.cuh"
#include "geometry.cuh"
#include "gate.cuh"
#include "tile.cuh"
#include "sums.cuh"
// Gradients of a 2-D convolution's filters and bias:
//   dw[i, j, c, o] = sum over n, p, q of x[n, p stride + i dilation - pad, q stride + j dilation - pad, c] dy[n, p, q, o]
//   db[o] = sum over n, p, q of dy[n, p, q, o]
//   dy, y (N, OH, OW, O), or the shape of mask with a pool   x (N, H, W, C)   dw (KH, KW, C / groups, O)   db (O,) or null
// dw and db are float for every T: they are sums over a whole batch, with which an optimizer goes
// on computing.
// The gate (y, `f` and mask) takes dy back through the activation and the pool that were fused into
// the forward pass, while dy is loaded: see gate.cuh.
//
// Tiling (`_tiled`): a matrix product with KH KW C / groups rows, O / groups columns and a
// reduction over the N OH OW pixels. There are few tiles of results and a long reduction, so the
// reduction is split: split s adds up its own range of pixels into partial_w[s] and partial_b[s].
// The last split of a tile to finish, which a counter tells, adds all of them in their order. So
// the sum is the same whichever split is last, and no second launch is needed.
//   128 x 64, 8 x 4 per thread: many taps and filters;   64 x 64, 4 x 4: fewer;   64 x 16, 2 x 2: up to 16 filters.
// The blocks of the first row tile also add up the columns of dy that stand in shared memory: this
// is the bias gradient.
//
// A depthwise convolution (C = groups) is no such product (`_depthwise`): of a tile, only KH KW
// rows and one column would be used. There a block computes 32 neighbouring filters and up to 9 of
// their taps. Each warp takes every eighth pixel of its split, and loads dy once and x under each
// tap, which is in the cache from the taps before. The sums of the warps are added in order.
// Alignment: V = 4 needs dy, y, x aligned to four elements, C / groups and O / groups multiples of
// 4; V = 1 needs nothing.
// Bound: 2 N OH OW FLOP per element of dw: arithmetic, as in the forward pass; the partial sums are
// (number of splits) |w| floats. Depthwise: memory, the elements of dy (and y) and x once for every
// nine taps.

template <typename T>
__global__ void conv2d_weight_grad_simple(
        const T* __restrict__ dy, const T* __restrict__ OR_NULL y, const uint8* __restrict__ OR_NULL mask,
        const T* __restrict__ x, float* __restrict__ ADDED_TO dw, float* __restrict__ OR_NULL ADDED_TO db, Geometry g,
        Activation f, int accumulate) {
    const int taken = g.C / g.groups, made = g.O / g.groups;
    const int64 weights = (int64)g.KH * g.KW * taken * g.O;
    GRID_STRIDE_LOOP(idx, weights + (db ? g.O : 0)) {
        const bool bias = idx >= weights;
        const int o = bias ? idx - weights : idx % g.O, c = idx / g.O % taken, tap = idx / g.O / taken;
        Sum own;
        for (int64 n = 0; n < g.N; ++n)
            for (int p = 0; p < g.OH; ++p)
                for (int q = 0; q < g.OW; ++q) {
                    const int row = p * g.stride_h + tap / g.KW * g.dilation_h - g.pad_top;
                    const int col = q * g.stride_w + tap % g.KW * g.dilation_w - g.pad_left;
                    if (!bias && (!inside(row, g.H) || !inside(col, g.W))) continue;
                    float v[1];
                    load_output_grad<1>(v, dy, y, mask, g, n, p, q, o, f);
                    own.add(bias ? v[0] : v[0] * to_float(x[((n * g.H + row) * g.W + col) * g.C + o / made * taken + c]));
                }
        const float sum = own.value();
        float* out = bias ? db + o : dw + idx;
        *out = accumulate ? *out + sum : sum;
    }
}

// out[at + j] = (out[at + j] if accumulate) + partial[at + j] + partial[stride + at + j] + …, for
// the columns below `columns`.
template <int RN>
__device__ __forceinline__ void add_splits(
        const float* partial, int64 stride, int splits, float* out, int64 at, int columns, int accumulate) {
    Sum sums[RN];
    for (int s = 0; s < splits; ++s)
#pragma unroll
        for (int j = 0; j < RN; ++j)
            if (j < columns) sums[j].add(partial[s * stride + at + j]);
#pragma unroll
    for (int j = 0; j < RN; ++j)
        if (j < columns) out[at + j] = accumulate ? out[at + j] + sums[j].value() : sums[j].value();
}

// Add the sums of a few steps to the total, and set them to 0. A split has few pixels, so that both
// sums are short.
template <int RM, int RN>
__device__ __forceinline__ void take_in(float (&total)[RM][RN], float (&acc)[RM][RN]) {
#pragma unroll
    for (int i = 0; i < RM; ++i)
#pragma unroll
        for (int j = 0; j < RN; ++j) total[i][j] += acc[i][j], acc[i][j] = 0.0f;
}

// Whether this block's split is the last of its tile to arrive. If so, it sees what the others
// wrote, and the counter is 0 again for the next launch.
__device__ __forceinline__ bool arrives_last(int* arrivals, int splits) {
    __shared__ bool last;
    const int tile = blockIdx.x % (gridDim.x / splits);
    __threadfence();  // the partial sums are visible before their split arrives
    __syncthreads();
    if (threadIdx.x == 0) last = atomicAdd(&arrivals[tile], 1) == splits - 1;
    __syncthreads();
    if (!last) return false;
    __threadfence();
    if (threadIdx.x == 0) arrivals[tile] = 0;
    return true;
}

template <typename T, int TM, int TN, int RM, int RN, int V>
__global__ void __launch_bounds__(THREADS, 2) conv2d_weight_grad_tiled(
        const T* __restrict__ dy, const T* __restrict__ OR_NULL y, const uint8* __restrict__ OR_NULL mask,
        const T* __restrict__ x, float* __restrict__ UPDATED partial_w, float* __restrict__ OR_NULL UPDATED partial_b,
        int* __restrict__ UPDATED arrivals, float* __restrict__ ADDED_TO dw, float* __restrict__ OR_NULL ADDED_TO db, Geometry g,
        Activation f, int pixels_a_split, int accumulate) {
    __shared__ Tile<TM, TN> tile;

    const int taken = g.C / g.groups, made = g.O / g.groups, rows = g.KH * g.KW * taken;
    const int row_tiles = (rows + TM - 1) / TM, col_tiles = (made + TN - 1) / TN;
    const int col0 = blockIdx.x % col_tiles * TN, group = blockIdx.x / col_tiles % g.groups;
    const int row0 = blockIdx.x / col_tiles / g.groups % row_tiles * TM;
    const int64 split = blockIdx.x / col_tiles / g.groups / row_tiles;
    const int64 begin = split * pixels_a_split, pixels = (int64)g.N * g.OH * g.OW;
    const int64 end = begin + pixels_a_split < pixels ? begin + pixels_a_split : pixels;

    // In every step, a thread loads the same row of the left matrix: V channels of one tap.
    const int r = threadIdx.x % (TM / V) * V, tap = (row0 + r) / taken, c = (row0 + r) % taken;
    const int down = tap / g.KW * g.dilation_h - g.pad_top, right = tap % g.KW * g.dilation_w - g.pad_left;
    const int o = threadIdx.x % (TN / V) * V;
    const int row = tile_row<TN, RM, RN>(), col = tile_col<TN, RN>();
    const bool sums_bias = partial_b && row0 == 0 && row == 0;

    float acc[RM][RN] = {}, total[RM][RN] = {};
    Sum biases[RN];
    for (int64 k0 = begin; k0 < end; k0 += TILE_K) {
#pragma unroll
        for (int k = threadIdx.x / (TM / V); k < TILE_K; k += THREADS * V / TM) {
            float v[V] = {};
            if (k0 + k < end && row0 + r < rows) {
                const int pixel = k0 + k, image = pixel / (g.OH * g.OW), in_image = pixel % (g.OH * g.OW);
                const int h = in_image / g.OW * g.stride_h + down, w = in_image % g.OW * g.stride_w + right;
                if (inside(h, g.H) && inside(w, g.W))
                    load<V>(v, x + (((int64)image * g.H + h) * g.W + w) * g.C + group * taken + c);
            }
#pragma unroll
            for (int u = 0; u < V; ++u) tile.a[k][r + u] = v[u];
        }
#pragma unroll
        for (int k = threadIdx.x / (TN / V); k < TILE_K; k += THREADS * V / TN) {
            float v[V] = {};
            if (k0 + k < end && col0 + o < made) {
                const int pixel = k0 + k, image = pixel / (g.OH * g.OW), in_image = pixel % (g.OH * g.OW);
                load_output_grad<V>(v, dy, y, mask, g, image, in_image / g.OW, in_image % g.OW, group * made + col0 + o, f);
            }
#pragma unroll
            for (int u = 0; u < V; ++u) tile.b[k][o + u] = v[u];
        }
        __syncthreads();
        multiply_tile(tile, acc);
        if (sums_bias)
#pragma unroll 1
            for (int k = 0; k < TILE_K; ++k)
#pragma unroll
                for (int j = 0; j < RN; ++j) biases[j].add(tile.b[k][col + j]);
        if ((k0 - begin) / TILE_K % TILE_STEPS == TILE_STEPS - 1) take_in<RM, RN>(total, acc);
        __syncthreads();  // before the next step overwrites the tiles
    }
    take_in<RM, RN>(total, acc);

    const int left = made - col0 - col;  // columns from this thread's first to the last of the tile's group
    const int64 first = (int64)(row0 + row) * g.O + group * made + col0 + col, weights = (int64)rows * g.O;
#pragma unroll
    for (int i = 0; i < RM; ++i) {
        if (row0 + row + i >= rows) break;
        store_columns<V>(partial_w, split * weights + first + i * g.O, total[i], left);
    }
    float bias[RN];
#pragma unroll
    for (int j = 0; j < RN; ++j) bias[j] = biases[j].value();
    if (sums_bias) store_columns<V>(partial_b, split * g.O + group * made + col0 + col, bias, left);

    const int splits = (pixels + pixels_a_split - 1) / pixels_a_split;
    if (!arrives_last(arrivals, splits)) return;
#pragma unroll 1
    for (int i = 0; i < RM; ++i)
        if (row0 + row + i < rows) add_splits<RN>(partial_w, weights, splits, dw, first + i * g.O, left, accumulate);
    if (sums_bias) add_splits<RN>(partial_b, g.O, splits, db, group * made + col0 + col, left, accumulate);
}

#define TAPS 9

template <typename T>
__global__ void __launch_bounds__(THREADS, 2) conv2d_weight_grad_depthwise(
        const T* __restrict__ dy, const T* __restrict__ OR_NULL y, const uint8* __restrict__ OR_NULL mask,
        const T* __restrict__ x, float* __restrict__ UPDATED partial_w, float* __restrict__ OR_NULL UPDATED partial_b,
        int* __restrict__ UPDATED arrivals, float* __restrict__ ADDED_TO dw, float* __restrict__ OR_NULL ADDED_TO db, Geometry g,
        Activation f, int pixels_a_split, int accumulate) {
    __shared__ float sums[WARPS][TAPS + 1][WARP];  // the last is the bias's

    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, taps = g.KH * g.KW;
    const int filter_tiles = (g.O + WARP - 1) / WARP, tap_tiles = (taps + TAPS - 1) / TAPS;
    const int o = blockIdx.x % filter_tiles * WARP + lane, tap0 = blockIdx.x / filter_tiles % tap_tiles * TAPS;
    const int64 split = blockIdx.x / filter_tiles / tap_tiles;
    const int64 begin = split * pixels_a_split, pixels = (int64)g.N * g.OH * g.OW;
    const int64 end = begin + pixels_a_split < pixels ? begin + pixels_a_split : pixels;

    Sum acc[TAPS + 1];
    if (o < g.O)
        for (int64 pixel = begin + warp; pixel < end; pixel += WARPS) {
            const int image = pixel / (g.OH * g.OW), in_image = pixel % (g.OH * g.OW);
            const int p = in_image / g.OW, q = in_image % g.OW;
            float d[1];
            load_output_grad<1>(d, dy, y, mask, g, image, p, q, o, f);
            const T* channel = x + (int64)image * g.H * g.W * g.C + o / (g.O / g.C);
#pragma unroll
            for (int t = 0; t < TAPS; ++t) {
                const int tap = tap0 + t;
                const int h = p * g.stride_h + tap / g.KW * g.dilation_h - g.pad_top;
                const int w = q * g.stride_w + tap % g.KW * g.dilation_w - g.pad_left;
                if (tap < taps && inside(h, g.H) && inside(w, g.W))
                    acc[t].add(d[0] * to_float(channel[(int64)(h * g.W + w) * g.C]));
            }
            acc[TAPS].add(d[0]);
        }
#pragma unroll
    for (int t = 0; t <= TAPS; ++t) sums[warp][t][lane] = acc[t].value();
    __syncthreads();

    // Each warp finishes every eighth tap; the bias counts as the tap after the last
    const int64 weights = (int64)taps * g.O;
    for (int t = warp; t <= TAPS; t += WARPS) {
        float sum = 0.0f;
        for (int other = 0; other < WARPS; ++other) sum += sums[other][t][lane];
        if (o < g.O && t < TAPS && tap0 + t < taps) partial_w[split * weights + (int64)(tap0 + t) * g.O + o] = sum;
        if (o < g.O && t == TAPS && tap0 == 0 && partial_b) partial_b[split * g.O + o] = sum;
    }
    const int splits = (pixels + pixels_a_split - 1) / pixels_a_split;
    if (!arrives_last(arrivals, splits) || o >= g.O) return;
    for (int t = warp; t <= TAPS; t += WARPS) {
        if (t < TAPS && tap0 + t < taps)
            add_splits<1>(partial_w, weights, splits, dw, (int64)(tap0 + t) * g.O + o, 1, accumulate);
        if (t == TAPS && tap0 == 0 && partial_b) add_splits<1>(partial_b, g.O, splits, db, o, 1, accumulate);
    }
}
