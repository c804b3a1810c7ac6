#include "implicit_gemm.cuh"
// Products on the tensor cores, of 16-bit elements or of floats as TF32, from sm_80 on.
//
// Both matrices travel to shared memory in chunks of 16 bytes by asynchronous copies, three turns
// before they are multiplied. A turn takes 64 bytes of each row of the reduction. A matrix stands in
// shared memory in one of two forms: `ByResult` has a row of 64 bytes for each of its results, `ByPlace`
// a row of all results for each place of the reduction. In both, the place of a chunk in its row is
// shifted by an exclusive or with the number of the row, so that neither the copies nor the loads of
// a warp meet in a bank.
//
// A warp computes 8 RM rows and 4 RN columns, in pieces of 16 x 8 by `mma`. TERMS is the number of its
// products for each one of the results: 1, or 3 for floats that keep their accuracy. A float is then
// the sum of two numbers of TF32, of which the product of the two small parts is left out ("3xTF32";
// Ootomo & Yokota 2022, "Recovering single precision accuracy from Tensor Cores while surpassing the
// FP32 theoretical peak performance", section 3). Infinite elements make NaN there.

// Turns whose pieces shared memory holds: one is multiplied while the others are on their way.
#define STAGES 4
// Bytes of a turn along the reduction, and of what one copy takes.
#define TURN_BYTES 64
#define CHUNK_BYTES 16

template <typename T> __host__ __device__ constexpr int chunk() { return CHUNK_BYTES / (int)sizeof(T); }

// Threads of a block whose threads have RM x RN results each.
__host__ __device__ constexpr int block_of(int tm, int tn, int rm, int rn) { return tm * tn / (rm * rn); }

// What the threads do with the chunks of a matrix, whose places are those of a form. They hold nothing
// of them, for a copy goes to shared memory by itself. What comes through a gate is put there.
template <typename Form, typename T>
struct Chunks {
    static constexpr bool IN_REGISTERS = false;
    struct Held {};

    static __device__ __forceinline__ bool has() { return true; }
    static __device__ __forceinline__ void fetch(Held&, char* to, int n, Wanted<T> wanted) {
        copy_if(wanted.there, to + Form::place(n), wanted.from);
    }
    static __device__ __forceinline__ void stage(Held, char*, int) {}
    static __device__ __forceinline__ void put(char* to, int n, const float* v) {
        float4 all;
#pragma unroll
        for (int u = 0; u < chunk<T>(); ++u) from_float(reinterpret_cast<T*>(&all)[u], v[u]);
        *reinterpret_cast<float4*>(to + Form::place(n)) = all;
    }
    // v = the chunk that this thread has fetched, when it has landed.
    static __device__ __forceinline__ void read(float (&v)[chunk<T>()], const char* from, int n) {
        const float4 all = *reinterpret_cast<const float4*>(from + Form::place(n));
#pragma unroll
        for (int u = 0; u < chunk<T>(); ++u) v[u] = to_float(reinterpret_cast<const T*>(&all)[u]);
    }
};

// How a thread's chunks of V elements lie in the tile of an operand of EXTENT results.
template <typename T, int EXTENT, int BLOCK>
struct ByResult : Chunks<ByResult<T, EXTENT, BLOCK>, T> {
    typedef ByResult Form;
    static constexpr bool BY_BITS = true;  // of windows: see window.cuh
    static constexpr int V = chunk<T>(), LANES = TURN_BYTES / CHUNK_BYTES, STEP = BLOCK / LANES, COUNT = EXTENT / STEP;
    static_assert(EXTENT % STEP == 0 && STEP % 8 == 0, "whole chunks for every thread, in rows that are shifted alike");

    static __device__ __forceinline__ int k() { return threadIdx.x % LANES * V; }
    static __device__ __forceinline__ int result(int n) { return threadIdx.x / LANES + n * STEP; }

    // Where the chunk of row r stands; two rows lie side by side in the banks.
    static __device__ __forceinline__ int place(int r, int chunk) {
        return r * TURN_BYTES + (chunk ^ (r / 2 % LANES)) * CHUNK_BYTES;
    }
    static __device__ __forceinline__ int place(int n) { return place(result(n), threadIdx.x % LANES); }

    // The fragments of `mma`, of 32 bytes of the reduction: of 16 rows of the left matrix …
    static __device__ __forceinline__ void load_left(uint32 (&v)[4], const char* from, int first, int step) {
        const int lane = threadIdx.x % WARP;
        load_matrices(v, from + place(first + lane % 16, 2 * step + lane / 16));
    }
    // … and of twice 8 columns of the right one.
    static __device__ __forceinline__ void load_top(uint32 (&v)[4], const char* from, int first, int step) {
        const int lane = threadIdx.x % WARP;
        load_matrices(v, from + place(first + lane / 16 * 8 + lane % 8, 2 * step + lane / 8 % 2));
    }
};

