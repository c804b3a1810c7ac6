// Fault: more dynamic shared memory is used than the launch gave. Reverses 64 elements.
template <bool FAULT>
__global__ void kernel(const float* x, float* y) {
    extern __shared__ float tile[];
    float* mine = tile + (FAULT ? 32 : 0);
    mine[threadIdx.x] = x[threadIdx.x];  // FAULT
    __syncthreads();
    y[threadIdx.x] = mine[63 - threadIdx.x];
}
