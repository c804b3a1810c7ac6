#include "common.cuh"
#include "philox.cuh"
// Random numbers from counters, and dropout.
//   random_words: the stream's words    random_uniform: the upper 24 bits of a word each, in [0, 1)
//   dropout: y[e] = x[e] * (0 where u < threshold, else scale), with u the e-th uint16 of the stream, four a word, low bits first
// A thread draws one block of the generator: 4 words, or the decisions for 16 neighbouring elements. The backward pass of
// dropout is the same kernel on dy: the mask is drawn again and never stored. `clock`: see philox.cuh.
// Bound: memory for dropout (8 bytes an element against 20 64-bit products for 16); the products for the words themselves.

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
            const uint32 u = (uint32)(words[j / 4] >> (16 * (j % 4))) & 0xffff;
            if (e < count) from_float(y[e], to_float(x[e]) * (u < threshold ? 0.0f : scale));
        }
    }
}
