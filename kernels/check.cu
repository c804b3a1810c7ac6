#include "common.cuh"
// What `gpunet check` asks a device beside the primitives: how the arguments of a launch arrive, and whether bits are equal.
//   echo_numbers, echo_struct: y = each number of the arguments, in order
//   echo_pointers: y = the first element behind each pointer, -1 where it is null
//   differing_words: differing[0] += how many floats of a and b differ in their bits
// Bound: memory, for differing_words the bytes of both arrays once.

struct Echo {  // its members' alignments leave gaps between them
    bool flag;
    int64 wide;
    uint8 small;
    double real;
    short words[3];
    float single;
    half narrow;
    bfloat16 brain;
    uint64 unsigned_wide;
    char last;
};

__global__ void echo_numbers(
        bool flag, char c, uint8 u8, short s, uint16 u16, int i, uint32 u32, int64 i64, uint64 u64, half h, bfloat16 b, float f,
        double d, double* __restrict__ y) {
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        y[0] = flag, y[1] = c, y[2] = u8, y[3] = s, y[4] = u16, y[5] = i, y[6] = u32, y[7] = i64, y[8] = u64;
        y[9] = to_float(h), y[10] = to_float(b), y[11] = f, y[12] = d;
    }
}

__global__ void echo_struct(Echo s, double* __restrict__ y) {
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        y[0] = s.flag, y[1] = s.wide, y[2] = s.small, y[3] = s.real, y[4] = s.words[0], y[5] = s.words[1], y[6] = s.words[2];
        y[7] = s.single, y[8] = to_float(s.narrow), y[9] = to_float(s.brain), y[10] = s.unsigned_wide, y[11] = s.last;
    }
}

__global__ void echo_pointers(
        const float* __restrict__ OR_NULL first, const half* __restrict__ OR_NULL second, float* __restrict__ y) {
    if (blockIdx.x == 0 && threadIdx.x == 0) y[0] = first ? first[0] : -1.0f, y[1] = second ? to_float(second[0]) : -1.0f;
}

// Whole numbers may be added in any order: the result does not depend on it.
__global__ void differing_words(
        const float* __restrict__ a, const float* __restrict__ b, int64 count, int* __restrict__ UPDATED differing) {
    int found = 0;
    GRID_STRIDE_LOOP(i, count) found += __float_as_uint(a[i]) != __float_as_uint(b[i]);
    if (found) atomicAdd(differing, found);
}
