#include "common.cuh"
#include "depthwise.cuh"
#include "slots.cuh"
// Depthwise convolution: each channel has O / C filters of its own. It is fused with bias, residual,
// activation and max pool, as in conv2d_forward.cu, which has the simple kernels of these formulas:
//   y[n, p, q, o] = f(b[o] + sum over i, j of x[n, p stride + i dilation - pad, q stride + j dilation - pad, c] w[i, j, o])
//   dx[n, h, w, c] = sum over i, j, o of dy[n, (h + pad - i dilation) / stride, (w + pad - j dilation) / stride, o] w[i, j, o]
//   dw[i, j, o] = sum over n, p, q of x[n, p stride + i dilation - pad, q stride + j dilation - pad, c] dy[n, p, q, o]
//   x, dx (N, H, W, C)   w, dw (KH, KW, 1, O)   b, db (O,) or null   c = o C / O
//   y, dy (N, OH, OW, O)   residual as y, or null
// With a mask, the forward pass has a pool, and y and mask are (N, OH / 2, OW / 2, O). The gate (y and
// `f`) takes dy back through the activation, as gate.cuh explains.
//
// Tiling: there is no sum over channels, so no matrix product. Neighbouring lanes take neighbouring
// channels, V each. A thread computes ROWS x COLS neighbouring results, so that it loads each input
// of its patch once and not for every tap: for 3 x 3 windows 24 loads instead of 72. The patches of
// a block are neighbours, and share what they load in the L1 cache. K and S, the window and the
// stride of both axes, unroll the loops over taps; K = 0 takes any window, stride and dilation. Of
// a strided input gradient, a patch starts at a multiple of the stride, so the compiler knows which
// taps belong to which of its rows and columns, and no product has a zero.
// A thread of the weight gradient adds up all taps of its channels, or TAPS of them. It walks over
// strips of COLS pixels of dy, and adds what it loads to the bias gradient too. The sums of the
// lanes of a warp, of the warps of a block, and of all splits are added in a fixed order: see
// slots.cuh. With X = 1, V filters share a channel of x, which one load brings to all of them. A first
// layer of gray images is such a convolution too, whose one channel has all filters.
// Alignment: V = 4 needs x, w, b, residual, y, dy, dx aligned to four elements, mask to four bytes, C a
// multiple of 4 and O = C; with X = 1 it needs no aligned x, and O / C a multiple of 4. V = 1 needs
// nothing.
// Bound: memory, x and y (and dy) once. In 16 bits the input gradient of a stride of 1 is bound by
// the instructions it issues, as is a window of 5 x 5.
//
// Predicted for an H200, in microseconds, with a ReLU: the larger of bytes / 4.3 TB/s and of the
// machine code's instructions and L1 wavefronts at 1.755 GHz, and 1.3 for the launch. In float,
// 3 x 3; in parentheses what the simple kernels would take, and the weight gradient with a lane for
// each filter that was here before.
//   pixels, C, S   batch   forward      input gradient   weight gradient
//   112,   32, 1      32    25  (493)     37  (687)        43  (168)
//   112,   32, 1     128    97 (1966)    145 (2746)       150  (667)
//   112,   64, 2     128   121  (984)    145 (3471)       150  (334)
//    56,  128, 1     128    97 (1966)    145 (2746)       149  (667)
//    28,  256, 1     128    49  (984)     73 (1374)        78  (334)
//    14,  512, 1      32     7  (124)     10  (173)        14   (43)
//    14,  512, 2     128    16  (124)     19  (435)        23   (43)
//     7, 1024, 1      32     4   (63)      6   (87)         9   (22)
//     7, 1024, 1     128    13  (247)     19  (344)        22   (84)
// A layer of 128 gray images of 28 x 28 takes, forward and for its weight gradient, 4 and 11 for 3 x 3 to
// 32 filters, and 4 and 8 for 5 x 5 to 6 with a pool; as products of matrices 8 and 22, and 9 and 21.

