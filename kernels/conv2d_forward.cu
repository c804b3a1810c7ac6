#include "common.cuh"
#include "geometry.cuh"
#include "tile.cuh"
// 2-D convolution (the cross-correlation of deep learning), fused with bias, activation and max pool:
//   y[n, p, q, o] = f(b[o] + sum over i, j, c of x[n, p stride + i dilation - pad, q stride + j dilation - pad, c] w[i, j, c, o])
//   x (N, H, W, C)   w (KH, KW, C / groups, O)   b (O,) or null   y (N, OH, OW, O)
// Each group connects its own C / groups channels with its own O / groups filters.
// With POOL, y and mask are (N, OH / 2, OW / 2, O): the maximum of each of the 2x2 windows side by
// side, and its position 2 i + j in the window. The first of equal values wins, and NaN wins over
// numbers. Bias and activation keep the order, so they are applied to the winner alone. An odd last
// row or column is not computed, and the convolution's own output is never written.
//
// Tiling (`_tiled`): a matrix product with N OH OW rows (pixels), O / groups columns and a
// reduction of KH KW C / groups, with taps outermost and channels innermost. The left matrix is
// never written: a block gathers the taps of its pixels from x straight into shared memory
// ("implicit GEMM"). In that order the right matrix is w as it lies in memory, and V neighbouring
// channels belong to one tap. Neighbouring blocks compute the column tiles of one row tile, which
// share x in the L2 cache.
//   128 x 64, 8 x 4 per thread: many pixels and filters;   64 x 64, 4 x 4: fewer;   128 x 16, 4 x 2: up to 16 filters.
// With a pool, the rows are ordered by windows of four pixels, so that a thread has whole windows
// in its registers.
// A depthwise convolution (C = groups) takes the simple kernel: neighbouring threads load
// neighbouring channels, and there is no sum over channels for a tile to share.
// Alignment: V = 4 needs x, w, y aligned to four elements, C / groups and O / groups multiples of
// 4; V = 1 needs nothing.
// Bound: 2 KH KW C / groups FLOP per output element, against 4 bytes for each element of x and y:
// arithmetic from about C = 16 on at 3 x 3. With a pool, 5 bytes are written for four outputs
// instead of 16.

// The image, row and column of the r-th output pixel; with POOL, of the corner r % 4 of the window
// r / 4.
template <bool POOL>
__device__ __forceinline__ void output_pixel(int r, const Geometry& g, int& n, int& p, int& q) {
    const int cell = POOL ? r / 4 : r, width = POOL ? g.OW / 2 : g.OW, height = POOL ? g.OH / 2 : g.OH;
    n = cell / width / height, p = cell / width % height, q = cell % width;
    if (POOL) p = 2 * p + r % 4 / 2, q = 2 * q + r % 2;
}

// Replace the best value and its position by v and its own, if v is larger.
__device__ __forceinline__ void keep_larger(float v, int position, float& best, int& winner) {
    if (v > best || (is_nan(v) && !is_nan(best))) best = v, winner = position;
}

template <typename T>
__device__ __forceinline__ float convolve_pixel(const T* x, const T* w, const Geometry& g, int n, int p, int q, int o) {
    const int taken = g.C / g.groups, made = g.O / g.groups;
    float sum = 0.0f;
    for (int i = 0; i < g.KH; ++i) {
        const int row = p * g.stride_h + i * g.dilation_h - g.pad_top;
        if (!inside(row, g.H)) continue;
        for (int j = 0; j < g.KW; ++j) {
            const int col = q * g.stride_w + j * g.dilation_w - g.pad_left;
            if (!inside(col, g.W)) continue;
            const T* pixel = x + (((int64)n * g.H + row) * g.W + col) * g.C + o / made * taken;
            const T* filter = w + (int64)(i * g.KW + j) * taken * g.O + o;
            for (int c = 0; c < taken; ++c) sum += to_float(pixel[c]) * to_float(filter[(int64)c * g.O]);
        }
    }
    return sum;
}

template <typename T, bool POOL>
__global__ void conv2d_forward_simple(
        const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ OR_NULL b, T* __restrict__ y,
        uint8* __restrict__ OR_NULL mask, Geometry g, Activation f) {
    const int each = POOL ? 4 : 1;  // pixels per result
    const int64 results = POOL ? (int64)g.N * (g.OH / 2) * (g.OW / 2) : (int64)g.N * g.OH * g.OW;
    GRID_STRIDE_LOOP(idx, results * g.O) {
        const int o = idx % g.O, r = idx / g.O * each;
        int n, p, q, winner = 0;
        output_pixel<POOL>(r, g, n, p, q);
        float best = convolve_pixel(x, w, g, n, p, q, o);
        for (int corner = 1; corner < each; ++corner) {
            output_pixel<POOL>(r + corner, g, n, p, q);
            keep_larger(convolve_pixel(x, w, g, n, p, q, o), corner, best, winner);
        }
        float v[1] = {b ? best + to_float(b[o]) : best};
        activate<1>(f, v);
        from_float(y[idx], v[0]);
        if (POOL) mask[idx] = winner;
    }
}

