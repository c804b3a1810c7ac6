#include "common.cuh"
// Elementwise operations, and movement of elements.
//   unary:        y[i] = op(a[i])
//   binary:       y[i] = op(a[i], b[i]), with axes of extent 1 repeated
//   compare:      y[i] = a[i] op b[i], true or false, with axes of extent 1 repeated
//   select:       y[i] = condition[i] ? a[i] : b[i]
//   cast:         y[i] = a[i] in another float type, rounded to the nearest, ties to even
//   cast_counts:  y[i] = a[i], which is an integer or a boolean
//   scale:        y[i] = a[i] * (by * factor)
//   fill:         y[i] = value
//   strided_copy: to[at(i)] = from[at(i)], for transpose, get_slice, put_slice and concatenate
// Extents and strides count elements; a repeated axis has stride 0, a reversed one a negative stride.
// The host joins axes that can be walked as one, so arrays of equal shapes arrive with rank 1.
// strided_copy is for any strides. If the axis that is contiguous in `from` is not the one that is
// contiguous in `to`, as in a transpose, strided_copy_tiled takes tiles of these two axes through shared
// memory, so that neighbouring threads read neighbouring elements and write neighbouring elements.
// In 16 bits a thread of binary, cast and scale takes 16 bytes of its widest array, where the arrays are
// aligned to them and the walk allows it (`each_piece`).
// Bound: memory, one element of each array per result.

#define MAX_RANK 8

#define NEGATIVE 0
#define EXP 1
#define LOG 2
#define SQRT 3
#define ABS 4
#define SIGN 5

#define ADD 0
#define SUBTRACT 1
#define MULTIPLY 2
#define DIVIDE 3
#define POWER 4
#define MAXIMUM 5
#define MINIMUM 6

#define EQUAL 0
#define NOT_EQUAL 1
#define LESS 2
#define LESS_EQUAL 3
#define GREATER 4
#define GREATER_EQUAL 5

// `op` is the position in gpunet.backends.contract.arrays.UNARY.
template <typename T>
__global__ void unary(const T* a, T* y, int64 count, int op) {
    GRID_STRIDE_LOOP(i, count) {
        const float x = to_float(a[i]);
        float result = x;
        switch (op) {
            case NEGATIVE: result = -x; break;
            case EXP: result = expf(x); break;
            case LOG: result = logf(x); break;
            case SQRT: result = sqrtf(x); break;
            case ABS: result = fabsf(x); break;
            case SIGN: result = x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x; break;  // NaN stays
        }
        from_float(y[i], result);
    }
}

// How two arrays are walked together over `rank` axes, of which the last one is the fastest.
struct Walk {
    int rank;
    int64 extent[MAX_RANK];
    int64 first_stride[MAX_RANK], second_stride[MAX_RANK];
    int64 first_offset, second_offset;
};

__device__ __forceinline__ void walk(const Walk& s, int64 i, int64& first, int64& second) {
    first = s.first_offset, second = s.second_offset;
#pragma unroll
    for (int axis = MAX_RANK - 1; axis >= 0; --axis) {
        if (axis >= s.rank) continue;
        const int64 at = axis ? i % s.extent[axis] : i;
        i /= s.extent[axis];
        first += at * s.first_stride[axis], second += at * s.second_stride[axis];
    }
}

// How binary walks along the last axis. Each array is contiguous, or repeated along some axes. So where
// pieces divide the last axis, a piece of y is one of both arrays too, or one element that is repeated.
template <int PIECE>
struct LastAxis {
    bool whole, repeats_a = false, repeats_b = false;

    __device__ __forceinline__ explicit LastAxis(const Walk& s) : whole(s.rank == 1) {
#pragma unroll
        for (int axis = 0; axis < MAX_RANK; ++axis)
            if (axis == s.rank - 1) {
                whole |= s.extent[axis] % PIECE == 0;
                repeats_a = s.first_stride[axis] == 0, repeats_b = s.second_stride[axis] == 0;
            }
    }
};

