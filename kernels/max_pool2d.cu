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
// byte per output element. The gate (y and `f`) first takes dy back through an activation that was
// fused with the pool into a convolution.
//
// Tiling: a thread computes V channels of a pixel. Where there are few results with large windows, as
// in global pooling, the threads of a block share the positions of a window (`_long`).
// Alignment: V is 4 in float and 8 in 16 bits, where a load has 16 bytes, to which x, y, dy and dx must
// be aligned, the mask to V positions, and C must be a multiple of V; V = 1 needs nothing.
// Bound: memory: 4 bytes read per element of x and 5 bytes written per element of y; in the
// backward pass, the other way round, and with a gate 4 more per element of y.

// p[0 … V - 1] = v[0 … V - 1], in one store.
template <int V, typename M>
__device__ __forceinline__ void store_positions(M* p, const int (&v)[V]) {
    Bits<M, V> all;
#pragma unroll
    for (int u = 0; u < V; ++u) reinterpret_cast<M*>(&all)[u] = (M)v[u];
    *reinterpret_cast<Bits<M, V>*>(p) = all;
}

template <int V, typename M>
__device__ __forceinline__ void load_positions(int (&v)[V], const M* p) {
    const auto all = *reinterpret_cast<const Bits<M, V>*>(p);
#pragma unroll
    for (int u = 0; u < V; ++u) v[u] = reinterpret_cast<const M*>(&all)[u];
}

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
        store_positions<V>(mask + idx * V, winner);
    }
}

#define UNDER_WAY 4  // loads of a thread

// best, winner = v, at where that precedes them. A winner below 0 is none.
template <int V>
__device__ __forceinline__ void take_larger(float (&best)[V], int (&winner)[V], const float (&v)[V], const int (&at)[V]) {
#pragma unroll
    for (int u = 0; u < V; ++u)
        if (at[u] >= 0 && (winner[u] < 0 || precedes(v[u], at[u], best[u], winner[u]))) best[u] = v[u], winner[u] = at[u];
}

// `across` threads, a power of two up to WARP, take neighbouring channels; the others other positions.
template <typename T, typename M, int V>
__global__ void __launch_bounds__(THREADS, V == 8 ? 2 : 4) max_pool2d_forward_long(
        const T* __restrict__ x, T* __restrict__ y, M* __restrict__ mask, Geometry g, int across) {
    __shared__ float values[V][THREADS];
    __shared__ int winners[V][THREADS];
    const int tiles = (g.C / V + across - 1) / across, lane = threadIdx.x % across, down = THREADS / across;
    for (int64 idx = blockIdx.x; idx < (int64)g.N * g.OH * g.OW * tiles; idx += gridDim.x) {  // equal in all threads
        const int c = (idx % tiles * across + lane) * V, q = idx / tiles % g.OW, p = idx / tiles / g.OW % g.OH;
        const int64 n = idx / tiles / g.OW / g.OH;
        const int top = p * g.stride_h - g.pad_top, left = q * g.stride_w - g.pad_left;
        float best[V] = {};
        int winner[V];
#pragma unroll
        for (int u = 0; u < V; ++u) winner[u] = -1;
        for (int first = threadIdx.x / across; first < g.KH * g.KW; first += UNDER_WAY * down) {
            float v[UNDER_WAY][V] = {};
            int at[UNDER_WAY][V];
#pragma unroll
            for (int k = 0; k < UNDER_WAY; ++k) {
                const int tap = first + k * down, row = top + tap / g.KW, col = left + tap % g.KW;
                const bool counts = c < g.C && tap < g.KH * g.KW && inside(row, g.H) && inside(col, g.W);
                if (counts) load<V>(v[k], x + ((n * g.H + row) * g.W + col) * g.C + c);
#pragma unroll
                for (int u = 0; u < V; ++u) at[k][u] = counts ? tap : -1;
            }
#pragma unroll
            for (int k = 0; k < UNDER_WAY; ++k) take_larger<V>(best, winner, v[k], at[k]);
        }
#pragma unroll
        for (int u = 0; u < V; ++u) values[u][threadIdx.x] = best[u], winners[u][threadIdx.x] = winner[u];
        __syncthreads();
        for (int half = THREADS / 2; half >= across; half /= 2) {
            if (threadIdx.x < half) {
                float v[V];
                int at[V];
#pragma unroll
                for (int u = 0; u < V; ++u) v[u] = values[u][threadIdx.x + half], at[u] = winners[u][threadIdx.x + half];
                take_larger<V>(best, winner, v, at);
#pragma unroll
                for (int u = 0; u < V; ++u) values[u][threadIdx.x] = best[u], winners[u][threadIdx.x] = winner[u];
            }
            __syncthreads();
        }
        if (threadIdx.x < across && c < g.C) {
            const int64 out = (idx / tiles * (g.C / V) + c / V) * V;
            store<V>(y + out, best);
            store_positions<V>(mask + out, winner);
        }
    }
}

template <typename T, typename M, int V>
__global__ void max_pool2d_backward(
        const T* __restrict__ dy, const T* __restrict__ OR_NULL y, const M* __restrict__ mask, T* __restrict__ dx, Geometry g,
        Activation f) {
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
                int winner[V];
                load_gated<V>(v, dy, y, at, f);
                load_positions<V>(winner, mask + at);
#pragma unroll
                for (int u = 0; u < V; ++u)
                    if (winner[u] == here) sums[u].add(v[u]);
            }
        float sum[V];
#pragma unroll
        for (int u = 0; u < V; ++u) sum[u] = sums[u].value();
        store<V>(dx + idx * V, sum);
    }
}
