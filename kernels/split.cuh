#include "arrivals.cuh"
#include "sums.cuh"
// A reduction that several blocks share, so that few tiles of results still fill a GPU.
//
// Each block writes its results into a slot of its own. The last block of a tile to arrive, which a
// counter tells, adds the slots up in their order: so the sum is the same whichever block is last,
// and no second launch is needed. Of many splits, the last block of every SPLIT_GROUP adds up its
// group first, into the group's first slot, and the last of these adds up the groups; each thread
// has many loads in flight.

// Splits that one block adds up at most, unless there are more than SPLIT_GROUP groups.
#define SPLIT_GROUP 16
// Slots from which a thread loads before it adds.
#define SLOTS_AHEAD 8

// The first slot += the next ones, `stride` floats apart. Loads of several slots are in flight.
template <int FLOATS>
__device__ __forceinline__ void add_slots(float* first, int64 stride, int count) {
    for (int at = threadIdx.x * 4; at < FLOATS; at += THREADS * 4) {
        Sum sums[4];
        for (int s = 0; s < count; s += SLOTS_AHEAD) {
            float4 v[SLOTS_AHEAD];
#pragma unroll
            for (int n = 0; n < SLOTS_AHEAD; ++n) {
                v[n] = make_float4(0, 0, 0, 0);
                if (s + n < count) v[n] = *reinterpret_cast<const float4*>(first + at + (s + n) * stride);
            }
#pragma unroll
            for (int n = 0; n < SLOTS_AHEAD; ++n)
                if (s + n < count) sums[0].add(v[n].x), sums[1].add(v[n].y), sums[2].add(v[n].z), sums[3].add(v[n].w);
        }
        store_whole(
            reinterpret_cast<float4*>(first + at), make_float4(sums[0].value(), sums[1].value(), sums[2].value(), sums[3].value()));
    }
}

// Whether this block has acc, and `extra` in the threads below EXTRA, of all splits of its tile.
// slots (tiles, splits, floats of a block); arrivals (tiles, groups of splits + 1) zeros.
template <int EXTRA, int RM, int RN>
__device__ __forceinline__ bool add_splits(const Place& place, float* slots, int* arrivals, float (&acc)[RM][RN], float& extra) {
    const int splits = place.splits;
    if (splits == 1) return true;
    constexpr int RESULTS = RM * RN * THREADS, FLOATS = RESULTS + EXTRA;
    float* const tile = slots + (int64)place.tile * splits * FLOATS;
    float* own = tile + (int64)place.split * FLOATS;
#pragma unroll
    for (int q = 0; q < RM * RN; q += 4) 
        store_whole(reinterpret_cast<float4*>(own) + q / 4 * THREADS + threadIdx.x, piece_of(acc, q));
    if constexpr (EXTRA > 0)
        if (threadIdx.x < EXTRA) own[RESULTS + threadIdx.x] = extra;

    const int groups = (splits + SPLIT_GROUP - 1) / SPLIT_GROUP, group = place.split / SPLIT_GROUP;
    int* const counters = arrivals + (int64)place.tile * (groups + 1);
    const int first = group * SPLIT_GROUP, members = min(splits - first, SPLIT_GROUP);
    if (!arrives_last(counters + group, members)) return false;
    add_slots<FLOATS>(tile + (int64)first * FLOATS, FLOATS, members);
    if (groups > 1) {
        if (!arrives_last(counters + groups, groups)) return false;
        add_slots<FLOATS>(tile, (int64)SPLIT_GROUP * FLOATS, groups);
    }
#pragma unroll
    for (int q = 0; q < RM * RN; q += 4)  // which this thread added up itself
        fill_piece(acc, q, reinterpret_cast<const float4*>(tile)[q / 4 * THREADS + threadIdx.x]);
    if constexpr (EXTRA > 0) {
        __syncthreads();  // another thread added up the extra ones
        if (threadIdx.x < EXTRA) extra = tile[RESULTS + threadIdx.x];
    }
    return true;
}
