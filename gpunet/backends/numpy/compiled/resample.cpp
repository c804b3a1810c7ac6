// Separable resampling of images by two tables of weights, gpunet/resampling.py: first along the rows, then along
// the columns. Weights of 0 stand in no table, so a NaN reaches no output that does not depend on it.
#include "loops.hpp"

// One axis: output p is the sum of weight[t] x[index[t]] over t = starts[p] … starts[p + 1] - 1.
struct Table {
    const int32_t *starts, *index;
    const double* weight;
};

// The weighted sum of rows of x (H, length) that output p takes; or the row itself, if it is that alone.
template <typename T>
static const T* mixed(const T* x, long length, const Table& rows, long p, T* to, bool copied) {
    const long first = rows.starts[p], last = rows.starts[p + 1];
    if (!copied && last - first == 1 && rows.weight[first] == 1) return x + rows.index[first] * length;
    for_range<T>(0, length, [&](long at, long left) {
        typedef Vector<T> V;
        V sum = V{};
        for (long t = first; t < last; ++t) sum += load_some<V>(x + rows.index[t] * length + at, left) * (T)rows.weight[t];
        store_some(to + at, sum, left);
    });
    return to;
}

// Rows begin … end - 1 of the y of all images
template <typename T>
static void resample(
    long begin, long end, const T* x, T* y, long H, long W, long C, long OH, long OW, const int32_t* row_starts,
    const int32_t* row_index, const double* row_weight, const int32_t* column_starts, const int32_t* column_index, const double* column_weight) {
    typedef Vector<T> V;
    const Table rows = {row_starts, row_index, row_weight}, columns = {column_starts, column_index, column_weight};
    T* const space = scratch<T>(0, W * C + Lanes<T>::COUNT);  // channels are read by vectors, at the last pixel too
    const bool copied = C % Lanes<T>::COUNT;
    long left = (end - begin) * OW * C;  // of y
    y += begin * OW * C;
    for (long at = begin; at < end; ++at) {
        const T* const line = mixed(x + at / OH * H * W * C, W * C, rows, at % OH, space, copied);
        for (long q = 0; q < OW; ++q, y += C, left -= C)
            for (long c = 0; c < C; c += Lanes<T>::COUNT) {
                V sum = V{};
                for (long t = columns.starts[q]; t < columns.starts[q + 1]; ++t)
                    sum += load<V>(line + columns.index[t] * C + c) * (T)columns.weight[t];
                store_some(y + c, sum, left - c);
            }
    }
}
LOOP(resample)
