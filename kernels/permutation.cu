#include "common.cuh"
// The stable order of random words: order[k] is the index of the k-th smallest word; of equal words
// the earlier one comes first.
//   words uint64 (count,)   order int (count,)   members int (count,)   ends int (buckets,)
// Evenly spread words are nearly sorted by their upper bits. There are about count / 4 buckets, a
// power of two, so that a bucket holds four words, and the place of a word is the beginning of its
// bucket plus the number of words in the bucket that come before it. Four launches:
//   _count:   ends[b] = number of words in bucket b
//   _offsets: ends[b] = number of words in the buckets before b
//   _scatter: members holds the words of one bucket after another; ends[b] moves to the end of b
//   _rank:    order
// The atomic operations count integers, and the result does not depend on the order of the members
// in a bucket, which may change from run to run: every run gives the same order. Words that are not
// spread evenly are sorted too, but slowly.
// Bound: memory and latency. 60,000 words should take four launches of a few microseconds each, a
// few million words less than 1 ms.

#define SCAN_THREADS 1024

__device__ __forceinline__ int bucket_of(uint64 word, int bits) { return word >> (64 - bits); }

__global__ void permutation_count(const uint64* __restrict__ words, int* __restrict__ UPDATED ends, int count, int bits) {
    GRID_STRIDE_LOOP(i, count) atomicAdd(&ends[bucket_of(words[i], bits)], 1);
}

// Replaces each count by the sum of the counts before it, in place. Takes one block, in which each
// thread adds up a run of neighbouring buckets.
__global__ void __launch_bounds__(SCAN_THREADS) permutation_offsets(int* __restrict__ UPDATED ends, int buckets) {
    __shared__ int sums[SCAN_THREADS];
    const int each = (buckets + SCAN_THREADS - 1) / SCAN_THREADS, t = threadIdx.x;
    const int first = min(t * each, buckets), last = min(first + each, buckets);
    int own = 0;
    for (int b = first; b < last; ++b) own += ends[b];
    sums[t] = own;
    for (int distance = 1; distance < SCAN_THREADS; distance *= 2) {
        __syncthreads();
        const int before = t >= distance ? sums[t - distance] : 0;
        __syncthreads();
        sums[t] += before;
    }
    int offset = sums[t] - own;
    for (int b = first; b < last; ++b) {
        const int words = ends[b];
        ends[b] = offset;
        offset += words;
    }
}

__global__ void permutation_scatter(
        const uint64* __restrict__ words, int* __restrict__ UPDATED ends, int* __restrict__ members, int count, int bits) {
    GRID_STRIDE_LOOP(i, count) members[atomicAdd(&ends[bucket_of(words[i], bits)], 1)] = i;
}

__global__ void permutation_rank(
        const uint64* __restrict__ words, const int* __restrict__ ends, const int* __restrict__ members,
        int* __restrict__ order, int count, int bits) {
    GRID_STRIDE_LOOP(i, count) {
        const uint64 word = words[i];
        const int b = bucket_of(word, bits), begin = b ? ends[b - 1] : 0;
        int place = begin;
        for (int m = begin; m < ends[b]; ++m) {
            const int other = members[m];
            place += words[other] < word || (words[other] == word && other < i);
        }
        order[place] = i;
    }
}
