// Elementwise functions and their gradients, over arrays.
#include "activations.hpp"

template <typename T>
static void activation_forward(
    const T* x, T* y, long n, long kind, double a, double b, double c, double d, const T* series, long terms) {
    const Numbers<T> of = {(T)a, (T)b, (T)c, (T)d, series, terms};
    with_kind(kind, [&](auto given) {
        for_each<T>(n, [&](auto v, long at) {
            store(y + at, value<decltype(given)::kind>(load<decltype(v)>(x + at), of));
        });
    });
}

// dx = f'(x) dy from y, for the kinds up to LINE
template <typename T>
static void activation_backward(const T* dy, const T* y, T* dx, long n, long kind, double a, double b, double c, double d) {
    const Numbers<T> of = {(T)a, (T)b, (T)c, (T)d, nullptr, 0};
    with_kind(kind, [&](auto given) {
        for_each<T>(n, [&](auto v, long at) {
            typedef decltype(v) V;
            store(dx + at, opened<decltype(given)::kind>(load<V>(dy + at), load<V>(y + at), of));
        });
    });
}

// dx = f'(x) dy from x, for the kinds of `INPUT_ACTIVATIONS`
template <typename T>
static void input_activation_backward(
    const T* dy, const T* x, T* dx, long n, long kind, double a, const T* series, long terms) {
    const Numbers<T> of = {(T)a, 0, 0, 0, series, terms};
    with_kind(kind, [&](auto given) {
        for_each<T>(n, [&](auto v, long at) {
            typedef decltype(v) V;
            store(dx + at, load<V>(dy + at) * slope_by_input<decltype(given)::kind>(load<V>(x + at), of));
        });
    });
}

LOOP(activation_forward)
LOOP(activation_backward)
LOOP(input_activation_backward)
