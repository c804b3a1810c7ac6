#include "common.cuh"
#include "sums.cuh"
#include "tile.cuh"
// Matrix product, bias and activation fused:
//   y = f(op(a) op(b) + bias), or y += op(a) op(b), where op is the matrix or its transpose
//   op(a) (M, K)   op(b) (K, P)   bias (P,) or null   y (M, P)
// The gate (gate_y, of a's shape, and `gate`) takes a back through an activation, while a is
// loaded.
//
// Tiling (`_tiled`): TM x TN results per block, as in tile.cuh. Each operand is read along the axis
// in which it is contiguous (the reduction for a and for b's transpose, the results for b and for
// a's transpose) and stored with the reduction outermost.
//   64 x 64, 4 x 4 per thread;   128 x 16, 4 x 2: up to 16 columns, as in the last layer of a classifier.
// Alignment: V = 4 needs a, gate_y, b, y aligned to four elements, and multiples of 4 for P, for M
// if a is transposed, and for K unless a is transposed and b is not; V = 1 needs nothing.
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

// Add the sums of a few steps to the sums of all, and set them to 0.
template <int RM, int RN>
__device__ __forceinline__ void take_in(Sum (&sums)[RM][RN], float (&acc)[RM][RN]) {
#pragma unroll
    for (int i = 0; i < RM; ++i)
#pragma unroll
        for (int j = 0; j < RN; ++j) sums[i][j].add(acc[i][j]), acc[i][j] = 0.0f;
}

// to[k][i] = the TILE_K x EXTENT part of a matrix that starts at k0 along the reduction and at i0
// along the results. In memory the matrix has the reduction, of `depth`, innermost or, with
// ALONG_RESULTS, the `results`.
template <bool ALONG_RESULTS, int EXTENT, int V, typename T>
__device__ __forceinline__ void load_operand(
        float (&to)[TILE_K][EXTENT + 4], const T* from, const T* gate_y, Activation gate,
        int64 k0, int64 depth, int64 i0, int64 results) {
    if constexpr (ALONG_RESULTS) {
        const int i = threadIdx.x % (EXTENT / V) * V;
#pragma unroll
        for (int k = threadIdx.x / (EXTENT / V); k < TILE_K; k += THREADS * V / EXTENT) {
            float v[V] = {};
            if (k0 + k < depth && i0 + i < results) load_gated<V>(v, from, gate_y, (k0 + k) * results + i0 + i, gate);
#pragma unroll
            for (int u = 0; u < V; ++u) to[k][i + u] = v[u];
        }
    } else {
        const int k = threadIdx.x % (TILE_K / V) * V;
#pragma unroll
        for (int i = threadIdx.x / (TILE_K / V); i < EXTENT; i += THREADS * V / TILE_K) {
            float v[V] = {};
            if (k0 + k < depth && i0 + i < results) load_gated<V>(v, from, gate_y, (i0 + i) * depth + k0 + k, gate);
#pragma unroll
            for (int u = 0; u < V; ++u) to[k + u][i] = v[u];
        }
    }
}

template <typename T, int TM, int TN, int RM, int RN, int V, bool TRANSPOSE_A, bool TRANSPOSE_B>
__global__ void __launch_bounds__(THREADS, 2) matmul_tiled(
        const T* __restrict__ a, const T* __restrict__ OR_NULL gate_y, const T* __restrict__ b, const T* __restrict__ OR_NULL bias,
        T* __restrict__ ADDED_TO y, Product s, Activation gate, Activation f) {
    __shared__ Tile<TM, TN> tile;

    const int64 col_tiles = (s.P + TN - 1) / TN;
    const int64 col0 = blockIdx.x % col_tiles * TN, row0 = blockIdx.x / col_tiles * TM;
    const Activation none = {ACTIVATION_NONE};

    float acc[RM][RN] = {};
    Sum sums[RM][RN];
    for (int64 k0 = 0; k0 < s.K; k0 += TILE_K) {
        load_operand<TRANSPOSE_A, TM, V>(tile.a, a, gate_y, gate, k0, s.K, row0, s.M);
        load_operand<!TRANSPOSE_B, TN, V>(tile.b, b, b, none, k0, s.K, col0, s.P);
        __syncthreads();
        multiply_tile(tile, acc);
        if (k0 / TILE_K % TILE_STEPS == TILE_STEPS - 1) take_in<RM, RN>(sums, acc);
        __syncthreads();  // before the next step overwrites the tiles
    }

    take_in<RM, RN>(sums, acc);
    const int64 row = row0 + tile_row<TN, RM, RN>(), col = col0 + tile_col<TN, RN>();
    const int left = s.P - col < RN ? s.P - col : RN;
    float added[RN];
#pragma unroll
    for (int j = 0; j < RN; ++j) added[j] = bias && j < left ? to_float(bias[col + j]) : 0.0f;
#pragma unroll
    for (int i = 0; i < RM; ++i) {
        if (row + i >= s.M) break;
        const int64 at = (row + i) * s.P + col;
#pragma unroll
        for (int j = 0; j < RN; ++j) {
            acc[i][j] = sums[i][j].value() + added[j];
            if (s.accumulate && j < left) acc[i][j] += to_float(y[at + j]);
        }
        activate<RN>(f, acc[i]);  // there is none with `accumulate`
        store_columns<V>(y, at, acc[i], left);
    }
}