template <typename T, int EXTENT, int BLOCK>
struct ByPlace : Chunks<ByPlace<T, EXTENT, BLOCK>, T> {
    typedef ByPlace Form;
    static constexpr int V = chunk<T>(), LANES = EXTENT / V, STEP = BLOCK / LANES, PLACES = TURN_BYTES / (int)sizeof(T);
    static constexpr int COUNT = PLACES / STEP;
    static_assert(PLACES % STEP == 0 && STEP % 4 == 0, "whole chunks for every thread");

    static __device__ __forceinline__ int first() { return threadIdx.x % LANES * V; }
    static __device__ __forceinline__ int k(int n) { return threadIdx.x / LANES + n * STEP; }

    // Where the chunk of row k stands. Loads of transposes take one chunk of 8 rows, loads of floats two
    // chunks of 4 rows.
    static __device__ __forceinline__ int place(int k, int chunk) {
        const int shift = sizeof(T) == 2 ? k % 8 : k % 4 * 2;
        return k * LANES * CHUNK_BYTES + (chunk ^ shift) * CHUNK_BYTES;
    }
    static __device__ __forceinline__ int place(int n) { return place(k(n), threadIdx.x % LANES); }

    static __device__ __forceinline__ void load_left(uint32 (&v)[4], const char* from, int first, int step) {
        const int lane = threadIdx.x % WARP;
        if constexpr (sizeof(T) == 2) {
            load_transposes(v, from + place(16 * step + lane / 16 * 8 + lane % 8, first / V + lane / 8 % 2));
        } else {
#pragma unroll
            for (int u = 0; u < 4; ++u) v[u] = element(from, 8 * step + u / 2 * 4 + lane % 4, first + u % 2 * 8 + lane / 4);
        }
    }
    static __device__ __forceinline__ void load_top(uint32 (&v)[4], const char* from, int first, int step) {
        const int lane = threadIdx.x % WARP;
        if constexpr (sizeof(T) == 2) {
            load_transposes(v, from + place(16 * step + lane % 16, first / V + lane / 16));
        } else {
#pragma unroll
            for (int u = 0; u < 4; ++u) v[u] = element(from, 8 * step + u % 2 * 4 + lane % 4, first + u / 2 * 8 + lane / 4);
        }
    }
    static __device__ __forceinline__ uint32 element(const char* from, int k, int i) {
        return *reinterpret_cast<const uint32*>(from + place(k, i / V) + i % V * sizeof(T));
    }
};

// The tensor cores read a float's first 19 bits, TF32, and cut the other 13 off. Half of what the last
// of these bits is worth is added before: so a float is rounded to the nearest. `cvt.rna.tf32` does the
// same with more instructions. A NaN stays one, and infinity too.
#define TF32_BITS 0xffffe000u
#define POWER_BITS 0xff800000u

__device__ __forceinline__ uint32 round_to_tf32(uint32 x) {
    const float power = __uint_as_float(x & POWER_BITS);  // the largest power of two in x, with its sign
    return __float_as_uint(__uint_as_float(x) + power * 0x1p-11f);
}

// COUNT floats for the tensor cores: each as one number of TF32, or as two of which the second is what
// the first lacks. That has up to 13 bits, of which the tensor cores read 11: at most 3 units in the
// last place of the float are lost, 0.9 on average. Elements of 16 bits are taken as they are.
template <typename T, int TERMS, int COUNT>
struct Parts {
    uint32 large[COUNT], small[TERMS == 3 ? COUNT : 1];

    __device__ __forceinline__ void split() {
        if constexpr (sizeof(T) == 4) {
#pragma unroll
            for (int u = 0; u < COUNT; ++u) {
                if constexpr (TERMS == 3) {
                    const float x = __uint_as_float(large[u]);
                    large[u] &= TF32_BITS;
                    small[u] = __float_as_uint(x - __uint_as_float(large[u]));
                } else {
                    large[u] = round_to_tf32(large[u]);
                }
            }
        }
    }
};

// Totals in registers, where a thread has few results: the tensor cores cut off what they add, which the
// sums of 3xTF32 must not.
template <int RM, int RN>
struct RegisterTotals {
    static constexpr int TURNS = TILE_STEPS;
    float own[RM][RN] = {};

    __device__ __forceinline__ void take_in(float (&acc)[RM][RN]) {
#pragma unroll
        for (int q = 0; q < RM * RN; ++q) own[q / RN][q % RN] += acc[q / RN][q % RN], acc[q / RN][q % RN] = 0.0f;
    }
    __device__ __forceinline__ void finish(float (&acc)[RM][RN]) {
#pragma unroll
        for (int q = 0; q < RM * RN; ++q) acc[q / RN][q % RN] = own[q / RN][q % RN];
    }
};

template <int TERMS, int RM, int RN> struct TotalsOf { typedef NoTotals<TILE_STEPS> Type; };
template <int RM, int RN> struct TotalsOf<3, RM, RN> { typedef RegisterTotals<RM, RN> Type; };

