#include "common.cuh"
#include "geometry.cuh"
#include "gate.cuh"
#include "tile.cuh"
// Input gradient of a 2-D convolution, the full convolution of dy with the rotated filters:
//   dx[n, h, w, c] = sum over i, j, o of dy[n, (h + pad - i dilation) / stride, (w + pad - j dilation) / stride, o] w[i, j, c, o],
// over the taps where the divisions are exact and the result lies inside dy. The minus signs are the
// rotation by 180 degrees.
//   dy, y (N, OH, OW, O), or the shape of mask with a pool   w (KH, KW, C / groups, O)   dx (N, H, W, C)
// The gate (y, `f` and mask) takes dy back through the activation and the pool that were fused into
// the forward pass, while dy is loaded: see gate.cuh.
//
// Depthwise convolutions take the simple kernel, as in conv2d_forward.cu.
// Tiling (`_tiled`): as in conv2d_forward.cu, with N H W rows, C / groups columns and a reduction
// of KH KW O / groups, with taps outermost and filters innermost. Both matrices are read along the
// filters, which are neighbours in memory. With a stride of s, only one tap in s x s contributes a
// product; the others add zeros, so that the work is s x s times larger.
// Alignment: V = 4 needs dy, y, w, dx aligned to four elements, C / groups and O / groups multiples
// of 4; V = 1 needs nothing.
// Bound: 2 KH KW O / groups FLOP per element of dx: arithmetic from about O = 16 on at 3 x 3.

template <typename T>
__global__ void conv2d_input_grad_simple(
        const T* __restrict__ dy, const T* __restrict__ OR_NULL y, const uint8* __restrict__ OR_NULL mask,
        const T* __restrict__ w, T* __restrict__ dx, Geometry g, Activation f) {
    const int taken = g.C / g.groups, made = g.O / g.groups;
    GRID_STRIDE_LOOP(idx, (int64)g.N * g.H * g.W * g.C) {
        const int c = idx % g.C, col = idx / g.C % g.W, row = idx / g.C / g.W % g.H;
        const int64 n = idx / g.C / g.W / g.H;
        const int first = c / taken * made;  // filter of the group
        float sum = 0.0f;
        for (int i = 0; i < g.KH; ++i) {
            const int p = row + g.pad_top - i * g.dilation_h;
            if (p < 0 || p % g.stride_h || p / g.stride_h >= g.OH) continue;
            for (int j = 0; j < g.KW; ++j) {
                const int q = col + g.pad_left - j * g.dilation_w;
                if (q < 0 || q % g.stride_w || q / g.stride_w >= g.OW) continue;
                const T* filter = w + ((int64)(i * g.KW + j) * taken + c % taken) * g.O + first;
                for (int o = 0; o < made; ++o) {
                    float v[1];
                    load_output_grad<1>(v, dy, y, mask, g, n, p / g.stride_h, q / g.stride_w, first + o, f);
                    sum += v[0] * to_float(filter[o]);
                }
            }
        }
        from_float(dx[idx], sum);
    }
}

template <typename T, int TM, int TN, int RM, int RN, int V>
__global__ void __launch_bounds__(THREADS, 2) conv2d_input_grad_tiled(
        const T* __restrict__ dy, const T* __restrict__ OR_NULL y, const uint8* __restrict__ OR_NULL mask,
        const T* __restrict__ w, T* __restrict__ dx, Geometry g, Activation f) {
    __shared__ Tile<TM, TN> tile;
    __shared__ int row_image[TM];
    __shared__ int row_h[TM];  // where the row stands in the padded image
    __shared__ int row_w[TM];

    const int taken = g.C / g.groups, made = g.O / g.groups, depth = g.KH * g.KW * made;
    const int64 pixels = (int64)g.N * g.H * g.W;
    const int col_tiles = (taken + TN - 1) / TN;
    const int col0 = blockIdx.x % col_tiles * TN, group = blockIdx.x / col_tiles % g.groups;
    const int64 row0 = (int64)(blockIdx.x / col_tiles / g.groups) * TM;

    for (int r = threadIdx.x; r < TM; r += THREADS) {
        const int pixel = row0 + r < pixels ? row0 + r : 0;
        row_image[r] = pixel / g.W / g.H;
        row_h[r] = row0 + r < pixels ? pixel / g.W % g.H + g.pad_top : NO_ROW;
        row_w[r] = pixel % g.W + g.pad_left;
    }
    __syncthreads();

    float acc[RM][RN] = {};
    for (int k0 = 0; k0 < depth; k0 += TILE_K) {
        const int k = threadIdx.x % (TILE_K / V) * V, tap = (k0 + k) / made, o = (k0 + k) % made;
        const int up = tap / g.KW * g.dilation_h, left = tap % g.KW * g.dilation_w;
#pragma unroll
        for (int r = threadIdx.x / (TILE_K / V); r < TM; r += THREADS * V / TILE_K) {
            const int row = row_h[r] - up, col = row_w[r] - left;
            const int p = row / g.stride_h, q = col / g.stride_w;
            float v[V] = {};
            if (k0 + k < depth && row >= 0 && col >= 0 && p * g.stride_h == row && q * g.stride_w == col && p < g.OH && q < g.OW)
                load_output_grad<V>(v, dy, y, mask, g, row_image[r], p, q, group * made + o, f);
#pragma unroll
            for (int u = 0; u < V; ++u) tile.a[k + u][r] = v[u];
        }
#pragma unroll
        for (int c = threadIdx.x / (TILE_K / V); c < TN; c += THREADS * V / TILE_K) {
            float v[V] = {};
            if (k0 + k < depth && col0 + c < taken)
                load<V>(v, w + ((int64)tap * taken + col0 + c) * g.O + group * made + o);
#pragma unroll
            for (int u = 0; u < V; ++u) tile.b[k + u][c] = v[u];
        }
        __syncthreads();
        multiply_tile(tile, acc);
        __syncthreads();  // before the next step overwrites the tiles
    }

    const int row = tile_row<TN, RM, RN>(), col = col0 + tile_col<TN, RN>();
#pragma unroll
    for (int i = 0; i < RM; ++i) {
        if (row0 + row + i >= pixels) break;
        store_columns<V>(dx, (row0 + row + i) * g.C + group * taken + col, acc[i], taken - col);
    }
}
