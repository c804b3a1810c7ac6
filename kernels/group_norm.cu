#include "common.cuh"
#include "sums.cuh"
#include "norm.cuh"
// Group normalisation (Wu & He 2018) of x (N, P, C): the moments are over the P positions of a
// sample and the C / groups channels of a group.
//   forward:      y = gamma h + beta, with h = (x - mean) / sqrt(variance + eps); the mean and the
//                 biased variance are kept, (N, groups)
//   input_grad:   dx = (d - mean of d - h mean of d h) / sqrt(variance + eps), with d = gamma dy
//                 and means over the group
//   weight_grad:  dgamma = sum of dy h, dbeta = sum of dy, over samples and positions
//   x, y, dy, dx (N, P, C)   gamma, beta (C,)   gamma null is 1, beta null is 0
// Layer normalisation (Ba et al. 2016) is one group of x (rows, 1, K), instance normalisation one
// group per channel. Values per channel and per group are float, whatever T is.
//
// Tiling: a block takes a group of a sample. It reads the group for a first mean, reads it again
// for the moments about that mean, which are exact however far it lies from 0, and once more to
// normalise. Only the first reading is from memory, as long as the group stays in a cache. Blocks
// are as small as their groups, down to a warp. The gradients of gamma and beta are sums over rows
// (a row is a position of a sample) for each channel: 32 threads side by side take neighbouring
// channels, and partial results are merged in a fixed order. In the `_simple` kernels a thread
// takes a group or a channel.
// A few large groups would keep a few blocks busy, and of groups narrower than 32 bytes each block
// would read a part of every sector. There the `_parts` kernels of the gradient take all channels of a
// part of a sample's rows: one pass leaves sums for each channel, `_merge` joins those of a group, and
// another pass computes dx. The forward pass has none: means of parts would be rounded before they are
// joined, and a mean that is far from zero would lose digits.
// Alignment: V = 4 needs every array aligned to four elements, and a multiple of 4 channels per
// group, or per row for the `_parts` kernels; V = 1 needs nothing.
// Bound: memory. Bytes per element, in float: forward 8, input_grad 12, weight_grad 8; `_parts` kernels
// 20.

struct GroupNorm {
    int N, P, C, groups, rows_a_split;
    int parts, across;  // parts of a sample's rows, and threads side by side, of the kernels of parts
    float eps;
    int accumulate;
};

// The elements of one group of one sample, counted from 0 in units of V neighbouring channels.
struct Group {
    int64 start;
    int count, first, each, C;  // units, the first channel, units per row, channels of a row

    __device__ __forceinline__ Group(const GroupNorm& s, int64 number, int v) {
        const int width = s.C / s.groups;
        each = width / v, C = s.C, count = s.P * each;
        first = number % s.groups * width;
        start = number / s.groups * s.P * s.C + first;  // computed in 64 bits, because `number` has 64
    }
    __device__ __forceinline__ int channel(int i, int v) const { return i % each * v; }
    __device__ __forceinline__ int64 at(int i, int v) const { return start + (int64)(i / each) * C + channel(i, v); }
};

// ---- a thread takes a group or a channel

template <typename T>
__global__ void group_norm_forward_simple(
        const T* __restrict__ x, const float* __restrict__ OR_NULL gamma, const float* __restrict__ OR_NULL beta,
        T* __restrict__ y, float* __restrict__ mean, float* __restrict__ variance, GroupNorm s) {
    GRID_STRIDE_LOOP(number, (int64)s.N * s.groups) {
        const Group of(s, number, 1);
        Sum sum, squares;
        for (int i = 0; i < of.count; ++i) sum.add(to_float(x[of.at(i, 1)]));
        const float centre = sum.value() / of.count;
        for (int i = 0; i < of.count; ++i) {
            const float distance = to_float(x[of.at(i, 1)]) - centre;
            squares.add(distance * distance);
        }
        const float spread = squares.value() / of.count, inverse = inverse_deviation(spread, s.eps);
        mean[number] = centre, variance[number] = spread;
        for (int i = 0; i < of.count; ++i) {
            const int c = of.first + of.channel(i, 1);
            const float h = (to_float(x[of.at(i, 1)]) - centre) * inverse;
            from_float(y[of.at(i, 1)], (gamma ? gamma[c] * h : h) + (beta ? beta[c] : 0.0f));
        }
    }
}

