// Fault: the kernel traps. Copies 32 elements.
template <bool FAULT>
__global__ void kernel(const float* x, float* y) {
    if (FAULT && threadIdx.x == 7) __trap();  // FAULT
    y[threadIdx.x] = x[threadIdx.x];
}
