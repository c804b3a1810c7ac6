#include "common.cuh"
// Elementwise operations and movement.
//   unary: y[i] = op(a[i])    binary: y[i] = op(a[i], b[i]), axes of extent 1 repeated    fill: y[i] = value
//   cast: y[i] = a[i] in another float type, to the nearest, ties to even    scale: y[i] = a[i] * (by * factor)
//   strided_copy: to[at(i)] = from[at(i)], which is transpose, get_slice, put_slice and concatenate
// Extents and strides count elements; a repeated axis has stride 0, a reversed one a negative stride. The host joins axes
// that can be walked as one, so equal shapes arrive as rank 1.
// Bound: memory, the bytes of an element for each array. A transposed copy reads or writes with a stride, at a part of the bandwidth.

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

// `op` counts gpunet.backends.base.UNARY.
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

// Two arrays walked together over `rank` axes, the last the fastest.
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

// `op` counts gpunet.backends.base.BINARY; y may be a.
template <typename T>
__global__ void binary(const T* a, const T* b, T* y, int64 count, Walk s, int op) {
    GRID_STRIDE_LOOP(i, count) {
        int64 at_a, at_b;
        walk(s, i, at_a, at_b);
        const float u = to_float(a[at_a]), v = to_float(b[at_b]);
        float result = u;
        switch (op) {
            case ADD: result = u + v; break;
            case SUBTRACT: result = u - v; break;
            case MULTIPLY: result = u * v; break;
            case DIVIDE: result = u / v; break;
            case POWER: result = powf(u, v); break;
        }
        from_float(y[i], result);
    }
}

template <typename From, typename To>
__global__ void cast(const From* __restrict__ a, To* __restrict__ y, int64 count) {
    GRID_STRIDE_LOOP(i, count) from_float(y[i], to_float(a[i]));
}

// `by` is one element; null is 1.
template <typename T>
__global__ void scale(
        const T* __restrict__ a, const float* __restrict__ OR_NULL by, T* __restrict__ y, int64 count, float factor) {
    if (by) factor *= by[0];
    GRID_STRIDE_LOOP(i, count) from_float(y[i], to_float(a[i]) * factor);
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
