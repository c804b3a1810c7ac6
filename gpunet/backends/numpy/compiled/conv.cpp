// Convolution by the formula of gpunet/backends/contract/conv.py, and its gradients.
#include "products.hpp"

// y of pairs of rows begin … end - 1
template <typename T>
static void conv_forward(
    long begin, long end, const T* x, const T* w, const T* b, const T* residual, T* y, uint8_t* mask, const Geometry* g,
    const Places* places, long kind, double a0, double a1, double a2, double a3) {
    const Numbers<T> of = {(T)a0, (T)a1, (T)a2, (T)a3, nullptr, 0};
    const long width = padded_width<T>(g->O);
    const T* const filters = width == g->O ? w : widened(1, w, g->taps(), g->O, width);
    const auto compute = [&](const Band<T>& band, T* out) { convolve(band, filters, width, out); };
    const auto finish = takes_half<T>(g->O) ? finish_bands<T, HalfVector<T>, decltype(compute)> : finish_bands<T, Vector<T>, decltype(compute)>;
    finish(begin, end, x, b, residual, y, mask, *g, places, width, 0, false, kind, of, compute);
}
LOOP(conv_forward)

// ---- gradients

// dw (taps, O) and db (O,), unless they are null, += what pairs begin … end - 1 contribute to `count` filters from
// the first on. Where `only` is not null, there are few pixels, and dw is written there.
template <typename T, typename V>
static void weight_grad(
    long begin, long end, const T* dy, const T* x, const T* y, const uint8_t* mask, T* only, double* dw, double* db,
    const Geometry& g, long first, long count, long kind, const Numbers<T>& of) {
    const long width = padded_width<T>(count), taps = g.taps();
    T* const sums = scratch<T>(1, (taps + 1) * width);
    std::fill(sums, sums + (taps + 1) * width, (T)0);
    const auto move = [&] {
        move_sums(sums, taps, width, dw ? dw + first : nullptr, g.O, count);
        move_sums(sums + taps * width, 1, width, db ? db + first : nullptr, g.O, count);
    };
    long waiting = 0;
    open_bands<T, V>(begin, end, dy, x, y, mask, g, width, first, count, false, kind, of, [&](const Band<T>& band, const T* opened, long pitch) {
        multiply(band, opened, pitch, sums, width);
        if (db) add_pixels<T, V>(opened, pitch, band.pixels(), width, sums + taps * width);
        if ((waiting += band.pixels()) >= CHUNK * CHUNKS && !only) move(), waiting = 0;
    });
    for (long t = 0; only && t < taps; ++t) memcpy(only + t * g.O + first, sums + t * width, count * sizeof(T));
    move();
}

// dw (parts, taps, O) and db (parts, O), unless they are null; or `only`, dw of all images, where these are one part
// and have few pixels. Jobs begin … end - 1, each of which takes a part of the rows of n images and some filters.
template <typename T>
static void conv_weight_grad(
    long begin, long end, const T* dy, const T* x, const T* y, const uint8_t* mask, T* only, double* dw, double* db, long n,
    long parts, const Geometry* g, long kind, double a0, double a1, double a2, double a3) {
    const Numbers<T> of = {(T)a0, (T)a1, (T)a2, (T)a3, nullptr, 0};
    in_jobs(begin, end, n, parts, *g, dw, db, [&](long from, long to, double* own, double* of_bias, long first, long count) {
        const auto grad = takes_half<T>(count) ? weight_grad<T, HalfVector<T>> : weight_grad<T, Vector<T>>;
        grad(from, to, dy, x, y, mask, only, own, of_bias, *g, first, count, kind, of);
    });
}
LOOP(conv_weight_grad)

// dy of pairs of rows begin … end - 1 behind its gate: (n, OH, OW, O)
template <typename T>
static void conv_open(
    long begin, long end, const T* dy, const T* y, const uint8_t* mask, T* to, const Geometry* g, long kind, double a0, double a1,
    double a2, double a3) {
    const Numbers<T> of = {(T)a0, (T)a1, (T)a2, (T)a3, nullptr, 0};
    const Geometry without = {g->OH, g->OW, 0, g->O, 1, 1, g->OH, g->OW, 1, 1, 1, 1, 0, 0};  // its band is never read
    for_blocks(begin, end, *g, end - begin, g->OH, [&](long i, long images, long p, long rows) {
        const Band<T> band(without, nullptr, images, p, rows, false);
        T* const place = to + (i * g->OH + p) * g->OW * g->O;
        open<T, Vector<T>>(band, i, dy, y, mask, place, g->O, 0, g->O, kind, of);
    });
}
LOOP(conv_open)

constexpr long TILE = 16;  // rows and columns of a part of a matrix that stays in a first-level cache

// The filters that compute an input gradient, (taps, O, C): w (taps, C, O) in another order, each with its channels
// exchanged; parts begin … end - 1 of them, of `TILE` channels of a tap.
template <typename T>
static void rotate(long begin, long end, const T* w, T* to, const long* order, long C, long O) {
    const long tiles = (C + TILE - 1) / TILE;
    for (long part = begin; part < end; ++part) {
        const long c = part % tiles * TILE;
        const T* const from = w + order[part / tiles] * C * O;
        T* const into = to + part / tiles * C * O;
        for (long o = 0; o < O; o += TILE)
            for (long k = o; k < std::min(O, o + TILE); ++k)
                for (long i = c; i < std::min(C, c + TILE); ++i) into[k * C + i] = from[i * O + k];
    }
}
LOOP(rotate)