// v = p[at …], or p[at] everywhere if the last axis of p is repeated.
template <int V, typename T>
__device__ __forceinline__ void load_walked(float (&v)[V], const T* p, int64 at, bool repeated) {
    if constexpr (V > 1) {
        if (!repeated) return load(v, p + at);
    }
#pragma unroll
    for (int u = 0; u < V; ++u) v[u] = to_float(p[at]);
}

// `op` is the position in gpunet.backends.contract.arrays.BINARY; y may be a.
template <typename T>
__global__ void binary(const T* a, const T* b, T* y, int64 count, Walk s, int op) {
    const LastAxis<16 / sizeof(T)> last(s);
    each_piece(count, last.whole, [&](auto elements, int64 i) {
        constexpr int V = elements.count;
        int64 at_a, at_b;
        walk(s, i, at_a, at_b);
        float first[V], second[V];
        load_walked(first, a, at_a, last.repeats_a);
        load_walked(second, b, at_b, last.repeats_b);
        const auto all = [&](auto of) {
#pragma unroll
            for (int u = 0; u < V; ++u) first[u] = of(first[u], second[u]);
        };
        switch (op) {
            case ADD: all([](float u, float v) { return u + v; }); break;
            case SUBTRACT: all([](float u, float v) { return u - v; }); break;
            case MULTIPLY: all([](float u, float v) { return u * v; }); break;
            case DIVIDE: all([](float u, float v) { return u / v; }); break;
            case POWER: all([](float u, float v) { return powf(u, v); }); break;
            // NaN wins: if u is not NaN, a NaN in v is taken
            case MAXIMUM: all([](float u, float v) { return is_nan(u) || u > v ? u : v; }); break;
            case MINIMUM: all([](float u, float v) { return is_nan(u) || u < v ? u : v; }); break;
        }
        store(y + i, first);
    }, a, b, y);
}

// The type in which two elements are compared.
template <typename T> __device__ __forceinline__ float comparable(T value) { return to_float(value); }
__device__ __forceinline__ int64 comparable(int64 value) { return value; }
__device__ __forceinline__ int comparable(bool value) { return value; }

// `op` is the position in gpunet.backends.contract.arrays.COMPARISONS. A comparison with NaN is false,
// except NOT_EQUAL.
template <typename T>
__global__ void compare(const T* __restrict__ a, const T* __restrict__ b, bool* __restrict__ y, int64 count, Walk s, int op) {
    GRID_STRIDE_LOOP(i, count) {
        int64 at_a, at_b;
        walk(s, i, at_a, at_b);
        const auto u = comparable(a[at_a]), v = comparable(b[at_b]);
        bool result = u == v;
        switch (op) {
            case NOT_EQUAL: result = u != v; break;
            case LESS: result = u < v; break;
            case LESS_EQUAL: result = u <= v; break;
            case GREATER: result = u > v; break;
            case GREATER_EQUAL: result = u >= v; break;
        }
        y[i] = result;
    }
}

// A null a or b stands for zeros.
template <typename T>
__global__ void select(
        const bool* __restrict__ condition, const T* __restrict__ OR_NULL a, const T* __restrict__ OR_NULL b,
        T* __restrict__ y, int64 count) {
    GRID_STRIDE_LOOP(i, count) {
        const T* from = condition[i] ? a : b;
        from_float(y[i], from ? to_float(from[i]) : 0.0f);
    }
}

template <typename From, typename To>
__global__ void cast_counts(const From* __restrict__ a, To* __restrict__ y, int64 count) {
    GRID_STRIDE_LOOP(i, count) y[i] = (To)a[i];
}

template <typename From, typename To>
__global__ void cast(const From* __restrict__ a, To* __restrict__ y, int64 count) {
    each_piece(count, true, [&](auto elements, int64 i) {
        float v[elements.count];
        load(v, a + i);
        store(y + i, v);
    }, a, y);
}

