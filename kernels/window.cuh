// The windows of a block's pixels, and which of their taps lie inside the image.

// Where the window of a pixel starts: the pixel under its first tap. BY_BITS, `missed` has one bit for each
// row of the window and one for each column, set where it lies outside the image; otherwise the row and the
// column of the first tap stand here, to compare with.
template <bool BY_BITS>
struct __align__(16) Window {
    int pixel, row, col;
    int result;  // the pixel of the results, or -1: for kernels that store them by it
};
template <>
struct __align__(16) Window<true> {
    int pixel;
    uint32 missed;
    int unused, result;
};

// The rows of a window have the lower bits, and its columns those above. NO_TAP is set in every window,
// so that a tap which does not exist lies outside. Larger windows are left to kernels that compare.
#define BIT_ROWS 16
#define BIT_COLS 15
#define NO_TAP (1u << 31)
static_assert(BIT_ROWS + BIT_COLS == 31, "all bits below NO_TAP are used");

// Of the taps start, start + step, … along one axis, those that lie outside.
__device__ __forceinline__ uint32 missed_taps(int start, int step, int taps, int extent) {
    uint32 missed = 0;
    for (int tap = 0; tap < taps; ++tap) missed |= (uint32)!inside(start + tap * step, extent) << tap;
    return missed;
}

// What all windows have in common: the image, their rows and columns of taps, and how far apart these lie.
struct Taps {
    int height, width, rows, cols, down, right;

    template <bool BY_BITS>
    __device__ __forceinline__ void fill(Window<BY_BITS>& window, int image, int row, int col, int result) const {
        const int pixel = (image * height + row) * width + col;
        if constexpr (BY_BITS) {
            const uint32 missed = missed_taps(col, right, cols, width) << BIT_ROWS | missed_taps(row, down, rows, height);
            window = {pixel, missed | NO_TAP, 0, result};
        } else {
            window = {pixel, row, col, result};
        }
    }
};

// The tap in row i and column j of all windows, which lies so many pixels down and right of the first. If it
// is not there, it lies inside no image.
template <bool BY_BITS>
struct Tap {
    const bool there;
    const int down, right;

    __device__ __forceinline__ Tap(bool there, int, int, int down, int right) : there(there), down(down), right(right) {}
    __device__ __forceinline__ bool inside(const Window<false>& window, int height, int width) const {
        // with & alone, ptxas spills registers of the input gradient on sm_100
        return (there & ::inside(window.row + down, height)) && ::inside(window.col + right, width);
    }
};
template <>
struct Tap<true> {
    const uint32 bits;

    __device__ __forceinline__ Tap(bool there, int i, int j, int, int)
        : bits(there ? 1u << i | 1u << (BIT_ROWS + j) : NO_TAP) {}
    __device__ __forceinline__ bool inside(const Window<true>& window, int, int) const { return !(window.missed & bits); }
};
