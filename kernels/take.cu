#include "common.cuh"
#include "sums.cuh"
// Rows that are taken by their numbers, and the gradient of taking them.
//   take:          y[r] = a[rows[r]]
//   take_backward: dx[l] = sum of dy[order[k]] for k from starts[l] to starts[l + 1] - 1, in this order
//   a, dx (length, width)   rows (R,), each from 0 to length - 1   y, dy (R, width)   order (R,)   starts (length + 1,)
// The host sorts the row numbers once, and the gradient then gathers: repeated rows need no atomics, and
// are always added in the same order.
// Bound: memory, 8 bytes per element of y (take), 8 per element of dy and 4 of dx (take_backward).

template <typename T>
__global__ void take(const T* __restrict__ a, const int64* __restrict__ rows, T* __restrict__ y, int64 count, int64 width) {
    GRID_STRIDE_LOOP(idx, count * width) y[idx] = a[rows[idx / width] * width + idx % width];
}

template <typename T>
__global__ void take_backward(
        const T* __restrict__ dy, const int64* __restrict__ order, const int64* __restrict__ starts, T* __restrict__ dx,
        int64 length, int64 width) {
    GRID_STRIDE_LOOP(idx, length * width) {
        const int64 row = idx / width, i = idx % width;
        Sum sum;
        for (int64 k = starts[row]; k < starts[row + 1]; ++k) sum.add(to_float(dy[order[k] * width + i]));
        from_float(dx[idx], sum.value());
    }
}
