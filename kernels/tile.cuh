// The product of two tiles in shared memory, used by the convolutions and by matmul.
//
// A block of THREADS threads computes TM x TN results, RM x RN of them in each thread's registers, in
// steps of 16 along the reduction. Both operands stand in shared memory with the reduction
// outermost. In each step a thread then reads RM + RN neighbouring floats for RM * RN multiply-adds
// (8 for 16, or 12 for 32), so that the bandwidth of shared memory does not limit it. Rows are 4
// floats longer than the tile: still a multiple of 16 bytes, and transposed stores spread over the
// banks.
//
// Kernels ask for two blocks per multiprocessor in __launch_bounds__: without a number, ptxas aims
// at more and spills registers.
#define TILE_K 16

template <int TM, int TN>
struct __align__(16) Tile {
    float a[TILE_K][TM + 4];
    float b[TILE_K][TN + 4];
};

// The first row and column of this thread's results.
template <int TN, int RM, int RN>
__device__ __forceinline__ int tile_row() {
    return threadIdx.x / (TN / RN) * RM;
}

template <int TN, int RN>
__device__ __forceinline__ int tile_col() {
    return threadIdx.x % (TN / RN) * RN;
}

template <int TM, int TN, int RM, int RN>
__device__ __forceinline__ void multiply_tile(const Tile<TM, TN>& tile, float (&acc)[RM][RN]) {
    static_assert(TM * TN == RM * RN * THREADS, "each thread makes RM x RN results");
    const int row = tile_row<TN, RM, RN>(), col = tile_col<TN, RN>();
#pragma unroll
    for (int k = 0; k < TILE_K; ++k) {
        float a[RM], b[RN];
#pragma unroll
        for (int i = 0; i < RM; ++i) a[i] = tile.a[k][row + i];
#pragma unroll
        for (int j = 0; j < RN; ++j) b[j] = tile.b[k][col + j];
#pragma unroll
        for (int i = 0; i < RM; ++i)
#pragma unroll
            for (int j = 0; j < RN; ++j) acc[i][j] += a[i] * b[j];
    }
}

// y[at + j] = v[j] for the columns below `columns`; four at once where V and RN are 4, since
// `columns` is a multiple of 4 then.
template <int V, int RN, typename T>
__device__ __forceinline__ void store_columns(T* y, int64 at, const float (&v)[RN], int columns) {
    if constexpr (V == 4 && RN == 4) {
        if (columns > 0) store<4>(y + at, v);
    } else {
#pragma unroll
        for (int j = 0; j < RN; ++j)
            if (j < columns) from_float(y[at + j], v[j]);
    }
}