template <typename T, int TM, int TN, int RM, int RN, int V, bool POOL>
__global__ void __launch_bounds__(THREADS, 2) conv2d_forward_tiled(
        const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ OR_NULL b, T* __restrict__ y,
        uint8* __restrict__ OR_NULL mask, Geometry g, Activation f) {
    __shared__ Tile<TM, TN> tile;
    __shared__ int64 row_image[TM];  // first pixel of the image of this row
    __shared__ int row_h[TM];        // first row of this row's window
    __shared__ int row_w[TM];

    const int taken = g.C / g.groups, made = g.O / g.groups, depth = g.KH * g.KW * taken;
    const int64 pixels = POOL ? (int64)g.N * (g.OH / 2) * (g.OW / 2) * 4 : (int64)g.N * g.OH * g.OW;
    const int col_tiles = (made + TN - 1) / TN;
    const int col0 = blockIdx.x % col_tiles * TN, group = blockIdx.x / col_tiles % g.groups;
    const int64 row0 = (int64)(blockIdx.x / col_tiles / g.groups) * TM;

    for (int r = threadIdx.x; r < TM; r += THREADS) {
        int n, p, q;
        output_pixel<POOL>(row0 + r < pixels ? row0 + r : 0, g, n, p, q);
        row_image[r] = (int64)n * g.H * g.W;
        row_h[r] = row0 + r < pixels ? p * g.stride_h - g.pad_top : NO_ROW;
        row_w[r] = q * g.stride_w - g.pad_left;
    }
    __syncthreads();

    float acc[RM][RN] = {};
    for (int k0 = 0; k0 < depth; k0 += TILE_K) {
        {  // x: each thread gathers V channels of one tap, for several rows
            const int k = threadIdx.x % (TILE_K / V) * V, tap = (k0 + k) / taken, c = (k0 + k) % taken;
            const int down = tap / g.KW * g.dilation_h, right = tap % g.KW * g.dilation_w;
#pragma unroll
            for (int r = threadIdx.x / (TILE_K / V); r < TM; r += THREADS * V / TILE_K) {
                const int row = row_h[r] + down, col = row_w[r] + right;
                float v[V] = {};
                if (k0 + k < depth && inside(row, g.H) && inside(col, g.W))
                    load<V>(v, x + (row_image[r] + (int64)row * g.W + col) * g.C + group * taken + c);
#pragma unroll
                for (int u = 0; u < V; ++u) tile.a[k + u][r] = v[u];
            }
        }
        {  // w: rows of the filter matrix as they lie in memory
            const int col = threadIdx.x % (TN / V) * V;
#pragma unroll
            for (int k = threadIdx.x / (TN / V); k < TILE_K; k += THREADS * V / TN) {
                float v[V] = {};
                if (k0 + k < depth && col0 + col < made)
                    load<V>(v, w + (int64)(k0 + k) * g.O + group * made + col0 + col);
#pragma unroll
                for (int u = 0; u < V; ++u) tile.b[k][col + u] = v[u];
            }
        }
        __syncthreads();
        multiply_tile(tile, acc);
        __syncthreads();  // before the next step overwrites the tiles
    }

    const int row = tile_row<TN, RM, RN>(), col = col0 + tile_col<TN, RN>();
    const int64 at = group * made + col;  // filter of the first result
    float bias[RN];
#pragma unroll
    for (int j = 0; j < RN; ++j) bias[j] = b && col + j < made ? to_float(b[at + j]) : 0.0f;
    constexpr int EACH = POOL ? 4 : 1;  // rows per result
#pragma unroll
    for (int i = 0; i < RM; i += EACH) {
        if (row0 + row + i >= pixels) break;
        const int64 result = (row0 + row + i) / EACH * g.O + at;
        int winner[RN] = {};
#pragma unroll
        for (int j = 0; j < RN; ++j) {
#pragma unroll
            for (int corner = 1; corner < EACH; ++corner) keep_larger(acc[i + corner][j], corner, acc[i][j], winner[j]);
            acc[i][j] += bias[j];
            if (POOL && col + j < made) mask[result + j] = winner[j];
        }
        activate<RN>(f, acc[i]);
        store_columns<V>(y, result, acc[i], made - col);
    }
}
