#include "common.cuh"
// Updates of a whole arena in one launch, and the norm of its gradients.
//   bounds (M, 2): first element of each segment and the one past its last;  hyper (M, …): its hyper-parameters, a row each
//   clip: null, or (norm, scale) as gradient_norm leaves it
// Blocks of grid row m walk segment m; neighbours of one group arrive joined, so M is 1 for most models.
//   gradient_norm: (norm, scale) = (sqrt(sum of grad^2), min(1, max_norm / (norm + 1e-6))), in two passes of a fixed order
//   sgd: g = scale grad + decay w + l1 sign(w);  v = momentum v + g;  w -= lr (nesterov ? g + momentum v : v)
//   adam: m = beta1 m + (1 - beta1) g;  s = beta2 s + (1 - beta2) g^2;  w -= lr / c1 m / (sqrt(s / c2) + eps)
//   scaling: null, or (scale, good, skipped), the state of dynamic loss scaling (Micikevicius et al. 2018, section 3.2): the
//     gradients are those of scale times the loss. gradient_norm leaves the norm of the loss's own, and a scale that takes the
//     loss's out. Where that norm is not finite the gradients overflowed, and the update changes only this state
//   shadow: null, or the parameters in S, half or bfloat16, which the next forward pass reads: written with them
//   note: null, or where a recorded step leaves (loss, correct, held), with `last` the note of the step before. held counts the
//     steps since the first whose loss was not finite, that one included; where it is not 0, nothing is updated
// Hyper-parameters are computed in double where they would cancel (1 - beta2), and applied in float.
// Bound: memory; 4 bytes a parameter (norm), 20 (SGD with momentum), 28 (Adam), 2 more with a shadow.

#define GROWTH 2.0f
#define GROWTH_STEPS 2000.0f

__global__ void __launch_bounds__(256, 4) gradient_norm_partial(
        const float* __restrict__ grad, const int64* __restrict__ bounds, int segments, float* __restrict__ partial) {
    float sum = 0.0f;
    for (int m = 0; m < segments; ++m) {
        const float* segment = grad + bounds[2 * m];
        GRID_STRIDE_LOOP(i, bounds[2 * m + 1] - bounds[2 * m]) sum += segment[i] * segment[i];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// One block.
__global__ void __launch_bounds__(256, 4) gradient_norm(
        const float* __restrict__ partial, int count, float max_norm, const float* __restrict__ OR_NULL scaling,
        float* __restrict__ norm_and_scale) {
    float sum = 0.0f;
    for (int i = threadIdx.x; i < count; i += blockDim.x) sum += partial[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
        const float unscale = scaling ? 1.0f / scaling[0] : 1.0f;  // a power of two: exact
        const float norm = sqrtf(sum) * unscale, scale = max_norm / (norm + 1e-6f);
        norm_and_scale[0] = norm;
        norm_and_scale[1] = (scale >= 1.0f ? 1.0f : scale) * unscale;  // NaN stays
    }
}

__device__ __forceinline__ float sign(float x) { return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x; }

// Whether this step may update; leaves its note. `correct` may be null: then it is noted as 0.
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

// Whether the gradients overflowed; moves the state on. No thread reads what another one writes here in the same launch.
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

// `momentum` may be null: then v = g.
template <typename S>
__global__ void sgd_update(
        float* __restrict__ UPDATED data, const float* __restrict__ grad, float* __restrict__ OR_NULL UPDATED momentum,
        S* __restrict__ OR_NULL shadow, const int64* __restrict__ bounds, const double* __restrict__ hyper, int segments,
        const float* __restrict__ OR_NULL clip, float* __restrict__ OR_NULL UPDATED scaling, int nesterov,
        const float* __restrict__ OR_NULL loss, const int* __restrict__ OR_NULL correct,
        const double* __restrict__ OR_NULL last, double* __restrict__ OR_NULL note) {
    if (!may_update(loss, correct, last, note) || overflowed(clip, scaling)) return;
    const float scale = clip ? clip[1] : 1.0f;
    for (int m = blockIdx.y; m < segments; m += gridDim.y) {
        const float rate = hyper[4 * m], keep = hyper[4 * m + 1], decay = hyper[4 * m + 2], l1 = hyper[4 * m + 3];
        const int64 first = bounds[2 * m], count = bounds[2 * m + 1] - first;
        GRID_STRIDE_LOOP(i, count) {
            const float w = data[first + i];
            float step = scale * grad[first + i];
            if (decay != 0.0f) step += decay * w;
            if (l1 != 0.0f) step += l1 * sign(w);
            if (momentum) {
                const float v = keep * momentum[first + i] + step;
                momentum[first + i] = v;
                step = nesterov ? step + keep * v : v;
            }
            const float updated = w - rate * step;
            data[first + i] = updated;
            if (shadow) from_float(shadow[first + i], updated);
        }
    }
}

// 1 - beta^(t - skipped), of 1 - beta^t: the host counts the steps t, and does not know which were skipped. At least 1 - beta,
// for a parameter that gets its first gradient late has had fewer than were skipped before.
__device__ __forceinline__ double correction(double of_all, double beta, float skipped) {
    return skipped == 0.0f || beta == 0.0 ? of_all : max(1.0 - (1.0 - of_all) * pow(beta, -(double)skipped), 1.0 - beta);
}

template <typename S>
__global__ void adam_update(
        float* __restrict__ UPDATED data, const float* __restrict__ grad, float* __restrict__ UPDATED mean,
        float* __restrict__ UPDATED square, S* __restrict__ OR_NULL shadow,
        const int64* __restrict__ bounds, const double* __restrict__ hyper, int segments,
        const float* __restrict__ OR_NULL clip, float* __restrict__ OR_NULL UPDATED scaling, int decoupled,
        const float* __restrict__ OR_NULL loss, const int* __restrict__ OR_NULL correct,
        const double* __restrict__ OR_NULL last, double* __restrict__ OR_NULL note) {
    if (!may_update(loss, correct, last, note) || overflowed(clip, scaling)) return;
    const float scale = clip ? clip[1] : 1.0f, skipped = scaling ? scaling[2] : 0.0f;
    for (int m = blockIdx.y; m < segments; m += gridDim.y) {
        const double* row = hyper + 7 * m;
        const float beta1 = row[1], beta2 = row[2], eps = row[3], decay = row[4];
        const float correction2 = correction(row[6], row[2], skipped);
        const float fresh1 = 1.0 - row[1], fresh2 = 1.0 - row[2], rate = row[0] / correction(row[5], row[1], skipped);
        const float shrink = decoupled ? 1.0 - row[0] * row[4] : 1.0;
        const int64 first = bounds[2 * m], count = bounds[2 * m + 1] - first;
        GRID_STRIDE_LOOP(i, count) {
            const float w = data[first + i] * shrink;
            float g = scale * grad[first + i];
            if (!decoupled && decay != 0.0f) g += decay * w;
            const float m1 = beta1 * mean[first + i] + fresh1 * g;
            const float m2 = beta2 * square[first + i] + fresh2 * g * g;
            mean[first + i] = m1;
            square[first + i] = m2;
            const float updated = w - rate * m1 / (sqrtf(m2 / correction2) + eps);
            data[first + i] = updated;
            if (shadow) from_float(shadow[first + i], updated);
        }
    }
}
