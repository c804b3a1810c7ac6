// Depthwise convolution, one filter for each channel: y[p, c] = sum over taps of x[p + tap, c] w[tap, c]. A
// vector holds neighbouring channels, and no sum goes over them; a filter's vectors meet neighbouring pixels.
#include "band.hpp"

constexpr int PIXELS = 4;   // of a tile
constexpr int MOST_TAPS = 25;

// out (pixels, width) = the sums over the taps; channels of x beyond C are the next pixel's, and become nothing.
template <typename T, typename V>
static void convolve(const Band<T>& band, const T* w, long width, T* out) {
    constexpr long LANES = sizeof(V) / sizeof(T);
    const Geometry& g = band.g;
    const long step = g.stride_w * g.C, lines = band.images * band.rows;
    for (long line = 0; line < lines; ++line) {
        const T* const begin = band.x + line / band.rows * band.image + line % band.rows * g.stride_h * band.row;
        for (long c = 0; c < width; c += LANES)
            for (long q = 0; q < g.OW; q += PIXELS) {
                const long count = std::min<long>(PIXELS, g.OW - q);
                V acc[PIXELS] = {};
                for (long i = 0; i < g.KH; ++i)
                    for (long j = 0; j < g.KW; ++j) {
                        const V tap = load<V>(w + (i * g.KW + j) * width + c);
                        const T* x = begin + i * g.dilation_h * band.row + j * g.dilation_w * g.C + q * step + c;
                        for (long k = 0; k < PIXELS; ++k, x += k < count ? step : 0) acc[k] += load<V>(x) * tap;
                    }
                for (long k = 0; k < count; ++k) store(out + (line * g.OW + q + k) * width + c, acc[k]);
            }
    }
}

// y of pairs of rows begin … end - 1
template <typename T>
static void depthwise_forward(
    long begin, long end, const T* x, const T* w, const T* b, const T* residual, T* y, uint8_t* mask, const Geometry* given,
    const Places* places, long kind, double a0, double a1, double a2, double a3) {
    typedef Vector<T> V;
    const Geometry& g = *given;
    const Numbers<T> of = {(T)a0, (T)a1, (T)a2, (T)a3, nullptr, 0};
    const long width = (g.O + Lanes<T>::COUNT - 1) / Lanes<T>::COUNT * Lanes<T>::COUNT;
    const T* const filters = width == g.O ? w : widened(1, w, g.KH * g.KW, g.O, width);
    finish_bands<T, V>(begin, end, x, b, residual, y, mask, g, places, width, 0, true, kind, of, [&](const Band<T>& band, T* out) {
        convolve<T, V>(band, filters, width, out);
    });
}
LOOP(depthwise_forward)

// sums (taps + 1, width): of x dy for each tap, and of dy.
template <typename T>
static void add_products(const Band<T>& band, const T* dy, long width, T* sums) {
    typedef Vector<T> V;
    const Geometry& g = band.g;
    const long taps = g.KH * g.KW, step = g.stride_w * g.C, lines = band.images * band.rows;
    for (long c = 0; c < width; c += Lanes<T>::COUNT)
        for (long line = 0, q = 0; line < lines;) {
            V acc[MOST_TAPS] = {};
            for (long done = 0; done < CHUNK && line < lines;) {
                const T* const begin = band.x + line / band.rows * band.image + line % band.rows * g.stride_h * band.row + c;
                const T* d = dy + (line * g.OW + q) * width + c;
                const long stop = std::min(g.OW, q + CHUNK - done);
                done += stop - q;
                for (; q < stop; ++q, d += width) {
                    const V upstream = load<V>(d);
                    const T* const x = begin + q * step;
                    for (long i = 0, t = 0; i < g.KH; ++i)
                        for (long j = 0; j < g.KW; ++j, ++t)
                            acc[t] += load<V>(x + i * g.dilation_h * band.row + j * g.dilation_w * g.C) * upstream;
                }
                if (q == g.OW) ++line, q = 0;
            }
            for (long t = 0; t < taps; ++t) store(sums + t * width + c, load<V>(sums + t * width + c) + acc[t]);
        }
}

// dw (parts, taps, O) and db (parts, O), unless it is null: what parts first … last - 1 of the rows of n images contribute.
template <typename T>
static void depthwise_weight_grad(
    long first, long last, const T* dy, const T* x, const T* y, const uint8_t* mask, T*, double* dw, double* db, long n,
    long parts, const Geometry* given, long kind, double a0, double a1, double a2, double a3) {
    typedef Vector<T> V;
    const Geometry& g = *given;
    const Numbers<T> of = {(T)a0, (T)a1, (T)a2, (T)a3, nullptr, 0};
    const long width = (g.O + Lanes<T>::COUNT - 1) / Lanes<T>::COUNT * Lanes<T>::COUNT, taps = g.KH * g.KW;
    T* const sums = scratch<T>(1, (taps + 1) * width);
    std::fill(sums, sums + (taps + 1) * width, (T)0);
    for (long part = first; part < last; ++part) {
        double *const own = dw + part * taps * g.O, *const of_bias = db ? db + part * g.O : nullptr;
        const long begin = n * g.pairs() * part / parts, end = n * g.pairs() * (part + 1) / parts;
        open_bands<T, V>(begin, end, dy, x, y, mask, g, width, 0, g.O, true, kind, of, [&](const Band<T>& band, const T* opened, long) {
            add_products(band, opened, width, sums);
            if (db) add_pixels<T, V>(opened, width, band.pixels(), width, sums + taps * width);
            move_sums(sums, taps, width, own, g.O, g.O), move_sums(sums + taps * width, 1, width, of_bias, g.O, g.O);
        });
    }
}
LOOP(depthwise_weight_grad)
