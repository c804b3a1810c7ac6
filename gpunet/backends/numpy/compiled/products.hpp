// The sums of a convolution, and those of its weight gradient, without a matrix of windows. A tile of P pixels and OV
// vectors of filters stays in registers while all taps are added, channels innermost: each filter is loaded once for P
// pixels, each element of x once for OV vectors. The weight gradient is the same tile with taps in the place of pixels,
// summed over pixels.
#pragma once
#include "band.hpp"

constexpr long SLAB_BYTES = 1 << 17;  // of the filters that are read again for each tile
constexpr long TERMS = 512;           // that are added one after another, unless a window has more pixels
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int REGISTERS = 32;
#else
constexpr int REGISTERS = 16;
#endif

// Vectors of a tile, and its pixels: what is left of the registers when filters and one element of x have theirs.
template <int OV> constexpr int PIXELS = (REGISTERS - OV - 1) / OV > 10 ? 10 : (REGISTERS - OV - 1) / OV;
constexpr int MOST_VECTORS = REGISTERS == 32 ? 4 : 2;

// out[p][v] = (add ? out : 0) + the sum over channels c … c + count - 1 of all taps, which is taken by itself first
template <typename T, typename V, int P, int OV>
static inline void add_taps(const Band<T>& band, const T* const (&corners)[P], const T* w, long width, long c, long count, bool add, T* const (&out)[P]) {
    constexpr long LANES = sizeof(V) / sizeof(T);
    const Geometry& g = band.g;
    V acc[P][OV];
    for (int p = 0; p < P; ++p)
        for (int v = 0; v < OV; ++v) acc[p][v] = V{};
    for (long i = 0; i < g.KH; ++i)
        for (long j = 0; j < g.KW; ++j) {
            const long away = i * g.dilation_h * band.row + j * g.dilation_w * g.C + c;
            const T* filter = w + ((i * g.KW + j) * g.C + c) * width;
            const T* x[P];
            for (int p = 0; p < P; ++p) x[p] = corners[p] + away;
            for (long k = 0; k < count; ++k, filter += width) {
                V f[OV];
                for (int v = 0; v < OV; ++v) f[v] = load<V>(filter + v * LANES);
#pragma GCC unroll 16
                for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
                    for (int v = 0; v < OV; ++v) acc[p][v] += x[p][k] * f[v];
            }
        }
    for (int p = 0; p < P; ++p)
        for (int v = 0; v < OV; ++v) store(out[p] + v * LANES, add ? load<V>(out[p] + v * LANES) + acc[p][v] : acc[p][v]);
}

// The convolution of a band for OV vectors of filters, in `out` (pixels, width).
template <typename T, typename V, int OV>
static void convolve_slab(const Band<T>& band, const T* w, long width, T* out) {
    constexpr int P = PIXELS<OV>;
    const Geometry& g = band.g;
    const long pixels = band.pixels(), each = g.KH * g.KW * OV * (long)sizeof(V);
    const long channels = std::min(g.C, std::max(1L, std::min(SLAB_BYTES / each, TERMS / (g.KH * g.KW))));
    T spare[OV * sizeof(V) / sizeof(T)];
    for (long c = 0; c < g.C; c += channels) {
        Corners<T> windows(band);
        for (long first = 0; first < pixels; first += P) {
            const T* corners[P];
            T* results[P];
            for (int p = 0; p < P; ++p) {
                const bool there = first + p < pixels;
                corners[p] = there ? windows.next() : corners[0], results[p] = there ? out + (first + p) * width : spare;
            }
            add_taps<T, V, P, OV>(band, corners, w, width, c, std::min(channels, g.C - c), c > 0, results);
        }
    }
}

template <typename T>
static void convolve(const Band<T>& band, const T* w, long width, T* out) {
    typedef Vector<T> V;
    constexpr long LANES = Lanes<T>::COUNT;
    if (width < LANES) return convolve_slab<T, HalfVector<T>, 1>(band, w, width, out);
    long o = 0;
    if constexpr (MOST_VECTORS == 4)
        for (; o + 4 * LANES <= width; o += 4 * LANES) convolve_slab<T, V, 4>(band, w + o, width, out + o);
    for (; o + 2 * LANES <= width; o += 2 * LANES) convolve_slab<T, V, 2>(band, w + o, width, out + o);
    for (; o < width; o += LANES) convolve_slab<T, V, 1>(band, w + o, width, out + o);
}

