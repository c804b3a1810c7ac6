#include "common.cuh"
// GELU (Hendrycks & Gimpel 2016), elementwise, with the normal distribution's own functions, not their tanh approximation:
//   y = x Phi(x),   Phi(x) = erfc(-x / sqrt(2)) / 2
//   dx = dy (Phi(x) + x phi(x)),   phi(x) = exp(-x^2 / 2) / sqrt(2 pi)
// Its gradient needs x: y alone does not tell it, for y falls before it rises. So it is not among the fused activations.
// erfc, not 1 + erf, keeps the digits of Phi where x is far below 0.
// Bound: memory, 8 bytes an element forward, 12 backward.

__device__ __forceinline__ float normal_cdf(float x) { return 0.5f * erfcf(-0.70710678f * x); }

template <typename T>
__global__ void gelu_forward(const T* __restrict__ x, T* __restrict__ y, int64 count) {
    GRID_STRIDE_LOOP(i, count) {
        const float v = to_float(x[i]);
        from_float(y[i], v * normal_cdf(v));
    }
}

template <typename T>
__global__ void gelu_backward(const T* __restrict__ dy, const T* __restrict__ x, T* __restrict__ dx, int64 count) {
    GRID_STRIDE_LOOP(i, count) {
        const float v = to_float(x[i]), density = 0.39894228f * expf(-0.5f * v * v);
        from_float(dx[i], to_float(dy[i]) * (normal_cdf(v) + v * density));
    }
}
