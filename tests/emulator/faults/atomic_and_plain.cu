// Fault: one thread stores plainly what the others update atomically. Counts 64 elements.
template <bool FAULT>
__global__ void kernel(const float* x, float* y) {
    __shared__ int count;
    if (threadIdx.x == (FAULT ? 40 : 0)) count = 0;  // FAULT
    if (!FAULT) __syncthreads();
    atomicAdd(&count, (int)(x[threadIdx.x] < 1e30f));  // FAULT
    __syncthreads();
    if (threadIdx.x == 0) y[0] = count;
}
