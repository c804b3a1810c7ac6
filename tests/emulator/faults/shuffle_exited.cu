// Fault: a shuffle that names lanes that have returned. Sums 32 elements.
template <bool FAULT>
__global__ void kernel(const float* x, float* y) {
    if (FAULT && threadIdx.x >= 16) return;
    float sum = x[threadIdx.x];
    for (int distance = 16; distance > 0; distance /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, distance);  // FAULT
    if (threadIdx.x == 0) y[0] = sum;
}
