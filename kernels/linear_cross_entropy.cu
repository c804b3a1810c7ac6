#include "common.cuh"
#include "sums.cuh"
#include "arrivals.cuh"
#include "cross_entropy.cuh"
// A dense layer of few outputs, alone, or with the cross entropy of its results and the gradients that
// follow:
//   logits[n, o] = b[o] + sum over i of x[n, i] w[i, o]
//   loss, dlogits, correct: as softmax.cu states them
//   dx[n, i] = sum over o of dlogits[n, o] w[i, o]
//   x, dx (N, I)   w (I, O)   b (O,) or null   logits, dlogits (N, O)   row_losses, hits (N,)
// Without labels the logits alone are computed, to the same bits. dx may be null.
//
// The head of a small network is a chain of three launches, each of which waits for memory and computes
// next to nothing. Here a block keeps 16 rows and all weights in shared memory. A thread adds up one
// result in the order of the reduction, as `matmul` does, and one thread takes a row's cross entropy, as
// softmax_cross_entropy_simple does: so all of them compute the same bits. Each block adds up the
// weights of all labels; the last block adds the losses of all rows.
// Alignment: none is needed.
// Bound: latency, of one wait for x and w, one for the labels and one for the last block.

#define HEAD_ROWS 16      // rows of a block
#define HEAD_INPUTS 256   // inputs at most
#define HEAD_OUTPUTS 32   // outputs at most
#define HEAD_WEIGHTS 4096 // weights at most
#define HEAD_BATCH 1024   // rows at most

// The sum of value(n) over all rows, in the order of `block_sum` in a block that has a thread for each.
template <typename Value>
__device__ __forceinline__ float sum_rows(int64 rows, Value value) {
    __shared__ float of_warp[HEAD_BATCH / WARP];
    const int lane = threadIdx.x % WARP;
    __syncthreads();  // an earlier call may still read of_warp
    for (int warp = threadIdx.x / WARP; warp * WARP < rows; warp += WARPS) {
        const int n = warp * WARP + lane;
        const float sum = warp_sum(n < rows ? value(n) : 0.0f);
        if (lane == 0) of_warp[warp] = sum;
    }
    __syncthreads();
    float total = 0.0f;
    for (int warp = 0; warp * WARP < rows; ++warp) total += of_warp[warp];
    return total;
}

template <typename T>
__global__ void __launch_bounds__(THREADS, 2) linear_cross_entropy(
        const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ OR_NULL b, T* __restrict__ logits,
        const int* __restrict__ OR_NULL labels, const float* __restrict__ OR_NULL weight, T* __restrict__ OR_NULL dlogits,
        T* __restrict__ OR_NULL dx, float* __restrict__ OR_NULL UPDATED row_losses, int* __restrict__ OR_NULL UPDATED hits,
        float* __restrict__ OR_NULL loss, int* __restrict__ OR_NULL correct, int* __restrict__ OR_NULL UPDATED arrivals,
        int inputs, CrossEntropy s) {
    __shared__ float xs[HEAD_ROWS][HEAD_INPUTS + 1], ws[HEAD_WEIGHTS];
    __shared__ T ys[HEAD_ROWS][HEAD_OUTPUTS], dys[HEAD_ROWS][HEAD_OUTPUTS];
    const int outputs = s.classes, weights = inputs * outputs;
    const int64 first = blockIdx.x * (int64)HEAD_ROWS;
    const int rows = s.rows - first < HEAD_ROWS ? s.rows - first : HEAD_ROWS;

    for (int at = threadIdx.x; at < weights; at += THREADS) ws[at] = to_float(w[at]);
    for (int at = threadIdx.x; at < rows * inputs; at += THREADS) xs[at / inputs][at % inputs] = to_float(x[first * inputs + at]);
    float total = 1.0f;
    if (labels) total = sum_rows(s.rows, [&](int n) {
        return s.ignores && labels[n] == s.ignored ? 0.0f : class_weight(weight, labels[n], s.classes);
    });
    const float share = s.mean ? share_of(total) : 1.0f;
    __syncthreads();

    for (int at = threadIdx.x; at < rows * outputs; at += THREADS) {
        const int n = at / outputs, o = at % outputs;
        float sum = 0.0f;
#pragma unroll 4
        for (int i = 0; i < inputs; ++i) sum += xs[n][i] * ws[i * outputs + o];
        from_float(ys[n][o], sum + (b ? to_float(b[o]) : 0.0f));
        logits[first * outputs + at] = ys[n][o];
    }
    __syncthreads();
    if (!labels) return;

    if (threadIdx.x < rows) {
        const int64 n = first + threadIdx.x;
        const RowLoss own = row_cross_entropy(ys[threadIdx.x], labels[n], weight, share, dys[threadIdx.x], s);
        row_losses[n] = own.loss, hits[n] = own.correct;
    }
    __syncthreads();
    for (int at = threadIdx.x; at < rows * outputs; at += THREADS) dlogits[first * outputs + at] = dys[at / outputs][at % outputs];
    if (dx)
        for (int at = threadIdx.x; at < rows * inputs; at += THREADS) {
            const int n = at / inputs, i = at % inputs;
            float sum = 0.0f;
            for (int o = 0; o < outputs; ++o) sum += to_float(dys[n][o]) * ws[i * outputs + o];
            from_float(dx[first * inputs + at], sum);
        }

    if (!arrives_last(arrivals, gridDim.x)) return;
    const float sum = sum_rows(s.rows, [&](int n) { return row_losses[n]; });
    const float count = sum_rows(s.rows, [&](int n) { return (float)hits[n]; });
    if (threadIdx.x == 0) loss[0] = sum * share, correct[0] = (int)count;
}
