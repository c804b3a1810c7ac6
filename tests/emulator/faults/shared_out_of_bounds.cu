// Fault: a write past the end of a shared array, into the next one. Reverses 63 elements.
template <bool FAULT>
__global__ void kernel(const float* x, float* y, int count) {
    __shared__ float first[63];
    __shared__ float second[63];
    if (FAULT || threadIdx.x < count)
        first[threadIdx.x] = x[min(threadIdx.x, count - 1)];  // FAULT
    if (threadIdx.x < count) second[threadIdx.x] = 1;
    __syncthreads();
    if (threadIdx.x < count) y[threadIdx.x] = first[count - 1 - threadIdx.x] * second[threadIdx.x];
}
