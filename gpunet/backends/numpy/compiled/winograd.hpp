// Convolutions of 3x3 windows by Winograd's minimal filtering, F(2x2, 3x3) of Lavin & Gray 2016, section 4.1: a tile of
// 2x2 results is computed from 4x4 elements of x by 16 products for each channel and filter, not by 36. x, filters and
// results are transformed before and after by a few additions; between them stand 16 products of matrices, those of
// 1x1 convolutions. An infinity or a NaN in x reaches the results that the sum itself gives it to, and no others; a weight
// gradient may have it in more taps.
#pragma once
#include "band.hpp"

constexpr int POSITIONS = 16;             // of a transformed tile
constexpr long TILE_BYTES = 1 << 19;      // of transformed tiles, which stay in a second-level cache
constexpr long FEWEST_TILES = 24;         // that share what is read of the filters,
constexpr long SHARED = 1 << 11;          // and one more for so many filters, which come from farther away

// The tiles of a band, n of them, each of 2x2 results: those at the lower and right end may have fewer.
template <typename T>
struct Tiles {
    const Band<T>& band;
    long tall, wide;
    explicit Tiles(const Band<T>& band) : band(band), tall((band.rows + 1) / 2), wide((band.g.OW + 1) / 2) {}
    long count() const { return band.images * tall * wide; }
    long image(long tile) const { return tile / (tall * wide); }
    long row(long tile) const { return tile / wide % tall * 2; }
    long column(long tile) const { return tile % wide * 2; }
    // f(i, j, pixel) for the results of a tile, by their places in the band.
    template <typename F>
    void results(long tile, F f) const {
        const long rows = std::min(2L, band.rows - row(tile)), columns = std::min(2L, band.g.OW - column(tile));
        const long first = (image(tile) * band.rows + row(tile)) * band.g.OW + column(tile);
        for (long i = 0; i < rows; ++i)
            for (long j = 0; j < columns; ++j) f(i, j, first + i * band.g.OW + j);
    }
    // Elements from one position of `count` transformed tiles to the next: not a power of 2, or all would fall on one
    // place of a cache.
    static long pitch(long count, long c) { return count * c + Lanes<T>::COUNT; }
    static long at_once(long c, long width) {
        return std::max({FEWEST_TILES, c * width / SHARED, TILE_BYTES / (long)sizeof(T) / POSITIONS / (c + width)});
    }
};

// to[k][0 … 3] of one side of the transform of x: B of the paper, transposed.
template <typename V>
static inline void input_side(const V (&d)[4], V (&to)[4]) {
    to[0] = d[0] - d[2], to[1] = d[1] + d[2], to[2] = d[2] - d[1], to[3] = d[1] - d[3];
}

// x under tiles first … first + count - 1, transformed: (16, count, C), 16 of `pitch` elements each; C is a
// whole number of vectors.
template <typename T>
static void transform_input(const Tiles<T>& tiles, long first, long count, T* to) {
    typedef Vector<T> V;
    const Band<T>& band = tiles.band;
    const long c = band.g.C, pitch = tiles.pitch(count, c), tall = band.rows + 2, wide = band.g.OW + 2;
    T* const nothing = scratch<T>(5, c);  // what lies behind the last row and column
    std::fill(nothing, nothing + c, (T)0);
    for (long k = 0; k < count; ++k) {
        const long row = tiles.row(first + k), column = tiles.column(first + k);
        const T* const corner = band.x + tiles.image(first + k) * band.image + row * band.row + column * c;
        const T* from[4][4];
        for (long i = 0; i < 4; ++i)
            for (long j = 0; j < 4; ++j)
                from[i][j] = row + i < tall && column + j < wide ? corner + i * band.row + j * c : nothing;
        for (long at = 0; at < c; at += Lanes<T>::COUNT) {
            V half[4][4], whole[4][4];
            for (int j = 0; j < 4; ++j) {
                V d[4], side[4];
                for (int i = 0; i < 4; ++i) d[i] = load<V>(from[i][j] + at);
                input_side(d, side);
                for (int i = 0; i < 4; ++i) half[i][j] = side[i];
            }
            for (int i = 0; i < 4; ++i) {
                input_side(half[i], whole[i]);
                for (int j = 0; j < 4; ++j) store(to + (i * 4 + j) * pitch + k * c + at, whole[i][j]);
            }
        }
    }
}

