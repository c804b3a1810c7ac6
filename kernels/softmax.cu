#include "common.cuh"
#include "sums.cuh"
#include "cross_entropy.cuh"
// Softmax over the last axis of (R, K), its logarithm, and the cross entropy fused with its
// gradient.
//   p[k] = exp(x[k] - max) / sum over j of exp(x[j] - max)
//   log p[k] = x[k] - max - log(sum over j of exp(x[j] - max))
//   backward: dx[k] = y[k] (dy[k] - sum over j of dy[j] y[j])
//   backward of the logarithm: dx[k] = dy[k] - exp(y[k]) sum over j of dy[j]
// The sum is kept as two parts: 1, for the first largest x, and the sum of the others. Added up,
// they would round to 1 where a softmax is sure, and log(1) and 1 - p would be 0. The backward pass
// subtracts dy of the largest y from all of dy, which changes no gradient and keeps the digits of
// the small terms.
//
// Cross entropy of labels (R,), with the target t = (1 - smoothing) onehot(label) + smoothing / K,
// a weight per class, and without the rows whose label is `ignored`:
//   loss = (sum over rows of -sum over k of weight[k] t[k] log p[k]) / total
//   total = sum over rows of weight[label]
//   dlogits[k] = (p[k] sum over j of weight[j] t[j] - weight[k] t[k]) / total
//   correct = number of rows whose first largest logit (NaN before all) is that of the label
// Without `mean` the total is 1, and the loss of each row is also written if there is an array for
// it.
// With `normalized` the logits are log p themselves, and dlogits[k] = -weight[k] t[k] / total.
// A label outside 0 … K - 1 makes the loss NaN, and nothing outside `weight` is read.
//
// A team of threads takes a row, and each of them every TEAM-th element: a warp where rows are many or
// short (K = 10 leaves lanes idle, K = 1000 gives each lane 32 elements), a block where they are few and
// long. The cross entropy of a small batch is computed by one block
// (`_simple`, in which a thread takes a row), because a launch costs more than the work. Other
// batches take three launches: `_total` adds up the labels' weights in each block, `_rows` needs
// the total and writes dlogits and each block's share of the loss and of the count, and `_mean`
// adds the shares in their order.
// Bound: memory; a row is read three times and stays in L1, so 8 bytes per element (12 backward).

// The rows of a grid of teams; `r` is the same for the whole team.
#define TEAM_LOOP(r, rows)                                                                          \
    for (int64 r = blockIdx.x * (int64)(THREADS / TEAM) + threadIdx.x / TEAM; r < (rows); r += (int64)gridDim.x * (THREADS / TEAM))

// The sum over a team, equal in all its threads and always in the same order.
template <int TEAM>
__device__ __forceinline__ float team_sum(float x) {
    return TEAM == WARP ? warp_sum(x) : block_sum(x);
}

// The first largest element of a row, NaN before all; every thread of the team gets it.
template <int TEAM, typename T>
__device__ __forceinline__ Largest row_first(const T* x, int64 classes) {
    const int64 lane = threadIdx.x % TEAM;
    Largest best = {to_float(x[lane < classes ? lane : 0]), lane < classes ? lane : 0};
    for (int64 k = lane + TEAM; k < classes; k += TEAM) {
        const float v = to_float(x[k]);
        if (precedes(v, k, best.x, best.at)) best = {v, k};
    }
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        const float v = __shfl_xor_sync(ALL_LANES, best.x, distance);
        const int64 k = __shfl_xor_sync(ALL_LANES, best.at, distance);
        if (precedes(v, k, best.x, best.at)) best = {v, k};
    }
    if constexpr (TEAM > WARP) {
        __shared__ float xs[TEAM / WARP];
        __shared__ int64 places[TEAM / WARP];
        __syncthreads();  // an earlier call may still read them
        if (lane % WARP == 0) xs[lane / WARP] = best.x, places[lane / WARP] = best.at;
        __syncthreads();
        for (int i = 0; i < TEAM / WARP; ++i)
            if (precedes(xs[i], places[i], best.x, best.at)) best = {xs[i], places[i]};
    }
    return best;
}

template <int TEAM, typename T>
__device__ __forceinline__ float row_sum_others(const T* x, int64 classes, Largest first) {
    Sum sum;
    for (int64 k = threadIdx.x % TEAM; k < classes; k += TEAM) sum.add(exp_of_other(x, k, first));
    return team_sum<TEAM>(sum.value());
}

template <typename T, int TEAM>
__global__ void __launch_bounds__(THREADS, 4) softmax_forward(
        const T* __restrict__ x, T* __restrict__ y, int64 rows, int64 classes, int log) {
    const int lane = threadIdx.x % TEAM;
    TEAM_LOOP(r, rows) {
        const T* row = x + r * classes;
        const Largest first = row_first<TEAM>(row, classes);
        const float others = row_sum_others<TEAM>(row, classes, first), log_sum = log1pf(others);
        for (int64 k = lane; k < classes; k += TEAM) {
            const float shifted = to_float(row[k]) - first.x;
            from_float(y[r * classes + k], log ? shifted - log_sum : expf(shifted) / (1.0f + others));
        }
    }
}

