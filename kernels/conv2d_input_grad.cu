#include "common.cuh"
#include "geometry.cuh"
#include "window.cuh"
#include "cuda_cores.cuh"
#include "tensor_cores.cuh"
#include "gate.cuh"
#include "split.cuh"
// Input gradient of a 2-D convolution, the full convolution of dy with the rotated filters:
//   dx[n, h, w, c] = sum over i, j, o of dy[n, (h + pad - i dilation) / stride, (w + pad - j dilation) / stride, o] w[i, j, c, o],
// over the taps where the divisions are exact and the result lies inside dy. The minus signs are the
// rotation by 180 degrees.
//   dy, y (N, OH, OW, O)   w (KH, KW, C / groups, O)   dx (N, H, W, C)
// The gate (y and `f`) takes dy back through the activation that was fused into the forward pass, while
// dy is loaded: see gate.cuh.
//
// Tiling (`_tiled`): as in conv2d_forward.cu, with N H W rows, C / groups columns and a reduction
// of KH KW O / groups, with taps outermost and filters innermost. Both matrices are read along the
// filters, which are neighbours in memory. With a stride of s, a pixel h is reached by those taps i
// alone for which s divides h + pad - i dilation. So the pixels are ordered by their remainders, a
// block has those of one remainder in each axis, and no product with a zero is computed.
// A gate has an instance of its own where nets commonly have it, so that the main loop has no branch.
// Alignment: V = 4 needs dy, y, w aligned to four elements and O / groups a multiple of 4; V = 1
// needs nothing.
// Bound: 2 KH KW O / groups FLOP per element of dx: arithmetic from about O = 16 on at 3 x 3.

template <typename T>
__global__ void conv2d_input_grad_simple(
        const T* __restrict__ dy, const T* __restrict__ OR_NULL y, const T* __restrict__ w, T* __restrict__ dx, Geometry g,
        Activation f) {
    GRID_STRIDE_LOOP(idx, (int64)g.N * g.H * g.W * g.C) {
        const int c = idx % g.C, col = idx / g.C % g.W, row = idx / g.C / g.W % g.H;
        const int64 n = idx / g.C / g.W / g.H;
        const int first = c / g.taken * g.made;  // filter of the group
        float sum = 0.0f;
        for (int i = 0; i < g.KH; ++i) {
            const int p = row + g.pad_top - i * g.dilation_h;
            if (p < 0 || p % g.stride_h || p / g.stride_h >= g.OH) continue;
            for (int j = 0; j < g.KW; ++j) {
                const int q = col + g.pad_left - j * g.dilation_w;
                if (q < 0 || q % g.stride_w || q / g.stride_w >= g.OW) continue;
                const T* filter = w + ((int64)(i * g.KW + j) * g.taken + c % g.taken) * g.O + first;
                for (int o = 0; o < g.made; ++o) {
                    float v[1];
                    load_gated<1>(v, dy, y, ((n * g.OH + p / g.stride_h) * g.OW + q / g.stride_w) * g.O + first + o, f);
                    sum += v[0] * to_float(filter[o]);
                }
            }
        }
        from_float(dx[idx], sum);
    }
}

// Along one axis, the taps that reach the pixels h = residue, residue + stride, … of x: every `step`-th
// from `first` on. Under tap number t, such a pixel h lies over the output at h / stride + offset + t apart.
struct Residue {
    int residue, count, first, step, offset, apart;

    __device__ void find(int residue, int stride, int pad, int dilation, int taps) {
        this->residue = residue;
        int divisor = stride, rest = dilation % stride;  // Euclid's greatest common divisor
        while (rest) {
            const int next = divisor % rest;
            divisor = rest, rest = next;
        }
        step = stride / divisor, first = 0;
        while (first < step && (residue + pad - first * dilation) % stride) ++first;
        count = first < step && first < taps ? divide_up(taps - first, step) : 0;
        offset = (residue + pad - first * dilation) / stride, apart = -step * dilation / stride;
    }
};

// What a block fetches: dy under the taps of its pixels, and the filters, both along the filters.
template <typename T, int TN, int GATE, typename Pixels, typename Channels>
struct InputGradOperands {
    typedef typename Pixels::Form FormA;
    typedef typename Channels::Form FormB;