template <typename T, int TERMS, int TM, int TN, int RM, int RN>
struct TensorCores {
    static constexpr int BLOCK = block_of(TM, TN, RM, RN), PLACES = TURN_BYTES / (int)sizeof(T), AHEAD = STAGES - 1;
    static constexpr int WARP_ROWS = TM / (8 * RM), STEPS = 2;  // warps along the rows; of 32 bytes in a turn
    static constexpr bool BY_FOUR = true, LEAVES_MOMENTS = true;
    typedef typename TotalsOf<TERMS, RM, RN>::Type Totals;
    struct __align__(16) Buffers {
        char a[STAGES][TM * TURN_BYTES];
        char b[STAGES][TN * TURN_BYTES];
    };

    // They lie in the dynamic shared memory that the launch asks for.
    static __device__ __forceinline__ Buffers& buffers() {
        extern __shared__ float4 buffers_of_block[];
        return *reinterpret_cast<Buffers*>(buffers_of_block);
    }

    // The same memory behind the main loop, when all copies have landed.
    template <typename Scratch>
    static __device__ __forceinline__ Scratch* scratch() {
        static_assert(WARP_ROWS * sizeof(Scratch) <= sizeof(Buffers), "there is room for one for each row of warps");
        return reinterpret_cast<Scratch*>(&buffers());
    }

    static __device__ __forceinline__ int first_row() { return threadIdx.x / WARP % WARP_ROWS * 8 * RM; }
    static __device__ __forceinline__ int first_col() { return threadIdx.x / WARP / WARP_ROWS * 4 * RN; }

    // The i-th row and the j-th column of this thread's results in the tile. Columns come in pieces of
    // four neighbours, see `settle`.
    static __device__ __forceinline__ int row(int i) { return first_row() + 8 * i + threadIdx.x % WARP / 4; }
    static __device__ __forceinline__ int col(int j) {
        return first_col() + j / 4 * 16 + threadIdx.x % 2 * 8 + threadIdx.x / 2 % 2 * 4 + j % 4;
    }

    // The place of row r among the rows in which the four of a thread, one after the other, are a window.
    static __device__ __forceinline__ int corner(int r) { return r / 32 * 32 + r % 8 * 4 + r / 8 % 4; }

    // acc += the product of one turn. The products of one pair of results lie as far apart as there are
    // others, and the small ones come first.
    template <typename FormA, typename FormB>
    __device__ __forceinline__ void multiply(const Buffers& buffers, int slot, float (&acc)[RM][RN]) const {
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            Parts<T, TERMS, 4> left[RM / 2], top;
#pragma unroll
            for (int i = 0; i < RM / 2; ++i) {
                FormA::load_left(left[i].large, buffers.a[slot], first_row() + 16 * i, step);
                left[i].split();
            }
#pragma unroll
            for (int j = 0; j < RN; j += 4) {
                FormB::load_top(top.large, buffers.b[slot], first_col() + 4 * j, step);
                top.split();
                if constexpr (TERMS == 3) add_products(acc, j, left, &Parts<T, TERMS, 4>::small, top.large);
                if constexpr (TERMS == 3) add_products(acc, j, left, &Parts<T, TERMS, 4>::large, top.small);
                add_products(acc, j, left, &Parts<T, TERMS, 4>::large, top.large);
            }
        }
    }

    // The columns j … j + 3 of acc, which are two pieces of 8 columns, += those of left times top.
    template <typename Left, typename Part>
    static __device__ __forceinline__ void add_products(
            float (&acc)[RM][RN], int j, const Left (&left)[RM / 2], Part part, const uint32 (&top)[4]) {
#pragma unroll
        for (int i = 0; i < RM; i += 2)
#pragma unroll
            for (int u = 0; u < 2; ++u) {
                float* const upper = acc[i] + j + 2 * u;
                float* const lower = acc[i + 1] + j + 2 * u;
                multiply_add<T>(upper[0], upper[1], lower[0], lower[1], left[i / 2].*part, top[2 * u], top[2 * u + 1]);
            }
    }

    static __device__ __forceinline__ void fetched() { commit_copies(); }
    // Until the oldest turn of those on their way has landed, for all threads.
    static __device__ __forceinline__ void wait() {
        wait_for_copies<AHEAD - 1>();
        __syncthreads();
    }
    static __device__ __forceinline__ void next(int& now, int& free) { free = now, now = now + 1 < STAGES ? now + 1 : 0; }

    // `mma` leaves a thread two neighbours of each piece of 8 columns. Lanes n and n ^ 1 exchange those of
    // two pieces, after which each has four neighbours of one. Ends the copies, too.
    static __device__ __forceinline__ void settle(float (&acc)[RM][RN]) {
        wait_for_copies<0>();
        const bool odd = threadIdx.x & 1;
#pragma unroll
        for (int i = 0; i < RM; ++i)
#pragma unroll
            for (int j = 0; j < RN; j += 4)
#pragma unroll
                for (int u = 0; u < 2; ++u) {
                    float &first = acc[i][j + u], &second = acc[i][j + 2 + u];
                    const float other = __shfl_xor_sync(ALL_LANES, odd ? first : second, 1);
                    if (odd) first = other;
                    else second = other;
                }
    }
};