// Which taps connect `outputs` neighbouring results to neighbouring inputs, along one axis. Of a
// gradient, the results are pixels of x, the first of which stands at a multiple of S in the padded
// image.
template <int K, int S, bool GRAD>
struct Axis {
    static constexpr int BEFORE = (K - 1) / S;  // inputs of a gradient before the one at its first result
    __device__ static constexpr int inputs(int outputs) { return GRAD ? (outputs - 1) / S + BEFORE + 1 : (outputs - 1) * S + K; }
    __device__ static constexpr int tap(int out, int in) { return GRAD ? out + S * (BEFORE - in) : in - S * out; }
};

// acc += the products of a patch: strip(e, in) loads the e-th row of inputs, X channels of each pixel,
// filter(i, w) the i-th row of taps.
template <int K, int S, bool GRAD, int V, int X, typename Strip, typename Filter>
__device__ __forceinline__ void add_patch(float (&acc)[ROWS][COLS * V], Strip strip, Filter filter) {
    typedef Axis<K, S, GRAD> A;
    constexpr int HIGH = A::inputs(ROWS), WIDE = A::inputs(COLS), LOADS = HIGH * WIDE * (GRAD ? 2 : 1);
    constexpr int TOGETHER = LOADS <= 24 ? HIGH : 1;  // more loads under way would spill registers
#pragma unroll TOGETHER
    for (int e = 0; e < HIGH; ++e) {
        float in[WIDE * X] = {};
        strip(e, in);
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            const int i = A::tap(r, e);
            if (i < 0 || i >= K) continue;
            float w[K * V];
            filter(i, w);
#pragma unroll
            for (int k = 0; k < WIDE; ++k)
#pragma unroll
                for (int q = 0; q < COLS; ++q) {
                    const int j = A::tap(q, k);
                    if (j < 0 || j >= K) continue;
#pragma unroll
                    for (int u = 0; u < V; ++u) acc[r][q * V + u] += in[k * X + u % X] * w[j * V + u];
                }
        }
    }
}

// w = the filters' taps (i, 0 … K - 1) of channels o … o + V - 1.
template <int K, int V, typename T>
__device__ __forceinline__ void load_taps(float (&w)[K * V], const T* filters, const Geometry& g, int i, int o) {
#pragma unroll
    for (int j = 0; j < K; ++j) load_piece<V>(w, j * V, filters + (int64)(i * K + j) * g.O + o);
}

// Bias, residual, activation and pool of a patch at (p, q), and what it writes.
template <int V, typename T>
__device__ __forceinline__ void finish_patch(
        float (&acc)[ROWS][COLS * V], const T* b, const T* residual, T* y, uint8* mask, const Geometry& g, const Patch& at,
        Activation f) {
    float bias[V] = {};
    if (b) load<V>(bias, b + at.channel);
    uint32 winners[COLS / 2] = {};
    if (mask)  // the winners take the place of the first row's first pixels
#pragma unroll
        for (int k = 0; k < COLS / 2; ++k)
#pragma unroll
            for (int u = 0; u < V; ++u) {
                float best = acc[0][2 * k * V + u];
                int winner = 0;
#pragma unroll
                for (int corner = 1; corner < 4; ++corner) {
                    const float v = acc[corner / 2][(2 * k + corner % 2) * V + u];
                    if (precedes(v, corner, best, winner)) best = v, winner = corner;
                }
                acc[0][k * V + u] = best, winners[k] |= winner << 8 * u;
            }
    const int halved = mask ? 1 : 0, height = g.OH >> halved, width = g.OW >> halved;
    const int row = at.row >> halved, col = at.col >> halved;
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        if (row + r >= height || (mask && r > 0)) break;
#pragma unroll
        for (int e = 0; e < COLS * V; ++e) acc[r][e] += bias[e % V];
        const int64 first = (int64)((at.n * height + row + r) * width + col) * g.O + at.channel;
        if (residual)
#pragma unroll
            for (int q = 0; q < COLS; ++q)
                if (col + q < width) add_piece<V>(acc[r], q * V, residual + first + (int64)q * g.O);
        activate<COLS * V>(f, acc[r]);
#pragma unroll
        for (int q = 0; q < COLS; ++q)
            if (q < COLS >> halved && col + q < width) store_piece<V>(y + first + (int64)q * g.O, acc[r], q * V);
    }
    if (mask && row < height)
