// Fault: threads write the same byte of an array of bytes; neighbouring bytes of one word are not a race.
template <bool FAULT>
__global__ void kernel(const unsigned char* x, unsigned char* y) {
    y[FAULT ? threadIdx.x / 2 : threadIdx.x] = x[threadIdx.x];  // FAULT
}
