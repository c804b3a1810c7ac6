#include "common.cuh"
#include "sums.cuh"
#include "norm.cuh"
// Separable linear resampling, by a table of taps for the rows and one for the columns:
//   y[n, p, q, c] = sum over the taps i of row p and j of column q of row_weight * column_weight * x[n, i, j, c]
//   x (N, H, W, C)   y (N, OH, OW, C)   taps of p: starts[p] … starts[p + 1] - 1 of (index, weight)
// This computes upsampling, padding and adaptive average pooling. The gradient of each is the same
// operation by the transposed tables, so nothing is scattered, and every sum has the order of its
// table. A pixel without taps is 0.
//
// Tiling: in `resample2d` a thread computes V neighbouring channels of a pixel. Where there are few
// results with many taps, as in a global average, that would leave most of a device idle: in
// `resample2d_long` the threads of a block share the taps of a pixel, and add their sums in a fixed
// order. If even these are few blocks, the host resamples the columns first and then the rows.
// Alignment: V = 4 needs x and y aligned to four elements and C a multiple of 4; V = 1 needs nothing.
// Bound: memory: 4 bytes per element of x and of y; pixels of x that several outputs read come from
// a cache.

struct Resample {
    int N, H, W, C;
    int OH, OW;
};

template <typename T, int V>
__global__ void resample2d(
        const T* __restrict__ x, const int* __restrict__ row_starts, const int* __restrict__ row_index,
        const float* __restrict__ row_weight, const int* __restrict__ column_starts, const int* __restrict__ column_index,
        const float* __restrict__ column_weight, T* __restrict__ y, Resample r) {
    const int channels = r.C / V;
    GRID_STRIDE_LOOP(idx, (int64)r.N * r.OH * r.OW * channels) {
        const int c = idx % channels * V, q = idx / channels % r.OW, p = idx / channels / r.OW % r.OH;
        const int64 n = idx / channels / r.OW / r.OH;
        Sum sums[V];
        for (int i = row_starts[p]; i < row_starts[p + 1]; ++i) {
            const int64 row = (n * r.H + row_index[i]) * r.W;
            Sum across[V];
            for (int j = column_starts[q]; j < column_starts[q + 1]; ++j) {
                float v[V];
                load<V>(v, x + (row + column_index[j]) * r.C + c);
#pragma unroll
                for (int u = 0; u < V; ++u) across[u].add(column_weight[j] * v[u]);
            }
#pragma unroll
            for (int u = 0; u < V; ++u) sums[u].add(row_weight[i] * across[u].value());
        }
        float sum[V];
#pragma unroll
        for (int u = 0; u < V; ++u) sum[u] = sums[u].value();
        store<V>(y + idx * V, sum);
    }
}

#define UNDER_WAY 4  // loads of a thread

// `across` threads, a power of two up to WARP, take neighbouring channels; the others other taps.
template <typename From, typename To, int V>
__global__ void __launch_bounds__(THREADS, 4) resample2d_long(
        const From* __restrict__ x, const int* __restrict__ row_starts, const int* __restrict__ row_index,
        const float* __restrict__ row_weight, const int* __restrict__ column_starts, const int* __restrict__ column_index,
        const float* __restrict__ column_weight, To* __restrict__ y, Resample r, int across) {
    const int tiles = (r.C / V + across - 1) / across, lane = threadIdx.x % across, down = THREADS / across;
    for (int64 idx = blockIdx.x; idx < (int64)r.N * r.OH * r.OW * tiles; idx += gridDim.x) {  // equal in all threads
        const int c = (idx % tiles * across + lane) * V, q = idx / tiles % r.OW, p = idx / tiles / r.OW % r.OH;
        const int64 n = idx / tiles / r.OW / r.OH;
        const int row = row_starts[p], column = column_starts[q], columns = column_starts[q + 1] - column;
        const int taps = c < r.C ? (row_starts[p + 1] - row) * columns : 0;
        Sum sums[V];
        for (int first = threadIdx.x / across; first < taps; first += UNDER_WAY * down) {
            float v[UNDER_WAY][V] = {}, weight[UNDER_WAY] = {};
#pragma unroll
            for (int k = 0; k < UNDER_WAY; ++k) {
                const int tap = first + k * down, i = row + tap / columns, j = column + tap % columns;
                if (tap >= taps) continue;
                weight[k] = row_weight[i] * column_weight[j];
                load<V>(v[k], x + ((n * r.H + row_index[i]) * r.W + column_index[j]) * r.C + c);
            }
#pragma unroll
            for (int k = 0; k < UNDER_WAY; ++k)
#pragma unroll
                for (int u = 0; u < V; ++u) sums[u].add(weight[k] * v[k][u]);
        }
        float sum[V];
        values<V>(sum, sums);
        add_block<V>(sum, across);
        if (threadIdx.x < across && c < r.C) store<V>(y + (idx / tiles * (r.C / V) + c / V) * V, sum);
    }
}
