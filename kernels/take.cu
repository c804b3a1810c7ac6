#include "common.cuh"
#include "sums.cuh"
// Rows by number, and their gradient:
//   take: y[r] = a[rows[r]]
//   take_backward: dx[l] = sum of dy[r] over the r with rows[r] = l, in ascending r
//   a, dx (length, width)   rows (R,), each from 0 to length - 1   y, dy (R, width)
// The gradient gathers: each element of dx goes through all row numbers, so rows that repeat need no atomics and are always
// added in the same order. That is length R comparisons a column, which suits a batch of rows, not a vocabulary.
// Bound: memory, 8 bytes an element of y (take); the comparisons (take_backward).

template <typename T>
__global__ void take(const T* __restrict__ a, const int64* __restrict__ rows, T* __restrict__ y, int64 count, int64 width) {
    GRID_STRIDE_LOOP(idx, count * width) y[idx] = a[rows[idx / width] * width + idx % width];
}

template <typename T>
__global__ void take_backward(
        const T* __restrict__ dy, const int64* __restrict__ rows, T* __restrict__ dx, int64 count, int64 length, int64 width) {
    GRID_STRIDE_LOOP(idx, length * width) {
        const int64 row = idx / width, i = idx % width;
        Sum sum;
        for (int64 r = 0; r < count; ++r)
            if (rows[r] == row) sum.add(to_float(dy[r * width + i]));
        from_float(dx[idx], sum.value());
    }
}
