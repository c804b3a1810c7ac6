#include "common.cuh"
#include "philox.cuh"
// Random numbers from counters, and dropout.
//   random_words:  the words of the stream
//   random_normal: y[e] = table[u[e]], with the inverse normal distribution at 65,536 midpoints
//   dropout:       y[e] = x[e] * (0 where u[e] < threshold, else scale)
// u[e] is the e-th uint16 number of the stream: each word holds four, the lowest bits first.
// Each thread draws a block of the generator: 4 words, or the uint16 numbers of 16 neighbouring
// elements. A warp then hands its 128 words round through shared memory, so that neighbouring threads
// load and store neighbouring elements, V at a time. Element 0 takes number `first` of the stream, so
// that a part of a batch draws what the whole batch draws there. The backward pass of dropout is the same kernel
// on dy: the mask is drawn again and never stored. For `clock` see philox.cuh.
// Alignment: V is 4 in float and 8 in 16 bits, where a load has 16 bytes, to which x and y must be aligned,
// and V must divide the count and `first`; V = 1 needs nothing.
// Bound: dropout is bound by memory (8 bytes per element, against 20 64-bit products for 16
// elements), random_words by the products, and random_normal by the table, of which every thread
// reads another place.

#define WARP_WORDS (4 * WARP)
#define NUMBERS (4 * WARP_WORDS)

// What a warp draws at once: WARP_WORDS words, which hold NUMBERS uint16 numbers. The first dimension
// is the place of a word in its block of the generator. With 36 columns, threads that read
// neighbouring words do not share a bank.
struct WarpWords {
    uint64 of[4][WARP + 4];

    // Draws the blocks from `first` on, one for each lane. Every lane must call it.
    __device__ __forceinline__ void draw(const Stream& s, int64 first) {
        const int lane = threadIdx.x % WARP;
        uint64 own[4];
        philox(s, first + lane, own);
        __syncwarp();  // a lane may still read the words drawn before
#pragma unroll
        for (int j = 0; j < 4; ++j) of[j][lane] = own[j];
        __syncwarp();
    }
    __device__ __forceinline__ uint64 word(int i) const { return of[i % 4][i / 4]; }
};

// v[0 … V - 1] = the uint16 numbers i … i + V - 1 of the warp's words; V divides i.
template <int V>
__device__ __forceinline__ void numbers(uint32 (&v)[V], const WarpWords& words, int i) {
    constexpr int EACH = V < 4 ? V : 4;  // numbers of a word that are taken
#pragma unroll
    for (int first = 0; first < V; first += EACH) {
        const uint64 word = words.word((i + first) / 4);
#pragma unroll
        for (int u = 0; u < EACH; ++u) v[first + u] = (uint32)(word >> (16 * ((i + first) % 4 + u))) & 0xffff;
    }
}

// `part` counts what a warp draws at once, over all warps, from begin to end - 1; it is equal in the whole warp.
#define WARP_STRIDE_LOOP(part, begin, end)                                                                  \
    for (int64 part = (begin) + blockIdx.x * (int64)WARPS + threadIdx.x / WARP; part < (end); part += (int64)gridDim.x * WARPS)

__global__ void __launch_bounds__(THREADS) random_words(
        uint64* __restrict__ y, int64 count, Stream s, const uint64* __restrict__ OR_NULL clock) {
    __shared__ WarpWords drawn[WARPS];
    WarpWords& words = drawn[threadIdx.x / WARP];
    const int lane = threadIdx.x % WARP;
    s = at(s, clock);
    WARP_STRIDE_LOOP(part, 0, (count + WARP_WORDS - 1) / WARP_WORDS) {
        words.draw(s, part * WARP);
#pragma unroll
        for (int i = lane; i < WARP_WORDS; i += WARP)
            if (part * WARP_WORDS + i < count) y[part * WARP_WORDS + i] = words.word(i);
    }
}

// The element that takes the first of the i-th V numbers of a part; -V or less before element 0. The
// compiler sees from the product that the elements are aligned.
#define PLACE(part, i) (((part) * (NUMBERS / V) + (i) - first / V) * V)
#define WITHIN(e, count) ((uint64)(e) < (uint64)(count))  // 0 <= e < count
#define PARTS(first, count) (((first) + (count) + NUMBERS - 1) / NUMBERS)  // one past the last part

template <int V>
__global__ void __launch_bounds__(THREADS) random_normal(
        float* __restrict__ y, int64 count, int64 first, const float* __restrict__ table, Stream s,
        const uint64* __restrict__ OR_NULL clock) {
    __shared__ WarpWords drawn[WARPS];
    WarpWords& words = drawn[threadIdx.x / WARP];
    const int lane = threadIdx.x % WARP;
    s = at(s, clock);
    WARP_STRIDE_LOOP(part, first / NUMBERS, PARTS(first, count)) {
        words.draw(s, part * WARP);
#pragma unroll 4
        for (int i = lane; i < NUMBERS / V; i += WARP) {
            uint32 number[V];
            float v[V];
            numbers<V>(number, words, i * V);
#pragma unroll
            for (int u = 0; u < V; ++u) v[u] = table[number[u]];
            if (WITHIN(PLACE(part, i), count)) store<V>(y + PLACE(part, i), v);
        }
    }
}

template <typename T, int V>
__global__ void __launch_bounds__(THREADS) dropout(
        const T* __restrict__ x, T* __restrict__ y, int64 count, int64 first, Stream s,
        const uint64* __restrict__ OR_NULL clock,
        uint32 threshold, float scale) {
    __shared__ WarpWords drawn[WARPS];
    WarpWords& words = drawn[threadIdx.x / WARP];
    const int lane = threadIdx.x % WARP;
    s = at(s, clock);
    WARP_STRIDE_LOOP(part, first / NUMBERS, PARTS(first, count)) {
        words.draw(s, part * WARP);
        constexpr int UNDER_WAY = V == 8 ? 2 : 4;  // loads of a thread
        for (int start = lane; start < NUMBERS / V; start += UNDER_WAY * WARP) {
            float v[UNDER_WAY][V];
#pragma unroll
            for (int k = 0; k < UNDER_WAY; ++k) {
                const int64 e = PLACE(part, start + k * WARP);
                if (WITHIN(e, count)) load<V>(v[k], x + e);
            }
#pragma unroll
            for (int k = 0; k < UNDER_WAY; ++k) {
                const int64 e = PLACE(part, start + k * WARP);
                uint32 number[V];
                numbers<V>(number, words, (start + k * WARP) * V);
#pragma unroll
                for (int u = 0; u < V; ++u) v[k][u] *= number[u] < threshold ? 0.0f : scale;
                if (WITHIN(e, count)) store<V>(y + e, v[k]);
            }
        }
    }
}
