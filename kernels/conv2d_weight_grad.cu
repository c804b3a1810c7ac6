#include "common.cuh"
#include "geometry.cuh"
#include "cuda_cores.cuh"
#include "tensor_cores.cuh"
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
// of dy that each thread made. A chunk of the left matrix has VX rows, one of the right VY filters.
template <typename Unit, int TM, int TN, int VX, int VY>
struct WeightGradShared {
    static constexpr uint32 PIXELS = 2 * TILE_STEPS * Unit::PLACES;
    static_assert(Unit::AHEAD < TILE_STEPS, "the pixels of the turns that are fetched are there");
    // Sums of four filters of all threads, and 16 floats behind them, so that a column's two rows of sums
    // lie in other banks.
    static constexpr int PIECE = least(VY, 4), ROW = Unit::BLOCK * PIECE + 16, SUMS = VY / PIECE * ROW;
    __align__(16) float bias[SUMS];
    // Of VX neighbouring rows of dw: their tap's place relative to a pixel's window, NO_ROW behind the
    // last row, and the first one's channel.
    int down[TM / VX], right[TM / VX], channel[TM / VX];
    Digits pixels[PIXELS];  // column, row, image; pixel k at k % PIXELS
    Digits step;            // of PIXELS pixels
    Place place;

    __device__ __forceinline__ void begin(const Geometry& g, int turns_a_split) {
        if (threadIdx.x == 0) {
            place.rows = g.KH * g.KW * g.taken;
            place.find_tile(divide_up(place.rows, TM), divide_up(g.made, TN), g.groups);
            place.find_part({g.OW, g.OH, g.N}, turns_a_split, Unit::PLACES);
            step = digits_of(PIXELS, place.extents);
        }
        __syncthreads();
        for (int i = threadIdx.x; i < SUMS; i += Unit::BLOCK) bias[i] = 0.0f;
        if (threadIdx.x < TM / VX) {
            const int row = place.row * TM + threadIdx.x * VX, tap = row / g.taken;
            down[threadIdx.x] = row < place.rows ? tap / g.KW * g.dilation_h - g.pad_top : NO_ROW;
            right[threadIdx.x] = tap % g.KW * g.dilation_w - g.pad_left;
            channel[threadIdx.x] = place.group * g.taken + row % g.taken;
        }
        for (uint32 i = threadIdx.x; i < PIXELS; i += Unit::BLOCK) {
            const uint32 k = place.turn * Unit::PLACES + i;
            pixels[k % PIXELS] = digits_of(k, place.extents);
        }
        __syncthreads();
    }

    // The pixels of the TILE_STEPS turns before this one become those PIXELS later.
    __device__ __forceinline__ void advance(int turn, const Geometry& g) {
        if (threadIdx.x < PIXELS / 2)
            add(pixels[(turn * Unit::PLACES + PIXELS / 2 + threadIdx.x) % PIXELS], step, g.OW, g.OH);
    }

    // Where the sum of a thread's u-th filter stands: those of four filters side by side.
    static __device__ __forceinline__ int bias_at(int thread, int u) {
        return u / PIECE * ROW + thread * PIECE + u % PIECE;
    }

    // The sum of this block's dy over column threadIdx.x of its tile. Every thread must call it.
    __device__ __forceinline__ float bias_of_column() {
        __syncthreads();
        float sum = 0.0f;
        if (threadIdx.x < TN)
            for (int thread = threadIdx.x / VY; thread < Unit::BLOCK; thread += TN / VY) sum += bias[bias_at(thread, threadIdx.x % VY)];
        return sum;
    }
};

// What a block fetches: x under the taps that are its rows, and dy, which it also adds up: the bias
// gradient. Pieces that pass through registers are added up there, others when they have landed.
template <typename Shared, int TN, int GATE, typename Taps, typename Filters, typename T>
struct WeightGradOperands {
    typedef typename Taps::Form FormA;
    typedef typename Filters::Form FormB;
    static constexpr int VX = Taps::V, VY = Filters::V;