#pragma unroll
        for (int k = 0; k < COLS / 2; ++k) {
            if (col + k >= width) break;
            uint8* const out = mask + (int64)((at.n * height + row) * width + col + k) * g.O + at.channel;
            if constexpr (V == 4) *reinterpret_cast<uint32*>(out) = winners[k];
            else *out = winners[k];
        }
}

template <typename T, int K, int S, int V, int X>
__global__ void __launch_bounds__(THREADS, 2) conv2d_depthwise_forward(
        const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ OR_NULL b,
        const T* __restrict__ OR_NULL residual, T* __restrict__ y, uint8* __restrict__ OR_NULL mask, Geometry g, Activation f) {
    const Patch at = Patch::find<V>(g.N, mask ? g.OH / 2 * 2 : g.OH, mask ? g.OW / 2 * 2 : g.OW, g.O);
    if (!at.there) return;
    const int row = at.row * g.stride_h - g.pad_top, col = at.col * g.stride_w - g.pad_left;
    const int channel = X == 1 ? at.channel / (g.O / g.C) : at.channel;
    float acc[ROWS][COLS * V] = {};
    if constexpr (K > 0) {
        add_patch<K, S, false, V, X>(
            acc, [&](int e, auto& in) { load_strip<X>(in, x, g, at.n, row + e, col, 1, channel); },
            [&](int i, auto& taps) { load_taps<K, V>(taps, w, g, i, at.channel); });
    } else {
        for (int i = 0; i < g.KH; ++i)
            for (int j = 0; j < g.KW; ++j) {
                float tap[V];
                load<V>(tap, w + (int64)(i * g.KW + j) * g.O + at.channel);
#pragma unroll
                for (int r = 0; r < ROWS; ++r) {
                    float in[COLS * X] = {};
                    const int down = row + r * g.stride_h + i * g.dilation_h;
                    load_strip<X>(in, x, g, at.n, down, col + j * g.dilation_w, g.stride_w, channel);
#pragma unroll
                    for (int e = 0; e < COLS * V; ++e) acc[r][e] += in[e / V * X + e % X] * tap[e % V];
                }
            }
    }
    finish_patch<V>(acc, b, residual, y, mask, g, at, f);
}

template <typename T, int K, int S, int V>
__global__ void __launch_bounds__(THREADS, 2) conv2d_depthwise_input_grad(
        const T* __restrict__ dy, const T* __restrict__ OR_NULL y, const T* __restrict__ w, T* __restrict__ dx, Geometry g,
        Activation f) {
    constexpr int STEP = K > 0 ? S : 1;
    const int above = g.pad_top % STEP, left = g.pad_left % STEP;  // a patch starts at a multiple of the stride
    const Patch at = Patch::find<V>(g.N, g.H + above, g.W + left, g.C);
    if (!at.there) return;
    const int h = at.row - above, wide = at.col - left;
    float acc[ROWS][COLS * V] = {};
    if constexpr (K > 0) {
        typedef Axis<K, S, true> A;
        const int p = (h + g.pad_top) / S - A::BEFORE, q = (wide + g.pad_left) / S - A::BEFORE;
        add_patch<K, S, true, V, V>(
            acc,
            [&](int e, auto& in) {
                Gated<A::inputs(COLS), V, T> grads;
                grads.load_strip(dy, y, g, at.n, p + e, q, at.channel, f);
                grads.open(f);
#pragma unroll
                for (int e = 0; e < A::inputs(COLS) * V; ++e) in[e] = grads.dy[e];
            },
            [&](int i, auto& taps) { load_taps<K, V>(taps, w, g, i, at.channel); });
    } else {
        const int made = g.O / g.C;
        for (int i = 0; i < g.KH; ++i)
            for (int j = 0; j < g.KW; ++j)
                for (int o = at.channel * made; o < (at.channel + 1) * made; ++o) {
                    float tap[V];
                    load<V>(tap, w + (int64)(i * g.KW + j) * g.O + o);
#pragma unroll
                    for (int r = 0; r < ROWS; ++r) {
                        const int p = place(h + r + g.pad_top - i * g.dilation_h, g.stride_h);
                        Gated<COLS, V, T> grads;
#pragma unroll
                        for (int k = 0; k < COLS; ++k) {
                            const int q = place(wide + k + g.pad_left - j * g.dilation_w, g.stride_w);
                            grads.load(k, dy, y, g, at.n, p, q, o, f);
                        }
                        grads.open(f);
#pragma unroll
                        for (int e = 0; e < COLS * V; ++e) acc[r][e] += grads.dy[e] * tap[e % V];
                    }
                }
    }
#pragma unroll
    for (int r = 0; r < ROWS; ++r)
#pragma unroll
        for (int k = 0; k < COLS; ++k) {
            if (!within(h + r, g.H) || !within(wide + k, g.W)) continue;
            const int pixel = (at.n * g.H + h + r) * g.W + wide + k;
            store_piece<V>(dx + (int64)pixel * g.C + at.channel, acc[r], k * V);
        }
}

