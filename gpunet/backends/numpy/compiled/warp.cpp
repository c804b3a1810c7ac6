// Images sampled at places between pixels, bilinearly. The bits are those of the formula in gpunet/data/warp.py.
#if defined(__clang__)
#pragma clang fp contract(off)
#else
#pragma GCC optimize("fp-contract=off")
#endif
#include <cmath>
#include "loops.hpp"

// In the order of `BORDERS` in warp.py.
enum Border { ZERO, REFLECT, EDGE };

struct Sizes {
    long H, W, C, h, w;   // of an image, and of a result
    long border, bytes;   // what lies outside an image; whether its elements are bytes
};

// Position i brought into 0 … extent - 1.
static inline long folded(long i, long extent, long border) {
    if (i >= 0 && i < extent) return i;
    if (border != REFLECT || extent == 1) return i < 0 ? 0 : extent - 1;
    const long period = 2 * extent - 2, at = (i % period + period) % period;
    return std::min(at, period - at);
}

// The two pixels beside a place along one axis, and the shares that they have in it.
struct Neighbours {
    long at[2];
    bool there[2];
    double share[2];

    Neighbours(double place, long extent, long border) {
        const double first = std::floor(place), rest = place - first;
        share[0] = 1 - rest, share[1] = rest;
        for (long k = 0; k < 2; ++k) {
            const long i = (long)first + k;
            at[k] = folded(i, extent, border), there[k] = border != ZERO || (i >= 0 && i < extent);
        }
    }
};

// A sum as it is stored.
static inline void put(uint8_t& to, double sum) { to = (uint8_t)std::rint(sum); }
template <typename T>
static inline void put(T& to, double sum) { to = (T)sum; }

// Pixels with CHANNELS channels, or with any number of them.
template <long CHANNELS, typename Pixel>
static void warp_images(long begin, long end, const Pixel* images, const double* matrices, Pixel* y, const Sizes& s) {
    const long c = CHANNELS ? CHANNELS : s.C;
    const std::vector<Pixel> outside(c, Pixel(0));
    for (long n = begin; n < end; ++n) {
        const double* const m = matrices + 6 * n;
        const Pixel* const image = images + n * s.H * s.W * c;
        Pixel* to = y + n * s.h * s.w * c;
        for (long i = 0; i < s.h; ++i)
            for (long j = 0; j < s.w; ++j, to += c) {
                const Neighbours rows((m[0] * i + m[1] * j) + m[2], s.H, s.border);
                const Neighbours columns((m[3] * i + m[4] * j) + m[5], s.W, s.border);
                const Pixel* pixels[4];
                double shares[4];
                for (long k = 0; k < 4; ++k) {
                    const bool there = rows.there[k / 2] && columns.there[k % 2];
                    pixels[k] = there ? image + (rows.at[k / 2] * s.W + columns.at[k % 2]) * c : outside.data();
                    shares[k] = rows.share[k / 2] * columns.share[k % 2];
                }
                for (long channel = 0; channel < c; ++channel) {
                    double sum = 0;
                    for (long k = 0; k < 4; ++k) sum += shares[k] * pixels[k][channel];
                    put(to[channel], sum);
                }
            }
    }
}

template <typename Pixel>
static void warp_some(long begin, long end, const void* images, const double* matrices, void* y, const Sizes& s) {
    const auto of_channels = s.C == 1 ? warp_images<1, Pixel> : s.C == 3 ? warp_images<3, Pixel> : warp_images<0, Pixel>;
    of_channels(begin, end, (const Pixel*)images, matrices, (Pixel*)y, s);
}

// Images begin … end - 1, (N, H, W, C), at the places that matrices (N, 2, 3) give: y (N, h, w, C).
template <typename T>
static void warp(long begin, long end, const void* images, const double* matrices, void* y, const Sizes* sizes) {
    (sizes->bytes ? warp_some<uint8_t> : warp_some<T>)(begin, end, images, matrices, y, *sizes);
}
LOOP(warp)
