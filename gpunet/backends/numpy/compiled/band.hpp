// What the loops of convolutions share: images in blocks, or in bands of their rows, that stay in a second-level
// cache with what is computed of them, so that padding, bias, residual, activation and pool cost no pass over
// memory; and the gates that take gradients back through activation and pool.
#pragma once

#include "activations.hpp"

struct Geometry {
    long H, W, C, O, KH, KW, OH, OW, stride_h, stride_w, dilation_h, dilation_w, top, left;
    long taps() const { return KH * KW * C; }
    // A convolution's work is counted in pairs of rows of results: threads can share an image, and the windows of a
    // pool stay whole.
    long pairs() const { return (OH + 1) / 2; }
};

// Where the results of a convolution stand, if not one after another: the first of them, and how many elements lie from
// image to image, from row to row and from pixel to pixel.
struct Places { long first, image, row, pixel; };

constexpr long BLOCK_BYTES = 1 << 18;   // of a block's images and results: of so many at least, and of as many
constexpr long MOST_BYTES = 1 << 19;    // as the filters have, which are read once for each block, up to these
// Some rows of results of some images, and the rows of x under them with the padding around them.
template <typename T>
struct Band {
    const Geometry& g;
    long images, first, rows;  // of results
    const T* x;
    long row, image;           // elements of x from row to row, from image to image

    // Copies from x, of whole images, unless it can be read as it lies there. Where channels are read by
    // vectors and are no whole number of them, a vector may be read at the last pixel too.
    Band(const Geometry& g, const T* from, long images, long first, long rows, bool by_vectors)
        : g(g), images(images), first(first), rows(rows) {
        const bool beyond = by_vectors && g.C % Lanes<T>::COUNT;
        const long tall = (rows - 1) * g.stride_h + (g.KH - 1) * g.dilation_h + 1, above = first * g.stride_h - g.top;
        const long wide = (g.OW - 1) * g.stride_w + (g.KW - 1) * g.dilation_w + 1;
        if (!beyond && above >= 0 && above + tall <= g.H && g.left == 0 && wide <= g.W) {
            row = g.W * g.C, image = g.H * row, x = from + above * row;
            return;
        }
        row = wide * g.C, image = tall * row;
        T* to = scratch<T>(0, images * image + Lanes<T>::COUNT);
        x = to;
        const long begin = std::max(0L, -g.left), end = std::min(wide - g.left, g.W);  // columns of x that are read
        for (long n = 0; n < images; ++n)
            for (long r = 0; r < tall; ++r, to += row) {
                const bool inside = above + r >= 0 && above + r < g.H && begin < end;
                if (!inside) { std::fill(to, to + row, (T)0); continue; }
                const T* source = from + ((n * g.H + above + r) * g.W + begin) * g.C;
                T* const place = to + (begin + g.left) * g.C;
                std::fill(to, place, (T)0);
                memcpy(place, source, (end - begin) * g.C * sizeof(T));
                std::fill(place + (end - begin) * g.C, to + row, (T)0);
            }
    }
    long pixels() const { return images * rows * g.OW; }
};

// The corners of the windows of a band's results, one after another, without a division.
template <typename T>
struct Corners {
    const Band<T>& band;
    const T *image, *row, *corner;
    long p = 0, q = 0;
    explicit Corners(const Band<T>& band) : band(band), image(band.x), row(band.x), corner(band.x) {}
    const T* next() {
        const T* const now = corner;
        corner += band.g.stride_w * band.g.C;
        if (++q == band.g.OW) {
            q = 0, corner = row += band.g.stride_h * band.row;
            if (++p == band.rows) p = 0, corner = row = image += band.image;
        }
        return now;
    }
};

// The vectors in which filters are taken: half as long where that is enough for all of them.
template <typename T>
static bool takes_half(long filters) { return filters <= Lanes<T>::COUNT / 2; }
template <typename T>
static long padded_width(long filters) {
    const long lanes = takes_half<T>(filters) ? Lanes<T>::COUNT / 2 : Lanes<T>::COUNT;
    return (filters + lanes - 1) / lanes * lanes;
}

