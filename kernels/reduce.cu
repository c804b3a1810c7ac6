#include "common.cuh"
#include "sums.cuh"
// Reductions over the middle axis of a (outer, n, inner) view; the host brings any axes into this form.
//   reduce_sum:   y[o, s, i] = sum of a[o, k, i] over the s-th of ceil(n / chunk) parts of k. With
//                 chunk = n it is the whole sum; with less, these are partial sums, which a second
//                 launch adds in a fixed order, so that few long sums still fill the device.
//   reduce_max:   y[o, i] = the largest a[o, k, i], index[o, i] = its k; the first of equals, NaN before all
//   max_backward: dx[o, k, i] = dy[o, i] where k = index[o, i], else 0
// In the variant `_simple` one thread computes a result, which suits inner > 1, for then neighbouring
// threads read neighbouring elements. The parts of a sum take turns, k = s, s + parts, …, so that this
// holds for a small inner too. In `_rows` one block computes a result, which suits inner = 1; a part is
// a stretch of k. A block is as small as its rows, down to a warp, where there are many rows.
// Bound: memory, 4 bytes per element of a.

#define UNDER_WAY 4  // loads of a thread

// The sum of a[k stride] for k = first, first + step, … below `end`.
template <typename T>
__device__ __forceinline__ float strided_sum(const T* a, int64 first, int64 end, int64 step, int64 stride) {
    Sum sum;
    for (int64 k0 = first; k0 < end; k0 += UNDER_WAY * step) {
        float v[UNDER_WAY] = {};
#pragma unroll
        for (int j = 0; j < UNDER_WAY; ++j)
            if (k0 + j * step < end) v[j] = to_float(a[(k0 + j * step) * stride]);
#pragma unroll
        for (int j = 0; j < UNDER_WAY; ++j) sum.add(v[j]);
    }
    return sum.value();
}

template <typename T>
__global__ void reduce_sum_simple(const T* __restrict__ a, T* __restrict__ y, int64 outer, int64 n, int64 inner, int64 chunk) {
    const int64 chunks = (n + chunk - 1) / chunk;
    GRID_STRIDE_LOOP(idx, outer * chunks * inner) {
        const int64 i = idx % inner, s = idx / inner % chunks, o = idx / inner / chunks;
        from_float(y[idx], strided_sum(a + o * n * inner + i, s, n, chunks, inner));
    }
}

template <typename T>
__global__ void reduce_sum_rows(const T* __restrict__ a, T* __restrict__ y, int64 outer, int64 n, int64 inner, int64 chunk) {
    const int64 chunks = (n + chunk - 1) / chunk;
    for (int64 idx = blockIdx.x; idx < outer * chunks * inner; idx += gridDim.x) {  // equal in all threads of the block
        const int64 i = idx % inner, s = idx / inner % chunks, o = idx / inner / chunks;
        const int64 first = s * chunk + threadIdx.x, end = min((s + 1) * chunk, n);
        const float sum = block_sum(strided_sum(a + o * n * inner + i, first, end, blockDim.x, inner));
        if (threadIdx.x == 0) from_float(y[idx], sum);
    }
}

template <typename T>
__global__ void reduce_max_simple(
        const T* __restrict__ a, T* __restrict__ y, int* __restrict__ index, int64 outer, int64 n, int64 inner) {
    GRID_STRIDE_LOOP(idx, outer * inner) {
        const int64 i = idx % inner, o = idx / inner;
        float best = to_float(a[o * n * inner + i]);
        int64 winner = 0;
        for (int64 k = 1; k < n; ++k) {
            const float value = to_float(a[(o * n + k) * inner + i]);
            if (precedes(value, k, best, winner)) best = value, winner = k;
        }
        from_float(y[idx], best);
        index[idx] = (int)winner;
    }
}

template <typename T>
__global__ void __launch_bounds__(THREADS, 4) reduce_max_rows(
        const T* __restrict__ a, T* __restrict__ y, int* __restrict__ index, int64 outer, int64 n, int64 inner) {
    __shared__ float values[THREADS];
    __shared__ int64 winners[THREADS];
    for (int64 idx = blockIdx.x; idx < outer * inner; idx += gridDim.x) {
        const int64 i = idx % inner, o = idx / inner;
        int64 winner = threadIdx.x < n ? threadIdx.x : 0;  // a thread without an element takes the first one again
        float best = to_float(a[(o * n + winner) * inner + i]);
        for (int64 k = winner + blockDim.x; k < n; k += blockDim.x) {
            const float value = to_float(a[(o * n + k) * inner + i]);
            if (precedes(value, k, best, winner)) best = value, winner = k;
        }
        values[threadIdx.x] = best, winners[threadIdx.x] = winner;
        __syncthreads();
        for (int half = blockDim.x / 2; half > 0; half /= 2) {
            if (threadIdx.x < half) {
                const int other = threadIdx.x + half;
                if (precedes(values[other], winners[other], values[threadIdx.x], winners[threadIdx.x]))
                    values[threadIdx.x] = values[other], winners[threadIdx.x] = winners[other];
            }
            __syncthreads();
        }
        if (threadIdx.x == 0) {  // only this thread writes slot 0, so no other overwrites it with the next row
            from_float(y[idx], values[0]);
            index[idx] = (int)winners[0];
        }
    }
}

template <typename T>
__global__ void max_backward(
        const T* __restrict__ dy, const int* __restrict__ index, T* __restrict__ dx, int64 outer, int64 n, int64 inner) {
    GRID_STRIDE_LOOP(idx, outer * n * inner) {
        const int64 i = idx % inner, k = idx / inner % n, at = idx / inner / n * inner + i;
        from_float(dx[idx], index[at] == k ? to_float(dy[at]) : 0.0f);
    }
}
