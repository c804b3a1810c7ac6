// Fault: one thread adds plainly to what the others update atomically. Counts 64 elements.
template <bool FAULT>
__global__ void kernel(const float* x, float* y) {
    __shared__ int count;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    const int one = x[threadIdx.x] < 1e30f;
    if (FAULT && threadIdx.x == 40) count = count + one;  // FAULT
    else atomicAdd(&count, one);  // FAULT
    __syncthreads();
    if (threadIdx.x == 0) y[0] = count;
}
