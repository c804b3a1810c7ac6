// Batches of a data set of bytes: gathered, padded, cropped, mirrored, cut out and normalised in one pass. What is done to
// each image has been chosen by gpunet/augmentation.py. The bits are those of NumPy's formula.
#if defined(__clang__)
#pragma clang fp contract(off)
#else
#pragma GCC optimize("fp-contract=off")
#endif
#include "loops.hpp"

struct Sizes {
    long H, W, C, h, w, padding, cutout;  // of an image, of a result, and of what is added and cut out
    long reflect, last;                   // whether the border mirrors the image; whether it is cut out after the normalisation
};

// For each image, where its crop and its hole begin, and whether it is turned; null pointers if nothing is done.
struct Chosen {
    const long *row, *column;
    const uint8_t *mirrored, *upended;
    const long *hole_row, *hole_column;
};

// Pixel i of a padded axis in the image, as numpy.pad has it; -1 for a zero.
static long inside(long i, long extent, long padding, bool reflect) {
    i -= padding;
    if (i >= 0 && i < extent) return i;
    if (!reflect) return -1;
    const long period = std::max(1L, 2 * (extent - 1)), at = (i % period + period) % period;
    return at < extent ? at : period - at;
}

// The bytes of row i of a result: those of the image itself, where they can be read there, or copies in `space`.
static const uint8_t* line_of(const uint8_t* image, const Sizes& s, const Chosen& chosen, long n, long i, uint8_t* space) {
    if (chosen.upended && chosen.upended[n]) i = s.h - 1 - i;
    const long row = inside(i + (chosen.row ? chosen.row[n] : 0), s.H, s.padding, s.reflect);
    const long first = chosen.column ? chosen.column[n] : 0, from = first - s.padding;
    const bool mirrored = chosen.mirrored && chosen.mirrored[n];
    if (row < 0) return (const uint8_t*)memset(space, 0, s.w * s.C);
    const uint8_t* const bytes = image + row * s.W * s.C;
    if (!mirrored && from >= 0 && from + s.w <= s.W) return bytes + from * s.C;
    for (long j = 0; j < s.w; ++j) {
        const long column = inside(first + (mirrored ? s.w - 1 - j : j), s.W, s.padding, s.reflect);
        for (long c = 0; c < s.C; ++c) space[j * s.C + c] = column < 0 ? 0 : bytes[column * s.C + c];
    }
    return space;
}

// Images begin … end - 1 of a batch (n, h, w, C): y = x scale + shift, with a scale and a shift for each channel.
template <typename T>
static void gather(
    long begin, long end, const uint8_t* images, const long* index, T* y, const Sizes* sizes, const long* row, const long* column,
    const uint8_t* mirrored, const uint8_t* upended, const long* hole_row, const long* hole_column, const T* scale, const T* shift) {
    const Sizes& s = *sizes;
    const Chosen chosen = {row, column, mirrored, upended, hole_row, hole_column};
    const long length = s.w * s.C;
    std::vector<T> scales(length), shifts(length);
    for (long k = 0; k < length; ++k) scales[k] = scale[k % s.C], shifts[k] = shift[k % s.C];
    std::vector<uint8_t> space(length);
    for (long n = begin; n < end; ++n)
        for (long i = 0; i < s.h; ++i) {
            const uint8_t* line = line_of(images + index[n] * s.H * s.W * s.C, s, chosen, n, i, space.data());
            T* const to = y + (n * s.h + i) * length;
            long from = 0, count = 0;  // the pixels that are cut out
            if (s.cutout && i >= hole_row[n] && i < hole_row[n] + s.cutout) {
                from = std::max(0L, hole_column[n]);
                count = std::max(0L, std::min(s.w, hole_column[n] + s.cutout) - from);
            }
            for (long k = 0; k < length; ++k) to[k] = (T)line[k] * scales[k] + shifts[k];
            for (long k = from * s.C; k < (from + count) * s.C; ++k) to[k] = s.last ? 0 : shifts[k];
        }
}
LOOP(gather)
