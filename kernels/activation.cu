#include "common.cuh"
// Activations whose gradient follows from their output, elementwise: y = f(x) and dx = f'(x) dy,
// where f' is computed from y, so that x need not be kept. common.cuh computes them, and
// gpunet/backends/contract/activation.py states the formulas.
// In 16 bits a thread takes eight elements, where the arrays are aligned to them.
// Bound: memory, 8 bytes of float per element forward, 12 backward. Inside a network these functions are
// fused into the operation before them.

template <typename T>
__global__ void activation_forward(const T* __restrict__ x, T* __restrict__ y, int64 count, Activation f) {
    each_piece(count, true, [&](auto elements, int64 i) {
        float v[elements.count];
        load(v, x + i);
        activate(f, v);
        store(y + i, v);
    }, x, y);
}

template <typename T>
__global__ void activation_backward(
        const T* __restrict__ dy, const T* __restrict__ y, T* __restrict__ dx, int64 count, Activation f) {
    each_piece(count, true, [&](auto elements, int64 i) {
        float v[elements.count];
        load_gated(v, dy, y, i, f);
        store(dx + i, v);
    }, dy, y, dx);
}
