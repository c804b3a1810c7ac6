#include "common.cuh"
#include "geometry.cuh"
#include "sums.cuh"
#include "norm.cuh"
// Average pooling:
//   y[n, p, q, c] = (sum over i, j of x[n, p stride + i - pad, q stride + j - pad, c]) / count
//   dx[n, h, w, c] = sum of dy[n, p, q, c] / count over the windows (p, q) that contain the pixel
//   x, dx (N, H, W, C)   y, dy (N, OH, OW, C)
// The count is the number of the window's pixels inside the image and inside that part of the
// padding which counts. The backward pass gathers, as that of max pooling does.
//
// Tiling: a thread computes V channels of a pixel. Where there are few results with large windows, as
// in global pooling, the threads of a block share the pixels of a window (`_long`).
// Alignment: V is 4 in float and 8 in 16 bits, where a load has 16 bytes, to which x, y, dy and dx must
// be aligned, and C must be a multiple of V; V = 1 needs nothing.
// Bound: memory: 4 bytes per element of x and of y.

// Pixels of padding on each side that count in the mean.
struct Counted {
    int top, bottom, left, right;
};

// How many pixels of window p count along one axis.
__device__ __forceinline__ int covered(int p, int stride, int pad, int window, int extent, int before, int after) {
    const int first = p * stride - pad;
    return min(first + window, extent + after) - max(first, -before);
}

__device__ __forceinline__ float window_count(Geometry g, int p, int q, Counted m) {
    return (float)covered(p, g.stride_h, g.pad_top, g.KH, g.H, m.top, m.bottom) *
           covered(q, g.stride_w, g.pad_left, g.KW, g.W, m.left, m.right);
}

template <typename T, int V>
__global__ void avg_pool2d_forward(const T* __restrict__ x, T* __restrict__ y, Geometry g, Counted counted) {
    const int parts = g.C / V;
    GRID_STRIDE_LOOP(idx, (int64)g.N * g.OH * g.OW * parts) {
        const int c = idx % parts * V, q = idx / parts % g.OW, p = idx / parts / g.OW % g.OH;
        const int64 n = idx / parts / g.OW / g.OH;
        const int top = p * g.stride_h - g.pad_top, left = q * g.stride_w - g.pad_left;
        Sum sums[V];
        for (int row = max(top, 0); row < min(top + g.KH, g.H); ++row)
            for (int col = max(left, 0); col < min(left + g.KW, g.W); ++col) {
                float v[V];
                load<V>(v, x + ((n * g.H + row) * g.W + col) * g.C + c);
#pragma unroll
                for (int u = 0; u < V; ++u) sums[u].add(v[u]);
            }
        float mean[V];
#pragma unroll
        for (int u = 0; u < V; ++u) mean[u] = sums[u].value() / window_count(g, p, q, counted);
        store<V>(y + idx * V, mean);
    }
}

#define UNDER_WAY 4  // loads of a thread

// `across` threads, a power of two up to WARP, take neighbouring channels; the others other pixels.
template <typename T, int V>
__global__ void __launch_bounds__(THREADS, BLOCKS_OF(V)) avg_pool2d_forward_long(
        const T* __restrict__ x, T* __restrict__ y, Geometry g, Counted counted, int across) {
    const int tiles = (g.C / V + across - 1) / across, lane = threadIdx.x % across, down = THREADS / across;
    for (int64 idx = blockIdx.x; idx < (int64)g.N * g.OH * g.OW * tiles; idx += gridDim.x) {  // equal in all threads
        const int c = (idx % tiles * across + lane) * V, q = idx / tiles % g.OW, p = idx / tiles / g.OW % g.OH;
        const int64 n = idx / tiles / g.OW / g.OH;
        const int top = p * g.stride_h - g.pad_top, left = q * g.stride_w - g.pad_left;
        const int first_row = max(top, 0), first_col = max(left, 0), columns = max(min(left + g.KW, g.W) - first_col, 0);
        const int pixels = c < g.C ? max(min(top + g.KH, g.H) - first_row, 0) * columns : 0;
        Sum sums[V];
        for (int first = threadIdx.x / across; first < pixels; first += UNDER_WAY * down) {
            float v[UNDER_WAY][V] = {};
#pragma unroll
            for (int k = 0; k < UNDER_WAY; ++k) {
                const int pixel = first + k * down, row = first_row + pixel / columns, col = first_col + pixel % columns;
                if (pixel < pixels) load<V>(v[k], x + ((n * g.H + row) * g.W + col) * g.C + c);
            }
#pragma unroll
            for (int k = 0; k < UNDER_WAY; ++k)
#pragma unroll
                for (int u = 0; u < V; ++u) sums[u].add(v[k][u]);
        }
        float mean[V];
        values<V>(mean, sums);
        add_block<V>(mean, across);
#pragma unroll
        for (int u = 0; u < V; ++u) mean[u] /= window_count(g, p, q, counted);
        if (threadIdx.x < across && c < g.C) store<V>(y + (idx / tiles * (g.C / V) + c / V) * V, mean);
    }
}

template <typename T, int V>
__global__ void avg_pool2d_backward(const T* __restrict__ dy, T* __restrict__ dx, Geometry g, Counted counted) {
    const int parts = g.C / V;
    GRID_STRIDE_LOOP(idx, (int64)g.N * g.H * g.W * parts) {
        const int c = idx % parts * V, col = idx / parts % g.W + g.pad_left, row = idx / parts / g.W % g.H + g.pad_top;
        const int64 n = idx / parts / g.W / g.H;
        const int p0 = row < g.KH ? 0 : (row - g.KH) / g.stride_h + 1, p1 = min(row / g.stride_h + 1, g.OH);
        const int q0 = col < g.KW ? 0 : (col - g.KW) / g.stride_w + 1, q1 = min(col / g.stride_w + 1, g.OW);
        Sum sums[V];
        for (int p = p0; p < p1; ++p)
            for (int q = q0; q < q1; ++q) {
                float v[V];
                load<V>(v, dy + ((n * g.OH + p) * g.OW + q) * g.C + c);
#pragma unroll
                for (int u = 0; u < V; ++u) sums[u].add(v[u] / window_count(g, p, q, counted));
            }
        float sum[V];
        values<V>(sum, sums);
        store<V>(dx + idx * V, sum);
    }
}
