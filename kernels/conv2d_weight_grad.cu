#include "common.cuh"
#include "geometry.cuh"
#include "implicit_gemm.cuh"
#include "gate.cuh"
#include "split.cuh"
// Gradients of a 2-D convolution's filters and bias:
//   dw[i, j, c, o] = sum over n, p, q of x[n, p stride + i dilation - pad, q stride + j dilation - pad, c] dy[n, p, q, o]
//   db[o] = sum over n, p, q of dy[n, p, q, o]
//   dy, y (N, OH, OW, O)   x (N, H, W, C)   dw (KH, KW, C / groups, O)   db (O,) or null
// dw and db are float for every T: they are sums over a whole batch, with which an optimizer goes
// on computing.
// The gate (y and `f`) takes dy back through the activation that was fused into the forward pass, while
// dy is loaded: see gate.cuh.
//
// Tiling (`_tiled`): a matrix product with KH KW C / groups rows, O / groups columns and a
// reduction over the N OH OW pixels, in the main loop of implicit_gemm.cuh. There are few tiles of
// results and a long reduction, so that the reduction is split among blocks (split.cuh). A thread
// also adds up the dy that it loads: the bias gradient, which the blocks of the first row tile write.
// Long sums keep their digits: the products of a few turns are added to totals in shared memory, and
// the splits with `Sum`.
// Alignment: VX = 4 needs x aligned to four elements and C / groups a multiple of 4; VY = 4 needs
// the same of dy, y and O / groups; 1 needs nothing.
// Bound: 2 N OH OW FLOP per element of dw: arithmetic, as in the forward pass; the slots of the
// splits are (number of splits) |w| floats.

template <typename T>
__global__ void conv2d_weight_grad_simple(
        const T* __restrict__ dy, const T* __restrict__ OR_NULL y, const T* __restrict__ x, float* __restrict__ ADDED_TO dw,
        float* __restrict__ OR_NULL ADDED_TO db, Geometry g, Activation f, int accumulate) {
    const int64 weights = (int64)g.KH * g.KW * g.taken * g.O;
    GRID_STRIDE_LOOP(idx, weights + (db ? g.O : 0)) {
        const bool bias = idx >= weights;
        const int o = bias ? idx - weights : idx % g.O, c = idx / g.O % g.taken, tap = idx / g.O / g.taken;
        Sum own;
        for (int64 n = 0; n < g.N; ++n)
            for (int p = 0; p < g.OH; ++p)
                for (int q = 0; q < g.OW; ++q) {
                    const int row = p * g.stride_h + tap / g.KW * g.dilation_h - g.pad_top;
                    const int col = q * g.stride_w + tap % g.KW * g.dilation_w - g.pad_left;
                    if (!bias && (!inside(row, g.H) || !inside(col, g.W))) continue;
                    float v[1];
                    load_gated<1>(v, dy, y, ((n * g.OH + p) * g.OW + q) * g.O + o, f);
                    own.add(bias ? v[0] : v[0] * to_float(x[((n * g.H + row) * g.W + col) * g.C + o / g.made * g.taken + c]));
                }
        const float sum = own.value();
        float* out = bias ? db + o : dw + idx;
        *out = accumulate ? *out + sum : sum;
    }
}

// What the threads of a block share: the rows of their tile, the pixels of the next turns, and the sums
// of dy that each thread made.
template <int TM, int VX>
struct WeightGradShared {
    static constexpr uint32 PIXELS = 2 * TILE_STEPS * TILE_K;
    __align__(16) float bias[THREADS * 4];
    // Of VX neighbouring rows of dw: their tap's place relative to a pixel's window, NO_ROW behind the
    // last row, and the first one's channel.
    int down[TM / VX], right[TM / VX], channel[TM / VX];
    Digits pixels[PIXELS];  // column, row, image; pixel k at k % PIXELS
    Digits step;            // of PIXELS pixels

    __device__ void begin(const Geometry& g, const Place& place) {
        for (int i = threadIdx.x; i < THREADS * 4; i += THREADS) bias[i] = 0.0f;
        if (threadIdx.x < TM / VX) {
            const int row = place.row * TM + threadIdx.x * VX, tap = row / g.taken;
            down[threadIdx.x] = row < place.rows ? tap / g.KW * g.dilation_h - g.pad_top : NO_ROW;
            right[threadIdx.x] = tap % g.KW * g.dilation_w - g.pad_left;
            channel[threadIdx.x] = place.group * g.taken + row % g.taken;
        }
        const uint32 k = place.turn * TILE_K + threadIdx.x;
        if (threadIdx.x < PIXELS) pixels[k % PIXELS] = digits_of(k, place.extents);
        if (threadIdx.x == 0) step = digits_of(PIXELS, place.extents);
    }

    // The pixels of the TILE_STEPS turns before this one become those PIXELS later.
    __device__ __forceinline__ void advance(int turn, const Geometry& g) {
        if (threadIdx.x < PIXELS / 2) add(pixels[(turn * TILE_K + PIXELS / 2 + threadIdx.x) % PIXELS], step, g.OW, g.OH);
    }
};

// What a block of `_tiled` fetches, both along: x under the taps that are its rows, and dy, which it
// also adds up: the bias gradient.
template <typename T, int TM, int TN, int VX, int VY, int GATE>
struct WeightGradOperands {
    typedef PiecesAlong<TM, VX> Taps;
    typedef PiecesAlong<TN, VY> Filters;
    typedef Along FormA, FormB;