    const Geometry& g;
    const Place& place;
    const Residue &rows, &cols;
    const Window<Pixels::BY_BITS>* const windows;  // laid over dy, backwards
    const T *const dys, *const ys;
    const T* const w;
    const Activation& f;
    Digits tap;  // this thread's filter, right and down
    Gated<Pixels, T, GATE> dy[Pixels::COUNT];
    typename Channels::Held filters[Channels::COUNT];

    template <typename Buffers>
    __device__ __forceinline__ void fetch(int, Buffers& buffers, int slot) {
        const int down = tap.high * rows.apart, right = tap.mid * cols.apart;
        const bool there = tap.high < place.extents.high;
        const Tap<Pixels::BY_BITS> of_windows(Pixels::has() & there, tap.high, tap.mid, down, right);
        bool covered[Pixels::COUNT];
        int pixels[Pixels::COUNT];
#pragma unroll
        for (int n = 0; n < Pixels::COUNT; ++n) {
            const Window<Pixels::BY_BITS> window = windows[Pixels::result(n)];
            covered[n] = of_windows.inside(window, g.OH, g.OW);
            pixels[n] = window.pixel + down * g.OW + right;
        }
        const int first = place.group * g.made + tap.low;  // pointers of the group would take registers
        const int of_tap = (rows.first + tap.high * rows.step) * g.KW + cols.first + tap.mid * cols.step;
        Wanted<T> taps[Channels::COUNT];
#pragma unroll
        for (int n = 0; n < Channels::COUNT; ++n) {
            const int channel = min(place.col * TN + Channels::result(n), g.taken - 1);  // those beyond are not stored
            const bool has = Channels::has() & there;
            taps[n] = {has, at(w + first, of_tap * g.taken + channel, g.O)};
        }
#pragma unroll
        for (int n = 0; n < Pixels::COUNT; ++n)
            dy[n].fetch(buffers.a[slot], n, covered[n], dys, ys, pixels[n], g.O, first, f);
#pragma unroll
        for (int n = 0; n < Channels::COUNT; ++n) Channels::fetch(filters[n], buffers.b[slot], n, taps[n]);
        add(tap, place.step, g.made, place.extents.mid);
    }

    __device__ __forceinline__ void take_in(int) {}
    template <typename Buffers> __device__ __forceinline__ void see(const Buffers&, int) {}

    template <typename Buffers>
    __device__ __forceinline__ void stage(Buffers& buffers, int slot) const {
#pragma unroll
        for (int n = 0; n < Pixels::COUNT; ++n) dy[n].stage(buffers.a[slot], n, f);
#pragma unroll
        for (int n = 0; n < Channels::COUNT; ++n) Channels::stage(filters[n], buffers.b[slot], n);
    }
};

// What the threads of a block share: what it computes, and where the windows of its pixels start.
template <int TM, bool BY_BITS>
struct InputGradShared {
    Place place;
    Residue rows, cols;
    Window<BY_BITS> windows[TM];

    // Pixels are ordered by their residues, then by image, row and column: a block has those of one
    // residue in each axis.
    template <typename Unit, int TN>
    __device__ __forceinline__ void begin(const Geometry& g, int turns_a_split) {
        const int high = divide_up(g.H, g.stride_h), wide = divide_up(g.W, g.stride_w);
        if (threadIdx.x == 0) {
            place.rows = g.N * high * wide;
            const int tiles = divide_up(place.rows, TM);
            place.find_tile(tiles * g.stride_h * g.stride_w, divide_up(g.taken, TN), g.groups);
            const int residue = place.row / tiles;
            place.row %= tiles;
            rows.find(residue / g.stride_w, g.stride_h, g.pad_top, g.dilation_h, g.KH);
            cols.find(residue % g.stride_w, g.stride_w, g.pad_left, g.dilation_w, g.KW);
            place.find_part({g.made, max(cols.count, 1), cols.count ? rows.count : 0}, turns_a_split, Unit::PLACES);
        }
        __syncthreads();
        const Taps taps = {g.OH, g.OW, rows.count, cols.count, rows.apart, cols.apart};
        for (int r = threadIdx.x; r < TM; r += Unit::BLOCK) {
            const int number = place.row * TM + r, pixel = min(number, place.rows - 1);
            const int image = pixel / wide / high, row = pixel / wide % high, col = pixel % wide;
            const int h = row * g.stride_h + rows.residue, w = col * g.stride_w + cols.residue;
            const bool stored = (number < place.rows) & (h < g.H) & (w < g.W);
            const int result = stored ? (image * g.H + h) * g.W + w : -1;
            taps.fill(windows[r], image, row + rows.offset, col + cols.offset, result);
        }
        __syncthreads();
    }
};

