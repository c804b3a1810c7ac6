// Fault: an element is overwritten once a flag says that it was read, but no fence orders the reading before the flag.
// Reverses 32 elements; the second warp then fills their place.
template <bool FAULT>
__global__ void kernel(const float* x, float* y) {
    __shared__ float tile[32];
    __shared__ int readers;
    if (threadIdx.x == 0) readers = 0;
    if (threadIdx.x < 32) tile[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    if (threadIdx.x < 32) {
        y[threadIdx.x] = tile[31 - threadIdx.x];
        if (!FAULT) __threadfence_block();
        atomicAdd(&readers, 1);
    } else {
        while (atomicAdd(&readers, 0) < 32) {}
        tile[threadIdx.x - 32] = 0;  // FAULT
    }
}
