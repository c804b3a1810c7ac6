#include "common.cuh"
#include "cuda_cores.cuh"
#include "tensor_cores.cuh"
#include "gate.cuh"
#include "split.cuh"
// Matrix product, bias and activation fused:
//   y = f(op(a) op(b) + bias), or y += op(a) op(b), where op is the matrix or its transpose
//   op(a) (M, K)   op(b) (K, P)   bias (P,) or null   y (M, P)
// The gate (gate_y, of a's shape, and `gate`) takes a back through an activation, while a is
// loaded.
//
// Tiling (`_tiled`): the main loop of implicit_gemm.cuh. Each operand is read along the axis in which
// it is contiguous (the reduction for a and for b's transpose, the results for b and for a's
// transpose) and staged with the reduction outermost. A long reduction of few results is split among
// blocks (split.cuh), and its sums keep their digits as those of conv2d_weight_grad.cu do.
// Alignment: V = 4 needs a, gate_y, b aligned to four elements, and a multiple of 4 as the length of
// their rows; V = 1 needs nothing.
// Bound: 2 M K P FLOP: arithmetic; where M or P is below about 32, the bytes of the larger operand.

// Extents and options of one product; with `accumulate`, it is added to what y holds.
struct Product {
    int64 M, K, P;
    int transpose_a, transpose_b, accumulate;
};

template <typename T>
__global__ void matmul_simple(
        const T* __restrict__ a, const T* __restrict__ OR_NULL gate_y, const T* __restrict__ b, const T* __restrict__ OR_NULL bias,
        T* __restrict__ ADDED_TO y, Product s, Activation gate, Activation f) {
    GRID_STRIDE_LOOP(idx, s.M * s.P) {
        const int64 m = idx / s.P, p = idx % s.P;
        Sum product;
        for (int64 k = 0; k < s.K; ++k) {
            float v[1];
            load_gated<1>(v, a, gate_y, s.transpose_a ? k * s.M + m : m * s.K + k, gate);
            product.add(v[0] * to_float(b[s.transpose_b ? p * s.K + k : k * s.P + p]));
        }
        const float sum = product.value() + (bias ? to_float(bias[p]) : 0.0f);
        float v[1] = {s.accumulate ? to_float(y[idx]) + sum : sum};
        activate<1>(f, v);  // there is none with `accumulate`
        from_float(y[idx], v[0]);
    }
}

template <bool FIRST, typename A, typename B> struct Choice { typedef A Type; };
template <typename A, typename B> struct Choice<false, A, B> { typedef B Type; };

// One operand of a tile: its pieces, which lie along the results (ALONG) or along the reduction, and
// their rows and columns in memory.
template <typename Pieces, bool ALONG>
struct Operand {
    // Of piece n of the turn at k0, for a tile that starts at result i0.
    static __device__ __forceinline__ int row(int n, int k0, int i0) {
        if constexpr (ALONG) return k0 + Pieces::k(n);
        else return i0 + Pieces::result(n);
    }
    static __device__ __forceinline__ int col(int k0, int i0) {
        if constexpr (ALONG) return i0 + Pieces::first();
        else return k0 + Pieces::k();
    }
    static __device__ __forceinline__ bool there(int n, int k0, int stop, int i0, int results) {
        if constexpr (ALONG) return Pieces::has() & (k0 + Pieces::k(n) < stop) & (i0 + Pieces::first() < results);
        else return Pieces::has() & (k0 + Pieces::k() < stop) & (i0 + Pieces::result(n) < results);
    }
};

template <typename T, int TM, int TN, int GATE, bool TRANSPOSE_A, bool TRANSPOSE_B, typename PiecesA, typename PiecesB>
struct MatmulOperands {
    typedef Operand<PiecesA, TRANSPOSE_A> A;
    typedef Operand<PiecesB, !TRANSPOSE_B> B;
    typedef typename PiecesA::Form FormA;
    typedef typename PiecesB::Form FormB;

    const Product& s;
    const Place& place;
    const T *const left, *const gate_y, *const right;
    const Activation& gate;
    Gated<PiecesA, T, GATE> a[PiecesA::COUNT];
    typename PiecesB::Held b[PiecesB::COUNT];

    template <typename Buffers>
    __device__ __forceinline__ void fetch(int k0, Buffers& buffers, int slot) {
        const int row0 = place.row * TM, col0 = place.col * TN, stop = place.stop;
#pragma unroll
        for (int n = 0; n < PiecesA::COUNT; ++n)
            a[n].fetch(
                buffers.a[slot], n, A::there(n, k0, stop, row0, s.M), left, gate_y, A::row(n, k0, row0), TRANSPOSE_A ? s.M : s.K,
                A::col(k0, row0), gate);
#pragma unroll
        for (int n = 0; n < PiecesB::COUNT; ++n) {
            const T* const from = at(right + B::col(k0, col0), B::row(n, k0, col0), TRANSPOSE_B ? s.K : s.P);
            PiecesB::fetch(b[n], buffers.b[slot], n, {B::there(n, k0, stop, col0, s.P), from});
        }
    }

    __device__ __forceinline__ void take_in(int) {}
    template <typename Buffers> __device__ __forceinline__ void see(const Buffers&, int) {}

    template <typename Buffers>
    __device__ __forceinline__ void stage(Buffers& buffers, int slot) const {
#pragma unroll
        for (int n = 0; n < PiecesA::COUNT; ++n) a[n].stage(buffers.a[slot], n, gate);
#pragma unroll
        for (int n = 0; n < PiecesB::COUNT; ++n) PiecesB::stage(b[n], buffers.b[slot], n);
    }
};