// Bias, residual and activation of results (pixels, width), which become y (pixels, O).
template <Kind KIND, bool ANY, typename T, typename V>
static void finish(const T* out, long width, const T* b, const T* residual, T* y, long pixels, long O, const Numbers<T>& of) {
    constexpr long LANES = sizeof(V) / sizeof(T);
    const bool in_place = out == y;  // then O is a whole number of vectors
    for (long p = 0; p < pixels; ++p)
        for (long o = 0; o < O; o += LANES) {
            const long at = p * O + o, left = pixels * O - at;
            V v = load<V>(out + p * width + o) + load<V>(b + o);
            if (residual) v += load_some<V>(residual + at, left);
            if (ANY) v = value<KIND>(v, of);
            if (in_place) store(y + at, v);
            else store_some(y + at, v, left);
        }
}

// The same for a band of images from i on whose results stand apart.
template <Kind KIND, bool ANY, typename T, typename V>
static void finish_apart(
    const Band<T>& band, long i, const T* out, long width, const T* b, T* y, const Places& at, const Numbers<T>& of) {
    y += at.first + i * at.image + band.first * at.row;
    for (long n = 0; n < band.images; ++n)
        for (long p = 0; p < band.rows; ++p)
            for (long q = 0; q < band.g.OW; ++q, out += width)
                finish<KIND, ANY, T, V>(out, width, b, nullptr, y + n * at.image + p * at.row + q * at.pixel, 1, band.g.O, of);
}

// The largest of each 2x2 window of results (images, rows, OW, width), and its position, with bias and activation.
template <Kind KIND, bool ANY, typename T, typename V>
static void finish_pool(const Band<T>& band, const T* out, long width, const T* b, T* y, uint8_t* mask, const Numbers<T>& of) {
    constexpr long LANES = sizeof(V) / sizeof(T);
    typedef typename Element<V>::Integers I;
    const Geometry& g = band.g;
    const long tall = band.rows / 2, wide = g.OW / 2, whole = g.OH / 2;
    const long end = ((band.images - 1) * whole + band.first / 2 + tall) * wide * g.O;
    for (long n = 0; n < band.images; ++n)
        for (long p = 0; p < tall; ++p)
            for (long q = 0; q < wide; ++q) {
                const T* const corner = out + ((n * band.rows + 2 * p) * g.OW + 2 * q) * width;
                const long at = ((n * whole + band.first / 2 + p) * wide + q) * g.O;
                for (long o = 0; o < g.O; o += LANES) {
                    V best = load<V>(corner + o);
                    I winner = I{};
                    for (int k = 1; k < 4; ++k) {
                        const V v = load<V>(corner + (k / 2 * g.OW + k % 2) * width + o);
                        const I better = (I)(v > best) | ((I)(v != v) & (I)(best == best));  // NaN wins over numbers
                        best = better ? v : best, winner = better ? I{} + k : winner;
                    }
                    best += load<V>(b + o);
                    if (ANY) best = value<KIND>(best, of);
                    store_some(y + at + o, best, end - at - o);
                    store_some(mask + at + o, __builtin_convertvector(winner, Bytes<V>), end - at - o);
                }
            }
}

// Filters (taps, O) with zeros up to the width, and so the bias.
template <typename T>
static const T* widened(int slot, const T* values, long rows, long O, long width) {
    T* const to = scratch<T>(slot, rows * width);
    for (long r = 0; r < rows; ++r) {
        if (values) memcpy(to + r * width, values + r * O, O * sizeof(T));
        std::fill(to + r * width + (values ? O : 0), to + (r + 1) * width, (T)0);
    }
    return to;
}

// How many images, or rows of one, are a block, of some pixels at least and at most: rows are even where there is a pool.
template <typename T>
static void block_of(const Geometry& g, long width, long least, long most, long& images, long& rows) {
    const long bytes = (g.stride_h * g.W * g.C + g.OW * width) * (long)sizeof(T);
    const long filters = g.taps() * width * (long)sizeof(T);
    const long wanted = std::max(std::min(std::max(BLOCK_BYTES, filters), MOST_BYTES) / bytes, least / g.OW);
    rows = std::max(2L, std::min(wanted, most / g.OW) / 2 * 2);
    images = std::max(1L, rows / std::max(1L, g.OH));
    rows = std::min(rows, g.OH);
}

