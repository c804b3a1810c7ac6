// Fault: a barrier in a loop that one warp leaves a round earlier. Adds up a column of 3 for each of 64 threads.
template <bool FAULT>
__global__ void kernel(const float* x, float* y) {
    const int rounds = FAULT && threadIdx.x >= 32 ? 2 : 3;
    float sum = 0;
    for (int i = 0; i < rounds; ++i) {
        sum += x[64 * i + threadIdx.x];
        __syncthreads();  // FAULT
    }
    y[threadIdx.x] = sum;
}
