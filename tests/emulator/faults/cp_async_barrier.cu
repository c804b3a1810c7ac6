// Fault: a thread waits for its own copies, but no barrier tells it that the others have waited for theirs. Reverses 64.
template <bool FAULT>
__global__ void kernel(const float* x, float* y) {
    __shared__ float tile[64];
    const unsigned to = (unsigned)__cvta_generic_to_shared(&tile[threadIdx.x]);
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;\n" ::"r"(to), "l"(x + threadIdx.x));  // FAULT
    asm volatile("cp.async.wait_all;\n" ::: "memory");  // FAULT
    if (!FAULT) __syncthreads();
    y[threadIdx.x] = tile[63 - threadIdx.x];  // FAULT
}