// f(i, images, p, rows) for the blocks of pairs begin … end - 1: some images from i on, or some rows of one from p on.
template <typename F>
static void for_blocks(long begin, long end, const Geometry& g, long images, long rows, F f) {
    for (long at = begin; at < end;) {
        const long i = at / g.pairs(), first = at % g.pairs(), whole = (end - at) / g.pairs();
        if (first == 0 && rows == g.OH && whole > 0) {
            const long count = std::min(images, whole);
            f(i, count, 0L, rows), at += count * g.pairs();
        } else {
            const long count = std::min({(rows + 1) / 2, g.pairs() - first, end - at});
            f(i, 1L, 2 * first, std::min(2 * count, g.OH - 2 * first)), at += count;
        }
    }
}

// Calls f(constant, any) with the kind of an activation that is fused, or with any = false for none.
template <typename F>
static void with_fused(long kind, F f) {
    if (kind < 0) f(Constant<RELU>(), std::false_type());
    else if (kind == RELU) f(Constant<RELU>(), std::true_type());
    else if (kind == LEAKY_RELU) f(Constant<LEAKY_RELU>(), std::true_type());
    else if (kind == SIGMOID) f(Constant<SIGMOID>(), std::true_type());
    else if (kind == TANH) f(Constant<TANH>(), std::true_type());
    else if (kind == ELU) f(Constant<ELU>(), std::true_type());
    else f(Constant<LINE>(), std::true_type());
}

// Computes pairs begin … end - 1 of a convolution in bands, of `least` pixels where there are so many: compute(band, out)
// writes sums (pixels, width), which become y.
template <typename T, typename V, typename F>
static void finish_bands(
    long begin, long end, const T* x, const T* b, const T* residual, T* y, uint8_t* mask, const Geometry& g,
    const Places* places, long width, long least, bool by_vectors, long kind, const Numbers<T>& of, F compute) {
    const T* const bias = b && width == g.O ? b : widened(2, b, 1, g.O, width);
    const bool direct = !mask && !places && width == g.O;
    long images, rows;
    block_of<T>(g, width, least, std::numeric_limits<long>::max(), images, rows);
    for_blocks(begin, end, g, images, rows, [&](long i, long count, long p, long tall) {
        const Band<T> band(g, x + i * g.H * g.W * g.C, count, p, tall, by_vectors);
        const long at = (i * g.OH + p) * g.OW * g.O;
        T* const out = direct ? y + at : scratch<T>(3, band.pixels() * width);
        compute(band, out);
        with_fused(kind, [&](auto given, auto any) {
            constexpr Kind KIND = decltype(given)::kind;
            constexpr bool ANY = decltype(any)::value;
            if (mask) {
                const long of_image = i * (g.OH / 2) * (g.OW / 2) * g.O;
                finish_pool<KIND, ANY, T, V>(band, out, width, bias, y + of_image, mask + of_image, of);
            } else if (places) {
                finish_apart<KIND, ANY, T, V>(band, i, out, width, bias, y, *places, of);
            } else {
                finish<KIND, ANY, T, V>(out, width, bias, residual ? residual + at : nullptr, y + at, band.pixels(), g.O, of);
            }
        });
    });
}

// ---- gradients

constexpr long CHUNK = 64;         // pixels at least whose products are added in registers, before these are added
constexpr long CHUNKS = 64;        // of these sums are added in the dtype of the images, before they are in double

// What is behind a gate: dy, opened by y, which is null where no activation is fused.
template <Kind KIND, bool ANY, typename V, typename T>
static inline V opened_at(const T* dy, const T* y, long at, long end, const Numbers<T>& of) {
    const V d = load_some<V>(dy + at, end - at);
    return ANY ? opened<KIND>(d, load_some<V>(y + at, end - at), of) : d;
}

// `count` filters from the first on of dy (pixels, O) behind its gate, as `to` (pixels, width).
template <Kind KIND, bool ANY, typename T, typename V>
static void open_gate(
    const T* dy, const T* y, T* to, long width, long pixels, long O, long first, long count, const Numbers<T>& of) {
    constexpr long LANES = sizeof(V) / sizeof(T);
    for (long p = 0; p < pixels; ++p)
        for (long o = 0; o < count; o += LANES)
            store_some(to + p * width + o, opened_at<KIND, ANY, V>(dy, y, p * O + first + o, pixels * O, of), (pixels - p) * width - o);
}