// Computes a tile of dx, and stores it.
template <typename Unit, typename Pixels, typename Channels, int GATE, int TM, int TN, int RM, int RN, typename T>
__device__ __forceinline__ void compute_tile(
        const T* dy, const T* y, const T* w, T* dx, float* slots, int* arrivals, const Geometry& g, const Activation& f,
        int turns_a_split, typename Unit::Buffers& buffers, InputGradShared<TM, Pixels::BY_BITS>& shared) {
    shared.template begin<Unit, TN>(g, turns_a_split);
    const Place& place = shared.place;

    float acc[RM][RN] = {};
    typename Unit::Totals totals;
    const Digits tap = digits_of(place.turn * Unit::PLACES + Pixels::k(), place.extents);
    InputGradOperands<T, TN, GATE, Pixels, Channels> operands = {
        g, place, shared.rows, shared.cols, shared.windows, dy, y, w, f, tap};
    multiply_all<Unit>(operands, buffers, place, totals, acc);
    float none;
    if (!add_splits<0, Unit::BLOCK>(place, slots, arrivals, acc, none)) return;

    constexpr int PIECE = least(RN, 4);
    const bool by_four = Unit::BY_FOUR || (g.taken % 4 == 0 && comes_in_fours(dx, g.C));
#pragma unroll
    for (int i = 0; i < RM; ++i) {
        const int pixel = shared.windows[Unit::row(i)].result;
        if (pixel < 0) continue;
        const int64 result = (int64)pixel * g.C + place.group * g.taken;
#pragma unroll
        for (int j = 0; j < RN; j += PIECE) {
            const int channel = place.col * TN + Unit::col(j);
            store_columns<PIECE>(dx, result + channel, &acc[i][j], g.taken - channel, by_four);
        }
    }
}

template <typename T, int TM, int TN, int RM, int RN, int V, int GATE>
__global__ void __launch_bounds__(THREADS, resident(RM * RN)) conv2d_input_grad_tiled(
        const T* __restrict__ dy, const T* __restrict__ OR_NULL y, const T* __restrict__ w, T* __restrict__ dx,
        float* __restrict__ OR_NULL UPDATED slots, int* __restrict__ OR_NULL UPDATED arrivals, Geometry g, Activation f,
        int turns_a_split) {
    typedef CudaCores<TM, TN, RM, RN> Unit;
    __shared__ typename Unit::Buffers buffers;
    __shared__ InputGradShared<TM, false> shared;
    known_block();
    compute_tile<Unit, PiecesAcross<T, TM, V>, PiecesAcross<T, TN, V>, GATE, TM, TN, RM, RN>(
        dy, y, w, dx, slots, arrivals, g, f, turns_a_split, buffers, shared);
}

// Blocks of a multiprocessor on the tensor cores, by the results of a block, for which __launch_bounds__
// asks: left alone, ptxas aims at more and spills.
__host__ __device__ constexpr int resident_on(int results, int terms, bool gated) {
    if (terms == 3) return results > 64 * 64 ? 1 : gated ? 3 : 4;
    return results > 128 * 128 ? 1 : results > 128 * 64 ? 2 : results > 64 * 64 ? 4 - gated : 5;
}

// On the tensor cores.
template <typename T, int TERMS, int TM, int TN, int RM, int RN, int GATE>
__global__ void __launch_bounds__(block_of(TM, TN, RM, RN), resident_on(TM * TN, TERMS, GATE)) conv2d_input_grad_mma(
        const T* __restrict__ dy, const T* __restrict__ OR_NULL y, const T* __restrict__ w, T* __restrict__ dx,
        float* __restrict__ OR_NULL UPDATED slots, int* __restrict__ OR_NULL UPDATED arrivals, Geometry g, Activation f,
        int turns_a_split) {
    typedef TensorCores<T, TERMS, TM, TN, RM, RN> Unit;
    __shared__ InputGradShared<TM, true> shared;
    known_block<Unit::BLOCK>();
    compute_tile<Unit, ByResult<T, TM, Unit::BLOCK>, ByResult<T, TN, Unit::BLOCK>, GATE, TM, TN, RM, RN>(
        dy, y, w, dx, slots, arrivals, g, f, turns_a_split, Unit::buffers(), shared);
}
