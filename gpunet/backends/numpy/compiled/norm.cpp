// Batch and group normalisation; the formulas stand in gpunet/backends/contract/norm.py. Every pass over an
// image reads each of its arrays once. Sums are taken over blocks of elements, in float32 where the image
// is, and blocks are joined in double, in their order: the bits do not depend on the threads.
#include <cmath>

#include "loops.hpp"

// The means of a block's channels, and the squared distances from them, summed. The distances are taken from
// a rounded mean first, and what that is off is put right afterwards.
template <typename T>
static void moments_of(const Rows<T>& rows, const T* x, long pixels, double* mean, double* squares) {
    const long c = rows.channels, elements = pixels * c;
    std::vector<T> sum = rows.zeros(), square = rows.zeros(), near(c);
    std::vector<double> off(c);
    rows.walk(elements, [&](long at, long e, long left) {
        typedef Vector<T> V;
        store(&sum[e], load<V>(&sum[e]) + load_some<V>(x + at, left));
    });
    rows.fold(sum.data(), mean);
    for (long i = 0; i < c; ++i) near[i] = mean[i] / pixels, mean[i] = near[i];
    const std::vector<T> centre = rows.repeated(near.data());
    sum = rows.zeros();
    rows.walk(elements, [&](long at, long e, long left) {
        typedef Vector<T> V;
        const V d = first_of(load_some<V>(x + at, left) - load<V>(&centre[e]), left);
        store(&sum[e], load<V>(&sum[e]) + d);
        store(&square[e], load<V>(&square[e]) + d * d);
    });
    rows.fold(sum.data(), off.data());
    rows.fold(square.data(), squares);
    for (long i = 0; i < c; ++i) mean[i] += off[i] / pixels, squares[i] -= off[i] * off[i] / pixels;
}

// The moments of a set, joined with those of a second one (Chan, Golub & LeVeque 1983, equation 1.5).
static void join(double& n, double& mean, double& squares, double more, double its_mean, double its_squares) {
    const double distance = its_mean - mean, both = n + more;
    squares += its_squares + distance * distance * n * more / both;
    mean += distance * more / both, n = both;
}

// What a gradient is opened by: nothing, y, or the sign of y that x gives again.
enum Gate { OPEN, BY_Y, BY_X };

// The values per channel of a normalisation, along a row: y = (x - mean) scale + shift.
template <typename T>
struct Scaling {
    std::vector<T> mean, scale, shift;
    Scaling(const Rows<T>& rows, const T* mean, const T* scale, const T* shift)
        : mean(rows.repeated(mean)), scale(rows.repeated(scale)), shift(rows.repeated(shift)) {}
    template <typename V>
    V of(V x, long e) const {
        return (x - load<V>(&mean[e])) * load<V>(&scale[e]) + load<V>(&shift[e]);
    }
};

template <typename V, Gate GATE, typename T>
static inline V opened(const T* dy, const T* x, const T* y, long at, long e, long left, const Scaling<T>& s) {
    const V d = load_some<V>(dy + at, left);
    if (GATE == OPEN) return d;
    const V by = GATE == BY_Y ? load_some<V>(y + at, left) : s.of(load_some<V>(x + at, left), e);
    return by <= 0 ? V{} : d;  // a NaN lets d pass
}

template <typename T, bool RELU>
static void normalise(const Rows<T>& rows, const T* x, const T* residual, T* y, long pixels, const Scaling<T>& s) {
    rows.walk(pixels * rows.channels, [&](long at, long e, long left) {
        typedef Vector<T> V;
        V out = s.of(load_some<V>(x + at, left), e);
        if (residual) out += load_some<V>(residual + at, left);
        if (RELU) out = out < 0 ? V{} : out;  // NaN stays
        store_some(y + at, out, left);
    });
}

// sums[0] = the sums of g (x - mean), sums[1] = those of g, with g = dy behind the gate.
template <typename T, Gate GATE>
static void gradient_sums(
    const Rows<T>& rows, const T* dy, const T* x, const T* y, long pixels, const Scaling<T>& s, double* sums) {
    std::vector<T> with_x = rows.zeros(), alone = rows.zeros();
    rows.walk(pixels * rows.channels, [&](long at, long e, long left) {
        typedef Vector<T> V;
        const V g = opened<V, GATE>(dy, x, y, at, e, left, s);
        store(&with_x[e], load<V>(&with_x[e]) + g * (load_some<V>(x + at, left) - load<V>(&s.mean[e])));
        store(&alone[e], load<V>(&alone[e]) + g);
    });
    rows.fold(with_x.data(), sums);
    rows.fold(alone.data(), sums + rows.channels);
}

