#include "implicit_gemm.cuh"
#include "slots.cuh"
// The splits of a tiled product, so that few tiles of results still fill a GPU: see slots.cuh.

// Whether this block has acc, and `extra` in the threads below EXTRA, of all splits of its tile.
// slots (tiles, splits, floats of a block); arrivals (tiles, counters_of(splits)) zeros.
template <int EXTRA, int BLOCK = THREADS, int RM, int RN>
__device__ __forceinline__ bool add_splits(const Place& place, float* slots, int* arrivals, float (&acc)[RM][RN], float& extra) {
    const int splits = place.splits;
    if (splits == 1) return true;
    constexpr int RESULTS = RM * RN * BLOCK, FLOATS = RESULTS + EXTRA;
    float* const tile = slots + (int64)place.tile * splits * FLOATS;
    float* own = tile + (int64)place.split * FLOATS;
#pragma unroll
    for (int q = 0; q < RM * RN; q += 4)
        store_whole(reinterpret_cast<float4*>(own) + q / 4 * BLOCK + threadIdx.x, piece_of(acc, q));
    if constexpr (EXTRA > 0)
        if (threadIdx.x < EXTRA) own[RESULTS + threadIdx.x] = extra;

    int* const counters = arrivals + (int64)place.tile * counters_of(splits);
    if (!add_all_slots<FLOATS, BLOCK>(tile, place.split, splits, counters, threadIdx.x)) return false;
#pragma unroll
    for (int q = 0; q < RM * RN; q += 4)  // which this thread added up itself
        fill_piece(acc, q, reinterpret_cast<const float4*>(tile)[q / 4 * BLOCK + threadIdx.x]);
    if constexpr (EXTRA > 0) {
        __syncthreads();  // another thread added up the extra ones
        if (threadIdx.x < EXTRA) extra = tile[RESULTS + threadIdx.x];
    }
    return true;
}
