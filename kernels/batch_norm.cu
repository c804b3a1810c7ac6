#include "common.cuh"
#include "sums.cuh"
#include "norm.cuh"
// Batch normalisation of x (rows, C): a row is a pixel, and the moments of a channel are over the
// rows.
//   moments:     mean[c] and variance[c] (biased) of a batch, and
//                running = (1 - momentum) running + momentum batch, with the unbiased variance
//   forward:     y = f(gamma h + beta + residual), with h = (x - mean) / sqrt(variance + eps); in
//                inference the running moments are the mean and the variance
//   sums:        dbeta = sum of g, dgamma = sum of g h, with g = f'(y) dy, computed on load; where f is a
//                ReLU and y is null, the sign of y is computed again from x, without a residual
//   input_grad:  dx = gamma / sqrt(variance + eps) (g - (dbeta + h dgamma) / rows), without its
//                last term in inference; g is also written if a residual needs it
//   distances, joined_moments: the moments of a batch of which several ranks have a part each, see below
//   x, residual, y, dy, dx (rows, C)   gamma, beta, mean, variance, running_* (C,)
//   gamma null is 1, beta null is 0. Values per channel are float, whatever T is.
//
// Tiling: a block takes `across` times V channels of `rows_a_split` rows. A thread keeps its V
// channels, whose constants stay in registers, and walks down the rows. Neighbouring threads hold
// neighbouring channels and, where C is small, the next rows, so that a warp reads one stretch of
// memory. Each block of a reduction leaves a partial result, and `_merge` joins them without
// atomics, so that the bits are the same every time.
// Moments are exact however far the mean lies from 0: a thread takes UNROLL rows at once, computes
// their mean and squared distances in registers, and joins them to those of the rows before (Chan,
// Golub & LeVeque 1983), which takes one division for UNROLL V elements.
// In the `_simple` kernels a thread takes a channel or an element, and reads y.
// Rows are counted in 32 bits, which spares registers: the host refuses more than that.
// Alignment: V is 4 in float and 8 in 16 bits, where a load has 16 bytes, to which all arrays must be
// aligned, and C must be a multiple of V; V = 1 needs nothing.
// Bound: memory. Bytes per element, in float: moments 4, forward 8 (12 with a residual), sums 8 and
// input_grad 12, with 4 more in each to read y, and 4 to write g.

struct BatchNorm {
    int64 rows, rows_a_split;
    int C, across;
    float eps, momentum;
    int accumulate;
};

// Writes the moments of a batch of n rows and joins them to the running ones; `squares` is the sum of
// squared distances from the mean.
__device__ __forceinline__ void finish_moments(
        int c, float n, float of_batch, float squares, float* mean, float* variance, float* running_mean,
        float* running_var, float momentum) {
    mean[c] = of_batch;
    variance[c] = squares / n;
    running_mean[c] = (1.0f - momentum) * running_mean[c] + momentum * of_batch;
    running_var[c] = (1.0f - momentum) * running_var[c] + momentum * (squares / (n - 1.0f));
}

// The same for rows that are the batch or, if `weighted` is given, a part of it. The moments of a part
// are written alone, and its terms of the sums of all parts: weighted (C + 1) = n mean and n.
__device__ __forceinline__ void finish_moments_of_rows(
        int c, float of_rows, float squares, float* mean, float* variance, float* running_mean, float* running_var,
        float* weighted, const BatchNorm& s) {
    if (!weighted) {
        finish_moments(c, s.rows, of_rows, squares, mean, variance, running_mean, running_var, s.momentum);
        return;
    }
    mean[c] = of_rows;
    variance[c] = squares / s.rows;
    weighted[c] = s.rows * of_rows;
    if (c == 0) weighted[s.C] = s.rows;
}

// Writes dgamma, dbeta and the number of rows that they are sums over to sums (2 C + 1), from which dx is
// computed; where ranks share a batch, they are added up over the ranks before that. Also writes or adds
// this rank's to the gradients of the parameters, if there are arrays for them.
__device__ __forceinline__ void finish_sums(
        int c, float dgamma, float dbeta, float* sums, float* gamma_out, float* beta_out, const BatchNorm& s) {
    sums[c] = dgamma, sums[s.C + c] = dbeta;
    if (c == 0) sums[2 * s.C] = s.rows;
    if (gamma_out) gamma_out[c] = s.accumulate ? gamma_out[c] + dgamma : dgamma;
    if (beta_out) beta_out[c] = s.accumulate ? beta_out[c] + dbeta : dbeta;
}

