#include "common.cuh"
#include "sums.cuh"
// Rows that are taken by their numbers, and the gradient of taking them.
//   take:          y[r] = a[rows[r]]
//   take_backward: dx[l] = sum of dy[order[k]] for k from starts[l] to starts[l + 1] - 1, in this order
//   a, dx (length, width)   rows (R,), each from 0 to length - 1   y, dy (R, width)   order (R,)   starts (length + 1,)
// The host sorts the row numbers once, and the gradient then gathers: repeated rows need no atomics, and
// are always added in the same order.
//
// In `take_backward_simple` a thread computes an element of dx. If one row is taken thousands of times,
// as a padding word is, its threads are busy long after all others. So for long lists
// `take_backward_parts` cuts `order` into parts of equal length, whatever rows they belong to: a thread
// adds up one column of a part. It writes the rows that lie inside its part to dx, and its sums of the
// first and the last row, which may reach into other parts, to partial (parts, 2, width).
// `take_backward_merge` adds these up, part by part, and writes zeros for rows that nothing took.
// Bound: memory, 8 bytes per element of y (take), 8 per element of dy and 4 of dx (take_backward).

template <typename T>
__global__ void take(const T* __restrict__ a, const int64* __restrict__ rows, T* __restrict__ y, int64 count, int64 width) {
    GRID_STRIDE_LOOP(idx, count * width) y[idx] = a[rows[idx / width] * width + idx % width];
}

template <typename T>
__global__ void take_backward_simple(
        const T* __restrict__ dy, const int64* __restrict__ order, const int64* __restrict__ starts, T* __restrict__ dx,
        int64 length, int64 width) {
    GRID_STRIDE_LOOP(idx, length * width) {
        const int64 row = idx / width, i = idx % width;
        Sum sum;
        for (int64 k = starts[row]; k < starts[row + 1]; ++k) sum.add(to_float(dy[order[k] * width + i]));
        from_float(dx[idx], sum.value());
    }
}

// The row that dy[order[k]] belongs to: starts[row] <= k < starts[row + 1].
__device__ __forceinline__ int64 row_of(const int64* starts, int64 length, int64 k) {
    int64 low = 0, high = length;
    while (high - low > 1) {
        const int64 middle = (low + high) / 2;
        if (starts[middle] <= k) low = middle;
        else high = middle;
    }
    return low;
}

#define UNDER_WAY 8  // loads of a thread

// `count` rows of dy, in parts of `part`.
template <typename T>
__global__ void take_backward_parts(
        const T* __restrict__ dy, const int64* __restrict__ order, const int64* __restrict__ starts,
        float* __restrict__ partial, T* __restrict__ dx, int64 count, int64 length, int64 width, int64 part) {
    GRID_STRIDE_LOOP(idx, (count + part - 1) / part * width) {
        const int64 i = idx % width, begin = idx / width * part, end = min(begin + part, count);
        float* out = partial + begin / part * 2 * width + i;
        int64 row = row_of(starts, length, begin), stop = starts[row + 1];
        bool first = true;  // the row of `begin`
        Sum sum;
        for (int64 k0 = begin; k0 < end; k0 += UNDER_WAY) {
            float v[UNDER_WAY] = {};
#pragma unroll
            for (int u = 0; u < UNDER_WAY; ++u)
                if (k0 + u < end) v[u] = to_float(dy[order[k0 + u] * width + i]);
#pragma unroll
            for (int u = 0; u < UNDER_WAY; ++u) {
                if (k0 + u >= end) continue;
                if (k0 + u == stop) {
                    if (first) *out = sum.value();
                    else from_float(dx[row * width + i], sum.value());
                    first = false, sum = Sum();
                    while (stop == k0 + u) stop = starts[++row + 1];  // skips rows that nothing took
                }
                sum.add(v[u]);
            }
        }
        out[first ? 0 : width] = sum.value();
    }
}

template <typename T>
__global__ void take_backward_merge(
        const float* __restrict__ partial, const int64* __restrict__ starts, T* __restrict__ dx, int64 count, int64 length,
        int64 width, int64 part) {
    GRID_STRIDE_LOOP(idx, length * width) {
        const int64 row = idx / width, i = idx % width, start = starts[row], stop = starts[row + 1];
        if (start % part && stop % part && start / part == stop / part && start < stop && stop < count)
            continue;  // the row lies inside a part
        Sum sum;
        if (start < stop) sum.add(partial[(start / part * 2 + (start % part != 0)) * width + i]);
#pragma unroll UNDER_WAY
        for (int64 p = start / part + 1; p * part < stop; ++p) sum.add(partial[p * 2 * width + i]);
        from_float(dx[idx], sum.value());
    }
}
