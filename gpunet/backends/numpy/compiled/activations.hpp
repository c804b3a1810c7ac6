// Elementwise functions and their gradients; the formulas stand in gpunet/backends/contract/activation.py.
#pragma once
#include "functions.hpp"

// In the order of `KINDS` in activation.py.
enum Kind { RELU, LEAKY_RELU, SIGMOID, TANH, ELU, LINE, GELU, SILU, SOFTPLUS, HARD_SWISH };

// a, b, c, d: the slope of leaky ReLU; alpha of ELU, beta of softplus; slope, shift, low and high of a line.
template <typename T>
struct Numbers {
    T a, b, c, d;
    const T* series;
    long terms;
};

constexpr float FAR = 40, FARTHER = 2000;  // beyond them Phi, and the logistic function, are 0 or 1

// a and b with s(x) = a^2 / total, s(-x) = b^2 / total: a^2 may underflow where a product with s(x) does not.
template <typename V>
static inline V logistic(V x, V& a, V& b) {
    const V tail = exp_of(absolute(x) * (typename Element<V>::type)-0.5);
    a = x < 0 ? tail : all<V>(1), b = x < 0 ? all<V>(1) : tail;
    return tail * tail + 1;
}

template <Kind KIND, typename V, typename T>
static inline V value(V x, const Numbers<T>& of) {
    V a, b;
    switch (KIND) {
        case RELU: return x < 0 ? V{} : x;
        case LEAKY_RELU: return x < 0 ? x * of.a : x;
        case SIGMOID: return 1 / (exp_of(-x) + 1);
        case TANH: return tanh_of(x);
        case ELU: return x > 0 ? x : expm1_of(smaller(x, V{})) * of.a;
        case LINE: return smaller(larger((x + of.b) * of.a, all<V>(of.c)), all<V>(of.d));
        case GELU: {
            const V near = smaller(larger(x, all<V>(-FAR)), all<V>(FAR));
            a = gaussian_of(near, b);
            return larger(x, all<V>(-FAR)) * normal_cdf_of(near, a, b, of.series, of.terms);
        }
        case SILU: {
            const V near = larger(x, all<V>(-FARTHER)), total = logistic(near, a, b);
            return near * a * (a / total);
        }
        case SOFTPLUS: {
            const V z = x * of.a;
            return (larger(z, V{}) + log1p_of(exp_of(-absolute(z)))) / of.a;
        }
        default: return x <= -3 ? V{} : x >= 3 ? x : (x + 3) * x / 6;
    }
}

// f'(x), from y = f(x)
template <Kind KIND, typename V, typename T>
static inline V slope_by_output(V y, const Numbers<T>& of) {
    switch (KIND) {
        case LEAKY_RELU: return y <= 0 ? all<V>(of.a) : all<V>(1);
        case SIGMOID: return y * (1 - y);
        case TANH: return 1 - y * y;
        default: return y <= 0 ? y + of.a : all<V>(1);  // ELU
    }
}
template <Kind KIND, typename V, typename T>
static inline V opened(V dy, V y, const Numbers<T>& of) {
    if (KIND == RELU) return y <= 0 ? V{} : dy;  // what is stopped is 0, also a NaN
    if (KIND == LINE) return ((y <= of.c) | (y >= of.d)) ? V{} : dy * of.a;
    return dy * slope_by_output<KIND>(y, of);
}

// f'(x), from x
template <Kind KIND, typename V, typename T>
static inline V slope_by_input(V x, const Numbers<T>& of) {
    V a, b;
    switch (KIND) {
        case GELU: {
            const V near = smaller(larger(x, all<V>(-FAR)), all<V>(FAR)), bell = gaussian_of(near, b);
            const V density = bell * exp_of(b) * (T)0.39894228040143268;
            return normal_cdf_of(near, bell, b, of.series, of.terms) + density * near;
        }
        case SILU: {
            const V near = smaller(larger(x, all<V>(-FARTHER)), all<V>(FARTHER)), total = logistic(near, a, b);
            return (near * (b * b / total) + 1) * a * (a / total);
        }
        case SOFTPLUS: return 1 / (exp_of(x * -of.a) + 1);
        case ELU: return x > 0 ? all<V>(1) : exp_of(smaller(x, V{})) * of.a;
        case SIGMOID:
        case TANH: {  // 1 / cosh(x)^2 is 4 s(2 x) s(-2 x)
            const V tail = exp_of(absolute(x) * (KIND == TANH ? -2 : -1)), total = tail + 1;
            return tail / total / total * (KIND == TANH ? 4 : 1);
        }
        default: return x <= -3 ? V{} : x >= 3 ? all<V>(1) : (x + (T)1.5) / 3;
    }
}

// Calls f(constant) with the kind as a constant of the compiler.
template <Kind KIND> struct Constant { static constexpr Kind kind = KIND; };
template <typename F>
static inline void with_kind(long kind, F f) {
    switch (kind) {
        case RELU: return f(Constant<RELU>());
        case LEAKY_RELU: return f(Constant<LEAKY_RELU>());
        case SIGMOID: return f(Constant<SIGMOID>());
        case TANH: return f(Constant<TANH>());
        case ELU: return f(Constant<ELU>());
        case LINE: return f(Constant<LINE>());
        case GELU: return f(Constant<GELU>());
        case SILU: return f(Constant<SILU>());
        case SOFTPLUS: return f(Constant<SOFTPLUS>());
        default: return f(Constant<HARD_SWISH>());
    }
}
