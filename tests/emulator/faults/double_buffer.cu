// Fault: no __syncthreads() in a double-buffered pipeline, so that a fast warp overwrites the buffer that a slow one still
// reads. Reverses each of 6 rows of 96.
template <bool FAULT>
__global__ void kernel(const float* x, float* y) {
    __shared__ float tile[2][96];
    tile[0][threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    for (int row = 0; row < 6; ++row) {
        const int now = row % 2, next = 1 - now;
        if (FAULT && row == 2) __syncthreads();  // now and then the pipeline is in step
        if (row + 1 < 6) tile[next][threadIdx.x] = x[96 * (row + 1) + threadIdx.x];  // FAULT
        y[96 * row + threadIdx.x] = tile[now][95 - threadIdx.x];  // FAULT
        if (!FAULT) __syncthreads();
    }
}