// dx = factor g - slope (x - mean) - offset; g is also written if it is wanted.
template <typename T, Gate GATE>
static void input_gradient(
    const Rows<T>& rows, const T* dy, const T* x, const T* y, long pixels, const Scaling<T>& s, const T* factor,
    const T* slope, const T* offset, T* dx, T* g_out) {
    const std::vector<T> factors = rows.repeated(factor), slopes = rows.repeated(slope), offsets = rows.repeated(offset);
    rows.walk(pixels * rows.channels, [&](long at, long e, long left) {
        typedef Vector<T> V;
        const V g = opened<V, GATE>(dy, x, y, at, e, left, s), d = load_some<V>(x + at, left) - load<V>(&s.mean[e]);
        if (g_out) store_some(g_out + at, g, left);
        store_some(dx + at, load<V>(&factors[e]) * g - load<V>(&slopes[e]) * d - load<V>(&offsets[e]), left);
    });
}

// ---- batch normalisation: x (pixels, C)

// Of blocks first … last - 1 of `block` pixels each: parts (blocks, 2, C).

template <typename T>
static void batch_moments(long first, long last, const T* x, long pixels, long c, long block, double* parts) {
    const Rows<T> rows(c);
    for (long i = first; i < last; ++i) {
        const long begin = i * block, count = std::min(block, pixels - begin);
        moments_of(rows, x + begin * c, count, parts + i * 2 * c, parts + i * 2 * c + c);
    }
}

// The moments of all blocks, of some channels: moments (2, C), the variance over n.
template <typename T>
static void join_batch_moments(long first, long last, const double* parts, long pixels, long c, long block, double* moments) {
    for (long i = first; i < last; ++i) {
        double n = 0, mean = 0, squares = 0;
        for (long begin = 0; begin < pixels; begin += block, parts += 2 * c)
            join(n, mean, squares, std::min(block, pixels - begin), parts[i], parts[c + i]);
        parts -= (pixels + block - 1) / block * 2 * c;
        moments[i] = mean, moments[c + i] = squares / n;
    }
}

// y of pixels begin … end - 1
template <typename T>
static void batch_forward(
    long begin, long end, const T* x, const T* residual, T* y, long c, const T* mean, const T* scale, const T* shift, long relu) {
    const Rows<T> rows(c);
    const Scaling<T> s(rows, mean, scale, shift);
    const long at = begin * c;
    (relu ? normalise<T, true> : normalise<T, false>)(rows, x + at, residual ? residual + at : nullptr, y + at, end - begin, s);
}

// The sums of blocks first … last - 1.
template <typename T>
static void batch_sums(
    long first, long last, const T* dy, const T* x, const T* y, long pixels, long c, const T* mean, const T* scale,
    const T* shift, long gate, long block, double* parts) {
    const Rows<T> rows(c);
    const Scaling<T> s(rows, mean, scale, shift);
    const auto sums = gate == OPEN ? gradient_sums<T, OPEN> : gate == BY_Y ? gradient_sums<T, BY_Y> : gradient_sums<T, BY_X>;
    for (long i = first; i < last; ++i) {
        const long begin = i * block, at = begin * c;
        sums(rows, dy + at, x + at, y + (gate == BY_Y ? at : 0), std::min(block, pixels - begin), s, parts + i * 2 * c);
    }
}

// dx of pixels begin … end - 1
template <typename T>
static void batch_input_grad(
    long begin, long end, const T* dy, const T* x, const T* y, long c, const T* mean, const T* scale, const T* shift, long gate,
    const T* factor, const T* slope, const T* offset, T* dx, T* g) {
    const Rows<T> rows(c);
    const Scaling<T> s(rows, mean, scale, shift);
    const auto grad = gate == OPEN ? input_gradient<T, OPEN> : gate == BY_Y ? input_gradient<T, BY_Y> : input_gradient<T, BY_X>;
    const long at = begin * c;
    grad(rows, dy + at, x + at, gate == BY_Y ? y + at : nullptr, end - begin, s, factor, slope, offset, dx + at, g ? g + at : nullptr);
}

// ---- group normalisation: x (samples, pixels, C), samples begin … end - 1 one after another

static long block_of(long c) { return std::max(1L, (1L << 14) / c); }  // pixels

// moments_of the blocks of a sample, joined: mean and squares (C,).
template <typename T>
static void moments_in_blocks(const Rows<T>& rows, const T* x, long pixels, double* mean, double* squares) {
    const long c = rows.channels, block = block_of(c);
    std::vector<double> own(2 * c), n(c);
    std::fill(mean, mean + c, 0), std::fill(squares, squares + c, 0);
    for (long begin = 0; begin < pixels; begin += block) {
        const long count = std::min(block, pixels - begin);
        moments_of(rows, x + begin * c, count, own.data(), own.data() + c);
        for (long i = 0; i < c; ++i) join(n[i], mean[i], squares[i], count, own[i], own[c + i]);
    }
}

