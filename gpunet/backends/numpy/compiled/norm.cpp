// Batch and group normalisation; the formulas stand in gpunet/backends/contract/norm.py. Every pass over an
// image reads each of its arrays once. Sums are taken over blocks of elements, in float32 where the image
// is, and blocks are joined in double, in their order: the bits do not depend on the threads.
#include <cmath>

#include "loops.hpp"

constexpr long SAMPLE = 8;  // every so many rows of a block tell where about its means are

// The means of a block's channels, and the squared distances from them, summed. The distances are taken from the
// rounded mean of a sample, and what that is off is put right afterwards: since the sample is an eighth of the
// block, the square of what it is off is at most 7 variances, which costs a digit at most.
template <typename T>
static void moments_of(const Rows<T>& rows, const T* x, long pixels, double* mean, double* squares) {
    typedef Vector<T> V;
    const long c = rows.channels, elements = pixels * c;
    std::vector<T> sum = rows.zeros(), square = rows.zeros(), near(c);
    rows.add_up(elements, {sum.data()}, SAMPLE, [&](long at, long, long left, V(&terms)[1]) { terms[0] = load_some<V>(x + at, left); });
    rows.fold(sum.data(), mean);
    long count = 0;
    for (long row = 0; row < elements; row += SAMPLE * rows.length) count += std::min(rows.length, elements - row) / c;
    for (long i = 0; i < c; ++i) near[i] = mean[i] / count;
    const std::vector<T> centre = rows.repeated(near.data());
    sum = rows.zeros();
    rows.add_up(elements, {sum.data(), square.data()}, 1, [&](long at, long e, long left, V(&terms)[2]) {
        terms[0] = first_of(load_some<V>(x + at, left) - load<V>(&centre[e]), left), terms[1] = terms[0] * terms[0];
    });
    rows.fold(sum.data(), mean);
    rows.fold(square.data(), squares);
    for (long i = 0; i < c; ++i) {
        const double off = mean[i] / pixels;
        squares[i] = std::max(0.0, squares[i] - off * mean[i]), mean[i] = near[i] + off;
    }
}

// The moments of sets of one size, one for each channel, joined with those of others (Chan, Golub & LeVeque 1983,
// equation 1.5).
struct Joined {
    double n = 0;
    void add(double more, const double* its_mean, const double* its_squares, double* mean, double* squares, long channels) {
        const double share = more / (n + more), cross = n * share;
        for (long i = 0; i < channels; ++i) {
            const double distance = its_mean[i] - mean[i];
            squares[i] += its_squares[i] + distance * distance * cross, mean[i] += distance * share;
        }
        n += more;
    }
};

// What a gradient is opened by: nothing, y, or the sign of y that x gives again.
enum Gate { OPEN, BY_Y, BY_X };

// The moments of each channel that a normalisation takes, its weight and bias, which may be null, and eps.
template <typename T>
struct Channels {
    const T *mean, *variance, *w, *b;
    double eps;
    double inverse(long c) const { return 1 / std::sqrt((double)variance[c] + eps); }
    double factor(long c) const { return w ? w[c] * inverse(c) : inverse(c); }
};

// The values of a normalisation along a row: y = (x - mean) scale + shift.
template <typename T>
struct Scaling {
    std::vector<T> mean, scale, shift;
    Scaling(const Rows<T>& rows, const Channels<T>& of) : mean(rows.repeated(of.mean)) {
        std::vector<T> scales(rows.channels), shifts(rows.channels);
        for (long c = 0; c < rows.channels; ++c) scales[c] = of.factor(c), shifts[c] = of.b ? of.b[c] : 0;
        scale = rows.repeated(scales.data()), shift = rows.repeated(shifts.data());
    }
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
    typedef Vector<T> V;
    std::vector<T> with_x = rows.zeros(), alone = rows.zeros();
    rows.add_up(pixels * rows.channels, {with_x.data(), alone.data()}, 1, [&](long at, long e, long left, V(&terms)[2]) {
        terms[1] = opened<V, GATE>(dy, x, y, at, e, left, s);
        terms[0] = terms[1] * (load_some<V>(x + at, left) - load<V>(&s.mean[e]));
    });
    rows.fold(with_x.data(), sums);
    rows.fold(alone.data(), sums + rows.channels);
}

// What an input gradient takes of each channel, along a row: dx = factor g - slope (x - mean) - offset.
template <typename T>
struct Slopes {
    std::vector<T> factor, slope, offset;
    explicit Slopes(const Rows<T>& rows) : factor(rows.channels), slope(rows.channels), offset(rows.channels) {}
    void repeat(const Rows<T>& rows) {
        for (auto* values : {&factor, &slope, &offset}) *values = rows.repeated(values->data());
    }
};

