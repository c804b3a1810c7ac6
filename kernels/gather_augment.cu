#include "common.cuh"
#include "philox.cuh"
// A batch of a data set that lies on the device: gathered, cropped, mirrored, cut out, normalised and
// cast in one pass.
//   y[n, i, j, c] = image[order[start + n], row + i', column + j', c] * scale[c] + shift[c],   i' = upended ? h - 1 - i : i
//                                                                                            j' = mirrored ? w - 1 - j : j
//   y_labels[n] = labels[order[start + n]]
//   images uint8 (M, H, W, C)   labels int (M,)   order int: positions
//   y (rows, h, w, C), uint8 if it is not normalised
// Pixels outside an image, where it is padded, are 0 or those of the reflected image. row, column, the
// two flips and the square that is set to 0 are drawn from the Philox block (seed, "augment", position,
// epoch), as gpunet/augmentation.py draws them, so they depend only on the position in the data set. The
// products are rounded before the sums, as in NumPy, so that the bits are the same; 16-bit elements are
// these float32 numbers, rounded.
// With a clock (step, epoch) on the device, epoch = clock[1] and start = (clock[0] % steps) * stride. So
// a launch that is recorded once in a graph makes another batch at each replay. A batch that reaches
// beyond the end of the order repeats the last position.
// Tiling: one block takes an image, or a share of a large image by its grid row y; one of its threads
// draws for all.
// Bound: memory, 1 byte read and 4 written per element (2 written in 16 bits, 1 for uint8); the integer
// divisions that place an element take nearly as long.

#define MAX_CHANNELS 16
#define AUGMENT 3  // gpunet.random.PURPOSES

#define REFLECT 1  // gpunet.augmentation.BORDERS
#define ALTERNATE 2  // gpunet.augmentation.FLIPS

// The fields of gpunet.augmentation.Augmentation, and the extents of the images and of the result.
struct Augmentation {
    int height, width, channels, h, w;
    int padding, border, random_crop, flip, vertical, cutout, cutout_last;
    float scale[MAX_CHANNELS], shift[MAX_CHANNELS];
};

// Which batch: its rows, the length of the order, its start in the order, and how a clock moves the start.
struct Batch {
    int64 rows, positions, start, steps, stride;
    uint64 seed, epoch;
};

struct Choices {
    int row, column, mirrored, upended, hole_row, hole_column;
};

// A number from 0 to bound - 1, from the upper 32 bits of a word.
__device__ __forceinline__ int below(uint64 word, int bound) { return (word >> 32) * bound >> 32; }

__device__ __forceinline__ Choices choose(const Augmentation& a, uint64 seed, uint64 position, uint64 epoch) {
    uint64 words[4], first[4];
    philox({seed, AUGMENT, 0, position, epoch}, 0, words);
    uint64 sides = words[2];
    if (a.flip == ALTERNATE) {
        philox({seed, AUGMENT, 0, position, 0}, 0, first);
        sides = first[2] ^ epoch << 63;
    }
    const int spare_rows = a.height + 2 * a.padding - a.h, spare_columns = a.width + 2 * a.padding - a.w;
    Choices s;
    s.row = (a.random_crop ? below(words[0], spare_rows + 1) : spare_rows / 2) - a.padding;
    s.column = (a.random_crop ? below(words[1], spare_columns + 1) : spare_columns / 2) - a.padding;
    s.mirrored = a.flip && sides >> 63;
    s.upended = a.vertical && words[2] >> 62 & 1;
    s.hole_row = below(words[3], a.h) - a.cutout / 2;
    s.hole_column = below(words[3] << 32, a.w) - a.cutout / 2;
    return s;
}

// The row or column of the image that a row or column of the padded image shows; -1 for a border of 0.
__device__ __forceinline__ int inside(int i, int extent, int border) {
    if (i >= 0 && i < extent) return i;
    if (border != REFLECT) return -1;
    return i < 0 ? -i : 2 * (extent - 1) - i;
}

__device__ __forceinline__ void put(uint8& y, uint8 pixel, const Augmentation&, int) { y = pixel; }

template <typename T>
__device__ __forceinline__ void put(T& y, uint8 pixel, const Augmentation& a, int c) {
    from_float(y, __fadd_rn(__fmul_rn(pixel, a.scale[c]), a.shift[c]));
}

template <typename T>
__global__ void gather_augment(
        const uint8* __restrict__ images, const int* __restrict__ OR_NULL labels, const int* __restrict__ order,
        T* __restrict__ y, int* __restrict__ OR_NULL y_labels, const uint64* __restrict__ OR_NULL clock, Batch batch,
        const __grid_constant__ Augmentation a) {
    __shared__ Choices s;
    const int64 start = clock ? (int64)(clock[0] % batch.steps) * batch.stride : batch.start;
    const uint64 epoch = clock ? clock[1] : batch.epoch;
    const int elements = a.h * a.w * a.channels;
    for (int64 n = blockIdx.x; n < batch.rows; n += gridDim.x) {
        const int64 position = order[min(start + n, batch.positions - 1)];
        if (threadIdx.x == 0) {
            s = choose(a, batch.seed, position, epoch);
            if (y_labels && blockIdx.y == 0) y_labels[n] = labels[position];
        }
        __syncthreads();
        const uint8* image = images + position * a.height * a.width * a.channels;
        for (int e = blockIdx.y * blockDim.x + threadIdx.x; e < elements; e += gridDim.y * blockDim.x) {
            const int c = e % a.channels, j = e / a.channels % a.w, i = e / a.channels / a.w;
            const int row = inside(s.row + (s.upended ? a.h - 1 - i : i), a.height, a.border);
            const int column = inside(s.column + (s.mirrored ? a.w - 1 - j : j), a.width, a.border);
            const bool cut = (unsigned)(i - s.hole_row) < a.cutout && (unsigned)(j - s.hole_column) < a.cutout;
            const uint8 pixel = row < 0 || column < 0 || cut ? 0 : image[(row * a.width + column) * a.channels + c];
            T& to = y[n * elements + e];
            if (cut && a.cutout_last) to = T(0);
            else put(to, pixel, a, c);
        }
        __syncthreads();  // before the choices of the next image overwrite these
    }
}
