// Functions that the normalisations share. A block has THREADS threads, and neighbouring
// threads hold neighbouring channels.

// Sets a to the values of the sums.
template <int V>
__device__ __forceinline__ void values(float (&a)[V], const Sum (&sums)[V]) {
#pragma unroll
    for (int u = 0; u < V; ++u) a[u] = sums[u].value();
}

__device__ __forceinline__ float inverse_deviation(float variance, float eps) { return 1.0f / sqrtf(variance + eps); }

// Sets v to values[c …], or to a constant if `values` is null.
template <int V>
__device__ __forceinline__ void load_or(float (&v)[V], const float* values, int c, float otherwise) {
    if (values) {
        load<V>(v, values + c);
        return;
    }
#pragma unroll
    for (int u = 0; u < V; ++u) v[u] = otherwise;
}

// Adds up `a` over the threads of a block that hold the same channels, always in the same order;
// the first `across` threads get the sums.
template <int V>
__device__ __forceinline__ void add_block(float (&a)[V], int across) {
    __shared__ float of[V][THREADS];
#pragma unroll
    for (int u = 0; u < V; ++u) of[u][threadIdx.x] = a[u];
    __syncthreads();
    for (int half = THREADS / 2; half >= across; half /= 2) {
        if (threadIdx.x < half)
#pragma unroll
            for (int u = 0; u < V; ++u) of[u][threadIdx.x] = a[u] += of[u][threadIdx.x + half];
        __syncthreads();
    }
}

// Channels of a block that merges partial results: so many that a load reads whole sectors of 32 bytes,
// and so few that many threads share the partial results of a channel.
#define MERGED 8

// Adds up both sums of channel c from partial (splits, 2, C). Neighbouring threads hold the MERGED
// channels of a block, and the first ones get the sums.
__device__ __forceinline__ void add_splits(float (&of)[2], const float* partial, int splits, int c, int C) {
    Sum sums[2];
    if (c < C)
#pragma unroll 4  // so that eight loads are under way at once
        for (int split = threadIdx.x / MERGED; split < splits; split += THREADS / MERGED) {
            const float* from = partial + (int64)split * 2 * C + c;
            sums[0].add(from[0]), sums[1].add(from[C]);
        }
    of[0] = sums[0].value(), of[1] = sums[1].value();
    add_block<2>(of, MERGED);
}
