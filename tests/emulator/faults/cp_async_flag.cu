// Fault: copies are waited for and a flag says so, but no fence orders them before the flag; the barrier between their start
// and their wait orders nothing. Reverses 32 elements.
template <bool FAULT>
__global__ void kernel(const float* x, float* y) {
    __shared__ float tile[32];
    __shared__ int landed;
    if (threadIdx.x == 0) landed = 0;
    if (threadIdx.x < 32) {
        const unsigned to = (unsigned)__cvta_generic_to_shared(&tile[threadIdx.x]);
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4;\n" ::"r"(to), "l"(x + threadIdx.x));
    }
    __syncthreads();
    if (threadIdx.x < 32) {
        asm volatile("cp.async.wait_all;\n" ::: "memory");
        if (!FAULT) __threadfence_block();
        atomicAdd(&landed, 1);
    } else {
        while (atomicAdd(&landed, 0) < 32) {}
        y[threadIdx.x - 32] = tile[63 - threadIdx.x];  // FAULT
    }
}
