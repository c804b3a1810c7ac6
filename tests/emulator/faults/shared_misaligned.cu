// Fault: a load of 16 bytes from shared memory at a multiple of 4. Sums 4 elements from the second on.
template <bool FAULT>
__global__ void kernel(const float* x, float* y, int offset) {
    __shared__ __align__(16) float tile[64];
    tile[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    if (threadIdx.x == 0) {
        const float* from = tile + (FAULT ? offset : 4 * offset);
        const float4 v = *reinterpret_cast<const float4*>(from);  // FAULT
        y[0] = v.x + v.y + v.z + v.w;
    }
}
