#include "common.cuh"
#include "sums.cuh"
// Cross entropy of logits z with targets t from 0 to 1, elementwise, fused with its gradient:
//   loss = mean of -t log s(z) - (1 - t) log(1 - s(z)) = mean of z u + log(1 + exp(-|z|)), which overflows nowhere
//   dlogits = (s(z) - t) / count = (u - s(-z)) / count from z = 0 on, (u + s(z)) / count below
// with u = 1 - t from z = 0 on and -t below: where s(z) rounds to 1, its distance from 1 is kept.
// Each block adds its share of the loss; `_mean` adds the shares in their order.
// Bound: memory, 12 bytes an element.

template <typename T>
__global__ void __launch_bounds__(THREADS, 4) sigmoid_cross_entropy(
        const T* __restrict__ logits, const T* __restrict__ targets, T* __restrict__ dlogits,
        float* __restrict__ losses, int64 count) {
    Sum own;
    GRID_STRIDE_LOOP(i, count) {
        const float z = to_float(logits[i]), t = to_float(targets[i]), tail = expf(-fabsf(z)), small = tail / (1.0f + tail);
        const float u = z >= 0.0f ? 1.0f - t : -t;
        own.add((u == 0.0f ? 0.0f : z * u) + log1pf(tail));  // 0 also of an infinite z
        from_float(dlogits[i], (z >= 0.0f ? u - small : u + small) / count);
    }
    const float loss = block_sum(own.value());
    if (threadIdx.x == 0) losses[blockIdx.x] = loss;
}

// One block.
__global__ void __launch_bounds__(THREADS, 4) sigmoid_cross_entropy_mean(
        const float* __restrict__ losses, int blocks, float* __restrict__ loss, int64 count) {
    float sum = 0.0f;
    for (int i = threadIdx.x; i < blocks; i += blockDim.x) sum += losses[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) loss[0] = sum / count;
}