// ---- a thread takes a channel or an element

template <typename T>
__global__ void batch_norm_moments_simple(
        const T* __restrict__ x, float* __restrict__ mean, float* __restrict__ variance,
        float* __restrict__ OR_NULL UPDATED running_mean, float* __restrict__ OR_NULL UPDATED running_var,
        float* __restrict__ OR_NULL weighted, BatchNorm s) {
    GRID_STRIDE_LOOP(c, s.C) {
        Sum sum, squares;
        for (int64 r = 0; r < s.rows; ++r) sum.add(to_float(x[r * s.C + c]));
        const float centre = sum.value() / s.rows;
        for (int64 r = 0; r < s.rows; ++r) {
            const float distance = to_float(x[r * s.C + c]) - centre;
            squares.add(distance * distance);
        }
        finish_moments_of_rows(c, centre, squares.value(), mean, variance, running_mean, running_var, weighted, s);
    }
}

template <typename T>
__global__ void batch_norm_forward_simple(
        const T* __restrict__ x, const float* __restrict__ OR_NULL gamma, const float* __restrict__ OR_NULL beta,
        const float* __restrict__ mean, const float* __restrict__ variance, const T* __restrict__ OR_NULL residual,
        T* __restrict__ y, BatchNorm s, Activation f) {
    GRID_STRIDE_LOOP(i, s.rows * s.C) {
        const int c = i % s.C;
        const float h = (to_float(x[i]) - mean[c]) * inverse_deviation(variance[c], s.eps);
        float v[1] = {(gamma ? gamma[c] * h : h) + (beta ? beta[c] : 0.0f) + (residual ? to_float(residual[i]) : 0.0f)};
        activate<1>(f, v);
        from_float(y[i], v[0]);
    }
}

template <typename T>
__global__ void batch_norm_sums_simple(
        const T* __restrict__ dy, const T* __restrict__ OR_NULL y, const T* __restrict__ x, const float* __restrict__ mean,
        const float* __restrict__ variance, float* __restrict__ sums,
        float* __restrict__ OR_NULL ADDED_TO gamma_out, float* __restrict__ OR_NULL ADDED_TO beta_out, BatchNorm s, Activation f) {
    GRID_STRIDE_LOOP(c, s.C) {
        Sum dgamma, dbeta;
        for (int64 r = 0; r < s.rows; ++r) {
            float g[1];
            load_gated<1>(g, dy, y, r * s.C + c, f);
            dgamma.add(g[0] * (to_float(x[r * s.C + c]) - mean[c]));
            dbeta.add(g[0]);
        }
        finish_sums(c, dgamma.value() * inverse_deviation(variance[c], s.eps), dbeta.value(), sums, gamma_out, beta_out, s);
    }
}

template <typename T>
__global__ void batch_norm_input_grad_simple(
        const T* __restrict__ dy, const T* __restrict__ OR_NULL y, const T* __restrict__ x,
        const float* __restrict__ OR_NULL gamma, const float* __restrict__ mean, const float* __restrict__ variance,
        const float* __restrict__ OR_NULL sums, T* __restrict__ dx, T* __restrict__ OR_NULL dresidual, BatchNorm s,
        Activation f) {
    GRID_STRIDE_LOOP(i, s.rows * s.C) {
        const int c = i % s.C;
        const float inverse = inverse_deviation(variance[c], s.eps), h = (to_float(x[i]) - mean[c]) * inverse;
        float g[1];
        load_gated<1>(g, dy, y, i, f);
        if (dresidual) from_float(dresidual[i], g[0]);
        const float through_moments = sums ? (sums[s.C + c] + h * sums[c]) / sums[2 * s.C] : 0.0f;
        from_float(dx[i], (gamma ? gamma[c] : 1.0f) * inverse * (g[0] - through_moments));
    }
}