// dx; g is also written if it is wanted.
template <typename T, Gate GATE>
static void input_gradient(
    const Rows<T>& rows, const T* dy, const T* x, const T* y, long pixels, const Scaling<T>& s, const Slopes<T>& by, T* dx, T* g_out) {
    rows.walk(pixels * rows.channels, [&](long at, long e, long left) {
        typedef Vector<T> V;
        const V g = opened<V, GATE>(dy, x, y, at, e, left, s), d = load_some<V>(x + at, left) - load<V>(&s.mean[e]);
        if (g_out) store_some(g_out + at, g, left);
        store_some(dx + at, load<V>(&by.factor[e]) * g - load<V>(&by.slope[e]) * d - load<V>(&by.offset[e]), left);
    });
}

// ---- batch normalisation: x (pixels, C)

// parts (blocks, 2, C): the moments of blocks first … last - 1, of `block` pixels each.
template <typename T>
static void batch_moments(long first, long last, const T* x, long pixels, long c, long block, double* parts) {
    const Rows<T> rows(c);
    for (long i = first; i < last; ++i) {
        const long begin = i * block, count = std::min(block, pixels - begin);
        moments_of(rows, x + begin * c, count, parts + i * 2 * c, parts + i * 2 * c + c);
    }
}

// The moments of all blocks, of channels first … last - 1, of which the running ones take their share.
template <typename T>
static void join_batch_moments(
    long first, long last, const double* parts, long pixels, long c, long block, T* mean, T* variance, T* running_mean,
    T* running_variance, double momentum) {
    std::vector<double> means(last - first), squares(last - first);
    Joined joined;
    for (long begin = 0; begin < pixels; begin += block, parts += 2 * c)
        joined.add(std::min(block, pixels - begin), parts + first, parts + c + first, means.data(), squares.data(), last - first);
    for (long i = first; i < last; ++i) {
        mean[i] = means[i - first], variance[i] = squares[i - first] / pixels;
        running_mean[i] += (T)momentum * (mean[i] - running_mean[i]);
        running_variance[i] += (T)momentum * (variance[i] * (T)(pixels / (pixels - 1.0)) - running_variance[i]);
    }
}

// y of pixels begin … end - 1
template <typename T>
static void batch_forward(
    long begin, long end, const T* x, const T* residual, T* y, long c, const T* mean, const T* variance, const T* w, const T* b,
    double eps, long relu) {
    const Rows<T> rows(c);
    const Scaling<T> s(rows, Channels<T>{mean, variance, w, b, eps});
    const long at = begin * c;
    (relu ? normalise<T, true> : normalise<T, false>)(rows, x + at, residual ? residual + at : nullptr, y + at, end - begin, s);
}

// The sums of blocks first … last - 1.
template <typename T>
static void batch_sums(
    long first, long last, const T* dy, const T* x, const T* y, long pixels, long c, const T* mean, const T* variance, const T* w,
    const T* b, double eps, long gate, long block, double* parts) {
    const Rows<T> rows(c);
    const Scaling<T> s(rows, Channels<T>{mean, variance, w, b, eps});
    const auto sums = gate == OPEN ? gradient_sums<T, OPEN> : gate == BY_Y ? gradient_sums<T, BY_Y> : gradient_sums<T, BY_X>;
    for (long i = first; i < last; ++i) {
        const long begin = i * block, at = begin * c;
        sums(rows, dy + at, x + at, y + (gate == BY_Y ? at : 0), std::min(block, pixels - begin), s, parts + i * 2 * c);
    }
}

// sums (2, C) = dw and db, from the sums of all blocks, of channels first … last - 1
template <typename T>
static void join_batch_sums(long first, long last, const double* parts, long blocks, long c, const T* variance, double eps, double* sums) {
    const Channels<T> of = {nullptr, variance, nullptr, nullptr, eps};
    std::fill(sums + first, sums + last, 0), std::fill(sums + c + first, sums + c + last, 0);
    for (long i = 0; i < blocks; ++i, parts += 2 * c)
        for (long k = first; k < last; ++k) sums[k] += parts[k], sums[c + k] += parts[c + k];
    for (long k = first; k < last; ++k) sums[k] *= of.inverse(k);
}

