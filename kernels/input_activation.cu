#include "common.cuh"
// Activations whose gradient takes their input x, elementwise; y alone does not tell it, for y falls before it rises. So they
// are not among the fused ones. (Softplus only rises; it stands here so that the fused ones stay few.)
//   gelu        y = x Phi(x), Phi(x) = erfc(-x / sqrt(2)) / 2     dx = dy (Phi(x) + x phi(x)), phi(x) = exp(-x^2 / 2) / sqrt(2 pi)
//   silu        y = x s(x), s(x) = 1 / (1 + exp(-x))              dx = dy s(x) (1 + x (1 - s(x)))
//   softplus    y = (max(z, 0) + log(1 + exp(-|z|))) / beta       dx = dy s(z), z = beta x
//   hard_swish  y = x min(max(x + 3, 0), 6) / 6                   dx = 0 up to -3, dy from 3 on, dy (x / 3 + 1/2) between
// GELU is Hendrycks & Gimpel's (2016), with the normal distribution's own functions, not their tanh approximation; erfc, not
// 1 + erf, keeps the digits of Phi where x is far below 0. SiLU: Ramachandran et al. 2017; hard swish: Howard et al. 2019.
// Bound: memory, 8 bytes an element forward, 12 backward.

// `kind` counts gpunet.backends.base.INPUT_ACTIVATIONS from 0.
struct InputActivation {
    int kind;
    float beta;
};

#define INPUT_ACTIVATION_GELU 0
#define INPUT_ACTIVATION_SILU 1
#define INPUT_ACTIVATION_SOFTPLUS 2

__device__ __forceinline__ float normal_cdf(float x) { return 0.5f * erfcf(-0.70710678f * x); }

__device__ __forceinline__ float value(InputActivation f, float x) {
    switch (f.kind) {
        case INPUT_ACTIVATION_GELU: return x * normal_cdf(x);
        case INPUT_ACTIVATION_SILU: return x * sigmoid(x);
        case INPUT_ACTIVATION_SOFTPLUS: {
            const float z = f.beta * x;
            return ((z <= 0.0f ? 0.0f : z) + log1pf(expf(-fabsf(z)))) / f.beta;
        }
        default: return x <= -3.0f ? 0.0f : x >= 3.0f ? x : x * (x + 3.0f) / 6.0f;
    }
}

__device__ __forceinline__ float slope(InputActivation f, float x) {
    switch (f.kind) {
        case INPUT_ACTIVATION_GELU: {
            const float density = 0.39894228f * expf(-0.5f * x * x);
            return normal_cdf(x) + x * density;
        }
        case INPUT_ACTIVATION_SILU: {
            const float s = sigmoid(x);
            return s * (1.0f + x * (1.0f - s));
        }
        case INPUT_ACTIVATION_SOFTPLUS: return sigmoid(f.beta * x);
        default: return x <= -3.0f ? 0.0f : x >= 3.0f ? 1.0f : x / 3.0f + 0.5f;
    }
}

template <typename T>
__global__ void input_activation_forward(const T* __restrict__ x, T* __restrict__ y, int64 count, InputActivation f) {
    GRID_STRIDE_LOOP(i, count) from_float(y[i], value(f, to_float(x[i])));
}

template <typename T>
__global__ void input_activation_backward(
        const T* __restrict__ dy, const T* __restrict__ x, T* __restrict__ dx, int64 count, InputActivation f) {
    GRID_STRIDE_LOOP(i, count) from_float(dx[i], to_float(dy[i]) * slope(f, to_float(x[i])));
}