// ---- weight gradients

// sums (taps, width) += x times dy for P taps from the first on and OV vectors of filters; pixels of dy lie
// `pitch` apart.
template <typename T, typename V, int P, int OV>
static void add_products(const Band<T>& band, const T* dy, long pitch, long first, T* sums, long width) {
    constexpr long LANES = sizeof(V) / sizeof(T);
    const Geometry& g = band.g;
    const long taps = g.taps(), step = g.stride_w * g.C, lines = band.images * band.rows;
    long away[P];
    for (int t = 0; t < P; ++t) {
        const long tap = std::min(first + t, taps - 1);
        if (g.KH * g.KW == 1) { away[t] = tap; continue; }  // divisions take as long as many products
        away[t] = tap / g.C / g.KW * g.dilation_h * band.row + tap / g.C % g.KW * g.dilation_w * g.C + tap % g.C;
    }
    for (long line = 0, q = 0; line < lines;) {
        V acc[P][OV];
        for (int t = 0; t < P; ++t)
            for (int v = 0; v < OV; ++v) acc[t][v] = V{};
        for (long done = 0; done < CHUNK && line < lines;) {
            const T* const begin = band.x + line / band.rows * band.image + line % band.rows * g.stride_h * band.row;
            const T* x[P];
            for (int t = 0; t < P; ++t) x[t] = begin + away[t];
            const T* d = dy + (line * g.OW + q) * pitch;
            const long stop = std::min(g.OW, q + CHUNK - done);
            done += stop - q;
            for (long k = q * step; k < stop * step; k += step, d += pitch) {
                V f[OV];
                for (int v = 0; v < OV; ++v) f[v] = load<V>(d + v * LANES);
#pragma GCC unroll 16
                for (int t = 0; t < P; ++t)
#pragma GCC unroll 4
                    for (int v = 0; v < OV; ++v) acc[t][v] += x[t][k] * f[v];
            }
            q = stop;
            if (q == g.OW) ++line, q = 0;
        }
        for (int t = 0; t < P && first + t < taps; ++t)
            for (int v = 0; v < OV; ++v) {
                T* const to = sums + (first + t) * width + v * LANES;
                store(to, load<V>(to) + acc[t][v]);
            }
    }
}

template <typename T, typename V, int OV>
static void multiply_slab(const Band<T>& band, const T* dy, long pitch, T* sums, long width) {
    constexpr int P = PIXELS<OV>;
    for (long tap = 0; tap < band.g.taps(); tap += P) add_products<T, V, P, OV>(band, dy, pitch, tap, sums, width);
}

template <typename T>
static void multiply(const Band<T>& band, const T* dy, long pitch, T* sums, long width) {
    typedef Vector<T> V;
    constexpr long LANES = Lanes<T>::COUNT;
    if (width < LANES) return multiply_slab<T, HalfVector<T>, 1>(band, dy, pitch, sums, width);
    long o = 0;
    if constexpr (MOST_VECTORS == 4)
        for (; o + 4 * LANES <= width; o += 4 * LANES) multiply_slab<T, V, 4>(band, dy + o, pitch, sums + o, width);
    for (; o + 2 * LANES <= width; o += 2 * LANES) multiply_slab<T, V, 2>(band, dy + o, pitch, sums + o, width);
    for (; o < width; o += LANES) multiply_slab<T, V, 1>(band, dy + o, pitch, sums + o, width);
}

constexpr long FILTERS = 64;  // of a job, as `FILTERS` in conv.py

// f(from, to, dw, db, first, count) for jobs begin … end - 1, each of which takes a part of the pairs of rows of n images
// and `count` filters from the first on: dw and db are those of the part, if they are not null.
template <typename F>
static void in_jobs(long begin, long end, long n, long parts, const Geometry& g, double* dw, double* db, F f) {
    const long pairs = n * g.pairs();
    for (long job = begin; job < end; ++job) {
        const long part = job % parts, first = job / parts * FILTERS;
        f(pairs * part / parts, pairs * (part + 1) / parts, dw ? dw + part * g.taps() * g.O : nullptr,
          db ? db + part * g.O : nullptr, first, std::min(FILTERS, g.O - first));
    }
}
