// Dropout with the words of Philox4x64-10, gpunet/random.py: they are drawn where they are used.
#include "philox.hpp"

constexpr long DRAWN = 16;  // elements of a block, for each of which there are 16 bits

// Blocks begin … end - 1 of `elements`: y = x times 0, or the scale where an element's number is the threshold or more.
template <typename T>
static void dropout(long begin, long end, const T* x, T* y, long elements, const Stream* stream, long threshold, double scale) {
    const T factors[] = {0, (T)scale};
    for (long i = begin; i < end; ++i) {
        uint64_t words[4];
        draw(*stream, i, words);
        const long first = i * DRAWN, count = std::min(DRAWN, elements - first);
        for (long k = 0; k < count; ++k)
            y[first + k] = x[first + k] * factors[(long)(words[k / 4] >> k % 4 * 16 & 0xFFFF) >= threshold];
    }
}
LOOP(dropout)
