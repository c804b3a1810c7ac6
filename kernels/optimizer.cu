#include "common.cuh"
#include "arrivals.cuh"
#include "sums.cuh"
// Updates of a whole arena in one launch, the norm of its gradients, and what follows an update: max-norm
// and running averages. gpunet/backends/contract/update.py states the formulas of the rules.
//   bounds (M, 2): first element of each segment and the one past its last
//   hyper (M, 4 + OWN): the hyper-parameters of each segment: lr, decay, l1 and shrink (the decoupled
//     decay), which all rules share, then the rule's own
//   clip: null, or (norm, scale) as gradient_norm writes them
// The blocks of grid row m walk segment m. Neighbouring segments of one group arrive joined, so M is 1 for
// most models.
//   gradient_norm: (norm, scale) = (sqrt(sum of grad^2), min(1, max_norm / (norm + 1e-6))); the last block
//     adds the sums of all blocks in their order
//   update: w' = w - lr shrink w;  g = scale grad + decay w' + l1 sign(w');  w = rule(w', g, slots a and b)
//   clip_units: each column of w (R, O), the weights that come into one unit, is scaled down to a norm of
//     `limit`
//   average_update: average = decay average + (1 - decay) value
//   scaling: null, or (scale, good, skipped), the state of dynamic loss scaling (Micikevicius et al. 2018,
//     section 3.2): the gradients are those of scale times the loss. gradient_norm writes the norm of the
//     loss's own gradients, and a scale that divides by the loss's. Where that norm is not finite, the
//     gradients overflowed, and the update changes only this state.
//   shadow: null, or the parameters in S, half or bfloat16, which the next forward pass reads; it is written
//     with them
//   note: null, or where a captured step reports (loss, correct, skipped updates); `last` is the report of
//     the step before. The third number counts the steps since the first whose loss was not finite, with
//     that one; where it is not 0, nothing is updated.
// Hyper-parameters are computed in double where they would cancel (1 - beta2), and applied in float.
// Bound: memory. Bytes per parameter: 4 (norm), 12 and 8 per slot (update), 2 more with a shadow,
// 12 (average_update).

#define GROWTH 2.0f
#define GROWTH_STEPS 2000.0f

// partial: one float for each block;   arrivals: a counter that is 0
__global__ void __launch_bounds__(THREADS, 4) gradient_norm(
        const float* __restrict__ grad, const int64* __restrict__ bounds, int segments, float* __restrict__ UPDATED partial,
        int* __restrict__ UPDATED arrivals, float max_norm, const float* __restrict__ OR_NULL scaling,
        float* __restrict__ norm_and_scale) {
    Sum own;
    for (int m = 0; m < segments; ++m) {
        const float* segment = grad + bounds[2 * m];
        GRID_STRIDE_LOOP(i, bounds[2 * m + 1] - bounds[2 * m]) own.add(segment[i] * segment[i]);
    }
    const float sum_of_block = block_sum(own.value());
    if (threadIdx.x == 0) partial[blockIdx.x] = sum_of_block;
    if (!arrives_last(arrivals, gridDim.x)) return;
    float sum = 0.0f;
    for (int i = threadIdx.x; i < gridDim.x; i += blockDim.x) sum += partial[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
        const float unscale = scaling ? 1.0f / scaling[0] : 1.0f;  // a power of two: exact
        const float norm = sqrtf(sum) * unscale, scale = max_norm / (norm + 1e-6f);
        norm_and_scale[0] = norm;
        norm_and_scale[1] = (scale >= 1.0f ? 1.0f : scale) * unscale;  // NaN stays NaN
    }
}

__device__ __forceinline__ float sign(float x) { return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x; }

// Whether this step may update; writes its report. `correct` may be null, and is then reported as 0.
__device__ __forceinline__ bool may_update(const float* loss, const int* correct, const double* last, double* note) {
    if (!note) return true;
    const bool held = last[2] != 0.0 || !isfinite(loss[0]);
    if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) {
        note[0] = loss[0];
        note[1] = correct ? correct[0] : 0.0;
        note[2] = held ? last[2] + 1.0 : 0.0;
    }
    return !held;
}

