// Dropout with the words of Philox4x64-10, gpunet/random.py: they are drawn where they are used.
#include "philox.hpp"

constexpr long NUMBERS = 16;  // of 16 bits that a block holds, as in gpunet/random.py

// y = x times 0, or the scale where an element's number is the threshold or more. Element 0 takes number `first` of the
// stream; the loop goes over blocks of numbers, begin … end - 1 behind the block of that number.
template <typename T>
static void dropout(long begin, long end, const T* x, T* y, long elements, long first, const Stream* stream, long threshold,
                    double scale) {
    const T factors[] = {0, (T)scale};
    for (long i = begin; i < end; ++i) {
        uint64_t words[4];
        draw(*stream, first / NUMBERS + i, words);
        const long at = i * NUMBERS - first % NUMBERS, last = std::min(NUMBERS, elements - at);  // element of number 0
        for (long k = std::max(0L, -at); k < last; ++k)
            y[at + k] = x[at + k] * factors[(long)(words[k / 4] >> k % 4 * 16 & 0xFFFF) >= threshold];
    }
}
LOOP(dropout)
