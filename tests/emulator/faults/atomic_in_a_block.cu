// Fault: an addition by many threads of a block that is not atomic. Counts 64 elements.
template <bool FAULT>
__global__ void kernel(const float* x, float* y) {
    __shared__ int count;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    if (FAULT) count = count + (x[threadIdx.x] < 1e30f);  // FAULT
    else atomicAdd(&count, (int)(x[threadIdx.x] < 1e30f));
    __syncthreads();
    if (threadIdx.x == 0) y[0] = count;
}
