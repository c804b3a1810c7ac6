// Max and average pooling; the formulas stand in gpunet/backends/contract/pool.py. A vector holds neighbouring
// channels of a pixel. Where a pixel has fewer, it holds some of the next pixel's too, which become results
// of nothing: they are overwritten, or 0 is added to what they would change.
#include <cmath>

#include "loops.hpp"

// A tap of a window: its position there, and where the channels of its pixel begin in x.
struct Tap { long position, at; };
struct Taps {
    const Tap* first;
    long count;
    const Tap* begin() const { return first; }
    const Tap* end() const { return first + count; }
};

struct Windows {
    long H, W, C, OH, OW, KH, KW, stride_h, stride_w, top, left;
    // f(n, p, q, taps) for the windows of n images, with those of a window's taps that lie in the image.
    template <typename F>
    void all_of(long images, F f) const {
        std::vector<Tap> taps(KH * KW);
        for (long n = 0; n < images; ++n)
            for (long p = 0; p < OH; ++p)
                for (long q = 0; q < OW; ++q) {
                    const long row = p * stride_h - top, col = q * stride_w - left;
                    long count = 0;
                    for (long i = std::max(0L, -row); i < std::min(KH, H - row); ++i)
                        for (long j = std::max(0L, -col); j < std::min(KW, W - col); ++j)
                            taps[count++] = {i * KW + j, ((n * H + row + i) * W + col + j) * C};
                    f(n, p, q, Taps{taps.data(), count});
                }
    }
    // Whether no pixel lies in two windows.
    bool apart() const { return stride_h >= KH && stride_w >= KW; }
    long of_x(long n) const { return n * H * W * C; }
    long of_y(long n, long p, long q) const { return ((n * OH + p) * OW + q) * C; }
};

// All loops are for images begin … end - 1.

// mask is the position of the largest element, of equal ones the first; NaN wins over numbers.
template <typename T>
static void max_pool_forward(long begin, long end, const T* x, T* y, uint8_t* mask, const Windows* g) {
    typedef Vector<T> V;
    const long images = end - begin, of_y = g->of_y(begin, 0, 0);
    x += g->of_x(begin), y += of_y, mask += of_y;
    const long end_x = g->of_x(images), end_y = g->of_y(images, 0, 0);
    g->all_of(images, [&](long n, long p, long q, Taps taps) {
        const long at = g->of_y(n, p, q);
        for (long c = 0; c < g->C; c += Lanes<T>::COUNT) {
            V best = all<V>(-INFINITY);
            Integers<V> winner = Integers<V>{} - 1;
            for (const Tap& tap : taps) {
                const V v = load_some<V>(x + tap.at + c, end_x - tap.at - c);
                const Integers<V> better = (v > best) | ((v != v) & (best == best)) | (winner < 0);
                best = better ? v : best, winner = better ? Integers<V>{} + (int)tap.position : winner;
            }
            store_some(y + at + c, best, end_y - at - c);
            store_some(mask + at + c, __builtin_convertvector(winner, Bytes<V>), end_y - at - c);
        }
    });
}

// dx: each pixel is the sum of the shares that its windows give it. of_window(at, c, p, q), called for a vector of channels
// from c on that begins at `at` in dy, returns a function from a tap to the share of its pixel.
template <typename T, typename F>
static void spread(long begin, long end, T* dx, const Windows& g, F of_window) {
    typedef Vector<T> V;
    const long images = end - begin;
    dx += g.of_x(begin);
    std::fill(dx, dx + g.of_x(images), (T)0);
    const bool alone = g.apart() && g.C % Lanes<T>::COUNT == 0;  // no other window, and no other pixel
    const long end_x = g.of_x(images);
    g.all_of(images, [&](long n, long p, long q, Taps taps) {
        for (long c = 0; c < g.C; c += Lanes<T>::COUNT) {
            const auto share_of = of_window(g.of_y(n, p, q) + c, c, p, q);
            for (const Tap& tap : taps) {
                const long to = tap.at + c;
                const V share = share_of(tap);
                if (alone) store(dx + to, share);
                else store_some(dx + to, load_some<V>(dx + to, end_x - to) + share, end_x - to);
            }
        }
    });
}

// dx = the sum of dy at the positions that the mask names
template <typename T>
static void max_pool_backward(long begin, long end, const T* dy, const uint8_t* mask, T* dx, const Windows* g) {
    typedef Vector<T> V;
    const long of_y = g->of_y(begin, 0, 0), end_y = g->of_y(end - begin, 0, 0);
    dy += of_y, mask += of_y;
    spread<T>(begin, end, dx, *g, [&](long at, long c, long, long) {
        const V d = first_of(load_some<V>(dy + at, end_y - at), g->C - c);
        const auto winner = __builtin_convertvector(load_some<Bytes<V>>(mask + at, end_y - at), Integers<V>);
        return [d, winner](const Tap& tap) { return winner == (int)tap.position ? d : V{}; };
    });
}

// y = the sums of the windows, times shares (OH, OW)
template <typename T>
static void avg_pool_forward(long begin, long end, const T* x, T* y, const T* shares, const Windows* g) {
    typedef Vector<T> V;
    const long images = end - begin;
    x += g->of_x(begin), y += g->of_y(begin, 0, 0);
    const long end_x = g->of_x(images), end_y = g->of_y(images, 0, 0);
    g->all_of(images, [&](long n, long p, long q, Taps taps) {
        const long at = g->of_y(n, p, q);
        for (long c = 0; c < g->C; c += Lanes<T>::COUNT) {
            V sum = V{};
            for (const Tap& tap : taps) sum += load_some<V>(x + tap.at + c, end_x - tap.at - c);
            store_some(y + at + c, sum * shares[p * g->OW + q], end_y - at - c);
        }
    });
}

// dx = the sum of the shares of dy
template <typename T>
static void avg_pool_backward(long begin, long end, const T* dy, T* dx, const T* shares, const Windows* g) {
    typedef Vector<T> V;
    const long end_y = g->of_y(end - begin, 0, 0);
    dy += g->of_y(begin, 0, 0);
    spread<T>(begin, end, dx, *g, [&](long at, long c, long p, long q) {
        const V share = first_of(load_some<V>(dy + at, end_y - at), g->C - c) * shares[p * g->OW + q];
        return [share](const Tap&) { return share; };
    });
}

LOOP(max_pool_forward)
LOOP(max_pool_backward)
LOOP(avg_pool_forward)
LOOP(avg_pool_backward)
