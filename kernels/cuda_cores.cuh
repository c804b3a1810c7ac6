#include "implicit_gemm.cuh"
// Products on the CUDA cores, in float32.
//
// In shared memory the reduction is outermost. Rows are 4 floats longer than the tile, which keeps
// 16-byte pieces aligned. A warp computes 4 RM rows and 8 RN columns: two bits of the lane choose
// the rows and three the columns, interleaved, so that lanes n and n ^ 1 share their rows and lanes
// n and n ^ 2 their columns. Loads of 16 bytes by such neighbours share a pass over the banks.

// Where a fetcher stages element (k, i) of its matrix. It has one of two forms. Fetched along the
// results, neighbouring lanes hold neighbours of one row of the buffer. Fetched across them, along
// the reduction, V neighbours of one lane go to V rows; the lower half of the rows is then shifted
// by an exclusive or, so that the stores of a warp meet in no bank.
template <int V> struct Across { static constexpr int SHIFT = V == 4 ? 8 : 2; };
struct Along { static constexpr int SHIFT = 0; };

template <typename Form>
__device__ __forceinline__ int shift_of(int k) { return k >= TILE_K / 2 ? Form::SHIFT : 0; }

// v[0 … COUNT - 1] = the piece of row k that starts at i, where it was staged.
template <typename Form, int COUNT>
__device__ __forceinline__ void read_piece(float* v, const float* row, int k, int i) {
    constexpr int INSIDE = Form::SHIFT & (COUNT - 1);  // a shift within the piece permutes registers
    const int shift = shift_of<Form>(k);
    const float* from = row + (i ^ (shift & ~(COUNT - 1)));
    float piece[COUNT];
    if constexpr (COUNT == 4) {
        const float4 all = *reinterpret_cast<const float4*>(from);
        piece[0] = all.x, piece[1] = all.y, piece[2] = all.z, piece[3] = all.w;
    } else {
        const float2 all = *reinterpret_cast<const float2*>(from);
        piece[0] = all.x, piece[1] = all.y;
    }
#pragma unroll
    for (int u = 0; u < COUNT; ++u) v[u] = piece[u ^ (shift ? INSIDE : 0)];
}

template <int TM, int TN, int RM, int RN>
struct CudaCores {
    static_assert(TM * TN == RM * RN * THREADS, "each thread makes RM x RN results");
    static constexpr int BLOCK = THREADS, PLACES = TILE_K, AHEAD = 1;
    // Whether results always lie in rows of whole fours; whether a convolution can leave their moments.
    static constexpr bool BY_FOUR = false, LEAVES_MOMENTS = false;
    typedef NoTotals<> Totals;
    struct __align__(16) Buffers {
        float a[2][TILE_K][TM + 4];
        float b[2][TILE_K][TN + 4];
    };

    // The i-th row and the j-th column of this thread's results in the tile. They come in pieces of
    // up to four neighbours.
    static __device__ __forceinline__ int row(int i) {
        constexpr int PIECE = least(RM, 4), WARP_ROWS = TM / (4 * RM);
        const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
        const int of_lane = (lane >> 1 & 1) | (lane >> 3 & 1) << 1;
        return warp % WARP_ROWS * 4 * RM + i / PIECE * 4 * PIECE + of_lane * PIECE + i % PIECE;
    }
    static __device__ __forceinline__ int col(int j) {
        constexpr int PIECE = least(RN, 4), WARP_ROWS = TM / (4 * RM);
        const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
        const int of_lane = (lane & 1) | (lane >> 2 & 1) << 1 | (lane >> 4 & 1) << 2;
        return warp / WARP_ROWS * 8 * RN + j / PIECE * 8 * PIECE + of_lane * PIECE + j % PIECE;
    }

    // The place of row r among the rows in which the four of a thread, one after the other, are a window.
    static __device__ __forceinline__ int corner(int r) { return r; }

    const int first_row, first_col;

    __device__ __forceinline__ CudaCores() : first_row(row(0)), first_col(col(0)) {}

