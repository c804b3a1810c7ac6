// Accesses whose requests, sectors, instructions and barriers are known by hand.

extern "C" __global__ void copy(const float* x, float* y, int step, int offset) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    y[i] = x[i * step + offset];
}

extern "C" __global__ void copy_fours(const float* x, float* y) {
    ((float4*)y)[threadIdx.x] = ((const float4*)x)[threadIdx.x];
}

extern "C" __global__ void copy_some(const float* x, float* y, int count) {
    if (threadIdx.x < count) y[threadIdx.x] = x[threadIdx.x];
}

extern "C" __global__ void odd_lanes(const float* x, float* y) {
    const int i = threadIdx.x;
    float value = 1;
    if (i & 1) value = x[i];
    y[i] = value;
}

// The inner loop turns once to four times, depending on the lane.
extern "C" __global__ void trips(const float* x, float* y) {
    float sum = 0;
#pragma unroll 1
    for (int outer = 0; outer < 3; ++outer) {
#pragma unroll 1
        for (int i = 0; i <= threadIdx.x % 4; ++i) sum += x[(outer * 4 + i) * 32 + threadIdx.x];
        sum += x[outer * 32 + threadIdx.x];
    }
    y[threadIdx.x] = sum;
}

// A lane leaves out the turns that its number does not divide, and stops at its limit.
extern "C" __global__ void leaves(const float* x, const int* limit, float* y) {
    float sum = 0;
#pragma unroll 1
    for (int i = 0; i < 12; ++i) {
        if (i % (threadIdx.x % 2 + 1)) continue;
        if (i == limit[threadIdx.x]) break;
        sum += x[i * 32 + threadIdx.x];
    }
    y[threadIdx.x] = sum;
}

extern "C" __global__ void gather(const float* x, const int* where, float* y) {
    const int i = where[threadIdx.x];
    y[threadIdx.x] =
        x[i];
}

// In each turn a lane takes the branch that its number says.
extern "C" __global__ void switches(const float* x, const int* which, float* y) {
    float sum = 0;
#pragma unroll 1
    for (int i = 0; i < 8; ++i) {
        const int at = which[i * 32 + threadIdx.x];
        switch (at) {
            case 0: sum += x[threadIdx.x]; break;
            case 1: sum *= x[32 + threadIdx.x]; break;
            case 2: sum -= x[64 + threadIdx.x]; break;
            case 3: sum = fminf(sum, x[96 + threadIdx.x]); break;
            case 4: sum = fmaxf(sum, x[128 + threadIdx.x]); break;
            case 5: sum /= x[160 + threadIdx.x]; break;
            case 6: sum = sqrtf(x[192 + threadIdx.x]); break;
            case 7: sum = x[224 + threadIdx.x]; break;
        }
    }
    y[threadIdx.x] = sum;
}

__device__ __noinline__ float total(const float* x, int count) {
    float sum = 0;
#pragma unroll 1
    for (int i = 0; i < count; ++i) sum += x[i];
    return sum;
}

extern "C" __global__ void calls(const float* x, float* y) {
    y[threadIdx.x] = total(x, threadIdx.x % 2 ? 5 : 2) + total(x, threadIdx.x % 2 ? 1 : 3);
}

extern "C" __global__ void long_loop(const float* x, float* y, const int* turns) {
    float sum = 0;
#pragma unroll 1
    for (int i = 0; i < turns[threadIdx.x]; ++i) sum += __ldg(x + (i & 1) * 32 + threadIdx.x);
    y[threadIdx.x] = sum;
}

extern "C" __global__ void tell(int* total, int* bins) {
    __shared__ int own[32];
    own[threadIdx.x] = 0;
    __syncthreads();
    atomicAdd(&own[threadIdx.x / 2], 1);
    __syncthreads();
    bins[threadIdx.x] = own[threadIdx.x];
    atomicAdd(total, own[threadIdx.x]);
}

extern "C" __global__ void products(const float* x, float* y, int turns) {
    float a = x[threadIdx.x], sum = 0;
#pragma unroll 1
    for (int i = 0; i < turns; ++i) sum = __fmaf_rn(sum, a, a);
    y[threadIdx.x] = __fadd_rn(__fmul_rn(sum, a), 1.0f);
}

extern "C" __global__ void barriers(float* y, int turns) {
    __shared__ float tile[64];
    for (int i = 0; i < turns; ++i) {
        tile[threadIdx.x] = i;
        __syncthreads();
        y[blockIdx.x * 64 + threadIdx.x] = tile[63 - threadIdx.x];
        __syncthreads();
    }
}

// Reads through a generic address from shared memory, global memory and a local array.
extern "C" __global__ void anywhere(const float* x, float* y, int where) {
    __shared__ float tile[32];
    float own[32];
    tile[threadIdx.x] = 1;
    for (int i = 0; i < 32; ++i) own[(i * 5) & 31] = i + where;
    const float* from = where == 0 ? tile : where == 1 ? x : own;
    y[threadIdx.x] = *(volatile const float*)(from + threadIdx.x);
}

__constant__ float weights[64] = {1};

extern "C" __global__ void constants(float* y, int i) { y[threadIdx.x] = weights[threadIdx.x + i]; }

extern "C" __global__ void copy_asynchronously(const float* x, float* y, int bytes) {
    __shared__ float4 tile[32];
    const unsigned to = __cvta_generic_to_shared(&tile[threadIdx.x]);
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(x + 4 * threadIdx.x), "r"(threadIdx.x < 16 ? 16 : bytes));
    asm volatile("cp.async.wait_all;");
    __syncthreads();
    ((float4*)y)[threadIdx.x] = tile[threadIdx.x];
}
