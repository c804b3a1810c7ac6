// Fault: an addition by several blocks that is not atomic. Counts 64 elements on what y holds.
template <bool FAULT>
__global__ void kernel(const float* x, float* y) {
    const float one = x[blockIdx.x * blockDim.x + threadIdx.x] < 1e30f;
    if (FAULT) {
        const int several = __syncthreads_count(one > 0);
        if (threadIdx.x == 0) y[0] = y[0] + several;  // FAULT
    } else {
        atomicAdd(y, one);
    }
}
