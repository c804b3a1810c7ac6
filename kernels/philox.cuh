// Philox4x64-10 (Salmon et al. 2011), which draws the words of
//   numpy.random.Philox(key=(seed, purpose), counter=(0, step, call, epoch)).
// NumPy counts up before it draws, so block i has the counter (i + 1, step, call, epoch); see
// gpunet/random.py.
struct Stream {
    uint64 seed, purpose, step, call, epoch;
};

// The stream with the step and the epoch in `clock` added to its own, so that a recorded launch
// draws new numbers at each replay. A null clock adds nothing.
__device__ __forceinline__ Stream at(Stream s, const uint64* clock) {
    if (clock) s.step += clock[0], s.epoch += clock[1];
    return s;
}

__device__ __forceinline__ void philox(const Stream& s, uint64 block, uint64 (&words)[4]) {
    const uint64 first = 0xD2E7470EE14C6C93ull, second = 0xCA5A826395121157ull;  // the multipliers
    uint64 key0 = s.seed, key1 = s.purpose;
    words[0] = block + 1, words[1] = s.step, words[2] = s.call, words[3] = s.epoch;
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const uint64 high0 = __umul64hi(first, words[0]), low0 = first * words[0];
        const uint64 high1 = __umul64hi(second, words[2]), low1 = second * words[2];
        words[0] = high1 ^ words[1] ^ key0;
        words[1] = low1;
        words[2] = high0 ^ words[3] ^ key1;
        words[3] = low0;
        key0 += 0x9E3779B97F4A7C15ull;  // the golden ratio and sqrt(3) - 1, as fractions of 2^64
        key1 += 0xBB67AE8584CAA73Bull;
    }
}
