// Fault: a warp-synchronous reduction without __syncwarp(). Sums 32 elements.
template <bool FAULT>
__global__ void kernel(const float* x, float* y) {
    __shared__ float tile[32];
    tile[threadIdx.x] = x[threadIdx.x];  // FAULT
    for (int distance = 16; distance > 0; distance /= 2) {
        if (!FAULT) __syncwarp();
        const float other = threadIdx.x < distance ? tile[threadIdx.x + distance] : 0.0f;  // FAULT
        if (!FAULT) __syncwarp();
        if (threadIdx.x < distance) tile[threadIdx.x] = tile[threadIdx.x] + other;  // FAULT
    }
    if (threadIdx.x == 0) y[0] = tile[0];
}
