// Fault: a write through a pointer that the kernel takes as const. Doubles 64 elements.
template <bool FAULT>
__global__ void kernel(const float* x, float* y) {
    float* to = FAULT ? const_cast<float*>(x) : y;
    to[threadIdx.x] = 2 * x[threadIdx.x];  // FAULT
}
