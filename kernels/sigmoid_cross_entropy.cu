#include "common.cuh"
#include "sums.cuh"
// Cross entropy of logits z with targets t from 0 to 1, elementwise, fused with its gradient:
//   loss    = mean of -t log s(z) - (1 - t) log(1 - s(z)) = mean of z u + log(1 + exp(-|z|))
//   dlogits = (s(z) - t) / count = (u - s(-z)) / count where z >= 0, (u + s(z)) / count elsewhere
// with u = 1 - t where z >= 0, and -t elsewhere. This overflows nowhere, and keeps the distance of
// s(z) from 1 where s(z) rounds to 1.
// Each block adds up its share of the loss, and `_mean` adds the shares in their order.
// Bound: memory, 12 bytes per element.

template <typename T>
__global__ void __launch_bounds__(THREADS, 4) sigmoid_cross_entropy(
        const T* __restrict__ logits, const T* __restrict__ targets, T* __restrict__ dlogits,
        float* __restrict__ losses, int64 count) {
    Sum own;
    GRID_STRIDE_LOOP(i, count) {
        const float z = to_float(logits[i]), t = to_float(targets[i]), tail = expf(-fabsf(z)), small = tail / (1.0f + tail);
        const float u = z >= 0.0f ? 1.0f - t : -t;
        own.add((u == 0.0f ? 0.0f : z * u) + log1pf(tail));  // 0 even if z is infinite
        from_float(dlogits[i], (z >= 0.0f ? u - small : u + small) / count);
    }
    const float loss = block_sum(own.value());
    if (threadIdx.x == 0) losses[blockIdx.x] = loss;
}

// Takes one block.
__global__ void __launch_bounds__(THREADS, 4) sigmoid_cross_entropy_mean(
        const float* __restrict__ losses, int blocks, float* __restrict__ loss, int64 count) {
    float sum = 0.0f;
    for (int i = threadIdx.x; i < blocks; i += blockDim.x) sum += losses[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) loss[0] = sum / count;
}
