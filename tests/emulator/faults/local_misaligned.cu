// Fault: a load of 8 bytes from a thread's own array at a multiple of 4. Adds two neighbours of 8.
template <bool FAULT>
__global__ void kernel(const float* x, float* y, int index) {
    __align__(8) float mine[8];
#pragma unroll 1
    for (int i = 0; i < 8; ++i) mine[(i * 3) % 8] = x[i];
    const float2 v = *reinterpret_cast<const float2*>(mine + (FAULT ? index : 2 * index));  // FAULT
    y[0] = v.x + v.y;
}
