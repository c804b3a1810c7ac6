#include "common.cuh"
#include "geometry.cuh"
#include "window.cuh"
#include "cuda_cores.cuh"
#include "tensor_cores.cuh"
#include "norm.cuh"
#include "split.cuh"
// 2-D convolution (the cross-correlation of deep learning), fused with bias, residual, activation and max
// pool:
//   y[n, p, q, o] = f(b[o] + residual[n, p, q, o]
//       + sum over i, j, c of x[n, p stride + i dilation - pad, q stride + j dilation - pad, c] w[i, j, c, o])
//   x (N, H, W, C)   w (KH, KW, C / groups, O)   b (O,) or null   residual (N, OH, OW, O) or null, as y
// Each group connects its own C / groups channels with its own O / groups filters.
// With POOL, y and mask are (N, OH / 2, OW / 2, O): the maximum of each of the 2x2 windows side by
// side, and its position 2 i + j in the window. The first of equal values wins, and NaN wins over
// numbers. Bias and activation keep the order, so they are applied to the winner alone. An odd last
// row or column is not computed, and the convolution's own output is never written. There is no
// residual, which would have a say in who wins.
//
// Tiling (`_tiled`): a matrix product with N OH OW rows (pixels), O / groups columns and a
// reduction of KH KW C / groups, with taps outermost and channels innermost. A block gathers the
// taps of its pixels from x straight into shared memory; the right matrix is w as it lies in memory,
// and neighbouring channels belong to one tap. A thread decodes its tap once and counts on. The main
// loop, which all products share, stands in implicit_gemm.cuh. Where tiles are few, the reduction
// is split among blocks (split.cuh). gpunet/cuda/instantiations.py lists the tiles, and
// gpunet/backends/cuda/tiles.py chooses one.
// With a pool, the rows are ordered by windows of four pixels, so that a thread has whole windows
// in its registers.
// On the tensor cores (`_mma`), a block can also leave the moments of its results for a batch norm that
// follows: parts (row tiles, 2, O) are means and squared distances, those of batch_norm.cu.
// A depthwise convolution (C = groups) has kernels of its own, in conv2d_depthwise.cu.
// Alignment: VX = 4 needs x aligned to four elements and C / groups a multiple of 4; VW = 4 needs
// the same of w, residual, y and O / groups; 1 needs nothing.
// Bound: 2 KH KW C / groups FLOP per output element, against 4 bytes for each element of x and y:
// arithmetic from about C = 16 on at 3 x 3. With a pool, 5 bytes are written for four outputs
// instead of 16.

// The image, row and column of the r-th output pixel; with POOL, of the corner r % 4 of the window
// r / 4.
template <bool POOL>
__device__ __forceinline__ void output_pixel(int r, const Geometry& g, int& n, int& p, int& q) {
    const int cell = POOL ? r / 4 : r, width = POOL ? g.OW / 2 : g.OW, height = POOL ? g.OH / 2 : g.OH;
    n = cell / width / height, p = cell / width % height, q = cell % width;
    if (POOL) p = 2 * p + r % 4 / 2, q = 2 * q + r % 2;
}

// Replace the best value and its position by v and its own, if v is larger.
__device__ __forceinline__ void keep_larger(float v, int position, float& best, int& winner) {
    if (v > best || (is_nan(v) && !is_nan(best))) best = v, winner = position;
}

template <typename T>
__device__ __forceinline__ float convolve_pixel(const T* x, const T* w, const Geometry& g, int n, int p, int q, int o) {
    float sum = 0.0f;
    for (int i = 0; i < g.KH; ++i) {
        const int row = p * g.stride_h + i * g.dilation_h - g.pad_top;
        if (!inside(row, g.H)) continue;
        for (int j = 0; j < g.KW; ++j) {
            const int col = q * g.stride_w + j * g.dilation_w - g.pad_left;
            if (!inside(col, g.W)) continue;
            const T* pixel = x + (((int64)n * g.H + row) * g.W + col) * g.C + o / g.made * g.taken;
            const T* filter = w + (int64)(i * g.KW + j) * g.taken * g.O + o;
            for (int c = 0; c < g.taken; ++c) sum += to_float(pixel[c]) * to_float(filter[(int64)c * g.O]);
        }
    }
    return sum;
}

