// The main loop of every product: convolutions, both of their gradients, and matmul.
//
// A block computes TM x TN results of a matrix product, RM x RN of them in the registers of each
// thread, in turns along the reduction. A turn has three parts: the block *fetches* the pieces of
// both matrices for a later turn from global memory, *multiplies* what stands in shared memory for
// this turn, and *stages* in shared memory what it fetched into registers. So the loads are in
// flight while the block multiplies, and one barrier a turn is enough.
//
// The unit of the GPU that multiplies says how many places of the reduction a turn takes, in which
// form both matrices stand in shared memory, and which results each thread gets: `CudaCores` of
// cuda_cores.cuh or `TensorCores` of tensor_cores.cuh. A kernel gives how its operands are fetched
// and staged, and what becomes of the results ("implicit GEMM": no matrix of a convolution is ever
// written).

// Places of the reduction in a turn of `CudaCores`.
#define TILE_K 16

__host__ __device__ constexpr int divide_up(int a, int b) { return (a + b - 1) / b; }

// Blocks of a multiprocessor, by the results of a thread, for which __launch_bounds__ asks. Without a
// number, ptxas aims at more and spills registers.
__host__ __device__ constexpr int resident(int results) { return results <= 16 ? 3 : 2; }

// Tells the compiler how many threads a block has, which leaves no branch around an unrolled load.
template <int BLOCK = THREADS>
__device__ __forceinline__ void known_block() { __builtin_assume(threadIdx.x < BLOCK); }

__host__ __device__ constexpr int least(int a, int b) { return a < b ? a : b; }

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
    // A part has `turns_a_split` turns of `places` each; the last ones may have fewer, or none.
    __device__ void find_part(Digits extents, int turns_a_split, int places = TILE_K) {
        this->extents = extents, step = digits_of(places, extents);
        const int depth = extents.low * extents.mid * extents.high;
        const int turns = divide_up(depth, places);
        turn = min(split * turns_a_split, turns), end = min(turn + turns_a_split, turns), stop = min(end * places, depth);
    }
};

// The main loop. `operands` has fetch(k0, buffers, slot) for the turn that starts at place k0 of the
// reduction and stands in a slot of the buffers, stage(buffers, slot), and see(buffers, slot) for what
// it wants to know of a turn that stands there; it names the forms in which its matrices do. The unit
// fetches AHEAD turns before it multiplies them; the last of these lie beyond the end, at best: zeros.
// `totals` takes the sums of a few turns in, where long sums would lose digits, and with it the
// operands do what they need to do once in so many turns.
template <typename Unit, typename Operands, typename Totals, int RM, int RN>
__device__ __forceinline__ void multiply_all(
        Operands& operands, typename Unit::Buffers& buffers, const Place& place, Totals& totals, float (&acc)[RM][RN]) {
    typedef typename Operands::FormA FormA;
    typedef typename Operands::FormB FormB;
    const Unit unit;
#pragma unroll
    for (int slot = 0; slot < Unit::AHEAD; ++slot) {
        operands.fetch((place.turn + slot) * Unit::PLACES, buffers, slot);
        operands.stage(buffers, slot);
        Unit::fetched();
    }
    Unit::wait();
    for (int turn = place.turn, now = 0, free = Unit::AHEAD; turn < place.end;) {
        const int end = min(turn + Totals::TURNS, place.end);
        for (; turn < end; ++turn) {
            operands.fetch((turn + Unit::AHEAD) * Unit::PLACES, buffers, free);
            Unit::fetched();
            operands.see(buffers, now);
            unit.template multiply<FormA, FormB>(buffers, now, acc);
            operands.stage(buffers, free);
            Unit::wait();
            Unit::next(now, free);
        }
        operands.take_in(turn), totals.take_in(acc);
    }
    totals.finish(acc);
    Unit::settle(acc);
}

// Where each result is one sum, of as many products as the reduction has. The operands do what they
// need to do once in TURNS_ turns.
template <int TURNS_ = 1 << 30>
struct NoTotals {
    static constexpr int TURNS = TURNS_;
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

// Totals in the dynamic shared memory that the launch asks for: TM TN floats.
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

// What a thread is about to fetch: where it lies, if it is there. All pieces of a turn are found before the
// first is fetched, for loads from shared memory cannot pass a copy to shared memory.
template <typename T>
struct Wanted {
    bool there;
    const T* from;
};

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

// v[j] += p[at + j], in the same way.
template <int COUNT, typename T>
__device__ __forceinline__ void add_stored(float* v, const T* p, int64 at, int columns, bool by_four) {
    if (COUNT == 4 && by_four && columns > 0) {
        float stored[4];
        load<4>(stored, p + at);
#pragma unroll
        for (int j = 0; j < COUNT; ++j) v[j] += stored[j];
    } else {
#pragma unroll
        for (int j = 0; j < COUNT; ++j)
            if (j < columns) v[j] += to_float(p[at + j]);
    }
}

// As `store_columns`, added to what y holds where `accumulate`.
template <int COUNT, typename T>
__device__ __forceinline__ void add_columns(T* y, int64 at, const float* v, int columns, bool by_four, int accumulate) {
    float sums[COUNT];
#pragma unroll
    for (int j = 0; j < COUNT; ++j) sums[j] = v[j];
    if (accumulate) add_stored<COUNT>(sums, y, at, columns, by_four);
    store_columns<COUNT>(y, at, sums, columns, by_four);
}
