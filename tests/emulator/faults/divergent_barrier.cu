// Fault: the lanes of a warp wait at two barriers that are not the same. Sums 64 elements.
template <bool FAULT>
__global__ void kernel(const float* x, float* y) {
    __shared__ float total;
    if (threadIdx.x == 0) total = 0;
    __syncthreads();
    if (FAULT && threadIdx.x % 2) {
        atomicAdd(&total, x[threadIdx.x]);
        asm volatile("bar.sync 1;" ::: "memory");  // FAULT
    } else {
        if (!FAULT || threadIdx.x % 2 == 0) atomicAdd(&total, x[threadIdx.x]);
        asm volatile("bar.sync 2;" ::: "memory");  // FAULT
    }
    if (threadIdx.x == 0) y[0] = total;
}