// Computes a tile of y, and stores it.
template <
    typename Unit, typename Totals, int GATE, bool TRANSPOSE_A, bool TRANSPOSE_B, int TM, int TN, int RM, int RN, typename PiecesA,
    typename PiecesB, typename T>
__device__ __forceinline__ void compute_tile(
        const T* a, const T* gate_y, const T* b, const T* bias, T* y, float* slots, int* arrivals, const Product& s,
        const Activation& gate, const Activation& f, int turns_a_split, typename Unit::Buffers& buffers, Place& place) {
    if (threadIdx.x == 0) {
        place.rows = s.M;
        place.find_tile(divide_up(s.M, TM), divide_up(s.P, TN), 1);
        place.find_part({(int)s.K, 1, 1}, turns_a_split, Unit::PLACES);
    }
    __syncthreads();

    float acc[RM][RN] = {};
    Totals totals;
    MatmulOperands<T, TM, TN, GATE, TRANSPOSE_A, TRANSPOSE_B, PiecesA, PiecesB> operands = {s, place, a, gate_y, b, gate};
    multiply_all<Unit>(operands, buffers, place, totals, acc);
    float none;
    if (!add_splits<0, Unit::BLOCK>(place, slots, arrivals, acc, none)) return;

    constexpr int PIECE = least(RN, 4);
    const bool by_four = Unit::BY_FOUR || comes_in_fours(y, s.P);
#pragma unroll
    for (int j = 0; j < RN; j += PIECE) {
        const int col = place.col * TN + Unit::col(j), left = s.P - col;
        float added[PIECE];
#pragma unroll
        for (int u = 0; u < PIECE; ++u) added[u] = bias && u < left ? to_float(bias[col + u]) : 0.0f;
#pragma unroll
        for (int i = 0; i < RM; ++i) {
            const int row = place.row * TM + Unit::row(i);
            if (row >= s.M) break;
            float v[PIECE];
#pragma unroll
            for (int u = 0; u < PIECE; ++u) v[u] = acc[i][j + u] + added[u];
            activate_results<GATE == GATE_ACTIVATION, PIECE>(f, v);  // there is none with `accumulate`
            add_columns<PIECE>(y, row * s.P + col, v, left, by_four, s.accumulate);
        }
    }
}

// With GATE_ACTIVATION the results may have any activation too, otherwise ReLU or none.
template <typename T, int TM, int TN, int RM, int RN, int V, int GATE, bool TRANSPOSE_A, bool TRANSPOSE_B>
__global__ void __launch_bounds__(THREADS, resident(RM * RN)) matmul_tiled(
        const T* __restrict__ a, const T* __restrict__ OR_NULL gate_y, const T* __restrict__ b, const T* __restrict__ OR_NULL bias,
        T* __restrict__ ADDED_TO y, float* __restrict__ OR_NULL UPDATED slots, int* __restrict__ OR_NULL UPDATED arrivals, Product s,
        Activation gate, Activation f, int turns_a_split) {
    typedef CudaCores<TM, TN, RM, RN> Unit;
    typedef typename Choice<TRANSPOSE_A, PiecesAlong<T, TM, V>, PiecesAcross<T, TM, V>>::Type PiecesA;
    typedef typename Choice<TRANSPOSE_B, PiecesAcross<T, TN, V>, PiecesAlong<T, TN, V>>::Type PiecesB;
    __shared__ typename Unit::Buffers buffers;
    __shared__ Place place;
    known_block();
    compute_tile<Unit, Totals<RM, RN>, GATE, TRANSPOSE_A, TRANSPOSE_B, TM, TN, RM, RN, PiecesA, PiecesB>(
        a, gate_y, b, bias, y, slots, arrivals, s, gate, f, turns_a_split, buffers, place);
}

// On the tensor cores.
template <typename T, int TERMS, int TM, int TN, int RM, int RN, int GATE, bool TRANSPOSE_A, bool TRANSPOSE_B>
__global__ void __launch_bounds__(block_of(TM, TN, RM, RN)) matmul_mma(
        const T* __restrict__ a, const T* __restrict__ OR_NULL gate_y, const T* __restrict__ b, const T* __restrict__ OR_NULL bias,
        T* __restrict__ ADDED_TO y, float* __restrict__ OR_NULL UPDATED slots, int* __restrict__ OR_NULL UPDATED arrivals, Product s,
        Activation gate, Activation f, int turns_a_split) {
    typedef TensorCores<T, TERMS, TM, TN, RM, RN> Unit;
    typedef typename Choice<TRANSPOSE_A, ByPlace<T, TM, Unit::BLOCK>, ByResult<T, TM, Unit::BLOCK>>::Type PiecesA;
    typedef typename Choice<TRANSPOSE_B, ByResult<T, TN, Unit::BLOCK>, ByPlace<T, TN, Unit::BLOCK>>::Type PiecesB;
    __shared__ Place place;
    known_block<Unit::BLOCK>();
    compute_tile<Unit, typename Unit::Totals, GATE, TRANSPOSE_A, TRANSPOSE_B, TM, TN, RM, RN, PiecesA, PiecesB>(
        a, gate_y, b, bias, y, slots, arrivals, s, gate, f, turns_a_split, Unit::buffers(), place);
}
