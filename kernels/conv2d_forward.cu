#include "common.cuh"
#include "geometry.cuh"
#include "tile.cuh"
// 2-D convolution (the cross-correlation of deep learning), bias and activation fused:
//   y[n, p, q, o] = f(b[o] + sum over i, j, c of x[n, p stride + i dilation - pad, q stride + j dilation - pad, c] w[i, j, c, o])
//   x (N, H, W, C)   w (KH, KW, C / groups, O)   b (O,) or null   y (N, OH, OW, O)
// Group g joins channels g C / groups … to filters g O / groups ….
//
// Tiling (`_tiled`): a matrix product with N OH OW rows (pixels), O / groups columns and a reduction of KH KW C / groups,
// the tap outer and the channel inner, whose left matrix is never written out: a block gathers its pixels' taps from x
// straight into shared memory ("implicit GEMM"). In that order the right matrix is w as it lies in memory, and V
// neighbouring channels belong to one tap. Neighbouring blocks take the column tiles of one row tile, which share x in L2.
//   128 x 64, 8 x 4 a thread: many pixels and filters;   64 x 64, 4 x 4: fewer;   128 x 16, 4 x 2: up to 16 filters.
// Alignment: V = 4 needs x, w, y at 16 bytes, C / groups and O / groups multiples of 4; V = 1 needs nothing.
// Bound: 2 KH KW C / groups FLOP an output element against 4 bytes read and written for each element of x and y:
// arithmetic from about C = 16 on at 3 x 3.

template <typename T>
__global__ void conv2d_forward_simple(
        const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ OR_NULL b, T* __restrict__ y,
        Geometry g, Activation f) {
    const int taken = g.C / g.groups, made = g.O / g.groups;
    GRID_STRIDE_LOOP(idx, (int64)g.N * g.OH * g.OW * g.O) {
        const int o = idx % g.O, q = idx / g.O % g.OW, p = idx / g.O / g.OW % g.OH;
        const int64 n = idx / g.O / g.OW / g.OH;
        float sum = b ? to_float(b[o]) : 0.0f;
        for (int i = 0; i < g.KH; ++i) {
            const int row = p * g.stride_h + i * g.dilation_h - g.pad_top;
            if (!inside(row, g.H)) continue;
            for (int j = 0; j < g.KW; ++j) {
                const int col = q * g.stride_w + j * g.dilation_w - g.pad_left;
                if (!inside(col, g.W)) continue;
                const T* pixel = x + ((n * g.H + row) * g.W + col) * g.C + o / made * taken;
                const T* filter = w + (int64)(i * g.KW + j) * taken * g.O + o;
                for (int c = 0; c < taken; ++c) sum += to_float(pixel[c]) * to_float(filter[(int64)c * g.O]);
            }
        }
        from_float(y[idx], activate(f, sum));
    }
}

template <typename T, int TM, int TN, int RM, int RN, int V>
__global__ void __launch_bounds__(TILE_THREADS, 2) conv2d_forward_tiled(
        const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ OR_NULL b, T* __restrict__ y,
        Geometry g, Activation f) {
    __shared__ Tile<TM, TN> tile;
    __shared__ int64 row_image[TM];  // first pixel of the row's image
    __shared__ int row_h[TM];        // where the row's window starts
    __shared__ int row_w[TM];

    const int taken = g.C / g.groups, made = g.O / g.groups, depth = g.KH * g.KW * taken;
    const int64 pixels = (int64)g.N * g.OH * g.OW;
    const int col_tiles = (made + TN - 1) / TN;
    const int col0 = blockIdx.x % col_tiles * TN, group = blockIdx.x / col_tiles % g.groups;
    const int64 row0 = (int64)(blockIdx.x / col_tiles / g.groups) * TM;

    for (int r = threadIdx.x; r < TM; r += TILE_THREADS) {
        const int pixel = row0 + r < pixels ? row0 + r : 0;
        const int q = pixel % g.OW, p = pixel / g.OW % g.OH;
        row_image[r] = (int64)(pixel / g.OW / g.OH) * g.H * g.W;
        row_h[r] = row0 + r < pixels ? p * g.stride_h - g.pad_top : NO_ROW;
        row_w[r] = q * g.stride_w - g.pad_left;
    }
    __syncthreads();

    float acc[RM][RN] = {};
    for (int k0 = 0; k0 < depth; k0 += TILE_K) {
        {  // x: each thread gathers one tap's V channels for its rows
            const int k = threadIdx.x % (TILE_K / V) * V, tap = (k0 + k) / taken, c = (k0 + k) % taken;
            const int down = tap / g.KW * g.dilation_h, right = tap % g.KW * g.dilation_w;
#pragma unroll
            for (int r = threadIdx.x / (TILE_K / V); r < TM; r += TILE_THREADS * V / TILE_K) {
                const int row = row_h[r] + down, col = row_w[r] + right;
                float v[V] = {};
                if (k0 + k < depth && inside(row, g.H) && inside(col, g.W))
                    load<V>(v, x + (row_image[r] + (int64)row * g.W + col) * g.C + group * taken + c);
#pragma unroll
                for (int u = 0; u < V; ++u) tile.a[k + u][r] = v[u];
            }
        }
        {  // w: rows of the filter matrix as they lie
            const int col = threadIdx.x % (TN / V) * V;
#pragma unroll
            for (int k = threadIdx.x / (TN / V); k < TILE_K; k += TILE_THREADS * V / TN) {
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
#pragma unroll
    for (int i = 0; i < RM; ++i) {
        if (row0 + row + i >= pixels) break;
#pragma unroll
        for (int j = 0; j < RN; ++j) {
            const float bias = b && col + j < made ? to_float(b[group * made + col + j]) : 0.0f;
            acc[i][j] = activate(f, acc[i][j] + bias);
        }
        store_columns<V>(y, (row0 + row + i) * g.O + group * made + col, acc[i], made - col);
    }
}
