// Separable resampling of images by two tables of weights, gpunet/resampling.py: first along the rows, then along
// the columns. Weights of 0 stand in no table, so a NaN reaches no output that does not depend on it.
#include "loops.hpp"

// One axis: output p is the sum of weight[t] x[index[t]] over t = starts[p] … starts[p + 1] - 1.
struct Table {
    const int32_t *starts, *index;
    const double* weight;
};

// to = the weighted sum of rows of x, `pitch` apart, that output p takes: `length` elements. So many as `readable` may be
// read of a row, and `left` may be written.
template <typename T>
static inline void weigh(const T* x, long pitch, const Table& table, long p, long length, long readable, T* to, long left) {
    typedef Vector<T> V;
    constexpr long LANES = Lanes<T>::COUNT, SEVERAL = 4;
    const long first = table.starts[p], last = table.starts[p + 1];
    long at = 0;
    for (; at + SEVERAL * LANES <= length; at += SEVERAL * LANES) {
        V sums[SEVERAL] = {};
        for (long t = first; t < last; ++t) {
            const T* const row = x + table.index[t] * pitch + at;
            const V weight = all<V>((T)table.weight[t]);
#pragma GCC unroll 4
            for (long v = 0; v < SEVERAL; ++v) sums[v] += load<V>(row + v * LANES) * weight;
        }
        for (long v = 0; v < SEVERAL; ++v) store(to + at + v * LANES, sums[v]);
    }
    for (; at < length; at += LANES) {
        V sum = V{};
        for (long t = first; t < last; ++t)
            sum += load_some<V>(x + table.index[t] * pitch + at, readable - at) * all<V>((T)table.weight[t]);
        store_some(to + at, sum, left - at);
    }
}

// The weighted sum of rows of x (H, length) that output p takes; or the row itself, if it is that alone.
template <typename T>
static const T* mixed(const T* x, long length, const Table& rows, long p, T* to, bool copied) {
    const long first = rows.starts[p], last = rows.starts[p + 1];
    if (!copied && last - first == 1 && rows.weight[first] == 1) return x + rows.index[first] * length;
    weigh(x, length, rows, p, length, length, to, length);
    return to;
}

// Rows begin … end - 1 of the y of all images
template <typename T>
static void resample(
    long begin, long end, const T* x, T* y, long H, long W, long C, long OH, long OW, const int32_t* row_starts,
    const int32_t* row_index, const double* row_weight, const int32_t* column_starts, const int32_t* column_index, const double* column_weight) {
    const Table rows = {row_starts, row_index, row_weight}, columns = {column_starts, column_index, column_weight};
    T* const space = scratch<T>(0, W * C + Lanes<T>::COUNT);  // channels are read by vectors, at the last pixel too
    const bool copied = C % Lanes<T>::COUNT;
    long left = (end - begin) * OW * C;  // of y
    y += begin * OW * C;
    for (long at = begin; at < end; ++at) {
        const T* const line = mixed(x + at / OH * H * W * C, W * C, rows, at % OH, space, copied);
        for (long q = 0; q < OW; ++q, y += C, left -= C) weigh(line, C, columns, q, C, C + Lanes<T>::COUNT, y, left);
    }
}
LOOP(resample)
