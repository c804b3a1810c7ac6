// Fault: a wait that lets one group of copies be on its way too many. Adds two rows of 64.
template <bool FAULT>
__global__ void kernel(const float* x, float* y) {
    __shared__ float tile[2][64];
    for (int row = 0; row < 2; ++row) {
        const unsigned to = (unsigned)__cvta_generic_to_shared(&tile[row][threadIdx.x]);
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4;\n" ::"r"(to), "l"(x + 64 * row + threadIdx.x));
        asm volatile("cp.async.commit_group;\n");
    }
    if (FAULT) asm volatile("cp.async.wait_group 1;\n" ::: "memory");
    else asm volatile("cp.async.wait_group 0;\n" ::: "memory");
    __syncthreads();
    y[threadIdx.x] = tile[0][threadIdx.x] + tile[1][threadIdx.x];  // FAULT
}
