// Fault: reads the border of a tile that nothing fills. Sums each element of 64 and its two neighbours.
template <bool FAULT>
__global__ void kernel(const float* x, float* y) {
    __shared__ float tile[66];
    tile[threadIdx.x + 1] = x[threadIdx.x];
    if (!FAULT && threadIdx.x < 2) tile[65 * threadIdx.x] = 0;
    __syncthreads();
    float sum = 0;
#pragma unroll 1
    for (int i = 0; i < 3; ++i) sum += tile[threadIdx.x + i];  // FAULT
    y[threadIdx.x] = sum;
}