// The gradient_sums of the blocks of a sample, added: sums (2, C).
template <typename T>
static void sums_in_blocks(const Rows<T>& rows, const T* dy, const T* x, long pixels, const Scaling<T>& s, double* sums) {
    const long c = rows.channels, block = block_of(c);
    std::vector<double> own(2 * c);
    std::fill(sums, sums + 2 * c, 0);
    for (long begin = 0; begin < pixels; begin += block) {
        gradient_sums<T, OPEN>(rows, dy + begin * c, x + begin * c, nullptr, std::min(block, pixels - begin), s, own.data());
        for (long i = 0; i < 2 * c; ++i) sums[i] += own[i];
    }
}

// The values per channel of one sample.
template <typename T>
struct Sample {
    std::vector<T> mean, scale, shift;
    explicit Sample(long c) : mean(c), scale(c), shift(c) {}
};

template <typename T>
static void group_forward(
    long begin, long end, const T* x, T* y, long pixels, long c, long groups, const T* w, const T* b, double eps, T* means,
    T* variances) {
    const Rows<T> rows(c);
    const long each = c / groups;
    std::vector<double> mean(c), squares(c);
    Sample<T> sample(c);
    x += begin * pixels * c, y += begin * pixels * c, means += begin * groups, variances += begin * groups;
    for (long n = begin; n < end; ++n, x += pixels * c, y += pixels * c, means += groups, variances += groups) {
        moments_in_blocks(rows, x, pixels, mean.data(), squares.data());
        for (long group = 0; group < groups; ++group) {
            double count = 0, of_group = 0, distances = 0;
            for (long i = group * each; i < (group + 1) * each; ++i) join(count, of_group, distances, pixels, mean[i], squares[i]);
            means[group] = of_group, variances[group] = distances / count;
            const double inverse = 1 / std::sqrt((double)variances[group] + eps);
            for (long i = group * each; i < (group + 1) * each; ++i) {
                sample.mean[i] = means[group], sample.scale[i] = (w ? w[i] : 1) * inverse, sample.shift[i] = b ? b[i] : 0;
            }
        }
        const Scaling<T> s(rows, sample.mean.data(), sample.scale.data(), sample.shift.data());
        normalise<T, false>(rows, x, nullptr, y, pixels, s);
    }
}

// parts (samples, 2, C) are the contributions of each sample to dw and db.
template <typename T>
static void group_backward(
    long begin, long end, const T* dy, const T* x, T* dx, long pixels, long c, long groups, const T* w, double eps, const T* means,
    const T* variances, double* parts) {
    const Rows<T> rows(c);
    const long each = c / groups;
    const double count = (double)pixels * each;
    Sample<T> sample(c);
    std::vector<T> factor(c), slope(c), offset(c);
    x += begin * pixels * c, dy += begin * pixels * c, dx += begin * pixels * c, parts += begin * 2 * c;
    for (long n = begin; n < end; ++n, x += pixels * c, dy += pixels * c, dx += pixels * c, parts += 2 * c) {
        for (long i = 0; i < c; ++i) sample.mean[i] = means[n * groups + i / each];
        const Scaling<T> s(rows, sample.mean.data(), sample.scale.data(), sample.shift.data());
        sums_in_blocks(rows, dy, x, pixels, s, parts);
        for (long group = 0; group < groups; ++group) {
            const double inverse = 1 / std::sqrt((double)variances[n * groups + group] + eps);
            double with_x = 0, alone = 0;
            for (long i = group * each; i < (group + 1) * each; ++i) {
                const double weight = w ? w[i] : 1;
                with_x += weight * parts[i], alone += weight * parts[c + i];
            }
            for (long i = group * each; i < (group + 1) * each; ++i) {
                factor[i] = (w ? w[i] : 1) * inverse, offset[i] = inverse * alone / count;
                slope[i] = inverse * inverse * inverse * with_x / count;
                parts[i] *= inverse;
            }
        }
        input_gradient<T, OPEN>(rows, dy, x, nullptr, pixels, s, factor.data(), slope.data(), offset.data(), dx, nullptr);
    }
}

LOOP(batch_moments)
LOOP(join_batch_moments)
LOOP(batch_forward)
LOOP(batch_sums)
LOOP(batch_input_grad)
LOOP(group_forward)
LOOP(group_backward)
