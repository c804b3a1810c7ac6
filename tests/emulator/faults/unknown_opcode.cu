// Fault: an instruction that the emulator does not have, one of the old video instructions. Copies 32 elements.
template <bool FAULT>
__global__ void kernel(const float* x, float* y) {
    unsigned sum = threadIdx.x;
    if (FAULT) asm volatile("vadd4.u32.u32.u32 %0, %0, %0, %0;" : "+r"(sum));  // FAULT
    if (sum < 1000) y[threadIdx.x] = x[threadIdx.x];
}