// Whether the gradients overflowed; advances the state of loss scaling. No thread reads here what another
// thread writes in the same launch.
__device__ __forceinline__ bool overflowed(const float* clip, float* scaling) {
    if (!scaling) return false;
    const bool skips = !isfinite(clip[0]);
    if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) {
        const bool grows = !skips && scaling[1] + 1.0f >= GROWTH_STEPS;
        if (skips || grows) scaling[0] *= skips ? 1.0f / GROWTH : GROWTH;
        scaling[1] = skips || grows ? 0.0f : scaling[1] + 1.0f;
        if (skips) scaling[2] += 1.0f;
    }
    return skips;
}

// 1 - beta^(t - skipped), from 1 - beta^t: the host counts the steps t, and does not know which of them were
// skipped. It is at least 1 - beta, since `skipped` may count steps before a parameter's first gradient.
__device__ __forceinline__ double correction(double of_all, double beta, float skipped) {
    return skipped == 0.0f || beta == 0.0 ? of_all : max(1.0 - (1.0 - of_all) * pow(beta, -(double)skipped), 1.0 - beta);
}

// A rule is made from the hyper-parameters of a segment, of which `row` holds its OWN own ones. Called with
// (w, g, slots a and b), it changes the slots and returns the new weight.
struct Sgd {
    static const int OWN = 2;
    float rate, keep;
    bool nesterov;
    __device__ Sgd(double lr, const double* row, float) : rate(lr), keep(row[0]), nesterov(row[1] != 0.0) {}
    __device__ float operator()(float w, float g, float& a, float&) const {
        a = keep * a + g;
        return w - rate * (nesterov ? g + keep * a : a);
    }
};

struct Adam {
    static const int OWN = 5;
    float rate, beta1, beta2, fresh1, fresh2, eps, correction2;
    __device__ Adam(double lr, const double* row, float skipped)
        : rate(lr / correction(row[3], row[0], skipped)), beta1(row[0]), beta2(row[1]), fresh1(1.0 - row[0]),
          fresh2(1.0 - row[1]), eps(row[2]), correction2(correction(row[4], row[1], skipped)) {}
    __device__ float operator()(float w, float g, float& a, float& b) const {
        a = beta1 * a + fresh1 * g;
        b = beta2 * b + fresh2 * g * g;
        return w - rate * a / (sqrtf(b / correction2) + eps);
    }
};

struct Rmsprop {
    static const int OWN = 3;
    float rate, alpha, fresh, eps, keep;
    __device__ Rmsprop(double lr, const double* row, float)
        : rate(lr), alpha(row[0]), fresh(1.0 - row[0]), eps(row[1]), keep(row[2]) {}
    __device__ float operator()(float w, float g, float& a, float& b) const {
        a = alpha * a + fresh * g * g;
        b = keep * b + g / (sqrtf(a) + eps);
        return w - rate * b;
    }
};

struct Adagrad {
    static const int OWN = 1;
    float rate, eps;
    __device__ Adagrad(double lr, const double* row, float) : rate(lr), eps(row[0]) {}
    __device__ float operator()(float w, float g, float& a, float&) const {
        a += g * g;
        return w - rate * g / (sqrtf(a) + eps);
    }
};

struct Lion {
    static const int OWN = 2;
    float rate, beta1, beta2, fresh1, fresh2;
    __device__ Lion(double lr, const double* row, float)
        : rate(lr), beta1(row[0]), beta2(row[1]), fresh1(1.0 - row[0]), fresh2(1.0 - row[1]) {}
    __device__ float operator()(float w, float g, float& a, float&) const {
        const float step = sign(beta1 * a + fresh1 * g);
        a = beta2 * a + fresh2 * g;
        return w - rate * step;
    }
};

struct Muon {
    static const int OWN = Adam::OWN + 1;
    Adam adam;  // in orthogonal segments its beta1 is the momentum
    float rate;
    bool orthogonal;
    __device__ Muon(double lr, const double* row, float skipped)
        : adam(lr, row, skipped), rate(lr), orthogonal(row[5] != 0.0) {}
    __device__ float operator()(float w, float g, float& a, float& b) const {
        if (!orthogonal) return adam(w, g, a, b);
        a = adam.beta1 * a + adam.fresh1 * g;
        return w - rate * b;
    }
};