// ---- a batch of which several ranks have a part each; a thread takes a channel
//
// The moments of a part come with its terms of two sums, n mean and n, which are added up over the ranks
// before the next launch: they give the mean of the batch. `distances` are a part's squared distances from
// that mean, summed (Chan, Golub & LeVeque 1983, equation 1.5). They are added up over the ranks as well,
// and `joined_moments` computes the moments of the batch.

__global__ void batch_norm_distances(
        const float* __restrict__ mean, const float* __restrict__ variance, const float* __restrict__ weighted,
        float* __restrict__ distances, BatchNorm s) {
    GRID_STRIDE_LOOP(c, s.C) {
        const float off = mean[c] - weighted[c] / weighted[s.C];
        distances[c] = s.rows * (variance[c] + off * off);
    }
}

__global__ void batch_norm_joined_moments(
        const float* __restrict__ weighted, const float* __restrict__ distances, float* __restrict__ mean,
        float* __restrict__ variance, float* __restrict__ UPDATED running_mean, float* __restrict__ UPDATED running_var,
        BatchNorm s) {
    GRID_STRIDE_LOOP(c, s.C) {
        const float n = weighted[s.C];
        finish_moments(c, n, weighted[c] / n, distances[c], mean, variance, running_mean, running_var, s.momentum);
    }
}

// ---- a thread takes V channels of a part of the rows

// The elements of a thread: rows first, first + down, … below end, of channels c … c + V - 1.
struct Walk {
    int first, end, c, down, split;
    bool active;  // false beyond the last channel: then c is 0, and no row is read or written
};

template <int V>
__device__ __forceinline__ Walk walk(const BatchNorm& s) {
    const int tiles = (s.C / V + s.across - 1) / s.across, lane = threadIdx.x % s.across;
    Walk w;
    w.split = blockIdx.x / tiles;
    w.down = THREADS / s.across;
    w.c = (blockIdx.x % tiles * s.across + lane) * V;
    w.active = w.c < s.C;
    if (!w.active) w.c = 0;
    const int64 begin = w.split * s.rows_a_split;
    w.first = begin + threadIdx.x / s.across;
    w.end = w.active ? (int)min(begin + s.rows_a_split, s.rows) : 0;
    return w;
}

// Calls load(k, r) for ROWS rows r of a thread, numbered k, and then use(k, r) for the same rows, until it has
// taken all. The loads come first, because the compiler moves none above the branches of an activation.
template <int ROWS, int UNROLLED, typename Load, typename Use>
__device__ __forceinline__ void each_row(const Walk& w, Load load, Use use) {
#pragma unroll UNROLLED
    for (int r0 = w.first; r0 < w.end; r0 += ROWS * w.down) {
#pragma unroll
        for (int k = 0; k < ROWS; ++k)
            if (k == 0 || r0 + k * w.down < w.end) load(k, r0 + k * w.down);
#pragma unroll
        for (int k = 0; k < ROWS; ++k)
            if (k == 0 || r0 + k * w.down < w.end) use(k, r0 + k * w.down);
    }
}

// How V channels are normalised: gamma h + beta = scale (x - centre) + shift.
template <int V>
struct Normal {
    float scale[V], centre[V], shift[V];

    __device__ __forceinline__ void load(
            const float* gamma, const float* beta, const float* mean, const float* variance, int c, float eps) {
        float spread[V];
        load_or<V>(scale, gamma, c, 1.0f);
        load_or<V>(shift, beta, c, 0.0f);
        ::load<V>(centre, mean + c);
        ::load<V>(spread, variance + c);
#pragma unroll
        for (int u = 0; u < V; ++u) scale[u] *= inverse_deviation(spread[u], eps);
    }
    // The same bits wherever it is computed.
    __device__ __forceinline__ float of(int u, float x) const { return fmaf(x - centre[u], scale[u], shift[u]); }
};

// What the gradients read of a row: loaded now, and taken back through the activation when it is read.
template <typename T, int V>
struct GradRow {
    Stored<T, V> dy, y, x;

