// The main loop of every product: convolutions, both of their gradients, and matmul.
//
// A block of THREADS threads computes TM x TN results of a matrix product, RM x RN of them in the
// registers of each thread, in steps of TILE_K along the reduction. A turn of the loop has three
// parts: it *fetches* the pieces of both matrices for the next turn from global memory into
// registers, *multiplies* what stands in shared memory for this turn, and *stages* what it fetched
// in the other buffer. So the loads are in flight while the block multiplies, and one barrier a
// turn is enough. A kernel gives how its operands are fetched and staged, and what becomes of the
// results ("implicit GEMM": no matrix of a convolution is ever written).
//
// In shared memory the reduction is outermost. Rows are 4 floats longer than the tile, which keeps
// 16-byte pieces aligned. A warp computes 4 RM rows and 8 RN columns: two bits of the lane choose
// the rows and three the columns, interleaved, so that lanes n and n ^ 1 share their rows and lanes
// n and n ^ 2 their columns. Loads of 16 bytes by such neighbours share a pass over the banks.
//
// Without a number of blocks in __launch_bounds__, ptxas aims at more and spills registers.
// `known_block` tells the compiler that there are 256 threads, which leaves no branch around an
// unrolled load.
#define TILE_K 16

__host__ __device__ constexpr int divide_up(int a, int b) { return (a + b - 1) / b; }

// Blocks of a multiprocessor, by the results of a thread, for which __launch_bounds__ asks.
__host__ __device__ constexpr int resident(int results) { return results <= 16 ? 3 : 2; }

template <int TM, int TN>
struct __align__(16) Buffers {
    float a[2][TILE_K][TM + 4];
    float b[2][TILE_K][TN + 4];
};

__device__ __forceinline__ void known_block() { __builtin_assume(threadIdx.x < THREADS); }

__host__ __device__ constexpr int least(int a, int b) { return a < b ? a : b; }

// The i-th row and the j-th column of this thread's results in the tile. They come in pieces of up
// to four neighbours.
template <int TM, int RM>
__device__ __forceinline__ int result_row(int i) {
    constexpr int PIECE = least(RM, 4), WARP_ROWS = TM / (4 * RM);
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int of_lane = (lane >> 1 & 1) | (lane >> 3 & 1) << 1;
    return warp % WARP_ROWS * 4 * RM + i / PIECE * 4 * PIECE + of_lane * PIECE + i % PIECE;
}

template <int TM, int RM, int RN>
__device__ __forceinline__ int result_col(int j) {
    constexpr int PIECE = least(RN, 4), WARP_ROWS = TM / (4 * RM);
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int of_lane = (lane & 1) | (lane >> 2 & 1) << 1 | (lane >> 4 & 1) << 2;
    return warp / WARP_ROWS * 8 * RN + j / PIECE * 8 * PIECE + of_lane * PIECE + j % PIECE;
}

// A number in three digits: a place of a reduction with three axes, the innermost one first. It is
// divided out once, and then counted on by the same step at every turn.
struct __align__(16) Digits {
    int low, mid, high, unused;  // of 16 bytes, so that it is one load
};

__device__ __forceinline__ Digits digits_of(int number, const Digits& extents) {
    return {number % extents.low, number / extents.low % extents.mid, number / extents.low / extents.mid, 0};
}

__device__ __forceinline__ void add(Digits& to, const Digits& step, int lows, int mids) {
    to.low += step.low;
    const bool carry = to.low >= lows;
    to.low -= carry ? lows : 0;
    to.mid += step.mid + carry;
    const bool carry_on = to.mid >= mids;
    to.mid -= carry_on ? mids : 0;
    to.high += step.high + carry_on;
    to.unused = 0;  // which makes it one store, too
}

// What a block computes: a tile of results, and a part of the reduction. It stands in shared memory,
// for no register is free to keep it over the main loop. One thread finds it.
struct Place {
    int rows;                   // of all results
    int tile, row, col, group;  // the number of the tile; its row and column, counted in tiles
    int split, splits;          // which part of the reduction, of how many
    int turn, end, stop;        // the turns of this part, and the place of the reduction behind it
    Digits extents, step;       // of the reduction; by how much a turn advances

    // Neighbouring blocks compute the column tiles of one row tile, which share the left matrix in
    // the L2 cache.
    __device__ void find_tile(int row_tiles, int col_tiles, int groups) {
        const int tiles = row_tiles * col_tiles * groups;
        tile = blockIdx.x % tiles, split = blockIdx.x / tiles, splits = gridDim.x / tiles;
        col = tile % col_tiles, group = tile / col_tiles % groups, row = tile / col_tiles / groups;
    }
    // A part has `turns_a_split` turns; the last ones may have fewer, or none.
    __device__ void find_part(Digits extents, int turns_a_split) {
        this->extents = extents, step = digits_of(TILE_K, extents);
        const int depth = extents.low * extents.mid * extents.high;
        const int turns = divide_up(depth, TILE_K);
        turn = min(split * turns_a_split, turns), end = min(turn + turns_a_split, turns), stop = min(end * TILE_K, depth);
    }
};

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

