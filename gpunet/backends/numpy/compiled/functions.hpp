// Elementary functions of vectors and of single elements, to about the last digit of their type. NaN stays
// NaN, and an infinite argument gives the limit.
#pragma once
#include "loops.hpp"

template <typename To, typename From>
static inline To bits_of(From value) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &value, sizeof(To));
    return to;
}

template <typename T> struct Floats;
template <> struct Floats<float> {
    static constexpr int DIGITS = 23, BIAS = 127, TERMS = 7, LOG_TERMS = 8;
    static constexpr float LOWEST = -104, HIGHEST = 89;               // exp is 0, and infinite, beyond
    static constexpr float LN2_HIGH = 0.693359375, LN2_LOW = -2.12194440e-4;  // the first has few digits
};
template <> struct Floats<double> {
    static constexpr int DIGITS = 52, BIAS = 1023, TERMS = 13, LOG_TERMS = 17;
    static constexpr double LOWEST = -746, HIGHEST = 710;
    static constexpr double LN2_HIGH = 6.93147180369123816490e-01, LN2_LOW = 1.90821492927058770002e-10;
};

template <typename V> static inline V larger(V a, V b) { return a < b ? b : a; }   // NaN if a is NaN
template <typename V> static inline V smaller(V a, V b) { return a > b ? b : a; }
template <typename V> static inline V absolute(V x) { return x < 0 ? -x : x; }

// 1 / 1! + r / 2! + … after the term with r^(N - 1) / N!, which is the sum so far, by Horner's rule
template <typename T, int N>
constexpr T INVERSE_FACTORIAL = INVERSE_FACTORIAL<double, N - 1> / N;
template <typename T>
constexpr T INVERSE_FACTORIAL<T, 1> = 1;
template <int N, typename V>
static inline void series_of(V& sum, V r) {
    sum = sum * r + INVERSE_FACTORIAL<typename Element<V>::type, N>;
    if constexpr (N > 1) series_of<N - 1>(sum, r);
}

// x = n log 2 + r with |r| <= log(2) / 2 -> exp(r) - 1 by Taylor's series; n of the exponent is `power`.
template <typename V>
static inline V reduced_expm1(V x, Integers<V>& power) {
    typedef typename Element<V>::type T;
    typedef Floats<T> Of;
    const T magic = (T)3 * ((int64_t)1 << (Of::DIGITS - 1));  // a sum with it is rounded to an integer
    const V rounded = x * (T)1.4426950408889634 + magic;
    power = bits_of<Integers<V>>(rounded) - bits_of<Integers<V>>(all<V>(magic));
    const V n = rounded - magic, r = (x - n * Of::LN2_HIGH) - n * Of::LN2_LOW;
    V sum = all<V>(INVERSE_FACTORIAL<T, Of::TERMS>);
    series_of<Of::TERMS - 1>(sum, r);
    return sum * r;
}
template <typename V>
static inline V power_of_two(Integers<V> n) {
    typedef Floats<typename Element<V>::type> Of;
    return bits_of<V>((n + Of::BIAS) << Of::DIGITS);
}

template <typename V>
static inline V exp_of(V x) {
    typedef Floats<typename Element<V>::type> Of;
    Integers<V> n;
    const V fraction = reduced_expm1(smaller(larger(x, all<V>(Of::LOWEST)), all<V>(Of::HIGHEST)), n) + 1;
    const Integers<V> half = n >> 1;  // the power itself may be out of range where the result is not
    return fraction * power_of_two<V>(half) * power_of_two<V>(n - half);
}
// exp(x) - 1, for x <= 0
template <typename V>
static inline V expm1_of(V x) {
    typedef Floats<typename Element<V>::type> Of;
    Integers<V> n;
    const V least = all<V>((typename Element<V>::type)(-(Of::DIGITS + 3)));  // -1 beyond, rounded
    const V part = reduced_expm1(larger(x, least), n), scale = power_of_two<V>(n);
    return part * scale + (scale - 1);
}
template <typename V>
static inline V tanh_of(V x) {
    const V e = expm1_of(absolute(x) * -2), y = -e / (e + 2);
    return x < 0 ? -y : y;
}
// log(1 + t), for t from 0 to 1
template <typename V>
static inline V log1p_of(V t) {
    typedef typename Element<V>::type T;
    const V s = t / (t + 2), square = s * s;  // log((1 + s) / (1 - s)) as a series
    V sum = V{};
#pragma GCC unroll 20
    for (int k = Floats<T>::LOG_TERMS; k >= 1; --k) sum = (sum + (T)1 / (2 * k + 1)) * square;
    return (sum + 1) * s * 2;
}
// exp(-x^2 / 2) as the product of two exponentials, exact in the tails too, where a rounding of x^2 would be
// magnified: the square of half of the digits is exact. The second one is left to the caller.
template <typename V>
static inline V gaussian_of(V x, V& exponent) {
    typedef Floats<typename Element<V>::type> Of;
    const Integers<V> mask = Integers<V>{} + ~(((int64_t)1 << ((Of::DIGITS + 2) / 2)) - 1);
    const V high = bits_of<V>(bits_of<Integers<V>>(x) & mask), low = x - high;
    exponent = low * (high + x) * (typename Element<V>::type)-0.5;
    return exp_of(high * high * (typename Element<V>::type)-0.5);
}
// The standard normal distribution function; `bell` and `exponent` are those of gaussian_of, the series that
// of `CHEBYSHEV` in gpunet/backends/numpy/activation.py.
template <typename V, typename T>
static inline V normal_cdf_of(V x, V bell, V exponent, const T* series, long terms) {
    const V t = 2 / (absolute(x) * (T)0.70710678118654752 + 2), u = 4 * t - 2;
    V ahead = V{}, behind = V{};
    for (long k = terms - 1; k >= 1; --k) {  // Clenshaw's recurrence
        const V term = u * ahead - behind + series[k];
        behind = ahead, ahead = term;
    }
    const V tail = exp_of(u * (T)0.5 * ahead - behind + series[0] + exponent) * bell * t * (T)0.5;
    return x < 0 ? tail : 1 - tail;
}