// The same behind a pool: dy, y and mask are its results, each of which one of four pixels has got.
template <Kind KIND, bool ANY, typename T, typename V>
static void open_pool(
    const Band<T>& band, const T* dy, const T* y, const uint8_t* mask, T* to, long width, long first, long count,
    const Numbers<T>& of) {
    constexpr long LANES = sizeof(V) / sizeof(T);
    const Geometry& g = band.g;
    const long tall = band.rows / 2, wide = g.OW / 2, whole = g.OH / 2;
    const long end = ((band.images - 1) * whole + band.first / 2 + tall) * wide * g.O;
    if (g.OW % 2 || band.rows % 2) std::fill(to, to + band.pixels() * width, (T)0);
    for (long n = 0; n < band.images; ++n)
        for (long p = 0; p < tall; ++p)
            for (long q = 0; q < wide; ++q) {
                T* const corner = to + ((n * band.rows + 2 * p) * g.OW + 2 * q) * width;
                for (long o = 0; o < count; o += LANES) {
                    const long at = ((n * whole + band.first / 2 + p) * wide + q) * g.O + first + o;
                    const V d = opened_at<KIND, ANY, V>(dy, y, at, end, of);
                    const auto winner = __builtin_convertvector(load_some<Bytes<V>>(mask + at, end - at), Integers<V>);
                    for (int k = 0; k < 4; ++k)
                        store_some(corner + (k / 2 * g.OW + k % 2) * width + o, winner == k ? d : V{}, width - o);
                }
            }
}

// One of the two, of a band of images from i on.
template <typename T, typename V>
static void open(
    const Band<T>& band, long i, const T* dy, const T* y, const uint8_t* mask, T* to, long width, long first, long count,
    long kind, const Numbers<T>& of) {
    const Geometry& g = band.g;
    const long from = mask ? i * (g.OH / 2) * (g.OW / 2) * g.O : (i * g.OH + band.first) * g.OW * g.O;
    dy += from, y = y ? y + from : nullptr;
    with_fused(kind, [&](auto given, auto any) {
        constexpr Kind KIND = decltype(given)::kind;
        constexpr bool ANY = decltype(any)::value;
        if (mask) open_pool<KIND, ANY, T, V>(band, dy, y, mask + from, to, width, first, count, of);
        else open_gate<KIND, ANY, T, V>(dy, y, to, width, band.pixels(), g.O, first, count, of);
    });
}

// sums[o] += the sum of dy over the pixels
template <typename T, typename V>
static void add_pixels(const T* dy, long pitch, long pixels, long width, T* sums) {
    constexpr long LANES = sizeof(V) / sizeof(T);
    for (long o = 0; o < width; o += LANES)
        for (long p = 0; p < pixels; p += CHUNK) {
            V sum = V{};
            for (long k = p; k < std::min(pixels, p + CHUNK); ++k) sum += load<V>(dy + k * pitch + o);
            store(sums + o, load<V>(sums + o) + sum);
        }
}

// Adds sums (rows, width) to `count` columns of `to`, whose rows lie `pitch` apart, and makes them 0.
template <typename T>
static void move_sums(T* sums, long rows, long width, double* to, long pitch, long count) {
    for (long r = 0; to && r < rows; ++r)
        for (long o = 0; o < count; ++o) to[r * pitch + o] += sums[r * width + o];
    std::fill(sums, sums + rows * width, (T)0);
}

// Goes over pairs begin … end - 1 in bands of CHUNK * CHUNKS pixels, unless two rows have more: use(band, opened, pitch)
// gets `count` filters from the first on of dy behind its gate, whose pixels lie `pitch` apart. What stands there
// beyond `count`, up to the width, is of other filters.
template <typename T, typename V, typename F>
static void open_bands(
    long begin, long end, const T* dy, const T* x, const T* y, const uint8_t* mask, const Geometry& g, long width, long first,
    long count, bool by_vectors, long kind, const Numbers<T>& of, F use) {
    const bool direct = !mask && kind < 0 && width == count;
    long images, rows;
    block_of<T>(g, width, 0, CHUNK * CHUNKS, images, rows);
    for_blocks(begin, end, g, images, rows, [&](long i, long several, long p, long tall) {
        const Band<T> band(g, x + i * g.H * g.W * g.C, several, p, tall, by_vectors);
        if (direct) return use(band, dy + (i * g.OH + p) * g.OW * g.O + first, g.O);
        T* const space = scratch<T>(3, band.pixels() * width);
        open<T, V>(band, i, dy, y, mask, space, width, first, count, kind, of);
        use(band, (const T*)space, width);
    });
}