    const Geometry& g;
    const Place& place;
    const T *const x, *const dys, *const ys;
    const Activation& f;
    Shared& shared;
    const bool sums_bias;
    typename Taps::Held inputs[Taps::COUNT];
    Gated<Filters, T, GATE> dy[Filters::COUNT];
    float bias[VY] = {};

    __device__ __forceinline__ WeightGradOperands(
            const Geometry& g, Shared& shared, const T* x, const T* dy, const T* y, const Activation& f, bool sums_bias)
        : g(g), place(shared.place), x(x), dys(dy), ys(y), f(f), shared(shared), sums_bias(sums_bias) {}

    template <typename Buffers>
    __device__ __forceinline__ void fetch(int k0, Buffers& buffers, int slot) {
        const int taps = Taps::first() / VX, down = shared.down[taps], right = shared.right[taps], channel = shared.channel[taps];
        Wanted<T> wanted[Taps::COUNT];
        const int stop = place.stop, col = place.col * TN + Filters::first(), filter = place.group * g.made + col;
#pragma unroll
        for (int n = 0; n < Taps::COUNT; ++n) {
            const Digits pixel = shared.pixels[k0 % shared.PIXELS + Taps::k(n)];
            const int h = pixel.mid * g.stride_h + down, w = pixel.low * g.stride_w + right;
            const bool there = Taps::has() & (k0 + Taps::k(n) < stop) & inside(h, g.H) & inside(w, g.W);
            wanted[n] = {there, at(x + channel, (pixel.high * g.H + h) * g.W + w, g.C)};
        }
#pragma unroll
        for (int n = 0; n < Taps::COUNT; ++n) Taps::fetch(inputs[n], buffers.a[slot], n, wanted[n]);
#pragma unroll
        for (int n = 0; n < Filters::COUNT; ++n) {
            const int k = k0 + Filters::k(n);
            const bool there = Filters::has() & (k < stop) & (col < g.made);
            dy[n].fetch(buffers.b[slot], n, there, dys, ys, k, g.O, filter, f);
        }
    }

    template <typename Buffers>
    __device__ __forceinline__ void stage(Buffers& buffers, int slot) {
#pragma unroll
        for (int n = 0; n < Taps::COUNT; ++n) Taps::stage(inputs[n], buffers.a[slot], n);
#pragma unroll
        for (int n = 0; n < Filters::COUNT; ++n) {
            if constexpr (Filters::IN_REGISTERS) {
                float v[VY];
                dy[n].read(v, f), Filters::put(buffers.b[slot], n, v);
#pragma unroll
                for (int u = 0; u < VY; ++u) bias[u] += v[u];
            } else {
                dy[n].stage(buffers.b[slot], n, f);
            }
        }
    }

    template <typename Buffers>
    __device__ __forceinline__ void see(const Buffers& buffers, int slot) {
        if constexpr (!Filters::IN_REGISTERS) {
            if (!sums_bias) return;
#pragma unroll
            for (int n = 0; n < Filters::COUNT; ++n) {
                float v[VY];
                Filters::read(v, buffers.b[slot], n);
#pragma unroll
                for (int u = 0; u < VY; ++u) bias[u] += v[u];
            }
        }
    }

    __device__ __forceinline__ void take_in(int turn) {
        shared.advance(turn, g);
        take_bias_in();
    }

    __device__ __forceinline__ void take_bias_in() {
#pragma unroll
        for (int u = 0; u < VY; ++u) shared.bias[Shared::bias_at(threadIdx.x, u)] += bias[u], bias[u] = 0.0f;
    }
};

