// Fault: a shuffle in a branch, whose mask names lanes that do not take it. Each lane of the lower half adds its neighbour.
template <bool FAULT>
__global__ void kernel(const float* x, float* y) {
    float value = x[threadIdx.x];
    if (threadIdx.x < 16)
        value += __shfl_xor_sync(FAULT ? 0xffffffffu : 0x0000ffffu, value, 1);  // FAULT
    __syncwarp();  // FAULT
    y[threadIdx.x] = value;
}