    __device__ __forceinline__ void load(const T* dys, const T* ys, const T* xs, int64 at) {
        dy.load(dys + at);
        if (ys) y.load(ys + at);
        x.load(xs + at);
    }
    // `knows_y` tells whether y was loaded; otherwise f is a ReLU or nothing.
    __device__ __forceinline__ void read(
            float (&g)[V], float (&v)[V], const Normal<V>& normal, bool knows_y, Activation f) const {
        dy.read(g);
        x.read(v);
        if (f.kind == ACTIVATION_NONE) return;
        if (knows_y) {
            float out[V];
            y.read(out);
            undo_activation<V>(f, g, out);
            return;
        }
#pragma unroll
        for (int u = 0; u < V; ++u) {
            T out;
            from_float(out, normal.of(u, v[u]));
            if (to_float(out) <= 0.0f) g[u] = 0.0f;
        }
    }
};

// Writes means and squared distances to partial (splits, 2, C).
template <typename T, int V>
__global__ void __launch_bounds__(THREADS, BLOCKS_OF(V)) batch_norm_moments(
        const T* __restrict__ x, float* __restrict__ partial, BatchNorm s) {
    const Walk w = walk<V>(s);
    Moments<V> moments = moments_of_rows<V>(x + w.c, w.first, w.end, w.down, s.C);
    join_block<V>(moments, s.across);
    if (threadIdx.x < s.across && w.active) {
        float* out = partial + (int64)w.split * 2 * s.C + w.c;
        store<V>(out, moments.mean);
        store<V>(out + s.C, moments.squares);
    }
}

// A block takes MERGED channels, and its threads share the splits.
__global__ void __launch_bounds__(THREADS, BLOCKS) batch_norm_moments_merge(
        const float* __restrict__ partial, int splits, float* __restrict__ mean, float* __restrict__ variance,
        float* __restrict__ OR_NULL UPDATED running_mean, float* __restrict__ OR_NULL UPDATED running_var,
        float* __restrict__ OR_NULL weighted, BatchNorm s) {
    const int c = blockIdx.x * MERGED + threadIdx.x % MERGED;
    LongMoments<1> all;
    if (c < s.C)
#pragma unroll 4  // so that eight loads are under way at once
        for (int split = threadIdx.x / MERGED; split < splits; split += THREADS / MERGED) {
            const int64 rows = min(s.rows_a_split, s.rows - split * s.rows_a_split);
            const float* from = partial + (int64)split * 2 * s.C + c;
            all.join(rows, {from[0]}, {from[s.C]});
        }
    Moments<1> moments = all.value();
    join_block<1>(moments, MERGED);
    if (threadIdx.x < MERGED && c < s.C)
        finish_moments_of_rows(
                c, moments.mean[0], moments.squares[0], mean, variance, running_mean, running_var, weighted, s);
}

template <typename T, int V>
__global__ void __launch_bounds__(THREADS, BLOCKS_OF(V)) batch_norm_forward(
        const T* __restrict__ x, const float* __restrict__ OR_NULL gamma, const float* __restrict__ OR_NULL beta,
        const float* __restrict__ mean, const float* __restrict__ variance, const T* __restrict__ OR_NULL residual,
        T* __restrict__ y, BatchNorm s, Activation f) {
    const Walk w = walk<V>(s);
    Normal<V> normal;
    normal.load(gamma, beta, mean, variance, w.c, s.eps);
    constexpr int ROWS = V == 8 ? UNROLL : 1;
    Stored<T, V> of_x[ROWS], of_residual[ROWS];
    each_row<ROWS, UNROLL / ROWS>(w, [&](int k, int r) {
        of_x[k].load(x + (int64)r * s.C + w.c);
        if (residual) of_residual[k].load(residual + (int64)r * s.C + w.c);
    }, [&](int k, int r) {
        float v[V], added[V] = {};
        of_x[k].read(v);
        if (residual) of_residual[k].read(added);
#pragma unroll
        for (int u = 0; u < V; ++u) v[u] = normal.of(u, v[u]) + added[u];
        activate<V>(f, v);
        store<V>(y + (int64)r * s.C + w.c, v);
    });
}