// `by` is one element; null stands for 1.
template <typename T>
__global__ void scale(
        const T* __restrict__ a, const float* __restrict__ OR_NULL by, T* __restrict__ y, int64 count, float factor) {
    const float product = by ? factor * by[0] : factor;
    each_piece(count, true, [&](auto elements, int64 i) {
        float v[elements.count];
        load(v, a + i);
#pragma unroll
        for (float& x : v) x *= product;
        store(y + i, v);
    }, a, y);
}

template <typename T>
__global__ void fill(T* __restrict__ y, int64 count, T value) {
    GRID_STRIDE_LOOP(i, count) y[i] = value;
}

template <typename T>
__global__ void strided_copy(const T* __restrict__ from, T* __restrict__ to, int64 count, Walk s) {
    GRID_STRIDE_LOOP(i, count) {
        int64 source, target;
        walk(s, i, source, target);
        to[target] = from[source];
    }
}

// The most bytes of a tile's elements, and of the tile in shared memory, whose rows are longer.
#define TILE_BYTES 8192
#define TILE_SHARED 8448
#define UNDER_WAY 8  // loads of a thread

// Two axes, and their tiles. `from` has stride 1 or -1 along the first axis, and `to` along the second.
// A tile has across x down elements, and its rows are `pitch` elements apart, so that the threads of a
// warp, which read columns, do not share a bank.
struct Tiles {
    int64 extent[2], first_stride[2], second_stride[2];
    int across, down, pitch;
};

// The elements of a tile that a thread takes: it counts along rows of `width` elements, and steps over
// those of the other threads.
struct Step {
    int width, i, j;

    __device__ __forceinline__ Step(int width) : width(width), i(threadIdx.x % width), j(threadIdx.x / width) {}
    __device__ __forceinline__ void next(int by, int down) {
        i += by, j += down;
        if (i >= width) i -= width, ++j;
    }
};

// `s` walks over the other axes, and begins with the first element of both arrays.
template <typename T>
__global__ void __launch_bounds__(THREADS) strided_copy_tiled(
        const T* __restrict__ from, T* __restrict__ to, int64 count, Walk s, Tiles of) {
    __shared__ T tile[TILE_SHARED / sizeof(T)];
    const int64 across = (of.extent[0] + of.across - 1) / of.across, down = (of.extent[1] + of.down - 1) / of.down;
    for (int64 t = blockIdx.x; t < count; t += gridDim.x) {  // equal in all threads of the block
        int64 source, target;
        walk(s, t / across / down, source, target);
        const int64 i0 = t % across * of.across, j0 = t / across % down * of.down;
        const int width = min((int64)of.across, of.extent[0] - i0), height = min((int64)of.down, of.extent[1] - j0);
        const T* first = from + source + i0 * of.first_stride[0] + j0 * of.first_stride[1];
        T* second = to + target + i0 * of.second_stride[0] + j0 * of.second_stride[1];
        __syncthreads();  // a thread may still read the tile before
        const int over = THREADS % width, rows = THREADS / width;
        for (Step read(width); read.j < height;) {
            T held[UNDER_WAY];
            int at[UNDER_WAY];
#pragma unroll
            for (int k = 0; k < UNDER_WAY; ++k, read.next(over, rows)) {
                at[k] = read.j < height ? read.j * of.pitch + read.i : -1;
                if (at[k] >= 0) held[k] = first[read.i * of.first_stride[0] + read.j * of.first_stride[1]];
            }
#pragma unroll
            for (int k = 0; k < UNDER_WAY; ++k)
                if (at[k] >= 0) tile[at[k]] = held[k];
        }
        __syncthreads();
        const int beside = THREADS % height, columns = THREADS / height;
        for (Step write(height); write.j < width; write.next(beside, columns))
            second[write.j * of.second_stride[0] + write.i * of.second_stride[1]] = tile[write.i * of.pitch + write.j];
    }
}
