// Optimizers' steps: for each element one pass over its weight, its gradient and its slots. The rules are those of
// gpunet/backends/numpy/update.py, to the bit: so no product and sum become one instruction.
#if defined(__clang__)
#pragma clang fp contract(off)
#else
#pragma GCC optimize("fp-contract=off")
#endif
#include <cmath>

#include "functions.hpp"

// In the order of `RULES` in gpunet/backends/contract/update.py.
enum Rule { SGD, ADAM, RMSPROP, ADAGRAD, LION, MUON };

template <typename V>
static inline V sqrt_of(V x) {
    for (size_t k = 0; k < sizeof(V) / sizeof(x[0]); ++k) x[k] = std::sqrt(x[k]);
    return x;
}
template <typename V>
static inline V sign_of(V x) { return x > 0 ? V{} + 1 : x < 0 ? V{} - 1 : x == 0 ? V{} : x; }  // NaN stays

// mean = beta mean + (1 - beta) value
template <typename V, typename T>
static inline V mix(V& mean, T beta, T rest, V value) { return mean = mean * beta + value * rest; }

// What a rule is given beside arrays: its own hyper-parameters, and 1 - those that are averages' betas.
template <typename T>
struct Own {
    T rate, a, b, c, d, e, rest_a, rest_b;
    bool has_a, has_b;  // slots
};

template <typename T, typename V>
static inline V adam(V g, const Own<T>& own, V& a, V& b) {
    return mix(a, own.a, own.rest_a, g) * own.d / (sqrt_of(mix(b, own.b, own.rest_b, g * g) / own.e) + own.c);
}

// The step that is subtracted from the weights; slots a and b change in place.
template <Rule RULE, typename T, typename V>
static inline V step_of(V g, const Own<T>& own, V& a, V& b) {
    switch (RULE) {
        case SGD: {  // momentum, nesterov
            a = own.has_a ? a * own.a + g : g;
            return (own.b != 0 ? g + a * own.a : a) * own.rate;
        }
        case ADAM: return adam(g, own, a, b);
        case RMSPROP: {  // alpha, eps, momentum
            const V step = g / (sqrt_of(mix(a, own.a, own.rest_a, g * g)) + own.b);
            return (own.has_b ? b = b * own.c + step : step) * own.rate;
        }
        case ADAGRAD: return g * own.rate / (sqrt_of(a += g * g) + own.a);
        case LION: {  // beta1, beta2
            const V step = sign_of(a * own.a + g * own.rest_a);
            mix(a, own.b, own.rest_b, g);
            return step * own.rate;
        }
        default: {  // Muon, of segments whose direction of the step is in b
            mix(a, own.a, own.rest_a, g);
            return b * own.rate;
        }
    }
}

constexpr long SHARED = 4;  // hyper-parameters of every rule: rate, weight decay, L1, decoupled weight decay

template <Rule RULE, typename T>
static void update_range(long begin, long end, T* w, const T* g, T* a, T* b, const double* hyper, double clip) {
    const double rate = hyper[0], *const o = hyper + SHARED;
    const T decay = hyper[1], l1 = hyper[2], kept = 1 - rate * hyper[3], scale = clip;
    Own<T> own = {(T)rate, (T)o[0], 0, 0, 0, 0, (T)(1 - o[0]), 0, a != nullptr, b != nullptr};
    if (RULE != ADAGRAD) own.b = o[1], own.rest_b = 1 - o[1];
    if (RULE == ADAM || RULE == RMSPROP) own.c = o[2];
    if (RULE == ADAM) own.d = rate / o[3], own.e = o[4];
    for_range<T>(begin, end, [&](long at, long left) {
        typedef Vector<T> V;
        V value = load_some<V>(w + at, left), grad = load_some<V>(g + at, left) * scale;
        V first = a ? load_some<V>(a + at, left) : V{}, second = b ? load_some<V>(b + at, left) : V{};
        if (kept != 1) value *= kept;
        if (decay != 0) grad += value * decay;
        if (l1 != 0) grad += sign_of(value) * l1;
        store_some(w + at, value - step_of<RULE>(grad, own, first, second), left);
        if (a) store_some(a + at, first, left);
        if (b && RULE != MUON) store_some(b + at, second, left);
    });
}

// Elements begin … end - 1 of those of all segments, one after another: bounds (segments, 2), hyper (segments,
// columns), one row of hyper-parameters for each.
template <typename T>
static void update(
    long begin, long end, long rule, const int64_t* bounds, const double* hyper, long segments, long columns, double clip, T* w,
    const T* g, T* a, T* b) {
    for (long i = 0, passed = 0; i < segments && passed < end; ++i, hyper += columns) {
        const long start = bounds[2 * i], size = bounds[2 * i + 1] - start;
        const long from = start + std::max(0L, begin - passed), to = start + std::min(size, end - passed);
        passed += size;
        if (from >= to) continue;
        const bool left_to_adam = rule == MUON && hyper[columns - 1] == 0;
        auto range = update_range<SGD, T>;
        if (rule == ADAM || left_to_adam) range = update_range<ADAM, T>;
        else if (rule == RMSPROP) range = update_range<RMSPROP, T>;
        else if (rule == ADAGRAD) range = update_range<ADAGRAD, T>;
        else if (rule == LION) range = update_range<LION, T>;
        else if (rule == MUON) range = update_range<MUON, T>;
        range(from, to, w, g, a, b, hyper, clip);
    }
}
LOOP(update)

// average = decay average + (1 - decay) value
template <typename T>
static void average(long begin, long end, T* average, const T* value, double decay) {
    for_range<T>(begin, end, [&](long at, long left) {
        typedef Vector<T> V;
        V mean = load_some<V>(average + at, left);
        store_some(average + at, mix(mean, (T)decay, (T)(1 - decay), load_some<V>(value + at, left)), left);
    });
}
LOOP(average)

// The sums of squares of blocks begin … end - 1 of `block` elements.
template <typename T>
static void square_sums(long begin, long end, const T* x, long elements, long block, double* sums) {
    constexpr long LANES = Lanes<T>::COUNT, CHAINS = 8, RUN = 64;
    typedef Vector<T> V;
    for (long i = begin; i < end; ++i) {
        const long stop = std::min(elements, (i + 1) * block);
        double total = 0;
        for (long at = i * block; at < stop; at += RUN * CHAINS * LANES) {
            V sum[CHAINS] = {};
            for (long run = at; run < std::min(stop, at + RUN * CHAINS * LANES); run += CHAINS * LANES)
                for (long c = 0; c < CHAINS && run + c * LANES < stop; ++c) {
                    const V v = load_some<V>(x + run + c * LANES, stop - run - c * LANES);
                    sum[c] += v * v;
                }
            for (const V& part : sum)
                for (long k = 0; k < LANES; ++k) total += part[k];
        }
        sums[i] = total;
    }
}
LOOP(square_sums)
