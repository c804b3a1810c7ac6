// Counts what the accesses of a launch cost: requests, sectors of global memory, wavefronts of
// shared memory. counting.py writes the calls of emu_count into a kernel.
//
// The lanes of a warp run one after another, so a request is put together from what each lane
// notes: accesses with the same number and the same key belong together. A warp's requests are kept
// until all its lanes have come to the same place: a barrier of the whole block, an operation of
// the whole warp, or the end. Where none comes for long, a warp's lanes take turns after a number
// of backward branches, and then more than REQUESTS_KEPT are counted as they are. So memory is
// bounded, and only a warp that has so many and whose lanes make different numbers of turns may
// get requests that are counted in pieces.
//
// Rules of shared memory. It has 32 banks of 4 bytes, and a wavefront serves one word of each bank
// to all lanes that name it.
//  - Accesses of up to 32 bits: all lanes at once; of 64 bits: each half of the warp by itself; of
//    128 bits: each quarter. Halves and quarters without active lanes cost nothing. (NVIDIA,
//    "cuTENSOR: high-performance tensor operations in CUDA", GTC 2019, session S9593: the phases of
//    64-bit and 128-bit accesses.)
//  - Loads of 64 and 128 bits return twice as much at once if each active lane n has the same
//    address as lane n ^ 1, or each the same as lane n ^ 2, where that lane is active: both halves
//    are served together, and of the quarters two by two. (NVIDIA's developer forum, "Unexpected
//    shared memory bank conflict", topic 77228, which says it of compute capability 7.0 to 7.5; it is
//    taken to hold for later ones.)
//  - ldmatrix and stmatrix: each matrix of 8 rows by itself.
// Equal words of a store, and of an atomic operation, count as one word.
//
// The ideal is what the distinct bytes need, 128 in a wavefront, but at least what the registers
// that return need: a wavefront for each half of the warp in a load of 128 bits, and for each
// matrix.
#include "state.hpp"

#include <stdlib.h>
#include <string.h>

