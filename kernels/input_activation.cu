#include "common.cuh"
// Activations whose gradient is computed from the input, elementwise: y = f(x) and dx = f'(x) dy.
// gpunet/backends/contract/activation.py states the formulas. They are not among the fused ones.
// Most fall before they rise, so that y does not tell the gradient. Sigmoid, tanh and ELU stand
// here as well for layers of their own: near their limits y has lost the digits of the gradient,
// but x has them all.
//
// Exponentials are taken of -|x|, or of half of it where the factor beside them would keep the
// product above the smallest numbers. Phi(x) of GELU is computed as erfc(-x / sqrt(2)) / 2, because
// 1 + erf(x / sqrt(2)) loses its digits where x is far below 0. Nothing is approximated by tanh.
// In 16 bits a thread takes eight elements, where the arrays are aligned to them.
// Bound: memory, 8 bytes of float per element forward, 12 backward.

// `kind` is the index of the name in gpunet.backends.contract.activation.INPUT_ACTIVATIONS.
struct InputActivation {
    int kind;
    float beta;
};

#define INPUT_ACTIVATION_GELU 0
#define INPUT_ACTIVATION_SILU 1
#define INPUT_ACTIVATION_SOFTPLUS 2
#define INPUT_ACTIVATION_HARD_SWISH 3
#define INPUT_ACTIVATION_SIGMOID 4
#define INPUT_ACTIVATION_TANH 5
#define INPUT_ACTIVATION_ELU 6

// x limited to the range in which the tails below are not 0. An infinite x times a tail of 0 would
// be NaN instead of the limit.
__device__ __forceinline__ float bounded(float x, float most) { return x < -most ? -most : x > most ? most : x; }

// exp(-x^2 / 2) for |x| up to 20. The second factor corrects for the rounding of the square, which
// the exponential would magnify by x^2 / 2.
__device__ __forceinline__ float gaussian(float x) {
    const float square = x * x;
    return expf(-0.5f * square) * (1.0f - 0.5f * fmaf(x, x, -square));
}

// Phi(x) for |x| up to 20; `rounded` is the rounding error of the argument of erfc, and the last
// term corrects for it.
__device__ __forceinline__ float normal_cdf(float x, float gaussian) {
    const float z = -0.70710678f * x, rounded = fmaf(-0.70710678f, x, -z) - 1.21016175e-8f * x;
    return 0.5f * erfcf(z) - 0.56418958f * gaussian * rounded;
}

// s(x) = above above / total and s(-x) = below below / total.
struct Logistic {
    float above, below, total;
    __device__ __forceinline__ explicit Logistic(float x) {
        const float root = expf(-0.5f * fabsf(x));
        above = x < 0.0f ? root : 1.0f, below = x < 0.0f ? 1.0f : root, total = 1.0f + root * root;
    }
};

__device__ __forceinline__ float value(InputActivation f, float x) {
    switch (f.kind) {
        case INPUT_ACTIVATION_GELU: {
            const float near = bounded(x, 20.0f);
            return (x < near ? near : x) * normal_cdf(near, gaussian(near));
        }
        case INPUT_ACTIVATION_SILU: {
            const float near = x < -2000.0f ? -2000.0f : x;
            const Logistic s(near);
            return near * s.above * (s.above / s.total);
        }
        case INPUT_ACTIVATION_SOFTPLUS: {
            const float z = f.beta * x;
            return ((z <= 0.0f ? 0.0f : z) + log1pf(expf(-fabsf(z)))) / f.beta;
        }
        case INPUT_ACTIVATION_HARD_SWISH: return x <= -3.0f ? 0.0f : x >= 3.0f ? x : x * (x + 3.0f) / 6.0f;
        default: {
            float v[1] = {x};
            activate<1>({f.kind - INPUT_ACTIVATION_SIGMOID + ACTIVATION_SIGMOID, f.beta}, v);
            return v[0];
        }
    }
}

__device__ __forceinline__ float slope(InputActivation f, float x) {
    switch (f.kind) {
        case INPUT_ACTIVATION_GELU: {
            const float near = bounded(x, 20.0f), bell = gaussian(near);
            return normal_cdf(near, bell) + near * (0.39894228f * bell);
        }
        case INPUT_ACTIVATION_SILU: {
            const float near = bounded(x, 2000.0f);
            const Logistic s(near);
            return s.above * (1.0f + near * (s.below * s.below / s.total)) * (s.above / s.total);
        }
        case INPUT_ACTIVATION_SOFTPLUS: return sigmoid(f.beta * x);
        case INPUT_ACTIVATION_HARD_SWISH: return x <= -3.0f ? 0.0f : x >= 3.0f ? 1.0f : (x + 1.5f) / 3.0f;
        case INPUT_ACTIVATION_ELU: return x <= 0.0f ? f.beta * expf(x) : x > 0.0f ? 1.0f : x;
        default: {
            const float scale = f.kind == INPUT_ACTIVATION_TANH ? 2.0f : 1.0f, tail = expf(-scale * fabsf(x));
            return scale * scale * tail / ((1.0f + tail) * (1.0f + tail));
        }
    }
}

template <typename T>
__global__ void input_activation_forward(const T* __restrict__ x, T* __restrict__ y, int64 count, InputActivation f) {
    each_piece(count, true, [&](auto elements, int64 i) {
        float v[elements.count];
        load(v, x + i);
#pragma unroll
        for (float& a : v) a = value(f, a);
        store(y + i, v);
    }, x, y);
}

template <typename T>
__global__ void input_activation_backward(
        const T* __restrict__ dy, const T* __restrict__ x, T* __restrict__ dx, int64 count, InputActivation f) {
    each_piece(count, true, [&](auto elements, int64 i) {
        constexpr int V = elements.count;
        float v[V], from[V];
        load(v, dy + i);
        load(from, x + i);
#pragma unroll
        for (int u = 0; u < V; ++u) v[u] *= slope(f, from[u]);
        store(dx + i, v);
    }, dy, x, dx);
}
