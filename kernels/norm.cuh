#include "sums.cuh"
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

// Rows that a thread takes at once.
#define UNROLL 4

// Blocks that a multiprocessor holds at once: fewer of a kernel with eight channels per thread, which
// keeps more of them in registers. The host reads both numbers.
#define BLOCKS 4
#define BLOCKS_BY_EIGHT 2
#define BLOCKS_OF(V) (V == 8 ? BLOCKS_BY_EIGHT : BLOCKS)

// The number of elements of a channel, their mean, and their summed squared distances from it.
template <int V>
struct Moments {
    float n, mean[V], squares[V];
};

template <int V>
__device__ __forceinline__ void join(Moments<V>& a, float n, const float (&mean)[V], const float (&squares)[V]) {
    const float both = a.n + n, share = both > 0.0f ? n / both : 0.0f;
#pragma unroll
    for (int u = 0; u < V; ++u) {
        const float distance = mean[u] - a.mean[u];
        a.mean[u] += distance * share;
        a.squares[u] += squares[u] + distance * distance * a.n * share;
    }
    a.n = both;
}

// The same for many parts that are joined one after another.
template <int V>
struct LongMoments {
    float n = 0.0f;
    Sum mean[V], squares[V];

    __device__ __forceinline__ void join(float count, const float (&of_mean)[V], const float (&of_squares)[V]) {
        const float both = n + count, share = count / both;
#pragma unroll
        for (int u = 0; u < V; ++u) {
            const float distance = of_mean[u] - mean[u].value();
            mean[u].add(distance * share);
            squares[u].add(of_squares[u] + distance * distance * n * share);
        }
        n = both;
    }
    __device__ __forceinline__ Moments<V> value() const {
        Moments<V> a;
        a.n = n;
        values<V>(a.mean, mean);
        values<V>(a.squares, squares);
        return a;
    }
};

// Joins the moments of the threads of a block that hold the same channels, always in the same
// order; the first `across` threads get the result.
template <int V>
__device__ __forceinline__ void join_block(Moments<V>& a, int across) {
    __shared__ Moments<V> of[THREADS];
    of[threadIdx.x] = a;
    __syncthreads();
    for (int half = THREADS / 2; half >= across; half /= 2) {
        if (threadIdx.x < half) {
            const Moments<V>& other = of[threadIdx.x + half];
            join<V>(a, other.n, other.mean, other.squares);
            of[threadIdx.x] = a;
        }
        __syncthreads();
    }
}

// The moments of V channels over the rows first, first + step, … below `end` of x (rows, C), which begins
// at the first of these channels. Rows are taken UNROLL at once: their mean and squared distances are
// computed in registers, and joined to those of the rows before.
template <int V, typename T>
__device__ __forceinline__ Moments<V> moments_of_rows(const T* x, int64 first, int64 end, int step, int C) {
    LongMoments<V> all;
    for (int64 r0 = first; r0 < end; r0 += UNROLL * step) {
        float v[UNROLL][V] = {}, mean[V] = {}, squares[V] = {};
        int count = 0;
#pragma unroll
        for (int k = 0; k < UNROLL; ++k)
            if (r0 + k * step < end) {
                load<V>(v[k], x + (r0 + k * step) * C);
                ++count;
            }
        const float share = 1.0f / count;
#pragma unroll
        for (int u = 0; u < V; ++u) {
#pragma unroll
            for (int k = 0; k < UNROLL; ++k) mean[u] += v[k][u];
            mean[u] *= share;
#pragma unroll
            for (int k = 0; k < UNROLL; ++k) {
                const float distance = k < count ? v[k][u] - mean[u] : 0.0f;
                squares[u] += distance * distance;
            }
        }
        all.join(count, mean, squares);
    }
    return all.value();
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