template <typename T>
__global__ void group_norm_input_grad_simple(
        const T* __restrict__ dy, const T* __restrict__ x, const float* __restrict__ OR_NULL gamma,
        const float* __restrict__ mean, const float* __restrict__ variance, T* __restrict__ dx, GroupNorm s) {
    GRID_STRIDE_LOOP(number, (int64)s.N * s.groups) {
        const Group of(s, number, 1);
        const float inverse = inverse_deviation(variance[number], s.eps);
        Sum all, all_h;
        for (int i = 0; i < of.count; ++i) {
            const float d = to_float(dy[of.at(i, 1)]) * (gamma ? gamma[of.first + of.channel(i, 1)] : 1.0f);
            all.add(d), all_h.add(d * (to_float(x[of.at(i, 1)]) - mean[number]) * inverse);
        }
        const float sum = all.value(), sum_h = all_h.value();
        for (int i = 0; i < of.count; ++i) {
            const float d = to_float(dy[of.at(i, 1)]) * (gamma ? gamma[of.first + of.channel(i, 1)] : 1.0f);
            const float h = (to_float(x[of.at(i, 1)]) - mean[number]) * inverse;
            from_float(dx[of.at(i, 1)], (d - (sum + h * sum_h) / of.count) * inverse);
        }
    }
}

__device__ __forceinline__ void deliver(float* out, int c, float sum, int accumulate) {
    if (out) out[c] = accumulate ? out[c] + sum : sum;
}

template <typename T>
__global__ void group_norm_weight_grad_simple(
        const T* __restrict__ dy, const T* __restrict__ x, const float* __restrict__ mean, const float* __restrict__ variance,
        float* __restrict__ ADDED_TO dgamma, float* __restrict__ ADDED_TO dbeta, GroupNorm s) {
    GRID_STRIDE_LOOP(c, s.C) {
        Sum sum_h, sum;
        for (int r = 0; r < s.N * s.P; ++r) {
            const int64 number = (int64)(r / s.P) * s.groups + c / (s.C / s.groups), at = (int64)r * s.C + c;
            const float g = to_float(dy[at]);
            sum_h.add(g * (to_float(x[at]) - mean[number]) * inverse_deviation(variance[number], s.eps));
            sum.add(g);
        }
        deliver(dgamma, c, sum_h.value(), s.accumulate), deliver(dbeta, c, sum.value(), s.accumulate);
    }
}

// ---- a block takes a group, and a thread V neighbouring channels at once

template <typename T, int V>
__global__ void __launch_bounds__(THREADS, 4) group_norm_forward(
        const T* __restrict__ x, const float* __restrict__ OR_NULL gamma, const float* __restrict__ OR_NULL beta,
        T* __restrict__ y, float* __restrict__ mean, float* __restrict__ variance, GroupNorm s) {
    for (int64 number = blockIdx.x; number < (int64)s.N * s.groups; number += gridDim.x) {
        const Group of(s, number, V);
        const float n = (float)of.count * V;
        Sum sum, rest, squares;
        float v[V];
        for (int i = threadIdx.x; i < of.count; i += blockDim.x) {
            load<V>(v, x + of.at(i, V));
#pragma unroll
            for (int u = 0; u < V; ++u) sum.add(v[u]);
        }
        const float near = block_sum(sum.value()) / n;
        for (int i = threadIdx.x; i < of.count; i += blockDim.x) {
            load<V>(v, x + of.at(i, V));
#pragma unroll
            for (int u = 0; u < V; ++u) rest.add(v[u] - near), squares.add((v[u] - near) * (v[u] - near));
        }
        const float centre = near + block_sum(rest.value()) / n, spread = block_sum(squares.value()) / n;
        const float inverse = inverse_deviation(spread, s.eps);
        if (threadIdx.x == 0) mean[number] = centre, variance[number] = spread;
        for (int i = threadIdx.x; i < of.count; i += blockDim.x) {
            float scale[V], shift[V];
            load<V>(v, x + of.at(i, V));
            load_or<V>(scale, gamma, of.first + of.channel(i, V), 1.0f);
            load_or<V>(shift, beta, of.first + of.channel(i, V), 0.0f);
#pragma unroll
            for (int u = 0; u < V; ++u) v[u] = scale[u] * ((v[u] - centre) * inverse) + shift[u];
            store<V>(y + of.at(i, V), v);
        }
    }
}