// acc += the product of one turn.
template <typename FormA, typename FormB, int TM, int TN, int RM, int RN>
__device__ __forceinline__ void multiply(
        const float (&a)[TILE_K][TM + 4], const float (&b)[TILE_K][TN + 4], int row, int col, float (&acc)[RM][RN]) {
    static_assert(TM * TN == RM * RN * THREADS, "each thread makes RM x RN results");
    constexpr int ROWS = least(RM, 4), COLS = least(RN, 4);
#pragma unroll
    for (int k = 0; k < TILE_K; ++k) {
        float left[RM], top[RN];
#pragma unroll
        for (int i = 0; i < RM; i += ROWS) read_piece<FormA, ROWS>(left + i, a[k], k, row + i * 4);
#pragma unroll
        for (int j = 0; j < RN; j += COLS) read_piece<FormB, COLS>(top + j, b[k], k, col + j * 8);
#pragma unroll
        for (int i = 0; i < RM; ++i)
#pragma unroll
            for (int j = 0; j < RN; ++j) acc[i][j] += left[i] * top[j];
    }
}

// The main loop. `operands` has fetch(k0), for the turn that starts at place k0 of the reduction, and
// stage(buffers, which), and names the forms in which it stages them. In the last turn it fetches once
// more, at best beyond the end: zeros. `totals` takes the sums of a few turns in, where long sums would
// lose digits, and with it the operands do what they need to do once in so many turns.
template <typename Operands, typename Totals, int TM, int TN, int RM, int RN>
__device__ __forceinline__ void multiply_all(
        Operands& operands, Buffers<TM, TN>& buffers, const Place& place, Totals& totals, float (&acc)[RM][RN]) {
    const int row = result_row<TM, RM>(0), col = result_col<TM, RM, RN>(0);
    operands.fetch(place.turn * TILE_K);
    operands.stage(buffers, 0);
    __syncthreads();
    for (int turn = place.turn, now = 0; turn < place.end;) {
        const int end = min(turn + Totals::TURNS, place.end);
        for (; turn < end; ++turn, now ^= 1) {
            operands.fetch((turn + 1) * TILE_K);
            multiply<typename Operands::FormA, typename Operands::FormB, TM, TN>(buffers.a[now], buffers.b[now], row, col, acc);
            operands.stage(buffers, now ^ 1);
            __syncthreads();
        }
        operands.take_in(turn), totals.take_in(acc);
    }
    totals.finish(acc);
}

// Where each result is one sum, of as many products as the reduction has.
struct NoTotals {
    static constexpr int TURNS = 1 << 30;
    template <int RM, int RN> __device__ __forceinline__ void take_in(float (&)[RM][RN]) {}
    template <int RM, int RN> __device__ __forceinline__ void finish(float (&)[RM][RN]) {}
};

// Four of a thread's results, from number q on.
template <int RM, int RN>
__device__ __forceinline__ float4 piece_of(const float (&acc)[RM][RN], int q) {
    return make_float4(
        acc[q / RN][q % RN], acc[(q + 1) / RN][(q + 1) % RN], acc[(q + 2) / RN][(q + 2) % RN], acc[(q + 3) / RN][(q + 3) % RN]);
}

template <int RM, int RN>
__device__ __forceinline__ void fill_piece(float (&acc)[RM][RN], int q, float4 v) {
    acc[q / RN][q % RN] = v.x, acc[(q + 1) / RN][(q + 1) % RN] = v.y;
    acc[(q + 2) / RN][(q + 2) % RN] = v.z, acc[(q + 3) / RN][(q + 3) % RN] = v.w;
}

// Turns whose products are added up before they are added to a total. A part of the reduction has
// few of these, so that both sums are short.
#define TILE_STEPS 4

// The totals lie in dynamic shared memory, which the launch asks for: TM TN floats.
template <int RM, int RN>
struct Totals {
    static constexpr int TURNS = TILE_STEPS;
    float4* own;

    __device__ __forceinline__ Totals() {
        extern __shared__ float4 totals_of_block[];
        own = totals_of_block + threadIdx.x;
#pragma unroll
        for (int q = 0; q < RM * RN; q += 4) own[q / 4 * THREADS] = make_float4(0, 0, 0, 0);
    }
    __device__ __forceinline__ void take_in(float (&acc)[RM][RN]) {
#pragma unroll
        for (int q = 0; q < RM * RN; q += 4) {
            const float4 total = own[q / 4 * THREADS], v = piece_of(acc, q);
            own[q / 4 * THREADS] = make_float4(total.x + v.x, total.y + v.y, total.z + v.z, total.w + v.w);
            fill_piece(acc, q, make_float4(0, 0, 0, 0));
        }
    }
    __device__ __forceinline__ void finish(float (&acc)[RM][RN]) {
#pragma unroll
        for (int q = 0; q < RM * RN; q += 4) fill_piece(acc, q, own[q / 4 * THREADS]);
    }
};