// Taps of a block of the weight gradient: whole rows of a window of 3 or 5, or any ones of another.
#define TAPS 9
#define TAPS_OF_5 10
// Strips whose products a thread adds up before they are added to the sums of its warp.
#define ROUND 16

// A strip of dy, and by how much a thread steps to its next one: counted, not divided.
struct Walk {
    int n, p, q;  // image, row, and number of the strip in its row
    int down, right, images;

    __device__ __forceinline__ Walk(int strip, int step, int wide, int rows)
        : n(strip / wide / rows), p(strip / wide % rows), q(strip % wide),
          down(step / wide % rows), right(step % wide), images(step / wide / rows) {}
    __device__ __forceinline__ void next(int wide, int rows) {
        q += right;
        const bool carry = q >= wide;
        q -= carry ? wide : 0, p += down + carry;
        const bool carry_on = p >= rows;
        p -= carry_on ? rows : 0, n += images + carry_on;
    }
};

template <typename T, int K, int S, int V, int X>
__global__ void __launch_bounds__(THREADS, 2) conv2d_depthwise_weight_grad(
        const T* __restrict__ dy, const T* __restrict__ OR_NULL y, const T* __restrict__ x,
        float* __restrict__ OR_NULL UPDATED slots, int* __restrict__ OR_NULL UPDATED arrivals, float* __restrict__ ADDED_TO dw,
        float* __restrict__ OR_NULL ADDED_TO db, Geometry g, Activation f, int strips_a_split, int accumulate) {
    constexpr int OWN = K == 5 ? TAPS_OF_5 : TAPS, FLOATS = (OWN + 1) * SLICE;  // the last "tap" is the bias
    __shared__ __align__(16) float sums[WARPS][OWN + 1][SLICE];

    const int lanes = blockDim.x, taps = g.KH * g.KW, slices = (g.O + lanes * V - 1) / (lanes * V);
    const int tiles = slices * ((taps + OWN - 1) / OWN), splits = gridDim.x / tiles;
    const int tile = blockIdx.x % tiles, split = blockIdx.x / tiles;
    const int first = tile % slices * lanes * V, tap0 = tile / slices * OWN;
    const int o = first + threadIdx.x * V, channel = X == 1 ? o / (g.O / g.C) : o;
    const int thread = threadIdx.y * lanes + threadIdx.x, warp = thread / WARP, lane = thread % WARP;

    const int wide = (g.OW + COLS - 1) / COLS, begin = split * strips_a_split;
    const int strips = min(g.N * g.OH * wide - begin, strips_a_split), most = (strips + blockDim.y - 1) / blockDim.y;
    int left = o < g.O ? (strips - (int)threadIdx.y + (int)blockDim.y - 1) / (int)blockDim.y : 0;  // of this thread
    Walk at(begin + threadIdx.y, blockDim.y, wide, g.OH);

    for (int done = 0; done < most; done += ROUND) {
        float acc[OWN + 1][V] = {};
#pragma unroll 1
        for (int k = 0; k < ROUND && left > 0; ++k, --left, at.next(wide, g.OH)) {
            Gated<COLS, V, T> grads;
            grads.load_strip(dy, y, g, at.n, at.p, at.q * COLS, o, f);
            grads.open(f);
            const int row = at.p * g.stride_h - g.pad_top, col = at.q * COLS * g.stride_w - g.pad_left;
            int i = tap0 / g.KW, j = tap0 % g.KW;
            constexpr int STRIDE = K > 0 ? S : 1, TOGETHER = K > 0 ? K : 1;  // taps that share a strip of x
#pragma unroll
            for (int t = 0; t < OWN; t += TOGETHER) {
                if (tap0 + t >= taps) break;
                float in[((COLS - 1) * STRIDE + TOGETHER) * X] = {};
                const int down = row + (K > 0 ? (tap0 + t) / TOGETHER : i * g.dilation_h);
                if (K == 5 && !within(down, g.H)) continue;  // the branch keeps other rows' loads apart: they would spill
                if constexpr (K > 0) load_strip<X>(in, x, g, at.n, down, col, 1, channel);
                else load_strip<X>(in, x, g, at.n, down, col + j * g.dilation_w, g.stride_w, channel);
#pragma unroll
                for (int q = 0; q < COLS; ++q)
                    if (q == 0 || at.q * COLS + q < g.OW)  // 0 would turn NaN and infinities of x into NaN
#pragma unroll
                        for (int e = 0; e < TOGETHER * V; ++e)
                            acc[t + e / V][e % V] += grads.dy[q * V + e % V] * in[(q * STRIDE + e / V) * X + e % X];
                if (++j == g.KW) j = 0, ++i;
            }
#pragma unroll
            for (int e = 0; e < COLS * V; ++e) acc[OWN][e % V] += grads.dy[e];
        }
        for (int distance = lanes; distance < WARP; distance *= 2)  // over the lanes with the same channels
#pragma unroll
            for (int e = 0; e < (OWN + 1) * V; ++e) acc[e / V][e % V] += __shfl_xor_sync(ALL_LANES, acc[e / V][e % V], distance);
        if (lane < lanes)
#pragma unroll
            for (int t = 0; t <= OWN; ++t) {
                float* const own = &sums[warp][t][lane * V];
                float sum[V] = {};
                if (done > 0) load<V>(sum, own);
#pragma unroll
                for (int u = 0; u < V; ++u) sum[u] += acc[t][u];
                store<V>(own, sum);
            }
    }
    __syncthreads();

    const auto finish = [&](int at, float sum) {
        const int tap = tap0 + at / SLICE, filter = first + at % SLICE;
        if (at % SLICE >= lanes * V || filter >= g.O) return;
        float* out = nullptr;
        if (at / SLICE == OWN) out = tap0 == 0 && db ? db + filter : nullptr;
        else if (tap < taps) out = dw + (int64)tap * g.O + filter;
        if (out) *out = accumulate ? *out + sum : sum;
    };
    float* const shared = slots + (int64)tile * splits * FLOATS;
    for (int at = thread; at < FLOATS; at += THREADS) {
        float sum = 0.0f;
        if (at % SLICE < lanes * V)
#pragma unroll
            for (int other = 0; other < WARPS; ++other) sum += sums[other][at / SLICE][at % SLICE];
        if (splits == 1) finish(at, sum);
        else shared[(int64)split * FLOATS + at] = sum;
    }
    if (splits == 1) return;
    if (!add_all_slots<FLOATS>(shared, split, splits, arrivals + (int64)tile * counters_of(splits), thread)) return;
    __syncthreads();
    for (int at = thread; at < FLOATS; at += THREADS) finish(at, shared[at]);
}