template <typename T, int V>
__global__ void __launch_bounds__(THREADS, 4) group_norm_input_grad(
        const T* __restrict__ dy, const T* __restrict__ x, const float* __restrict__ OR_NULL gamma,
        const float* __restrict__ mean, const float* __restrict__ variance, T* __restrict__ dx, GroupNorm s) {
    for (int64 number = blockIdx.x; number < (int64)s.N * s.groups; number += gridDim.x) {
        const Group of(s, number, V);
        const float centre = mean[number], inverse = inverse_deviation(variance[number], s.eps), n = (float)of.count * V;
        Sum sum, sum_h;
        float d[V], h[V], scale[V];
        const auto read = [&](int i) {  // sets d = gamma dy and h
            load<V>(d, dy + of.at(i, V));
            load<V>(h, x + of.at(i, V));
            load_or<V>(scale, gamma, of.first + of.channel(i, V), 1.0f);
#pragma unroll
            for (int u = 0; u < V; ++u) d[u] *= scale[u], h[u] = (h[u] - centre) * inverse;
        };
        for (int i = threadIdx.x; i < of.count; i += blockDim.x) {
            read(i);
#pragma unroll
            for (int u = 0; u < V; ++u) sum.add(d[u]), sum_h.add(d[u] * h[u]);
        }
        const float offset = block_sum(sum.value()) / n, slope = block_sum(sum_h.value()) / n;
        for (int i = threadIdx.x; i < of.count; i += blockDim.x) {
            read(i);
#pragma unroll
            for (int u = 0; u < V; ++u) d[u] = (d[u] - offset - h[u] * slope) * inverse;
            store<V>(dx + of.at(i, V), d);
        }
    }
}

// Writes dgamma and dbeta of `rows_a_split` rows to partial (splits, 2, C).
template <typename T, int V>
__global__ void __launch_bounds__(THREADS, 4) group_norm_weight_grad(
        const T* __restrict__ dy, const T* __restrict__ x, const float* __restrict__ mean, const float* __restrict__ variance,
        float* __restrict__ partial, GroupNorm s) {
    const int tiles = (s.C / V + WARP - 1) / WARP, c = (blockIdx.x % tiles * WARP + threadIdx.x % WARP) * V;
    const int begin = blockIdx.x / tiles * s.rows_a_split, end = min(begin + s.rows_a_split, s.N * s.P);
    Sum own_h[V], own[V];
    if (c < s.C)
        for (int r = begin + threadIdx.x / WARP; r < end; r += THREADS / WARP) {
            const int64 number = (int64)(r / s.P) * s.groups + c / (s.C / s.groups), at = (int64)r * s.C + c;
            const float centre = mean[number], inverse = inverse_deviation(variance[number], s.eps);
            float g[V], v[V];
            load<V>(g, dy + at);
            load<V>(v, x + at);
#pragma unroll
            for (int u = 0; u < V; ++u) own_h[u].add(g[u] * (v[u] - centre) * inverse), own[u].add(g[u]);
        }
    float sum_h[V], sum[V];
    values<V>(sum_h, own_h);
    values<V>(sum, own);
    add_block<V>(sum_h, WARP);
    add_block<V>(sum, WARP);
    if (threadIdx.x < WARP && c < s.C) {
        float* out = partial + blockIdx.x / tiles * (int64)2 * s.C + c;
        store<V>(out, sum_h);
        store<V>(out + s.C, sum);
    }
}

// A block takes MERGED channels, and its threads share the splits.
__global__ void __launch_bounds__(THREADS, 4) group_norm_weight_grad_merge(
        const float* __restrict__ partial, int splits, float* __restrict__ ADDED_TO dgamma, float* __restrict__ ADDED_TO dbeta,
        GroupNorm s) {
    const int c = blockIdx.x * MERGED + threadIdx.x % MERGED;
    float of[2] = {};  // dgamma, dbeta
    add_splits(of, partial, splits, c, s.C);
    if (threadIdx.x < MERGED && c < s.C) deliver(dgamma, c, of[0], s.accumulate), deliver(dbeta, c, of[1], s.accumulate);
}

// ---- a block takes a part of a sample's rows, and a thread V channels

// The elements of a thread: rows first, first + down, … below `end` of sample n, from channel c on.
struct Part {
    int64 n, first, end, out;  // `out` is the place of the sums of channel c in (N, parts, 2, C)
    int c, down;
    bool active;  // false beyond the last channel: then c is 0, and no row is read or written

    __device__ __forceinline__ Part(const GroupNorm& s, int v) {
        const int tiles = (s.C / v + s.across - 1) / s.across, part = blockIdx.x / tiles % s.parts;
        n = blockIdx.x / tiles / s.parts;
        down = THREADS / s.across;
        c = (blockIdx.x % tiles * s.across + threadIdx.x % s.across) * v;
        active = c < s.C;
        if (!active) c = 0;
        const int64 begin = (int64)part * s.rows_a_split;
        first = begin + threadIdx.x / s.across;
        end = active ? min(begin + s.rows_a_split, (int64)s.P) : 0;
        out = (n * s.parts + part) * 2 * s.C + c;
    }
    // Whether the thread writes the sums of its block.
    __device__ __forceinline__ bool writes(const GroupNorm& s) const { return threadIdx.x < s.across && active; }
};