#define SHARED_COLUMNS 4

// A slot that is null is read as 0.
template <typename S, typename R>
__global__ void update(
        float* __restrict__ UPDATED data, const float* __restrict__ grad, float* __restrict__ OR_NULL UPDATED a_slot,
        float* __restrict__ OR_NULL UPDATED b_slot, S* __restrict__ OR_NULL shadow, const int64* __restrict__ bounds,
        const double* __restrict__ hyper, int segments, const float* __restrict__ OR_NULL clip,
        float* __restrict__ OR_NULL UPDATED scaling, const float* __restrict__ OR_NULL loss,
        const int* __restrict__ OR_NULL correct, const double* __restrict__ OR_NULL last, double* __restrict__ OR_NULL note) {
    if (!may_update(loss, correct, last, note) || overflowed(clip, scaling)) return;
    const float scale = clip ? clip[1] : 1.0f, skipped = scaling ? scaling[2] : 0.0f;
    for (int m = blockIdx.y; m < segments; m += gridDim.y) {
        const double* row = hyper + (SHARED_COLUMNS + R::OWN) * m;
        const R rule(row[0], row + SHARED_COLUMNS, skipped);
        const float decay = row[1], l1 = row[2], kept = 1.0 - row[0] * row[3];
        const int64 first = bounds[2 * m], count = bounds[2 * m + 1] - first;
        GRID_STRIDE_LOOP(i, count) {
            const float w = data[first + i] * kept;
            float g = scale * grad[first + i];
            if (decay != 0.0f) g += decay * w;
            if (l1 != 0.0f) g += l1 * sign(w);
            float a = a_slot ? a_slot[first + i] : 0.0f, b = b_slot ? b_slot[first + i] : 0.0f;
            const float updated = rule(w, g, a, b);
            if (a_slot) a_slot[first + i] = a;
            if (b_slot) b_slot[first + i] = b;
            data[first + i] = updated;
            if (shadow) from_float(shadow[first + i], updated);
        }
    }
}

// Whether the update before this launch changed the parameters. `clip` is null unless the loss is scaled.
__device__ __forceinline__ bool has_updated(const float* clip, const double* note) {
    return !(note && note[2] != 0.0) && !(clip && !isfinite(clip[0]));
}

// A block takes WARP columns, so that a warp reads neighbours in a row at once; each of its WARPS warps takes
// every WARPS-th row.
template <typename S>
__global__ void __launch_bounds__(THREADS) clip_units(
        float* __restrict__ UPDATED w, S* __restrict__ OR_NULL shadow, int rows, int units, float limit,
        const float* __restrict__ OR_NULL clip, const double* __restrict__ OR_NULL note) {
    __shared__ float squares[WARPS][WARP];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, unit = blockIdx.x * WARP + lane;
    Sum own;
    for (int r = warp; unit < units && r < rows; r += WARPS) {
        const float v = w[(int64)r * units + unit];
        own.add(v * v);
    }
    squares[warp][lane] = own.value();
    __syncthreads();
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < WARPS; ++i) sum += squares[i][lane];
    const float norm = sqrtf(sum);
    if (unit >= units || norm <= limit || !has_updated(clip, note)) return;  // a NaN is not below the limit, and stays
    const float factor = limit / norm;
    for (int r = warp; r < rows; r += WARPS) {
        const int64 i = (int64)r * units + unit;
        const float clipped = w[i] * factor;
        w[i] = clipped;
        if (shadow) from_float(shadow[i], clipped);
    }
}

__global__ void average_update(
        float* __restrict__ UPDATED average, const float* __restrict__ value, int64 count, float decay, float fresh,
        const float* __restrict__ OR_NULL clip, const double* __restrict__ OR_NULL note) {
    if (!has_updated(clip, note)) return;
    GRID_STRIDE_LOOP(i, count) average[i] = decay * average[i] + fresh * value[i];
}
