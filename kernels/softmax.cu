#include "common.cuh"
#include "sums.cuh"
// Softmax over the last axis of (R, K), its logarithm, and cross entropy fused with its gradient.
//   p[k] = exp(x[k] - max) / sum over j of exp(x[j] - max);   log p[k] = x[k] - max - log(sum …)
//   backward: dx[k] = y[k] (dy[k] - sum over j of dy[j] y[j]);   of the logarithm: dx[k] = dy[k] - exp(y[k]) sum over j of dy[j]
// Cross entropy of labels (R,), with the target t = (1 - smoothing) onehot(label) + smoothing / K, a weight a class, and rows
// whose label is `ignored` left out:
//   loss = (sum over rows of -sum over k of weight[k] t[k] log p[k]) / total,   total = sum over rows of weight[label]
//   dlogits[k] = (p[k] sum over j of weight[j] t[j] - weight[k] t[k]) / total
//   correct = rows whose first largest logit (NaN before all) is the label's
// A label outside 0 … K - 1 makes the loss NaN: nothing outside `weight` is read, and nothing is hidden.
//
// A warp takes a row, its lanes a step of 32 apart; K = 10 leaves lanes idle, K = 1000 gives each 32 elements.
// Cross entropy of a small batch is one block's (`_simple`: a thread a row, its classes in turn), for a launch costs more than
// the work. Of others it is three launches: `_total` adds the labels' weights (partial sums of a block each), `_rows` needs the
// total and writes dlogits and each block's share of the loss and the count, `_mean` adds the shares in their order.
// Bound: memory; a row is read three times and stays in L1, so 8 bytes an element (12 for the backward passes).

#define ROW_THREADS 256
#define ROWS_A_BLOCK (ROW_THREADS / WARP)

// The largest over a warp, NaN before all.
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        const float other = __shfl_xor_sync(ALL_LANES, x, distance);
        x = other > x || is_nan(other) ? other : x;
    }
    return x;
}

template <typename T>
__device__ __forceinline__ float row_max(const T* x, int64 classes) {
    const int lane = threadIdx.x % WARP;
    float largest = to_float(x[lane < classes ? lane : 0]);
    for (int64 k = lane; k < classes; k += WARP) {
        const float v = to_float(x[k]);
        largest = v > largest || is_nan(v) ? v : largest;
    }
    return warp_max(largest);
}

template <typename T>
__device__ __forceinline__ float row_sum_exp(const T* x, int64 classes, float largest) {
    Sum sum;
    for (int64 k = threadIdx.x % WARP; k < classes; k += WARP) sum.add(expf(to_float(x[k]) - largest));
    return warp_sum(sum.value());
}

template <typename T>
__global__ void __launch_bounds__(ROW_THREADS, 4) softmax_forward(
        const T* __restrict__ x, T* __restrict__ y, int64 rows, int64 classes, int log) {
    const int lane = threadIdx.x % WARP;
    for (int64 r = blockIdx.x * (int64)ROWS_A_BLOCK + threadIdx.x / WARP; r < rows; r += (int64)gridDim.x * ROWS_A_BLOCK) {
        const T* row = x + r * classes;  // the same for the whole warp
        const float largest = row_max(row, classes);
        const float sum = row_sum_exp(row, classes, largest), log_sum = logf(sum);
        for (int64 k = lane; k < classes; k += WARP) {
            const float shifted = to_float(row[k]) - largest;
            from_float(y[r * classes + k], log ? shifted - log_sum : expf(shifted) / sum);
        }
    }
}

template <typename T>
__global__ void __launch_bounds__(ROW_THREADS, 4) softmax_backward(
        const T* __restrict__ dy, const T* __restrict__ y, T* __restrict__ dx, int64 rows, int64 classes, int log) {
    const int lane = threadIdx.x % WARP;
    for (int64 r = blockIdx.x * (int64)ROWS_A_BLOCK + threadIdx.x / WARP; r < rows; r += (int64)gridDim.x * ROWS_A_BLOCK) {
        const int64 first = r * classes;
        Sum own;
        for (int64 k = lane; k < classes; k += WARP)
            own.add(log ? to_float(dy[first + k]) : to_float(dy[first + k]) * to_float(y[first + k]));
        const float sum = warp_sum(own.value());
        for (int64 k = lane; k < classes; k += WARP) {
            const float d = to_float(dy[first + k]), out = to_float(y[first + k]);
            from_float(dx[first + k], log ? d - expf(out) * sum : out * (d - sum));
        }
    }
}

// What softmax cross entropy is asked for; `ignored` counts only where `ignores`; dlogits is multiplied by `gain`.
struct CrossEntropy {
    int64 rows, classes;
    float smoothing, gain;
    int ignores, ignored;
};

__device__ __forceinline__ float class_weight(const float* weight, int64 label, int64 classes) {
    if (label < 0 || label >= classes) return NOT_A_NUMBER;
    return weight ? weight[label] : 1.0f;
}

// weight[k] t[k]
__device__ __forceinline__ float weighted_target(const float* weight, int label, int64 k, const CrossEntropy& s) {
    const float t = (k == label ? 1.0f - s.smoothing : 0.0f) + s.smoothing / s.classes;
    return weight ? t * weight[k] : t;
}

// One over the total; 0 of a batch in which nothing weighs anything, which then has no loss. NaN stays.
__device__ __forceinline__ float share_of(float total) { return total <= 0.0f ? 0.0f : 1.0f / total; }

