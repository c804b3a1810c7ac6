// Fault: cp.async without its wait. Doubles 64 elements.
template <bool FAULT>
__global__ void kernel(const float* x, float* y) {
    __shared__ float tile[64];
    const unsigned to = (unsigned)__cvta_generic_to_shared(&tile[threadIdx.x]);
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;\n" ::"r"(to), "l"(x + threadIdx.x));
    asm volatile("cp.async.commit_group;\n");
    if (!FAULT) asm volatile("cp.async.wait_group 0;\n" ::: "memory");
    __syncthreads();
    y[threadIdx.x] = 2 * tile[63 - threadIdx.x];  // FAULT
}
