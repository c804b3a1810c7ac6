// Convolutions of 3x3 windows: see winograd.hpp.
#include "winograd.hpp"

#include "products.hpp"

// Channels begin … end - 1 of filters (9, C, O), transformed: (16, C, O), where O is a whole number of vectors.
template <typename T>
static void winograd_filters(long begin, long end, const T* w, T* to, long c, long o) {
    typedef Vector<T> V;
    for (long k = begin; k < end; ++k)
        for (long at = 0; at < o; at += Lanes<T>::COUNT) {
            V half[4][3], whole[4];
            for (int j = 0; j < 3; ++j) {
                V g[3], side[4];
                for (int i = 0; i < 3; ++i) g[i] = load<V>(w + ((i * 3 + j) * c + k) * o + at);
                filter_side(g, side);
                for (int i = 0; i < 4; ++i) half[i][j] = side[i];
            }
            for (int i = 0; i < 4; ++i) {
                filter_side(half[i], whole);
                for (int j = 0; j < 4; ++j) store(to + ((i * 4 + j) * c + k) * o + at, whole[j]);
            }
        }
}
LOOP(winograd_filters)

// f(first, count, inputs, others) for `count` tiles from `first` on, at most `most` at a time: `inputs` are the transformed
// elements of x under them (16, count, C), `others` is memory for (16, count, width). Both are spaced by `Tiles::pitch`.
template <typename T, typename F>
static void for_tiles(const Tiles<T>& tiles, long most, long width, F f) {
    const long c = tiles.band.g.C;
    for (long first = 0; first < tiles.count(); first += most) {
        const long count = std::min(most, tiles.count() - first), of_inputs = POSITIONS * tiles.pitch(count, c);
        T* const inputs = scratch<T>(4, of_inputs + POSITIONS * tiles.pitch(count, width));
        transform_input(tiles, first, count, inputs);
        f(first, count, inputs, inputs + of_inputs);
    }
}

// y of pairs of rows begin … end - 1; w are transformed filters.
template <typename T>
static void winograd_forward(
    long begin, long end, const T* x, const T* w, const T* b, const T* residual, T* y, uint8_t* mask, const Geometry* g,
    const Places* places, long kind, double a0, double a1, double a2, double a3) {
    const Numbers<T> of = {(T)a0, (T)a1, (T)a2, (T)a3, nullptr, 0};
    const long c = g->C, width = g->O, most = Tiles<T>::at_once(c, width);
    const auto compute = [&](const Band<T>& band, T* out) {
        const Tiles<T> tiles(band);
        for_tiles(tiles, most, width, [&](long first, long count, const T* inputs, T* products) {
            for (long k = 0; k < POSITIONS; ++k) {
                const Rectangle<T> matrix(inputs + k * tiles.pitch(count, c), count, c, width);
                convolve(matrix.band, w + k * c * width, width, products + k * tiles.pitch(count, width));
            }
            transform_output(tiles, first, count, products, width, out);
        });
    };
    finish_bands<T, Vector<T>>(begin, end, x, b, residual, y, mask, *g, places, width, 4 * most, false, kind, of, compute);
}
LOOP(winograd_forward)

constexpr long NEAR = 1 << 11;  // elements of a transformed tile's position that stay in a first-level cache

// Lets `count` elements come into the first-level cache.
template <typename T>
static inline void ask_for(const T* from, long count) {
    for (long i = 0; i < count; i += 64 / (long)sizeof(T)) __builtin_prefetch(from + i);
}

// As `weight_grad` in conv.cpp.
template <typename T>
static void weight_grad(
    long begin, long end, const T* dy, const T* x, const T* y, const uint8_t* mask, T* only, double* dw, double* db,
    const Geometry& g, long first, long count, long kind, const Numbers<T>& of) {
    typedef Vector<T> V;
    const long c = g.C, width = padded_width<T>(count), most = std::max(32L, NEAR / c);
    T* const sums = scratch<T>(1, (POSITIONS * c + 1) * width);
    T* const of_bias = sums + POSITIONS * c * width;
    std::fill(sums, of_bias + width, (T)0);
    const auto move = [&] {
        transform_sums(sums, c, width, [&](long t, long k, long o, V v) {
            const long at = (t * c + k) * g.O + first + o, left = std::min(count - o, Lanes<T>::COUNT);
            if (only) memcpy(only + at, &v, left * sizeof(T));
            for (long i = 0; !only && i < left; ++i) dw[at + i] += v[i];
        });
        std::fill(sums, of_bias, (T)0);
        move_sums(of_bias, 1, width, db ? db + first : nullptr, g.O, count);
    };
    long waiting = 0;
    const auto use = [&](const Band<T>& band, const T* opened, long pitch) {
        const Tiles<T> tiles(band);
        for_tiles(tiles, most, width, [&](long tile, long several, const T* inputs, T* upstream) {
            const long from = tiles.pitch(several, c), to = tiles.pitch(several, width);
            transform_upstream(tiles, tile, several, opened, pitch, width, upstream);
            for (long k = 0; k < POSITIONS; ++k) {
                const Rectangle<T> matrix(inputs + k * from, several, c, width);
                if (k + 1 < POSITIONS) {  // these come from a second-level cache, in an order that no processor guesses
                    ask_for(inputs + (k + 1) * from, several * c);
                    ask_for(upstream + (k + 1) * to, several * width);
                }
                multiply(matrix.band, upstream + k * to, width, sums + k * c * width, width);
            }
        });
        if (db) add_pixels<T, V>(opened, pitch, band.pixels(), width, of_bias);
        if ((waiting += band.pixels()) >= CHUNK * CHUNKS && !only) move(), waiting = 0;
    };
    open_bands<T, V>(begin, end, dy, x, y, mask, g, width, first, count, false, kind, of, use);
    move();
}

// As `conv_weight_grad`.
template <typename T>
static void winograd_weight_grad(
    long begin, long end, const T* dy, const T* x, const T* y, const uint8_t* mask, T* only, double* dw, double* db, long n,
    long parts, const Geometry* g, long kind, double a0, double a1, double a2, double a3) {
    in_jobs(begin, end, n, parts, *g, dw, db, [&](long from, long to, double* own, double* of_bias, long first, long count) {
        const Numbers<T> of = {(T)a0, (T)a1, (T)a2, (T)a3, nullptr, 0};
        weight_grad(from, to, dy, x, y, mask, only, own, of_bias, *g, first, count, kind, of);
    });
}
LOOP(winograd_weight_grad)
