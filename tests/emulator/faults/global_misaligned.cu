// Fault: a load of 16 bytes from an address that is a multiple of 4. Copies 4 elements from the second on.
template <bool FAULT>
__global__ void kernel(const float* x, float* y) {
    if (FAULT) {
        const float4 v = *reinterpret_cast<const float4*>(x + 1);  // FAULT
        y[0] = v.x, y[1] = v.y, y[2] = v.z, y[3] = v.w;
    } else {
        for (int i = 0; i < 4; ++i) y[i] = x[1 + i];
    }
}
