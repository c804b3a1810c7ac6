// Fault: an index past the end of a thread's own array. Picks one of 8 elements.
template <bool FAULT>
__global__ void kernel(const float* x, float* y, int index) {
    float mine[8];
#pragma unroll 1
    for (int i = 0; i < 8; ++i) mine[(i * 3) % 8] = x[i];
    y[0] = mine[FAULT ? index + 8 : index];  // FAULT
}