// v[u] = values[n, the group of channel c + u]
template <int V>
__device__ __forceinline__ void of_groups(float (&v)[V], const float* values, int64 n, int c, const GroupNorm& s) {
#pragma unroll
    for (int u = 0; u < V; ++u) v[u] = values[n * s.groups + (c + u) / (s.C / s.groups)];
}

// Writes the sums of d = gamma dy and of d h of each channel to partial (N, parts, 2, C).
template <typename T, int V>
__global__ void __launch_bounds__(THREADS, 4) group_norm_sums_parts(
        const T* __restrict__ dy, const T* __restrict__ x, const float* __restrict__ OR_NULL gamma,
        const float* __restrict__ mean, const float* __restrict__ variance, float* __restrict__ partial, GroupNorm s) {
    const Part of(s, V);
    float scale[V], centre[V], spread[V], sum[V], sum_h[V];
    Sum all[V], all_h[V];
    load_or<V>(scale, gamma, of.c, 1.0f);
    of_groups<V>(centre, mean, of.n, of.c, s);
    of_groups<V>(spread, variance, of.n, of.c, s);
#pragma unroll 2  // a larger number would need more registers than there are
    for (int64 r = of.first; r < of.end; r += of.down) {
        const int64 at = (of.n * s.P + r) * s.C + of.c;
        float d[V], v[V];
        load<V>(d, dy + at);
        load<V>(v, x + at);
#pragma unroll
        for (int u = 0; u < V; ++u) all[u].add(d[u]), all_h[u].add(d[u] * (v[u] - centre[u]));
    }
    values<V>(sum, all);
    values<V>(sum_h, all_h);
    add_block<V>(sum, s.across);
    add_block<V>(sum_h, s.across);
    if (of.writes(s)) {
#pragma unroll
        for (int u = 0; u < V; ++u) sum[u] *= scale[u], sum_h[u] *= scale[u] * inverse_deviation(spread[u], s.eps);
        store<V>(partial + of.out, sum);
        store<V>(partial + of.out + s.C, sum_h);
    }
}

// A block takes a group of a sample, and writes the means of d and of d h to means (2, N, groups).
__global__ void __launch_bounds__(THREADS, 4) group_norm_sums_merge(
        const float* __restrict__ partial, float* __restrict__ means, GroupNorm s) {
    const int64 number = blockIdx.x, n = number / s.groups;
    const int width = s.C / s.groups, first = number % s.groups * width;
    Sum all, all_h;
    for (int i = threadIdx.x; i < s.parts * width; i += THREADS) {
        const float* from = partial + (n * s.parts + i / width) * 2 * s.C + first + i % width;
        all.add(from[0]), all_h.add(from[s.C]);
    }
    const float sum = block_sum(all.value()), sum_h = block_sum(all_h.value()), count = (float)s.P * width;
    if (threadIdx.x == 0) means[number] = sum / count, means[(int64)s.N * s.groups + number] = sum_h / count;
}

template <typename T, int V>
__global__ void __launch_bounds__(THREADS, 4) group_norm_input_grad_parts(
        const T* __restrict__ dy, const T* __restrict__ x, const float* __restrict__ OR_NULL gamma,
        const float* __restrict__ mean, const float* __restrict__ variance, const float* __restrict__ means,
        T* __restrict__ dx, GroupNorm s) {
    const Part of(s, V);
    float scale[V], centre[V], inverse[V], offset[V], slope[V];
    load_or<V>(scale, gamma, of.c, 1.0f);
    of_groups<V>(centre, mean, of.n, of.c, s);
    of_groups<V>(inverse, variance, of.n, of.c, s);
    of_groups<V>(offset, means, of.n, of.c, s);
    of_groups<V>(slope, means + (int64)s.N * s.groups, of.n, of.c, s);
#pragma unroll
    for (int u = 0; u < V; ++u) inverse[u] = inverse_deviation(inverse[u], s.eps), slope[u] *= inverse[u];
#pragma unroll 2
    for (int64 r = of.first; r < of.end; r += of.down) {
        const int64 at = (of.n * s.P + r) * s.C + of.c;
        float d[V], v[V];
        load<V>(d, dy + at);
        load<V>(v, x + at);
#pragma unroll
        for (int u = 0; u < V; ++u) d[u] = (d[u] * scale[u] - offset[u] - (v[u] - centre[u]) * slope[u]) * inverse[u];
        store<V>(dx + at, d);
    }
}
