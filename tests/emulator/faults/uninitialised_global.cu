// Fault: adds to what nothing has written. Doubles 64 elements.
template <bool FAULT>
__global__ void kernel(const float* x, float* y) {
    if (!FAULT) y[threadIdx.x] = 0;
    y[threadIdx.x] += 2 * x[threadIdx.x];  // FAULT
}
