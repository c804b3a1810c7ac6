#include "common.cuh"
#include "geometry.cuh"
#include "sums.cuh"
// Max pooling:
//   y[n, p, q, c] = max over i, j of x[n, p stride + i - pad, q stride + j - pad, c]
//   mask[n, p, q, c] = KW i + j of the winner: the first of equal values; NaN wins over numbers
//   x, dx (N, H, W, C)   y, dy, mask (N, OH, OW, C); M is uint8 up to 256 positions, uint16 or int above
// Taps in the padding count in positions and never win, not even against -inf.
//
// The backward pass gathers: each pixel adds dy of those of its windows whose mask names it, and is
// written once. So overlapping windows need no atomics, and the forward pass only has to keep one
// byte per output element.
// V: channels per thread; 4 needs x, y, dy, dx aligned to four elements and C a multiple of 4.
// Bound: memory: 4 bytes read per element of x and 5 bytes written per element of y; in the
// backward pass, the other way round.

template <typename T, typename M, int V>
__global__ void max_pool2d_forward(const T* __restrict__ x, T* __restrict__ y, M* __restrict__ mask, Geometry g) {
    const int parts = g.C / V;
    GRID_STRIDE_LOOP(idx, (int64)g.N * g.OH * g.OW * parts) {
        const int c = idx % parts * V, q = idx / parts % g.OW, p = idx / parts / g.OW % g.OH;
        const int64 n = idx / parts / g.OW / g.OH;
        float best[V] = {};
        int winner[V];
#pragma unroll
        for (int u = 0; u < V; ++u) winner[u] = -1;
        for (int i = 0; i < g.KH; ++i) {
            const int row = p * g.stride_h + i - g.pad_top;
            if (!inside(row, g.H)) continue;
            for (int j = 0; j < g.KW; ++j) {
                const int col = q * g.stride_w + j - g.pad_left;
                if (!inside(col, g.W)) continue;
                float v[V];
                load<V>(v, x + ((n * g.H + row) * g.W + col) * g.C + c);
#pragma unroll
                for (int u = 0; u < V; ++u)
                    if (winner[u] < 0 || v[u] > best[u] || (is_nan(v[u]) && !is_nan(best[u]))) {
                        best[u] = v[u];
                        winner[u] = i * g.KW + j;
                    }
            }
        }
        store<V>(y + idx * V, best);
#pragma unroll
        for (int u = 0; u < V; ++u) mask[idx * V + u] = (M)winner[u];
    }
}

template <typename T, typename M, int V>
__global__ void max_pool2d_backward(const T* __restrict__ dy, const M* __restrict__ mask, T* __restrict__ dx, Geometry g) {
    const int parts = g.C / V;
    GRID_STRIDE_LOOP(idx, (int64)g.N * g.H * g.W * parts) {
        const int c = idx % parts * V, col = idx / parts % g.W + g.pad_left, row = idx / parts / g.W % g.H + g.pad_top;
        const int64 n = idx / parts / g.W / g.H;
        // The windows p with p stride <= row < p stride + KH, and likewise q
        const int p0 = row < g.KH ? 0 : (row - g.KH) / g.stride_h + 1, p1 = min(row / g.stride_h + 1, g.OH);
        const int q0 = col < g.KW ? 0 : (col - g.KW) / g.stride_w + 1, q1 = min(col / g.stride_w + 1, g.OW);
        Sum sums[V];
        for (int p = p0; p < p1; ++p)
            for (int q = q0; q < q1; ++q) {
                const int here = (row - p * g.stride_h) * g.KW + col - q * g.stride_w;
                const int64 at = ((n * g.OH + p) * g.OW + q) * g.C + c;
                float v[V];
                load<V>(v, dy + at);
#pragma unroll
                for (int u = 0; u < V; ++u)
                    if (mask[at + u] == here) sums[u].add(v[u]);
            }
        float sum[V];
#pragma unroll
        for (int u = 0; u < V; ++u) sum[u] = sums[u].value();
        store<V>(dx + idx * V, sum);
    }
}
