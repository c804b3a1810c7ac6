#include "common.cuh"
#include "sums.cuh"
// Separable linear resampling, by a table of taps for the rows and one for the columns:
//   y[n, p, q, c] = sum over the taps i of row p and j of column q of row_weight * column_weight * x[n, i, j, c]
//   x (N, H, W, C)   y (N, OH, OW, C)   taps of p: starts[p] … starts[p + 1] - 1 of (index, weight)
// This computes upsampling, padding and adaptive average pooling. The gradient of each is the same
// operation by the transposed tables, so nothing is scattered, and every sum has the order of its
// table. A pixel without taps is 0. A thread computes V neighbouring channels of a pixel: V = 4
// needs x and y aligned to four elements and C a multiple of 4.
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
