// Fault: the lanes of a warp come to one barrier at two places: each has enough arrivals, but a warp must come as one.
// Reverses 64 elements.
template <bool FAULT>
__global__ void kernel(const float* x, float* y) {
    __shared__ float tile[64];
    if (FAULT && threadIdx.x % 2) {
        tile[threadIdx.x] = x[threadIdx.x];
        asm volatile("bar.sync 0; // odd" ::: "memory");  // FAULT
    } else {
        tile[threadIdx.x] = x[threadIdx.x];
        asm volatile("bar.sync 0; // even" ::: "memory");  // FAULT
    }
    y[threadIdx.x] = tile[63 - threadIdx.x];
}
