// Fault: reads one element past the end. Differences of 100 neighbours.
template <bool FAULT>
__global__ void kernel(const float* x, float* y) {
    const int i = threadIdx.x;
    if (i < 99 || (FAULT && i < 100))
        y[i] = x[i + 1] - x[i];  // FAULT
}