template <typename T, bool POOL>
__global__ void conv2d_forward_simple(
        const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ OR_NULL b,
        const T* __restrict__ OR_NULL residual, T* __restrict__ y, uint8* __restrict__ OR_NULL mask, Geometry g, Activation f) {
    const int each = POOL ? 4 : 1;  // pixels per result
    const int64 results = POOL ? (int64)g.N * (g.OH / 2) * (g.OW / 2) : (int64)g.N * g.OH * g.OW;
    GRID_STRIDE_LOOP(idx, results * g.O) {
        const int o = idx % g.O, r = idx / g.O * each;
        int n, p, q, winner = 0;
        output_pixel<POOL>(r, g, n, p, q);
        float best = convolve_pixel(x, w, g, n, p, q, o);
        for (int corner = 1; corner < each; ++corner) {
            output_pixel<POOL>(r + corner, g, n, p, q);
            keep_larger(convolve_pixel(x, w, g, n, p, q, o), corner, best, winner);
        }
        float v[1] = {b ? best + to_float(b[o]) : best};
        if (!POOL && residual) v[0] += to_float(residual[idx]);
        activate<1>(f, v);
        from_float(y[idx], v[0]);
        if (POOL) mask[idx] = winner;
    }
}

// mask[at + j] = winner[j], in the way of `store_columns`.
template <int COUNT>
__device__ __forceinline__ void store_winners(uint8* mask, int64 at, const int (&winner)[COUNT], int columns, bool by_four) {
    if (COUNT == 4 && by_four) {
        if (columns > 0) *reinterpret_cast<uchar4*>(mask + at) = make_uchar4(winner[0], winner[1], winner[2], winner[3]);
    } else {
#pragma unroll
        for (int j = 0; j < COUNT; ++j)
            if (j < columns) mask[at + j] = winner[j];
    }
}

// What a block fetches: the taps of its pixels, and the filters.
template <typename T, int TN, typename Pixels, typename Filters>
struct ForwardOperands {
    typedef typename Pixels::Form FormA;
    typedef typename Filters::Form FormB;

    const Geometry& g;
    const Place& place;
    static constexpr bool BY_BITS = Pixels::BY_BITS;
    const Window<BY_BITS>* const windows;
    const T *const channels, *const filters;  // of the first pixel, of the first tap
    int filter;
    Digits tap;  // this thread's channel, right and down
    typename Pixels::Held x[Pixels::COUNT];
    typename Filters::Held w[Filters::COUNT];

    __device__ __forceinline__ ForwardOperands(
            const Geometry& g, const Window<BY_BITS>* windows, const T* x, const T* w, const Place& place, int k0)
        : g(g), place(place), windows(windows), channels(x), filters(w) {
        const int first = place.col * TN + Filters::first();
        filter = place.group * g.made + (first < g.made ? first : 0);  // results beyond the last filter are not stored
        tap = digits_of(k0 + Pixels::k(), place.extents);
    }

