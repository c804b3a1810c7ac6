// What the blocks of a launch have written, one of them adds up: the last one to arrive, which a counter
// tells. It adds in the order of the blocks, so the sum is the same whichever block is last, and no second
// launch is needed.

// Whether this block is the last of `of` blocks to arrive at a counter, which is 0 before the first and
// behind the last of them. Every thread must call it; the last block sees what the others wrote.
__device__ __forceinline__ bool arrives_last(int* counter, int of) {
    __shared__ bool last;
    __threadfence();  // what this block wrote is visible before it arrives
    __syncthreads();
    if (threadIdx.x + threadIdx.y == 0) last = atomicAdd(counter, 1) == of - 1;
    __syncthreads();
    if (!last) return false;
    __threadfence();
    if (threadIdx.x + threadIdx.y == 0) *counter = 0;  // for the next launch
    return true;
}