    // acc += the product of one turn.
    template <typename FormA, typename FormB>
    __device__ __forceinline__ void multiply(const Buffers& buffers, int slot, float (&acc)[RM][RN]) const {
        constexpr int ROWS = least(RM, 4), COLS = least(RN, 4);
#pragma unroll
        for (int k = 0; k < TILE_K; ++k) {
            float left[RM], top[RN];
#pragma unroll
            for (int i = 0; i < RM; i += ROWS) read_piece<FormA, ROWS>(left + i, buffers.a[slot][k], k, first_row + i * 4);
#pragma unroll
            for (int j = 0; j < RN; j += COLS) read_piece<FormB, COLS>(top + j, buffers.b[slot][k], k, first_col + j * 8);
#pragma unroll
            for (int i = 0; i < RM; ++i)
#pragma unroll
                for (int j = 0; j < RN; ++j) acc[i][j] += left[i] * top[j];
        }
    }

    static __device__ __forceinline__ void fetched() {}
    static __device__ __forceinline__ void wait() { __syncthreads(); }
    static __device__ __forceinline__ void next(int& now, int& free) { free = now, now ^= 1; }
    static __device__ __forceinline__ void settle(float (&)[RM][RN]) {}
};

// How a thread's pieces lie in the tile of an operand of EXTENT results: V neighbours of type T, which
// it holds in registers until it stages them as floats.
template <typename T, int EXTENT, int V_>
struct PiecesAlong {
    typedef Along Form;
    typedef float Tile[TILE_K][EXTENT + 4];
    typedef Raw<T, V_> Held;
    static constexpr bool IN_REGISTERS = true;
    static constexpr int V = V_, LANES = EXTENT / V, STEP = THREADS / LANES, COUNT = (TILE_K + STEP - 1) / STEP;
    static constexpr bool WHOLE = STEP <= TILE_K;  // otherwise some threads have no piece

    static __device__ __forceinline__ int first() { return threadIdx.x % LANES * V; }
    static __device__ __forceinline__ int k(int n) {
        const int row = threadIdx.x / LANES;
        // The two rows of a warp stand four apart where they are short, so that they meet in no bank.
        if constexpr (EXTENT == 16 && V == 1) return (row & 1) << 2 | (row >> 1 & 3) | (row & 8);
        return row + n * STEP;
    }
    static __device__ __forceinline__ bool has() { return WHOLE || threadIdx.x < TILE_K * LANES; }
    static __device__ __forceinline__ void fetch(Held& held, Tile&, int, Wanted<T> wanted) {
        held.load_if(wanted.there, wanted.from);
    }
    static __device__ __forceinline__ void put(Tile& to, int n, const float* v) {
        if (!has()) return;
        float* at = &to[k(n)][first()];
        if constexpr (V == 4) *reinterpret_cast<float4*>(at) = make_float4(v[0], v[1], v[2], v[3]);
        else *at = v[0];
    }
    static __device__ __forceinline__ void stage(const Held& held, Tile& to, int n) {
        float v[V];
        held.read(v), put(to, n, v);
    }
};

template <typename T, int EXTENT, int V_>
struct PiecesAcross {
    typedef Across<V_> Form;
    typedef float Tile[TILE_K][EXTENT + 4];
    typedef Raw<T, V_> Held;
    static constexpr bool IN_REGISTERS = true, BY_BITS = false;
    static constexpr int V = V_, LANES = TILE_K / V, STEP = THREADS / LANES, COUNT = (EXTENT + STEP - 1) / STEP;
    static constexpr bool WHOLE = STEP <= EXTENT;

    static __device__ __forceinline__ int k() { return threadIdx.x % LANES * V; }
    static __device__ __forceinline__ int result(int n) { return threadIdx.x / LANES + n * STEP; }
    static __device__ __forceinline__ bool has() { return WHOLE || threadIdx.x < EXTENT * LANES; }
    static __device__ __forceinline__ void fetch(Held& held, Tile&, int, Wanted<T> wanted) {
        held.load_if(wanted.there, wanted.from);
    }
    static __device__ __forceinline__ void put(Tile& to, int n, const float* v) {
        if (!has()) return;
        const int at = result(n) ^ (k() >= TILE_K / 2 ? Form::SHIFT : 0);
#pragma unroll
        for (int u = 0; u < V; ++u) to[k() + u][at] = v[u];
    }
    static __device__ __forceinline__ void stage(const Held& held, Tile& to, int n) {
        float v[V];
        held.read(v), put(to, n, v);
    }
};
