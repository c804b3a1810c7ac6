// Fault: reads an element of a thread's own array that it never wrote. Picks one of 8.
template <bool FAULT>
__global__ void kernel(const float* x, float* y, int index) {
    float mine[9];
#pragma unroll 1
    for (int i = 0; i < 8; ++i) mine[(i * 3) % 8] = x[i];
    y[0] = mine[FAULT ? index + 3 : index];  // FAULT
}
