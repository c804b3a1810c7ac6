// Fault: no test of the last block's threads, which write past the end. Doubles 100 elements.
template <bool FAULT>
__global__ void kernel(const float* x, float* y, int count) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (FAULT || i < count)
        y[i] = 2 * x[min(i, count - 1)];  // FAULT
}
