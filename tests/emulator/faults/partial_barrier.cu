// Fault: a barrier for one warp more than arrives. The first two of three warps reverse 64 elements.
template <bool FAULT>
__global__ void kernel(const float* x, float* y) {
    __shared__ float tile[64];
    if (threadIdx.x >= 64) return;
    tile[threadIdx.x] = x[threadIdx.x];
    if (FAULT) asm volatile("bar.sync 3, 96;" ::: "memory");  // FAULT
    else asm volatile("bar.sync 3, 64;" ::: "memory");
    y[threadIdx.x] = tile[63 - threadIdx.x];
}