template <typename T, int TEAM>
__global__ void __launch_bounds__(THREADS, 4) softmax_backward(
        const T* __restrict__ dy, const T* __restrict__ y, T* __restrict__ dx, int64 rows, int64 classes, int log) {
    const int lane = threadIdx.x % TEAM;
    TEAM_LOOP(r, rows) {
        const T *row_dy = dy + r * classes, *row = y + r * classes;
        const float offset = log ? 0.0f : to_float(row_dy[row_first<TEAM>(row, classes).at]);
        Sum own;
        for (int64 k = lane; k < classes; k += TEAM) {
            const float d = to_float(row_dy[k]) - offset;
            own.add(log ? d : d * to_float(row[k]));
        }
        const float sum = team_sum<TEAM>(own.value());
        for (int64 k = lane; k < classes; k += TEAM) {
            const float d = to_float(row_dy[k]) - offset, out = to_float(row[k]);
            from_float(dx[r * classes + k], log ? -d * expm1f(out) - expf(out) * (sum - d) : out * (d - sum));
        }
    }
}

#define SIMPLE_THREADS 1024

// Takes one block, in which a thread takes a row.
template <typename T>
__global__ void __launch_bounds__(SIMPLE_THREADS, 1) softmax_cross_entropy_simple(
        const T* __restrict__ logits, const int* __restrict__ labels, const float* __restrict__ OR_NULL weight,
        T* __restrict__ dlogits, float* __restrict__ OR_NULL row_losses, float* __restrict__ loss, int* __restrict__ correct,
        CrossEntropy s) {
    float total = 0.0f;
    for (int64 r = threadIdx.x; r < s.rows; r += blockDim.x)
        if (!(s.ignores && labels[r] == s.ignored)) total += class_weight(weight, labels[r], s.classes);
    total = block_sum(total);
    const float share = s.mean ? share_of(total) : 1.0f;
    float sum = 0.0f;
    int hits = 0;
    for (int64 r = threadIdx.x; r < s.rows; r += blockDim.x) {
        const T* row = logits + r * s.classes;
        const RowLoss own = row_cross_entropy(row, labels[r], weight, share, dlogits + r * s.classes, s);
        sum += own.loss;
        hits += own.correct;
        if (row_losses) row_losses[r] = own.loss;
    }
    sum = block_sum(sum);
    const float count = block_sum((float)hits);  // exact below 2^24 rows
    if (threadIdx.x == 0) loss[0] = sum * share, correct[0] = (int)count;
}

__global__ void __launch_bounds__(THREADS, 4) softmax_cross_entropy_total(
        const int* __restrict__ labels, const float* __restrict__ OR_NULL weight, float* __restrict__ totals, CrossEntropy s) {
    Sum own;
    GRID_STRIDE_LOOP(r, s.rows)
        if (!(s.ignores && labels[r] == s.ignored)) own.add(class_weight(weight, labels[r], s.classes));
    const float sum = block_sum(own.value());
    if (threadIdx.x == 0) totals[blockIdx.x] = sum;
}

// The sum of a few partial results; every thread of the block gets it.
__device__ __forceinline__ float sum_shares(const float* shares, int count) {
    float sum = 0.0f;
    for (int i = threadIdx.x; i < count; i += blockDim.x) sum += shares[i];
    return block_sum(sum);
}

template <typename T, int TEAM>
__global__ void __launch_bounds__(THREADS, 4) softmax_cross_entropy_rows(
        const T* __restrict__ logits, const int* __restrict__ labels, const float* __restrict__ OR_NULL weight,
        const float* __restrict__ totals, int blocks, T* __restrict__ dlogits, float* __restrict__ OR_NULL row_losses,
        float* __restrict__ losses, int* __restrict__ corrects, CrossEntropy s) {
    __shared__ int counts[THREADS / TEAM];
    const float total = sum_shares(totals, blocks), share = s.mean ? share_of(total) : 1.0f;
    const int lane = threadIdx.x % TEAM;
    Sum own;
    int correct = 0;  // of this team's rows
    TEAM_LOOP(r, s.rows) {
        const T* row = logits + r * s.classes;
        const int label = labels[r];
        const bool kept = !(s.ignores && label == s.ignored);
        const Largest first = row_first<TEAM>(row, s.classes);
        const float others = row_sum_others<TEAM>(row, s.classes, first);
        const float shift = s.normalized ? 0.0f : first.x, log_sum = s.normalized ? 0.0f : log1pf(others);
        const float before = first_term(label, kept, s);
        Sum targets;
        targets.add(before);
        for (int64 k = lane; k < s.classes; k += TEAM) targets.add(kept ? weighted_target(weight, label, k, s) : 0.0f);
        const float mass = team_sum<TEAM>(targets.value());
        Sum terms;
        terms.add(before);
        for (int64 k = lane; k < s.classes; k += TEAM) {
            const float log_p = to_float(row[k]) - shift - log_sum;
            const float target = kept ? weighted_target(weight, label, k, s) : 0.0f;
            if (target != 0.0f) terms.add(-target * log_p);
            from_float(dlogits[r * s.classes + k], logit_grad(log_p, mass, target, k == first.at, s) * (share * s.gain));
        }
        own.add(terms.value());
        correct += kept && first.at == label;
        if (row_losses) {
            const float loss = team_sum<TEAM>(terms.value());
            if (lane == 0) row_losses[r] = loss;
        }
    }
    const float loss = block_sum(own.value());
    if (lane == 0) counts[threadIdx.x / TEAM] = correct;
    __syncthreads();
    if (threadIdx.x == 0) {
        int sum = 0;
        for (int i = 0; i < THREADS / TEAM; ++i) sum += counts[i];
        losses[blockIdx.x] = loss * share;
        corrects[blockIdx.x] = sum;
    }
}

// Takes one block, which adds the shares of the loss and the counts in a fixed order.
__global__ void __launch_bounds__(THREADS, 4) softmax_cross_entropy_mean(
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
