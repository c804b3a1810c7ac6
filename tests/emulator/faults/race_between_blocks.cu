// Fault: a block reads what another block of the same launch writes. Four blocks of 16 double their elements; each also
// stores, behind them, its first element or (the fault) the first result of the block before.
template <bool FAULT>
__global__ void kernel(const float* x, float* y) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    y[i] = 2 * x[i];  // FAULT
    if (threadIdx.x == 0)
        y[64 + blockIdx.x] = FAULT ? y[(i + 48) % 64] : x[i];  // FAULT
}