    template <typename Buffers>
    __device__ __forceinline__ void fetch(int k0, Buffers& buffers, int slot) {
        const int down = tap.high * g.dilation_h, right = tap.mid * g.dilation_w;
        const T* const channel = channels + (place.group * g.taken + tap.low);
        Wanted<T> pixels[Pixels::COUNT], taps[Filters::COUNT];
        const Tap<BY_BITS> of_windows(Pixels::has() & (tap.high < g.KH), tap.high, tap.mid, down, right);
#pragma unroll
        for (int n = 0; n < Pixels::COUNT; ++n) {
            const Window<BY_BITS> window = windows[Pixels::result(n)];
            pixels[n] = {of_windows.inside(window, g.H, g.W), at(channel, window.pixel + down * g.W + right, g.C)};
        }
        const int stop = place.stop;
#pragma unroll
        for (int n = 0; n < Filters::COUNT; ++n) {
            const int k = k0 + Filters::k(n);
            const bool there = Filters::has() & (k < stop);
            taps[n] = {there, at(filters + filter, k, g.O)};
        }
        add(tap, place.step, g.taken, g.KW);
#pragma unroll
        for (int n = 0; n < Pixels::COUNT; ++n) Pixels::fetch(x[n], buffers.a[slot], n, pixels[n]);
#pragma unroll
        for (int n = 0; n < Filters::COUNT; ++n) Filters::fetch(w[n], buffers.b[slot], n, taps[n]);
    }

    __device__ __forceinline__ void take_in(int) {}
    template <typename Buffers> __device__ __forceinline__ void see(const Buffers&, int) {}

    template <typename Buffers>
    __device__ __forceinline__ void stage(Buffers& buffers, int slot) const {
#pragma unroll
        for (int n = 0; n < Pixels::COUNT; ++n) Pixels::stage(x[n], buffers.a[slot], n);
#pragma unroll
        for (int n = 0; n < Filters::COUNT; ++n) Filters::stage(w[n], buffers.b[slot], n);
    }
};

// Finds what a block of TM x TN results computes, and where the windows of its pixels start.
template <typename Unit, int TM, int TN, bool BY_BITS>
__device__ __forceinline__ void find_windows(
        bool pool, const Geometry& g, int turns_a_split, Place& place, Window<BY_BITS> (&windows)[TM]) {
    if (threadIdx.x == 0) {
        place.rows = pool ? g.N * (g.OH / 2) * (g.OW / 2) * 4 : g.N * g.OH * g.OW;
        place.find_tile(divide_up(place.rows, TM), divide_up(g.made, TN), g.groups);
        place.find_part({g.taken, g.KW, g.KH}, turns_a_split, Unit::PLACES);
    }
    __syncthreads();
    const Taps taps = {g.H, g.W, g.KH, g.KW, g.dilation_h, g.dilation_w};
    for (int r = threadIdx.x; r < TM; r += Unit::BLOCK) {
        const int at = place.row * TM + (pool ? Unit::corner(r) : r);
        const int pixel = min(at, place.rows - 1);  // results beyond the last pixel are not stored
        int n, p, q;
        if (pool) output_pixel<true>(pixel, g, n, p, q);
        else output_pixel<false>(pixel, g, n, p, q);
        taps.fill(windows[r], n, p * g.stride_h - g.pad_top, q * g.stride_w - g.pad_left, pixel);
    }
    __syncthreads();
}

// A value as T stores it.
template <typename T>
__device__ __forceinline__ float rounded(float value) {
    T stored;
    from_float(stored, value);
    return to_float(stored);
}

// The moments of the columns of a tile, each from the results of one thread, a warp, a block in turn.
// `of_warps` is shared memory of the block for each row of warps.
template <int COLS>
struct TileMoments {
    float mean[COLS], squares[COLS], n[COLS];
};