    const Geometry& g;
    const Place& place;
    const T *const x, *const dys, *const ys;
    const Activation& f;
    WeightGradShared<TM, VX>& shared;
    Raw<T, VX> inputs[Taps::COUNT];
    GatedPiece<T, VY, GATE> dy[Filters::COUNT];
    float bias[VY] = {};

    __device__ __forceinline__ WeightGradOperands(
            const Geometry& g, const Place& place, WeightGradShared<TM, VX>& shared, const T* x, const T* dy, const T* y,
            const Activation& f)
        : g(g), place(place), x(x), dys(dy), ys(y), f(f), shared(shared) {}

    __device__ __forceinline__ void fetch(int k0) {
        const int taps = Taps::first() / VX, down = shared.down[taps], right = shared.right[taps], channel = shared.channel[taps];
#pragma unroll
        for (int n = 0; n < Taps::COUNT; ++n) {
            const Digits pixel = shared.pixels[k0 % shared.PIXELS + Taps::k(n)];
            const int h = pixel.mid * g.stride_h + down, w = pixel.low * g.stride_w + right;
            const bool there = Taps::has() & (k0 + Taps::k(n) < place.stop) & inside(h, g.H) & inside(w, g.W);
            inputs[n].load_if(there, at(x + channel, (pixel.high * g.H + h) * g.W + w, g.C));
        }
        const int col = place.col * TN + Filters::first(), filter = place.group * g.made + col;
#pragma unroll
        for (int n = 0; n < Filters::COUNT; ++n) {
            const int k = k0 + Filters::k(n);
            dy[n].load_if(Filters::has() & (k < place.stop) & (col < g.made), dys, ys, k, g.O, filter, f);
        }
    }

    __device__ __forceinline__ void stage(Buffers<TM, TN>& buffers, int which) {
#pragma unroll
        for (int n = 0; n < Taps::COUNT; ++n) {
            float v[VX];
            inputs[n].read(v), Taps::stage(buffers.a[which], n, v);
        }
#pragma unroll
        for (int n = 0; n < Filters::COUNT; ++n) {
            float v[VY];
            dy[n].read(v, f), Filters::stage(buffers.b[which], n, v);
#pragma unroll
            for (int u = 0; u < VY; ++u) bias[u] += v[u];
        }
    }

    __device__ __forceinline__ void take_in(int turn) {
        shared.advance(turn, g);
        take_bias_in();
    }

    __device__ __forceinline__ void take_bias_in() {
#pragma unroll
        for (int u = 0; u < VY; ++u) shared.bias[threadIdx.x * VY + u] += bias[u], bias[u] = 0.0f;
    }

    // The sum of this block's dy over column threadIdx.x of its tile. Every thread must call it.
    __device__ __forceinline__ float bias_of_column() {
        take_bias_in();
        __syncthreads();
        float sum = 0.0f;
        if (threadIdx.x < TN)
            for (int i = threadIdx.x; i < THREADS * VY; i += TN) sum += shared.bias[i];
        return sum;
    }
};

template <typename T, int TM, int TN, int RM, int RN, int VX, int VY, int GATE>
__global__ void __launch_bounds__(THREADS, resident(RM * RN)) conv2d_weight_grad_tiled(
        const T* __restrict__ dy, const T* __restrict__ OR_NULL y, const T* __restrict__ x,
        float* __restrict__ OR_NULL UPDATED slots, int* __restrict__ OR_NULL UPDATED arrivals, float* __restrict__ ADDED_TO dw,
        float* __restrict__ OR_NULL ADDED_TO db, Geometry g, Activation f, int turns_a_split, int accumulate) {
    __shared__ Buffers<TM, TN> buffers;
    __shared__ Place place;
    __shared__ WeightGradShared<TM, VX> shared;
    known_block();
    if (threadIdx.x == 0) {
        place.rows = g.KH * g.KW * g.taken;
        place.find_tile(divide_up(place.rows, TM), divide_up(g.made, TN), g.groups);
        place.find_part({g.OW, g.OH, g.N}, turns_a_split);
    }
    __syncthreads();
    shared.begin(g, place);
    __syncthreads();

    float acc[RM][RN] = {};
    Totals<RM, RN> totals;
    WeightGradOperands<T, TM, TN, VX, VY, GATE> operands(g, place, shared, x, dy, y, f);
    multiply_all(operands, buffers, place, totals, acc);
    float bias = operands.bias_of_column();
    if (!add_splits<TN>(place, slots, arrivals, acc, bias)) return;

    constexpr int PIECE = least(RN, 4);
    const bool by_four = g.made % 4 == 0 && comes_in_fours(dw, g.O);
#pragma unroll
    for (int i = 0; i < RM; ++i) {
        const int row = place.row * TM + result_row<TM, RM>(i);
        if (row >= place.rows) break;
#pragma unroll
        for (int j = 0; j < RN; j += PIECE) {
            const int col = place.col * TN + result_col<TM, RM, RN>(j);
            add_columns<PIECE>(dw, (int64)row * g.O + place.group * g.made + col, &acc[i][j], g.made - col, by_four, accumulate);
        }
    }
    const int col = place.col * TN + threadIdx.x;
    if (db && place.row == 0 && threadIdx.x < TN && col < g.made) {
        float* const sum = db + place.group * g.made + col;
        *sum = accumulate ? *sum + bias : bias;
    }
}