// One block.
template <typename T>
__global__ void __launch_bounds__(1024, 1) softmax_cross_entropy_simple(
        const T* __restrict__ logits, const int* __restrict__ labels, const float* __restrict__ OR_NULL weight,
        T* __restrict__ dlogits, float* __restrict__ loss, int* __restrict__ correct, CrossEntropy s) {
    float total = 0.0f;
    for (int64 r = threadIdx.x; r < s.rows; r += blockDim.x)
        if (!(s.ignores && labels[r] == s.ignored)) total += class_weight(weight, labels[r], s.classes);
    const float share = share_of(block_sum(total));
    float sum = 0.0f;
    int hits = 0;
    for (int64 r = threadIdx.x; r < s.rows; r += blockDim.x) {
        const T* row = logits + r * s.classes;
        const int label = labels[r];
        const bool kept = !(s.ignores && label == s.ignored);
        float largest = to_float(row[0]), exps = 0.0f, mass = 0.0f;
        int64 first = 0;
        for (int64 k = 1; k < s.classes; ++k) {
            const float x = to_float(row[k]);
            if (precedes(x, k, largest, first)) largest = x, first = k;
        }
        for (int64 k = 0; k < s.classes; ++k) {
            exps += expf(to_float(row[k]) - largest);
            mass += kept ? weighted_target(weight, label, k, s) : 0.0f;
        }
        const float log_sum = logf(exps);
        for (int64 k = 0; k < s.classes; ++k) {
            const float log_p = to_float(row[k]) - largest - log_sum;
            const float target = kept ? weighted_target(weight, label, k, s) : 0.0f;
            if (target != 0.0f) sum -= target * log_p;
            from_float(dlogits[r * s.classes + k], (expf(log_p) * mass - target) * (share * s.gain));
        }
        hits += kept && first == label;
    }
    sum = block_sum(sum);
    const float count = block_sum((float)hits);  // exact below 2^24 rows
    if (threadIdx.x == 0) loss[0] = sum * share, correct[0] = (int)count;
}

__global__ void __launch_bounds__(ROW_THREADS, 4) softmax_cross_entropy_total(
        const int* __restrict__ labels, const float* __restrict__ OR_NULL weight, float* __restrict__ totals, CrossEntropy s) {
    Sum own;
    GRID_STRIDE_LOOP(r, s.rows)
        if (!(s.ignores && labels[r] == s.ignored)) own.add(class_weight(weight, labels[r], s.classes));
    const float sum = block_sum(own.value());
    if (threadIdx.x == 0) totals[blockIdx.x] = sum;
}

// The sum of a few partial results, the same in every thread of the block.
__device__ __forceinline__ float sum_shares(const float* shares, int count) {
    float sum = 0.0f;
    for (int i = threadIdx.x; i < count; i += blockDim.x) sum += shares[i];
    return block_sum(sum);
}

template <typename T>
__global__ void __launch_bounds__(ROW_THREADS, 4) softmax_cross_entropy_rows(
        const T* __restrict__ logits, const int* __restrict__ labels, const float* __restrict__ OR_NULL weight,
        const float* __restrict__ totals, int blocks, T* __restrict__ dlogits,
        float* __restrict__ losses, int* __restrict__ corrects, CrossEntropy s) {
    __shared__ int counts[ROWS_A_BLOCK];
    const float share = share_of(sum_shares(totals, blocks));
    const int lane = threadIdx.x % WARP;
    Sum own;
    int correct = 0;  // of this warp's rows
    for (int64 r = blockIdx.x * (int64)ROWS_A_BLOCK + threadIdx.x / WARP; r < s.rows; r += (int64)gridDim.x * ROWS_A_BLOCK) {
        const T* row = logits + r * s.classes;  // the same for the whole warp
        const int label = labels[r];
        const bool kept = !(s.ignores && label == s.ignored);
        const float largest = row_max(row, s.classes);
        const float log_sum = logf(row_sum_exp(row, s.classes, largest));
        Sum targets;
        for (int64 k = lane; k < s.classes; k += WARP) targets.add(kept ? weighted_target(weight, label, k, s) : 0.0f);
        const float mass = warp_sum(targets.value());
        int first = 0x7fffffff;  // this lane's first largest logit
        for (int64 k = lane; k < s.classes; k += WARP) {
            const float x = to_float(row[k]), log_p = x - largest - log_sum;
            const float target = kept ? weighted_target(weight, label, k, s) : 0.0f;
            if (target != 0.0f) own.add(-target * log_p);
            if ((x == largest || (is_nan(x) && is_nan(largest))) && k < first) first = (int)k;
            from_float(dlogits[r * s.classes + k], (expf(log_p) * mass - target) * (share * s.gain));
        }
#pragma unroll
        for (int distance = WARP / 2; distance > 0; distance /= 2)
            first = min(first, __shfl_xor_sync(ALL_LANES, first, distance));
        correct += kept && first == label;
    }
    const float loss = block_sum(own.value());
    if (lane == 0) counts[threadIdx.x / WARP] = correct;
    __syncthreads();
    if (threadIdx.x == 0) {
        int sum = 0;
        for (int i = 0; i < ROWS_A_BLOCK; ++i) sum += counts[i];
        losses[blockIdx.x] = loss * share;
        corrects[blockIdx.x] = sum;
    }
}

// One block: the shares of the loss and the counts, added in a fixed order.
__global__ void __launch_bounds__(ROW_THREADS, 4) softmax_cross_entropy_mean(
        const float* __restrict__ losses, const int* __restrict__ corrects, int blocks,
        float* __restrict__ loss, int* __restrict__ correct) {
    const float sum = sum_shares(losses, blocks);
    if (threadIdx.x == 0) {
        int count = 0;
        for (int i = 0; i < blocks; ++i) count += corrects[i];
        loss[0] = sum;
        correct[0] = count;
    }
}