template <typename Unit, int TN, int ROWS, int COUNT>
__device__ __forceinline__ void leave_moments(
        TileMoments<TN>* of_warps, int col, const float (&v)[ROWS][COUNT], const bool (&there)[ROWS]) {
    Moments<COUNT> own = {};
#pragma unroll
    for (int i = 0; i < ROWS; ++i) own.n += there[i];
#pragma unroll
    for (int u = 0; u < COUNT; ++u) {
#pragma unroll
        for (int i = 0; i < ROWS; ++i) own.mean[u] += there[i] ? v[i][u] : 0.0f;
        own.mean[u] /= fmaxf(own.n, 1.0f);
#pragma unroll
        for (int i = 0; i < ROWS; ++i) own.squares[u] += there[i] ? (v[i][u] - own.mean[u]) * (v[i][u] - own.mean[u]) : 0.0f;
    }
#pragma unroll
    for (int distance = 4; distance < WARP; distance *= 2) {  // lanes of the same columns
        float mean[COUNT], squares[COUNT];
        const float n = __shfl_xor_sync(ALL_LANES, own.n, distance);
#pragma unroll
        for (int u = 0; u < COUNT; ++u) {
            mean[u] = __shfl_xor_sync(ALL_LANES, own.mean[u], distance);
            squares[u] = __shfl_xor_sync(ALL_LANES, own.squares[u], distance);
        }
        join(own, n, mean, squares);
    }
    if (threadIdx.x % WARP < 4) {
        TileMoments<TN>& to = of_warps[threadIdx.x / WARP % Unit::WARP_ROWS];
#pragma unroll
        for (int u = 0; u < COUNT; ++u) to.mean[col + u] = own.mean[u], to.squares[col + u] = own.squares[u], to.n[col + u] = own.n;
    }
}

// Joins them over the rows of warps, in their order, and stores the tile's part. Every thread calls it.
template <typename Unit, int TN>
__device__ __forceinline__ void store_moments(const TileMoments<TN>* of_warps, const Place& place, const Geometry& g, float* parts) {
    __syncthreads();
    for (int col = threadIdx.x; col < TN && place.col * TN + col < g.made; col += Unit::BLOCK) {
        Moments<1> all = {};
        for (int warp = 0; warp < Unit::WARP_ROWS; ++warp) {
            const float mean[1] = {of_warps[warp].mean[col]}, squares[1] = {of_warps[warp].squares[col]};
            join(all, of_warps[warp].n[col], mean, squares);
        }
        float* const part = parts + (int64)place.row * 2 * g.O + place.group * g.made + place.col * TN + col;
        part[0] = all.mean[0], part[g.O] = all.squares[0];
    }
}

// What becomes of the sums of a tile: with bias, residual and activation they are y; with POOL, those that win.
// Where there are `parts`, the moments of y as it is stored stand there.
template <typename Unit, bool POOL, bool ANY, int TM, int TN, typename T, int RM, int RN>
__device__ __forceinline__ void store_pixels(
        const float (&acc)[RM][RN], const Place& place, const Geometry& g, const T* b, const T* residual, T* y, uint8* mask,
        const Activation& f, bool by_four, float* parts = nullptr) {
    constexpr int EACH = POOL ? 4 : 1, PIECE = least(RN, 4), ROWS = RM / EACH;  // rows per result; neighbouring columns
#pragma unroll
    for (int j = 0; j < RN; j += PIECE) {
        const int col = place.col * TN + Unit::col(j);
        const int64 at = place.group * g.made + col;
        float bias[PIECE], stored[ROWS][PIECE];
        bool there[ROWS];
#pragma unroll
        for (int u = 0; u < PIECE; ++u) bias[u] = b && col + u < g.made ? to_float(b[at + u]) : 0.0f;
#pragma unroll
        for (int i = 0; i < RM; i += EACH) {
            const int row = place.row * TM + (POOL ? Unit::corner(Unit::row(i)) : Unit::row(i));
            there[i / EACH] = row < place.rows;
            if (!there[i / EACH]) continue;
            const int64 result = (int64)(row / EACH) * g.O + at;
            float v[PIECE];
            int winner[PIECE] = {};
#pragma unroll
            for (int u = 0; u < PIECE; ++u) {
                v[u] = acc[i][j + u];
#pragma unroll
                for (int corner = 1; corner < EACH; ++corner) keep_larger(acc[i + corner][j + u], corner, v[u], winner[u]);
                v[u] += bias[u];
            }
            if (!POOL && residual) add_stored<PIECE>(v, residual, result, g.made - col, by_four);
            activate_results<ANY, PIECE>(f, v);
            store_columns<PIECE>(y, result, v, g.made - col, by_four);
            if (POOL) store_winners<PIECE>(mask, result, winner, g.made - col, by_four);
#pragma unroll
            for (int u = 0; u < PIECE; ++u) stored[i / EACH][u] = rounded<T>(v[u]);
        }
        if constexpr (Unit::LEAVES_MOMENTS)
            if (parts) leave_moments<Unit, TN>(Unit::template scratch<TileMoments<TN>>(), Unit::col(j), stored, there);
    }
    if constexpr (Unit::LEAVES_MOMENTS)
        if (parts) store_moments<Unit, TN>(Unit::template scratch<TileMoments<TN>>(), place, g, parts);
}