// Computes a tile of dw, and stores it; with it, blocks of the first row of tiles store db.
template <typename Unit, typename Totals, typename Taps, typename Filters, int GATE, int TM, int TN, int RM, int RN, typename T>
__device__ __forceinline__ void compute_tile(
        const T* dy, const T* y, const T* x, float* slots, int* arrivals, float* dw, float* db, const Geometry& g,
        const Activation& f, int turns_a_split, int accumulate, typename Unit::Buffers& buffers,
        WeightGradShared<Unit, TM, TN, Taps::V, Filters::V>& shared) {
    shared.begin(g, turns_a_split);
    const Place& place = shared.place;

    float acc[RM][RN] = {};
    Totals totals;
    typedef WeightGradShared<Unit, TM, TN, Taps::V, Filters::V> Shared;
    WeightGradOperands<Shared, TN, GATE, Taps, Filters, T> operands(g, shared, x, dy, y, f, db && place.row == 0);
    multiply_all<Unit>(operands, buffers, place, totals, acc);
    operands.take_bias_in();
    float bias = shared.bias_of_column();
    if (!add_splits<TN, Unit::BLOCK>(place, slots, arrivals, acc, bias)) return;

    constexpr int PIECE = least(RN, 4);
    const bool by_four = Unit::BY_FOUR || (g.made % 4 == 0 && comes_in_fours(dw, g.O));
#pragma unroll
    for (int i = 0; i < RM; ++i) {
        const int row = place.row * TM + Unit::row(i);
        if (row >= place.rows) break;
#pragma unroll
        for (int j = 0; j < RN; j += PIECE) {
            const int col = place.col * TN + Unit::col(j);
            add_columns<PIECE>(dw, (int64)row * g.O + place.group * g.made + col, &acc[i][j], g.made - col, by_four, accumulate);
        }
    }
    const int col = place.col * TN + threadIdx.x;
    if (db && place.row == 0 && threadIdx.x < TN && col < g.made) {
        float* const sum = db + place.group * g.made + col;
        *sum = accumulate ? *sum + bias : bias;
    }
}

template <typename T, int TM, int TN, int RM, int RN, int VX, int VY, int GATE>
__global__ void __launch_bounds__(THREADS, resident(RM * RN)) conv2d_weight_grad_tiled(
        const T* __restrict__ dy, const T* __restrict__ OR_NULL y, const T* __restrict__ x,
        float* __restrict__ OR_NULL UPDATED slots, int* __restrict__ OR_NULL UPDATED arrivals, float* __restrict__ ADDED_TO dw,
        float* __restrict__ OR_NULL ADDED_TO db, Geometry g, Activation f, int turns_a_split, int accumulate) {
    typedef CudaCores<TM, TN, RM, RN> Unit;
    __shared__ typename Unit::Buffers buffers;
    __shared__ WeightGradShared<Unit, TM, TN, VX, VY> shared;
    known_block();
    compute_tile<Unit, Totals<RM, RN>, PiecesAlong<T, TM, VX>, PiecesAlong<T, TN, VY>, GATE, TM, TN, RM, RN>(
        dy, y, x, slots, arrivals, dw, db, g, f, turns_a_split, accumulate, buffers, shared);
}

// On the tensor cores.
template <typename T, int TERMS, int TM, int TN, int RM, int RN, int GATE>
__global__ void __launch_bounds__(block_of(TM, TN, RM, RN)) conv2d_weight_grad_mma(
        const T* __restrict__ dy, const T* __restrict__ OR_NULL y, const T* __restrict__ x,
        float* __restrict__ OR_NULL UPDATED slots, int* __restrict__ OR_NULL UPDATED arrivals, float* __restrict__ ADDED_TO dw,
        float* __restrict__ OR_NULL ADDED_TO db, Geometry g, Activation f, int turns_a_split, int accumulate) {
    typedef TensorCores<T, TERMS, TM, TN, RM, RN> Unit;
    __shared__ WeightGradShared<Unit, TM, TN, chunk<T>(), chunk<T>()> shared;
    known_block<Unit::BLOCK>();
    compute_tile<Unit, typename Unit::Totals, ByPlace<T, TM, Unit::BLOCK>, ByPlace<T, TN, Unit::BLOCK>, GATE, TM, TN, RM, RN>(
        dy, y, x, slots, arrivals, dw, db, g, f, turns_a_split, accumulate, Unit::buffers(), shared);
}
