// Fault: a barrier that some threads never reach, because they have returned. Reverses the first 50 of 64 elements.
template <bool FAULT>
__global__ void kernel(const float* x, float* y) {
    __shared__ float tile[64];
    if (FAULT && threadIdx.x >= 50) return;
    tile[threadIdx.x] = x[threadIdx.x];
    __syncthreads();  // FAULT
    if (threadIdx.x < 50) y[threadIdx.x] = tile[49 - threadIdx.x];
}
