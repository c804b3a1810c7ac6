#include "common.cuh"
// Activations whose gradient follows from their output, elementwise: y = f(x) and dx = f'(x) dy,
// where f' is computed from y, so that x need not be kept. common.cuh computes them, and
// gpunet/backends/contract/activation.py states the formulas.
// Bound: memory, 8 bytes per element forward, 12 backward. Inside a network these functions are
// fused into the operation before them.

template <typename T>
__global__ void activation_forward(const T* __restrict__ x, T* __restrict__ y, int64 count, Activation f) {
    GRID_STRIDE_LOOP(i, count) {
        float v[1] = {to_float(x[i])};
        activate<1>(f, v);
        from_float(y[i], v[0]);
    }
}

template <typename T>
__global__ void activation_backward(
        const T* __restrict__ dy, const T* __restrict__ y, T* __restrict__ dx, int64 count, Activation f) {
    GRID_STRIDE_LOOP(i, count) {
        float v[1];
        load_gated<1>(v, dy, y, i, f);
        from_float(dx[i], v[0]);
    }
}
