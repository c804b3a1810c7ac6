// The words of Philox4x64-10, gpunet/random.py.
#pragma once
#include "loops.hpp"

struct Stream { uint64_t seed, purpose, step, call, epoch; };

// Block `block` of a stream: four words.
static inline void draw(const Stream& s, uint64_t block, uint64_t (&words)[4]) {
    typedef unsigned __int128 Wide;
    uint64_t c0 = block + 1, c1 = s.step, c2 = s.call, c3 = s.epoch, k0 = s.seed, k1 = s.purpose;
    for (int round = 0; round < 10; ++round, k0 += 0x9E3779B97F4A7C15, k1 += 0xBB67AE8584CAA73B) {
        const Wide a = (Wide)c0 * 0xD2E7470EE14C6C93, b = (Wide)c2 * 0xCA5A826395121157;
        c0 = (uint64_t)(b >> 64) ^ c1 ^ k0, c1 = (uint64_t)b, c2 = (uint64_t)(a >> 64) ^ c3 ^ k1, c3 = (uint64_t)a;
    }
    words[0] = c0, words[1] = c1, words[2] = c2, words[3] = c3;
}