namespace emu {

struct Request {
    u64 key;
    u32 access, lanes, slot;  // slot is its place in the log's table
    u64 at[32];
    u8 size[32];
};

struct Log {
    Request* requests;
    u32 count, room, slots;
    u32* table;      // of place + 1 in `requests`, by hash
    u32 cursor[32];  // the place after each lane's last request, at which its next one is likely to be
};

static Log logs[MAX_WARPS];

// ---- what a request costs
struct Span {
    u64 from, to;
};

// Writes the bytes of each lane into `spans`, in the order of their addresses -> how many there are.
static u32 sorted(const Request& r, Span* spans) {
    u32 count = 0;
    for (u32 left = r.lanes; left; left &= left - 1) {
        const u32 lane = __builtin_ctz(left);
        u32 i = count++;
        for (; i && spans[i - 1].from > r.at[lane]; --i) spans[i] = spans[i - 1];
        spans[i] = {r.at[lane], r.at[lane] + r.size[lane]};
    }
    return count;
}

// The distinct pieces of `size` bytes that the spans touch; with a size of 1, the distinct bytes.
static u32 pieces(const Span* spans, u32 count, u32 size) {
    u64 end = 0, found = 0;  // the piece after the last one
    for (u32 i = 0; i < count; ++i) {
        const u64 first = spans[i].from / size, after = (spans[i].to - 1) / size + 1;
        if (after <= end) continue;
        found += after - (first > end ? first : end);
        end = after;
    }
    return found;
}

// The most distinct words of one bank that some lanes name.
static u32 wavefronts_of(const Request& r, u32 lanes) {
    u32 words[32][32], count[32] = {}, most = 0;
    for (u32 left = lanes & r.lanes; left; left &= left - 1) {
        const u32 lane = __builtin_ctz(left), last = (r.at[lane] + r.size[lane] - 1) / 4;
        for (u32 word = r.at[lane] / 4; word <= last; ++word) {
            const u32 bank = word % 32;
            u32 i = 0;
            while (i < count[bank] && words[bank][i] != word) ++i;
            if (i == count[bank]) words[bank][count[bank]++] = word;
            if (count[bank] > most) most = count[bank];
        }
    }
    return most;
}

// Whether each active lane n has the address of lane n ^ step, where that one is active.
static bool paired(const Request& r, u32 step) {
    for (u32 left = r.lanes; left; left &= left - 1) {
        const u32 lane = __builtin_ctz(left), other = lane ^ step;
        if (r.lanes >> other & 1 && r.at[other] != r.at[lane]) return false;
    }
    return true;
}

static void tally_shared(const Request& r, u32 distinct, u32 how, Tally& sum) {
    const u32 size = r.size[__builtin_ctz(r.lanes)];
    u32 together = size <= 4 ? 32 : size <= 8 ? 16 : 8;  // lanes that are served at once
    if (together < 32 && how & LOADS && (paired(r, 1) || paired(r, 2))) together *= 2;
    u32 needed = (distinct + 127) / 128, halves = 0;
    for (u32 from = 0; from < 32; from += together)
        sum.wavefronts += wavefronts_of(r, (together == 32 ? ~0u : (1u << together) - 1) << from);
    if (how & MATRIX || (how & LOADS && size > 8))
        for (u32 from = 0, step = how & MATRIX ? 8 : 16; from < 32; from += step) halves += (r.lanes >> from & ((1u << step) - 1)) != 0;
    sum.ideal_wavefronts += needed > halves ? needed : halves;
}

static void tally(const Request& r) {
    const u32 how = state.launch->counted[r.access];
    Tally& sum = state.launch->tallies[r.access];
    Span spans[32];
    const u32 count = sorted(r, spans), distinct = pieces(spans, count, 1);
    ++sum.requests, sum.lanes += count;
    if (how & IN_SHARED) {
        tally_shared(r, distinct, how, sum);
    } else {
        sum.sectors += pieces(spans, count, 32);
        sum.ideal_sectors += (distinct + 31) / 32;
    }
}

// ---- requests
static u32 slot_of(const Log& log, u32 access, u64 key) {
    const u64 z = (key ^ access * 0x9E3779B97F4A7C15ull) * 0xBF58476D1CE4E5B9ull;
    u32 slot = (z >> 32) & (log.slots - 1);
    for (u32 place; (place = log.table[slot]); slot = (slot + 1) & (log.slots - 1))
        if (log.requests[place - 1].key == key && log.requests[place - 1].access == access) break;
    return slot;
}

static void grow(Log& log) {
    log.room = log.room ? 2 * log.room : 64;
    log.requests = (Request*)realloc(log.requests, log.room * sizeof(Request));
    log.slots = 4 * log.room;
    free(log.table);
    log.table = (u32*)calloc(log.slots, sizeof(u32));
    for (u32 i = 0; i < log.count; ++i) {
        Request& r = log.requests[i];
        r.slot = slot_of(log, r.access, r.key);
        log.table[r.slot] = i + 1;
    }
}

static u32 place_of(Log& log, u32 access, u64 key) {
    if (log.count == log.room) grow(log);
    const u32 slot = slot_of(log, access, key);
    if (!log.table[slot]) {
        Request& r = log.requests[log.count];
        r.key = key, r.access = access, r.lanes = 0, r.slot = slot;
        log.table[slot] = ++log.count;
    }
    return log.table[slot] - 1;
}

extern "C" void emu_count(Machine*, Thread* t, u32 access, u64 key, u64 at, u32 size) {
    Log& log = logs[t->warp];
    u32 place = log.cursor[t->lane];
    if (place >= log.count || log.requests[place].key != key || log.requests[place].access != access) place = place_of(log, access, key);
    log.cursor[t->lane] = place + 1;
    Request& r = log.requests[place];
    if (r.lanes >> t->lane & 1) tally(r), r.lanes = 0;  // an instruction that the lane runs again with the same key
    r.lanes |= 1u << t->lane, r.at[t->lane] = at, r.size[t->lane] = size;
}

void counters_settle(u32 w, u32 more_than) {
    Log& log = logs[w];
    if (log.count <= more_than) return;
    for (u32 i = 0; i < log.count; ++i) tally(log.requests[i]);
    for (u32 i = 0; i < log.count; ++i) log.table[log.requests[i].slot] = 0;
    memset(log.cursor, 0, sizeof log.cursor);
    log.count = 0;
}

void counters_settle_all(u32 more_than) {
    for (u32 w = 0; w < state.warps; ++w) counters_settle(w, more_than);
}

void counters_end() {
    for (Log& log : logs) {
        free(log.requests), free(log.table);
        log = {};
    }
}

}  // namespace emu
