// Batches of a data set of bytes: gathered, padded, cropped, mirrored, cut out and normalised in one pass. What is done to
// each image has been chosen by gpunet/augmentation.py. The bits are those of NumPy's formula.
#if defined(__clang__)
#pragma clang fp contract(off)
#else
#pragma GCC optimize("fp-contract=off")
#endif
#include "philox.hpp"

struct Sizes {
    long H, W, C, h, w, padding, cutout;  // of an image, of a result, and of what is added and cut out
    long reflect, last;                   // whether the border mirrors the image; whether it is cut out after the normalisation
};

// Pixel i of a padded axis in the image, as numpy.pad has it; -1 for a zero.
static long inside(long i, long extent, long padding, bool reflect) {
    i -= padding;
    if (i >= 0 && i < extent) return i;
    if (!reflect) return -1;
    const long period = std::max(1L, 2 * (extent - 1)), at = (i % period + period) % period;
    return at < extent ? at : period - at;
}

// The bytes of row i of a result: those of the image itself, where they can be read there, or copies in `space`; by the
// columns of the image that those of the result are.
template <long CHANNELS>
static const uint8_t* line_of(const uint8_t* image, const Sizes& s, long row, const long* columns, uint8_t* space) {
    const long c = CHANNELS ? CHANNELS : s.C;
    if (row < 0) return (const uint8_t*)memset(space, 0, s.w * c);
    const uint8_t* const bytes = image + row * s.W * c;
    if (columns[0] >= 0 && columns[s.w - 1] == columns[0] + s.w - 1) return bytes + columns[0] * c;
    for (long j = 0; j < s.w; ++j)
        for (long k = 0; k < c; ++k) space[j * c + k] = columns[j] < 0 ? 0 : bytes[columns[j] * c + k];
    return space;
}

// Images begin … end - 1 of a batch (n, h, w, C): y = x scale + shift, with a scale and a shift for each channel. For each
// image, where its crop and its hole begin, and whether it is turned; null pointers if nothing is done.
template <typename T>
static void gather(
    long begin, long end, const uint8_t* images, const long* index, T* y, const Sizes* sizes, const long* row, const long* column,
    const uint8_t* mirrored, const uint8_t* upended, const long* hole_row, const long* hole_column, const T* scale, const T* shift) {
    const Sizes& s = *sizes;
    const long length = s.w * s.C;
    std::vector<T> scales(length), shifts(length);
    for (long k = 0; k < length; ++k) scales[k] = scale[k % s.C], shifts[k] = shift[k % s.C];
    std::vector<uint8_t> space(length);
    std::vector<long> columns(s.w);
    const auto lines = s.C == 1 ? line_of<1> : s.C == 3 ? line_of<3> : line_of<0>;
    for (long n = begin; n < end; ++n) {
        const bool turned = mirrored && mirrored[n], upside = upended && upended[n];
        const long top = row ? row[n] : 0, left = column ? column[n] : 0;
        for (long j = 0; j < s.w; ++j) columns[j] = inside(left + (turned ? s.w - 1 - j : j), s.W, s.padding, s.reflect);
        for (long i = 0; i < s.h; ++i) {
            const long of_image = inside(top + (upside ? s.h - 1 - i : i), s.H, s.padding, s.reflect);
            const uint8_t* line = lines(images + index[n] * s.H * s.W * s.C, s, of_image, columns.data(), space.data());
            T* const to = y + (n * s.h + i) * length;
            long from = 0, count = 0;  // the pixels that are cut out
            if (s.cutout && i >= hole_row[n] && i < hole_row[n] + s.cutout) {
                from = std::max(0L, hole_column[n]);
                count = std::max(0L, std::min(s.w, hole_column[n] + s.cutout) - from);
            }
            for (long k = 0; k < length; ++k) to[k] = (T)line[k] * scales[k] + shifts[k];
            for (long k = from * s.C; k < (from + count) * s.C; ++k) to[k] = s.last ? 0 : (T)0 * scales[k] + shifts[k];
        }
    }
}
LOOP(gather)

// words (4, n) of the first block of the stream of each sample begin … end - 1
template <typename T>
static void sample_words(long begin, long end, const long* samples, uint64_t* words, long n, const Stream* stream) {
    for (long i = begin; i < end; ++i) {
        Stream of = *stream;
        of.call = samples[i];
        uint64_t block[4];
        draw(of, 0, block);
        for (int k = 0; k < 4; ++k) words[k * n + i] = block[k];
    }
}
LOOP(sample_words)
