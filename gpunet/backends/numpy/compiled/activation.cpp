// Elementwise functions and their gradients, over elements begin … end - 1 of arrays.
#include "activations.hpp"

template <typename T>
static void activation_forward(
    long begin, long end, const T* x, T* y, long kind, double a, double b, double c, double d, const T* series, long terms) {
    const Numbers<T> of = {(T)a, (T)b, (T)c, (T)d, series, terms};
    with_kind(kind, [&](auto given) {
        for_range<T>(begin, end, [&](long at, long left) {
            store_some(y + at, value<decltype(given)::kind>(load_some<Vector<T>>(x + at, left), of), left);
        });
    });
}

// dx = f'(x) dy from y, for the kinds up to LINE
template <typename T>
static void activation_backward(
    long begin, long end, const T* dy, const T* y, T* dx, long kind, double a, double b, double c, double d) {
    const Numbers<T> of = {(T)a, (T)b, (T)c, (T)d, nullptr, 0};
    with_kind(kind, [&](auto given) {
        for_range<T>(begin, end, [&](long at, long left) {
            typedef Vector<T> V;
            store_some(dx + at, opened<decltype(given)::kind>(load_some<V>(dy + at, left), load_some<V>(y + at, left), of), left);
        });
    });
}

// dx = f'(x) dy from x, for the kinds of `INPUT_ACTIVATIONS`
template <typename T>
static void input_activation_backward(
    long begin, long end, const T* dy, const T* x, T* dx, long kind, double a, const T* series, long terms) {
    const Numbers<T> of = {(T)a, 0, 0, 0, series, terms};
    with_kind(kind, [&](auto given) {
        for_range<T>(begin, end, [&](long at, long left) {
            typedef Vector<T> V;
            store_some(dx + at, load_some<V>(dy + at, left) * slope_by_input<decltype(given)::kind>(load_some<V>(x + at, left), of), left);
        });
    });
}

LOOP(activation_forward)
LOOP(activation_backward)
LOOP(input_activation_backward)