// Writes dgamma and dbeta to partial (splits, 2, C).
template <typename T, int V>
__global__ void __launch_bounds__(THREADS, BLOCKS_OF(V)) batch_norm_sums(
        const T* __restrict__ dy, const T* __restrict__ OR_NULL y, const T* __restrict__ x,
        const float* __restrict__ OR_NULL gamma, const float* __restrict__ OR_NULL beta, const float* __restrict__ mean,
        const float* __restrict__ variance, float* __restrict__ partial, BatchNorm s, Activation f) {
    const Walk w = walk<V>(s);
    float spread[V], dgamma[V], dbeta[V];
    Sum gammas[V], betas[V];
    Normal<V> normal;
    normal.load(gamma, beta, mean, variance, w.c, s.eps);
    constexpr int ROWS = V == 8 ? 2 : 1;  // more than two in all would need more registers than there are
    GradRow<T, V> rows[ROWS];
    each_row<ROWS, 2 / ROWS>(w, [&](int k, int r) {
        rows[k].load(dy, y, x, (int64)r * s.C + w.c);
    }, [&](int k, int) {
        float g[V], v[V];
        rows[k].read(g, v, normal, y, f);
#pragma unroll
        for (int u = 0; u < V; ++u) gammas[u].add(g[u] * (v[u] - normal.centre[u])), betas[u].add(g[u]);
    });
    values<V>(dgamma, gammas);
    values<V>(dbeta, betas);
    add_block<V>(dgamma, s.across);
    add_block<V>(dbeta, s.across);
    if (threadIdx.x < s.across && w.active) {
        load<V>(spread, variance + w.c);
#pragma unroll
        for (int u = 0; u < V; ++u) dgamma[u] *= inverse_deviation(spread[u], s.eps);
        float* out = partial + (int64)w.split * 2 * s.C + w.c;
        store<V>(out, dgamma);
        store<V>(out + s.C, dbeta);
    }
}

__global__ void __launch_bounds__(THREADS, BLOCKS) batch_norm_sums_merge(
        const float* __restrict__ partial, int splits, float* __restrict__ sums,
        float* __restrict__ OR_NULL ADDED_TO gamma_out, float* __restrict__ OR_NULL ADDED_TO beta_out, BatchNorm s) {
    const int c = blockIdx.x * MERGED + threadIdx.x % MERGED;
    float of[2] = {};  // dgamma, dbeta
    add_splits(of, partial, splits, c, s.C);
    if (threadIdx.x < MERGED && c < s.C) finish_sums(c, of[0], of[1], sums, gamma_out, beta_out, s);
}

template <typename T, int V>
__global__ void __launch_bounds__(THREADS, BLOCKS_OF(V)) batch_norm_input_grad(
        const T* __restrict__ dy, const T* __restrict__ OR_NULL y, const T* __restrict__ x,
        const float* __restrict__ OR_NULL gamma, const float* __restrict__ OR_NULL beta, const float* __restrict__ mean,
        const float* __restrict__ variance, const float* __restrict__ OR_NULL sums, T* __restrict__ dx,
        T* __restrict__ OR_NULL dresidual, BatchNorm s, Activation f) {
    const Walk w = walk<V>(s);
    Normal<V> normal;
    normal.load(gamma, beta, mean, variance, w.c, s.eps);
    float spread[V], slope[V] = {}, offset[V] = {};
    load<V>(spread, variance + w.c);
    if (sums) {
        load<V>(slope, sums + w.c);
        load<V>(offset, sums + s.C + w.c);
        const float n = sums[2 * s.C];
#pragma unroll
        for (int u = 0; u < V; ++u) slope[u] *= inverse_deviation(spread[u], s.eps) / n, offset[u] /= n;
    }
    constexpr int ROWS = V == 8 ? 2 : 1;
    GradRow<T, V> rows[ROWS];
    each_row<ROWS, UNROLL / ROWS>(w, [&](int k, int r) {
        rows[k].load(dy, y, x, (int64)r * s.C + w.c);
    }, [&](int k, int r) {
        const int64 at = (int64)r * s.C + w.c;
        float g[V], v[V];
        rows[k].read(g, v, normal, y, f);
        if (dresidual) store<V>(dresidual + at, g);
#pragma unroll
        for (int u = 0; u < V; ++u)
            v[u] = normal.scale[u] * (g[u] - offset[u] - (v[u] - normal.centre[u]) * slope[u]);
        store<V>(dx + at, v);
    });
}
