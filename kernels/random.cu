#include "common.cuh"
#include "philox.cuh"
// Random numbers from counters, and dropout.
//   random_words: the stream's words    random_uniform: the upper 24 bits of a word each, in [0, 1)
//   random_normal: table[u], the inverse of the normal distribution at 65,536 midpoints, with u as for dropout
//   dropout: y[e] = x[e] * (0 where u < threshold, else scale), with u the e-th uint16 of the stream, four a word, low bits first
// A thread draws one block of the generator: 4 words, or what 16 neighbouring elements take. The backward pass of
// dropout is the same kernel on dy: the mask is drawn again and never stored. `clock`: see philox.cuh.
// Bound: memory for dropout (8 bytes an element against 20 64-bit products for 16); the products for the words themselves.

// The j-th uint16 of a block of the generator.
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

template <typename T>
__global__ void random_uniform(T* __restrict__ y, int64 count, Stream s, const uint64* __restrict__ OR_NULL clock) {
    s = at(s, clock);
    GRID_STRIDE_LOOP(block, (count + 3) / 4) {
        uint64 words[4];
        philox(s, block, words);
#pragma unroll
        for (int j = 0; j < 4; ++j)
            if (block * 4 + j < count) from_float(y[block * 4 + j], (float)(uint32)(words[j] >> 40) * 0x1p-24f);
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
