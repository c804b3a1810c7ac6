// Fault: block 0 spins until block 1 has set a flag, which it may never do. Copies an element.
template <bool FAULT>
__global__ void kernel(const float* x, float* y, int* flag) {
    if (FAULT) {
        while (atomicAdd(flag, 0) != 7) {}  // FAULT
    }
    __syncthreads();
    if (blockIdx.x == 0 && threadIdx.x == 0) y[0] = x[0];
}