// ANY: whether the activation may be another one than ReLU.
template <typename T, int TM, int TN, int RM, int RN, int VX, int VW, bool POOL, bool ANY>
__global__ void __launch_bounds__(THREADS, resident(RM * RN)) conv2d_forward_tiled(
        const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ OR_NULL b,
        const T* __restrict__ OR_NULL residual, T* __restrict__ y, uint8* __restrict__ OR_NULL mask,
        float* __restrict__ OR_NULL UPDATED slots, int* __restrict__ OR_NULL UPDATED arrivals, Geometry g, Activation f,
        int turns_a_split) {
    typedef CudaCores<TM, TN, RM, RN> Unit;
    __shared__ typename Unit::Buffers buffers;
    known_block();

    __shared__ Place place;
    __shared__ Window<false> windows[TM];
    find_windows<Unit, TM, TN>(POOL, g, turns_a_split, place, windows);
    float acc[RM][RN] = {};
    NoTotals<> totals;
    ForwardOperands<T, TN, PiecesAcross<T, TM, VX>, PiecesAlong<T, TN, VW>> operands(
        g, windows, x, w, place, place.turn * Unit::PLACES);
    multiply_all<Unit>(operands, buffers, place, totals, acc);
    float none;
    if (!add_splits<0>(place, slots, arrivals, acc, none)) return;
    const bool by_four = VW == 4 || (g.made % 4 == 0 && comes_in_fours(y, g.O) && comes_in_fours(residual, g.O));
    store_pixels<Unit, POOL, ANY, TM, TN>(acc, place, g, b, residual, y, mask, f, by_four);
}

// On the tensor cores; with a mask there is a pool.
template <typename T, int TERMS, int TM, int TN, int RM, int RN, bool ANY>
__global__ void __launch_bounds__(block_of(TM, TN, RM, RN)) conv2d_forward_mma(
        const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ OR_NULL b,
        const T* __restrict__ OR_NULL residual, T* __restrict__ y, uint8* __restrict__ OR_NULL mask,
        float* __restrict__ OR_NULL parts, float* __restrict__ OR_NULL UPDATED slots, int* __restrict__ OR_NULL UPDATED arrivals,
        Geometry g, Activation f, int turns_a_split) {
    typedef TensorCores<T, TERMS, TM, TN, RM, RN> Unit;
    known_block<Unit::BLOCK>();

    __shared__ Place place;
    __shared__ Window<true> windows[TM];
    find_windows<Unit, TM, TN>(mask, g, turns_a_split, place, windows);
    float acc[RM][RN] = {};
    typename Unit::Totals totals;
    ForwardOperands<T, TN, ByResult<T, TM, Unit::BLOCK>, ByPlace<T, TN, Unit::BLOCK>> operands(
        g, windows, x, w, place, place.turn * Unit::PLACES);
    multiply_all<Unit>(operands, Unit::buffers(), place, totals, acc);
    float none;
    if (!add_splits<0, Unit::BLOCK>(place, slots, arrivals, acc, none)) return;
    if (parts) __syncthreads();  // the last copies of all threads have landed, where the moments will stand
    if (mask) store_pixels<Unit, true, ANY, TM, TN>(acc, place, g, b, residual, y, mask, f, true, parts);
    else store_pixels<Unit, false, ANY, TM, TN>(acc, place, g, b, residual, y, mask, f, true, parts);
}