// Products of the tiles (16, count, width), transformed to results (pixels, width).
template <typename T>
static void transform_output(const Tiles<T>& tiles, long first, long count, const T* from, long width, T* out) {
    typedef Vector<T> V;
    const long pitch = tiles.pitch(count, width);
    for (long k = 0; k < count; ++k)
        for (long o = 0; o < width; o += Lanes<T>::COUNT) {
            V half[2][4], y[2][2];
            for (int j = 0; j < 4; ++j) {
                V m[4];
                for (int i = 0; i < 4; ++i) m[i] = load<V>(from + (i * 4 + j) * pitch + k * width + o);
                half[0][j] = m[0] + m[1] + m[2], half[1][j] = m[1] - m[2] - m[3];
            }
            for (int i = 0; i < 2; ++i)
                y[i][0] = half[i][0] + half[i][1] + half[i][2], y[i][1] = half[i][1] - half[i][2] - half[i][3];
            tiles.results(first + k, [&](long i, long j, long pixel) { store(out + pixel * width + o, y[i][j]); });
        }
}

// One side of the transform of a filter: G of the paper.
template <typename V>
static inline void filter_side(const V (&g)[3], V (&to)[4]) {
    const V ends = (g[0] + g[2]) / 2, middle = g[1] / 2;
    to[0] = g[0], to[1] = ends + middle, to[2] = ends - middle, to[3] = g[2];
}

// A matrix of as many rows as there are pixels, as a band whose convolution is a product with it.
template <typename T>
struct Rectangle {
    const Geometry g;
    const Band<T> band;
    Rectangle(const T* from, long pixels, long c, long o)
        : g{1, pixels, c, o, 1, 1, 1, pixels, 1, 1, 1, 1, 0, 0}, band(g, from, 1, 0, 1, false) {}
};

// ---- the weight gradient: each transform backwards, with the matrices transposed

// dy (pixels, pitch) of tiles first … first + count - 1, transformed: (16, count, width); A of the paper.
template <typename T>
static void transform_upstream(const Tiles<T>& tiles, long first, long count, const T* dy, long dy_pitch, long width, T* to) {
    typedef Vector<T> V;
    const long pitch = tiles.pitch(count, width);
    for (long k = 0; k < count; ++k)
        for (long o = 0; o < width; o += Lanes<T>::COUNT) {
            V d[2][2] = {}, half[4][2];
            tiles.results(first + k, [&](long i, long j, long pixel) { d[i][j] = load<V>(dy + pixel * dy_pitch + o); });
            for (int j = 0; j < 2; ++j)
                half[0][j] = d[0][j], half[1][j] = d[0][j] + d[1][j], half[2][j] = d[0][j] - d[1][j], half[3][j] = -d[1][j];
            for (int i = 0; i < 4; ++i) {
                const V whole[4] = {half[i][0], half[i][0] + half[i][1], half[i][0] - half[i][1], -half[i][1]};
                for (int j = 0; j < 4; ++j) store(to + (i * 4 + j) * pitch + k * width + o, whole[j]);
            }
        }
}

// f(t, c, o, values) for vectors of the gradient (9, C, width), from sums (16, C, width).
template <typename T, typename F>
static void transform_sums(const T* sums, long c, long width, F f) {
    typedef Vector<T> V;
    const auto side = [](const V(&s)[4], V(&to)[3]) {
        const V ends = (s[1] + s[2]) / 2;
        to[0] = s[0] + ends, to[1] = (s[1] - s[2]) / 2, to[2] = ends + s[3];
    };
    for (long k = 0; k < c; ++k)
        for (long o = 0; o < width; o += Lanes<T>::COUNT) {
            V half[3][4], whole[3];
            for (int j = 0; j < 4; ++j) {
                V s[4], of[3];
                for (int i = 0; i < 4; ++i) s[i] = load<V>(sums + ((i * 4 + j) * c + k) * width + o);
                side(s, of);
                for (int i = 0; i < 3; ++i) half[i][j] = of[i];
            }
            for (int i = 0; i < 3; ++i) {
                side(half[i], whole);
                for (int j = 0; j < 3; ++j) f(i * 3 + j, k, o, whole[j]);
            }
        }
}
