#include "arrivals.cuh"
#include "sums.cuh"
// Sums of a reduction that several blocks share.
//
// Each block writes its results into a slot of its own. The last block of a tile to arrive, which a
// counter tells, adds the slots up in their order: so the sum is the same whichever block is last,
// and no second launch is needed. Of many splits, the last block of every SPLIT_GROUP adds up its
// group first, into the group's first slot, and the last of these adds up the groups; each thread
// has several loads in flight.
#define SPLIT_GROUP 16
// Slots from which a thread loads before it adds.
#define SLOTS_AHEAD 8

// Counters of a tile: one for each group of splits, and one for the groups if there are several.
__device__ __forceinline__ int counters_of(int splits) {
    const int groups = (splits + SPLIT_GROUP - 1) / SPLIT_GROUP;
    return groups + (groups > 1);
}

// The first slot += the next ones, `stride` floats apart. A slot is aligned to four floats, and
// `thread` counts the threads of the block.
template <int FLOATS, int BLOCK>
__device__ __forceinline__ void add_slots(float* first, int64 stride, int count, int thread) {
    for (int at = thread * 4; at < FLOATS; at += BLOCK * 4) {
        Sum sums[4];
        for (int s = 0; s < count; s += SLOTS_AHEAD) {
            float v[SLOTS_AHEAD][4] = {};
#pragma unroll
            for (int n = 0; n < SLOTS_AHEAD; ++n)
                if (s + n < count) load<4>(v[n], first + at + (s + n) * stride);
#pragma unroll
            for (int n = 0; n < SLOTS_AHEAD; ++n)
#pragma unroll
                for (int u = 0; u < 4; ++u)
                    if (s + n < count) sums[u].add(v[n][u]);
        }
        const float4 total = make_float4(sums[0].value(), sums[1].value(), sums[2].value(), sums[3].value());
        store_whole(reinterpret_cast<float4*>(first + at), total);
    }
}

// Whether this block has added up all slots of its tile, into the first of them. Every thread of a
// block calls it behind its writes to the slot of `split`, and whoever reads the sums of other
// threads waits for them first.
// tile (splits, FLOATS); counters (counters_of(splits)) zeros.
template <int FLOATS, int BLOCK = THREADS>
__device__ __forceinline__ bool add_all_slots(float* tile, int split, int splits, int* counters, int thread) {
    const int groups = (splits + SPLIT_GROUP - 1) / SPLIT_GROUP, group = split / SPLIT_GROUP;
    const int first = group * SPLIT_GROUP, members = min(splits - first, SPLIT_GROUP);
    if (!arrives_last(counters + group, members)) return false;
    add_slots<FLOATS, BLOCK>(tile + (int64)first * FLOATS, FLOATS, members, thread);
    if (groups == 1) return true;
    if (!arrives_last(counters + groups, groups)) return false;
    add_slots<FLOATS, BLOCK>(tile, (int64)SPLIT_GROUP * FLOATS, groups, thread);
    return true;
}
