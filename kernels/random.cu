#include "common.cuh"
#include "philox.cuh"
// Random numbers from counters, and dropout.
//   random_words:  the words of the stream
//   random_normal: y[e] = table[u[e]], with the inverse normal distribution at 65,536 midpoints
//   dropout:       y[e] = x[e] * (0 where u[e] < threshold, else scale)
// u[e] is the e-th uint16 number of the stream: each word holds four, the lowest bits first.
// A thread draws one block of the generator at a time: 4 words, or the uint16 numbers of 16
// neighbouring elements. The backward pass of dropout is the same kernel on dy: the mask is drawn
// again and never stored. For `clock` see philox.cuh.
// Bound: dropout is bound by memory (8 bytes per element, against 20 64-bit products for 16
// elements), random_words by the products.

// The j-th uint16 number of one block of the generator.
__device__ __forceinline__ uint32 half_word(const uint64 (&words)[4], int j) {
    return (uint32)(words[j / 4] >> (16 * (j % 4))) & 0xffff;
}

__global__ void random_words(uint64* __restrict__ y, int64 count, Stream s, const uint64* __restrict__ OR_NULL clock) {
    s = at(s, clock);
    GRID_STRIDE_LOOP(block, (count + 3) / 4) {
        uint64 words[4];
        philox(s, block, words);
#pragma unroll
        for (int j = 0; j < 4; ++j)
            if (block * 4 + j < count) y[block * 4 + j] = words[j];
    }
}

__global__ void random_normal(
        float* __restrict__ y, int64 count, const float* __restrict__ table, Stream s,
        const uint64* __restrict__ OR_NULL clock) {
    s = at(s, clock);
    GRID_STRIDE_LOOP(block, (count + 15) / 16) {
        uint64 words[4];
        philox(s, block, words);
#pragma unroll
        for (int j = 0; j < 16; ++j)
            if (block * 16 + j < count) y[block * 16 + j] = table[half_word(words, j)];
    }
}

template <typename T>
__global__ void dropout(
        const T* __restrict__ x, T* __restrict__ y, int64 count, Stream s, const uint64* __restrict__ OR_NULL clock,
        uint32 threshold, float scale) {
    s = at(s, clock);
    GRID_STRIDE_LOOP(block, (count + 15) / 16) {
        uint64 words[4];
        philox(s, block, words);
#pragma unroll
        for (int j = 0; j < 16; ++j) {
            const int64 e = block * 16 + j;
            if (e < count) from_float(y[e], to_float(x[e]) * (half_word(words, j) < threshold ? 0.0f : scale));
        }
    }
}