// base + row * length. The product of 32 bits by 32 has 64, in one instruction.
template <typename T>
__device__ __forceinline__ const T* at(const T* base, int row, int length) {
    return reinterpret_cast<const T*>(reinterpret_cast<const char*>(base) + (int64)row * (int)(length * sizeof(T)));
}

// V elements as they lie in memory, zeros where they are not there: converted when they are staged, not
// while they are in flight.
template <typename T, int V>
struct Raw {
    Bits<T, V> bits;

    __device__ __forceinline__ void load_if(bool there, const T* p) {
        ::load_if(there, bits, reinterpret_cast<const Bits<T, V>*>(p));
    }
    __device__ __forceinline__ void read(float* v) const {
#pragma unroll
        for (int u = 0; u < V; ++u) v[u] = to_float(reinterpret_cast<const T*>(&bits)[u]);
    }
};

// How a thread's pieces lie in the tile of an operand of EXTENT results.
template <int EXTENT, int V>
struct PiecesAlong {
    typedef Along Form;
    static constexpr int LANES = EXTENT / V, STEP = THREADS / LANES, COUNT = (TILE_K + STEP - 1) / STEP;
    static constexpr bool WHOLE = STEP <= TILE_K;  // otherwise some threads have no piece

    static __device__ __forceinline__ int first() { return threadIdx.x % LANES * V; }
    static __device__ __forceinline__ int k(int n) {
        const int row = threadIdx.x / LANES;
        // The two rows of a warp stand four apart where they are short, so that they meet in no bank.
        if constexpr (EXTENT == 16 && V == 1) return (row & 1) << 2 | (row >> 1 & 3) | (row & 8);
        return row + n * STEP;
    }
    static __device__ __forceinline__ bool has() { return WHOLE || threadIdx.x < TILE_K * LANES; }
    static __device__ __forceinline__ void stage(float (&to)[TILE_K][EXTENT + 4], int n, const float* v) {
        if (!has()) return;
        float* at = &to[k(n)][first()];
        if constexpr (V == 4) *reinterpret_cast<float4*>(at) = make_float4(v[0], v[1], v[2], v[3]);
        else *at = v[0];
    }
};

template <int EXTENT, int V>
struct PiecesAcross {
    typedef Across<V> Form;
    static constexpr int LANES = TILE_K / V, STEP = THREADS / LANES, COUNT = (EXTENT + STEP - 1) / STEP;
    static constexpr bool WHOLE = STEP <= EXTENT;

    static __device__ __forceinline__ int k() { return threadIdx.x % LANES * V; }
    static __device__ __forceinline__ int result(int n) { return threadIdx.x / LANES + n * STEP; }
    static __device__ __forceinline__ bool has() { return WHOLE || threadIdx.x < EXTENT * LANES; }
    static __device__ __forceinline__ void stage(float (&to)[TILE_K][EXTENT + 4], int n, const float* v) {
        if (!has()) return;
        const int at = result(n) ^ (k() >= TILE_K / 2 ? Form::SHIFT : 0);
#pragma unroll
        for (int u = 0; u < V; ++u) to[k() + u][at] = v[u];
    }
};

// y[at + j] = v[j] for the columns below `columns`, at once where `by_four`: then at, y and
// `columns` are multiples of four elements.
template <int COUNT, typename T>
__device__ __forceinline__ void store_columns(T* y, int64 at, const float* v, int columns, bool by_four) {
    if (COUNT == 4 && by_four) {
        Bits<T, 4> all;
#pragma unroll
        for (int j = 0; j < 4; ++j) from_float(reinterpret_cast<T*>(&all)[j], v[j % COUNT]);
        if (columns > 0) store_whole(reinterpret_cast<Bits<T, 4>*>(y + at), all);
    } else {
#pragma unroll
        for (int j = 0; j < COUNT; ++j)
            if (j < columns) from_float(y[at + j], v[j]);
    }
}

// The same, added to what y holds where `accumulate`.
template <int COUNT, typename T>
__device__ __forceinline__ void add_columns(T* y, int64 at, const float* v, int columns, bool by_four, int accumulate) {
    float sums[COUNT];
#pragma unroll
    for (int j = 0; j < COUNT; ++j) sums[j] = v[j];
    if (accumulate) {
        if (COUNT == 4 && by_four && columns > 0) {
            float old[4];
            load<4>(old, y + at);
#pragma unroll
            for (int j = 0; j < COUNT; ++j) sums[j] += old[j];
        } else {
#pragma unroll
            for (int j = 0; j < COUNT; ++j)
                if (j < columns) sums[j] += to_float(y[at + j]);
        }
    }
    store_columns<COUNT>(y, at, sums, columns, by_four);
}
