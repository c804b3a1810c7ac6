// Fault: no __syncthreads() between filling shared memory and reading what others filled. Reverses 64 elements.
template <bool FAULT>
__global__ void kernel(const float* x, float* y) {
    __shared__ float tile[64];
    tile[threadIdx.x] = x[threadIdx.x];  // FAULT
    if (!FAULT) __syncthreads();
    y[threadIdx.x] = tile[63 - threadIdx.x];  // FAULT
}