// dx of pixels begin … end - 1, from dw and db; those of a batch of `count` pixels if its own moments were taken, else
// `count` is 0.
template <typename T>
static void batch_input_grad(
    long begin, long end, const T* dy, const T* x, const T* y, long c, const T* mean, const T* variance, const T* w, const T* b,
    double eps, long gate, const double* sums, long count, T* dx, T* g) {
    const Rows<T> rows(c);
    const Channels<T> of = {mean, variance, w, b, eps};
    const Scaling<T> s(rows, of);
    Slopes<T> by(rows);
    for (long k = 0; k < c; ++k) {
        by.factor[k] = of.factor(k);
        by.slope[k] = count ? of.factor(k) * sums[k] * of.inverse(k) / count : 0;
        by.offset[k] = count ? of.factor(k) * sums[c + k] / count : 0;
    }
    by.repeat(rows);
    const auto grad = gate == OPEN ? input_gradient<T, OPEN> : gate == BY_Y ? input_gradient<T, BY_Y> : input_gradient<T, BY_X>;
    const long at = begin * c;
    grad(rows, dy + at, x + at, gate == BY_Y ? y + at : nullptr, end - begin, s, by, dx + at, g ? g + at : nullptr);
}

// ---- group normalisation: x (samples, pixels, C), samples begin … end - 1 one after another

static long block_of(long c) { return std::max(1L, (1L << 14) / c); }  // pixels

// moments_of the blocks of a sample, joined: mean and squares (C,).
template <typename T>
static void moments_in_blocks(const Rows<T>& rows, const T* x, long pixels, double* mean, double* squares) {
    const long c = rows.channels, block = block_of(c);
    std::vector<double> own(2 * c);
    Joined joined;
    std::fill(mean, mean + c, 0), std::fill(squares, squares + c, 0);
    for (long begin = 0; begin < pixels; begin += block) {
        const long count = std::min(block, pixels - begin);
        moments_of(rows, x + begin * c, count, own.data(), own.data() + c);
        joined.add(count, own.data(), own.data() + c, mean, squares, c);
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

// The moments of each channel of a sample, those of its group.
template <typename T>
struct Sample {
    std::vector<T> mean, variance;
    Sample(long c, long groups, const T* means, const T* variances) : mean(c), variance(c) {
        for (long i = 0; i < c; ++i) mean[i] = means[i / (c / groups)], variance[i] = variances[i / (c / groups)];
    }
};

template <typename T>
static void group_forward(
    long begin, long end, const T* x, T* y, long pixels, long c, long groups, const T* w, const T* b, double eps, T* means,
    T* variances) {
    const Rows<T> rows(c);
    const long each = c / groups;
    std::vector<double> mean(c), squares(c);
    x += begin * pixels * c, y += begin * pixels * c, means += begin * groups, variances += begin * groups;
    for (long n = begin; n < end; ++n, x += pixels * c, y += pixels * c, means += groups, variances += groups) {
        moments_in_blocks(rows, x, pixels, mean.data(), squares.data());
        for (long group = 0; group < groups; ++group) {
            double of_group = 0, distances = 0;
            Joined joined;
            for (long i = group * each; i < (group + 1) * each; ++i) joined.add(pixels, &mean[i], &squares[i], &of_group, &distances, 1);
            means[group] = of_group, variances[group] = distances / joined.n;
        }
        const Sample<T> sample(c, groups, means, variances);
        const Scaling<T> s(rows, Channels<T>{sample.mean.data(), sample.variance.data(), w, b, eps});
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
    x += begin * pixels * c, dy += begin * pixels * c, dx += begin * pixels * c, parts += begin * 2 * c;
    for (long n = begin; n < end; ++n, x += pixels * c, dy += pixels * c, dx += pixels * c, parts += 2 * c) {
        const Sample<T> sample(c, groups, means + n * groups, variances + n * groups);
        const Channels<T> of = {sample.mean.data(), sample.variance.data(), w, nullptr, eps};
        const Scaling<T> s(rows, of);
        Slopes<T> by(rows);
        sums_in_blocks(rows, dy, x, pixels, s, parts);
        for (long group = 0; group < groups; ++group) {
            const double inverse = of.inverse(group * each);
            double with_x = 0, alone = 0;
            for (long i = group * each; i < (group + 1) * each; ++i) {
                const double weight = w ? w[i] : 1;
                with_x += weight * parts[i], alone += weight * parts[c + i];
            }
            for (long i = group * each; i < (group + 1) * each; ++i) {
                by.factor[i] = of.factor(i), by.offset[i] = inverse * alone / count;
                by.slope[i] = inverse * inverse * inverse * with_x / count;
                parts[i] *= inverse;
            }
        }
        by.repeat(rows);
        input_gradient<T, OPEN>(rows, dy, x, nullptr, pixels, s, by, dx, nullptr);
    }
}

LOOP(batch_moments)
LOOP(join_batch_moments)
LOOP(batch_forward)
LOOP(batch_sums)
LOOP(join_batch_sums)
LOOP(batch_input_grad)
LOOP(group_forward)
LOOP(group_backward)
