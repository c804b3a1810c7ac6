// Fault: no __syncthreads() between reading shared memory and filling it again. Reverses each of 4 rows of 64.
template <bool FAULT>
__global__ void kernel(const float* x, float* y) {
    __shared__ float tile[64];
    for (int row = 0; row < 4; ++row) {
        tile[threadIdx.x] = x[64 * row + threadIdx.x];  // FAULT
        __syncthreads();
        y[64 * row + threadIdx.x] = tile[63 - threadIdx.x];  // FAULT
        if (!FAULT) __syncthreads();
    }
}
