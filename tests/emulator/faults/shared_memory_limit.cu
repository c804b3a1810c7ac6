// Fault: the launch asks for more dynamic shared memory than the architecture has. Reverses 64 elements.
template <bool FAULT>
__global__ void kernel(const float* x, float* y) {
    extern __shared__ float tile[];
    tile[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = tile[63 - threadIdx.x];
}
