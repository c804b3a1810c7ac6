// The checks of a checked launch: bounds, alignment, reads of memory that nothing has written, and
// races.
//
// Each word of memory has a shadow of three records: its last write, and two reads that are not
// ordered with each other. A record says which thread of which block touched the word, and when: in
// which interval between two barriers of the whole block, and at which tick of the thread's own
// clock, which counts the thread's synchronisations with part of the block.
//
// A later access by another thread is ordered after a record if a barrier of the whole block lies
// between the two, or if the thread has learned, through shuffles, partial barriers or mbarriers,
// that the other's clock has passed the record's tick. Two accesses race if they are not ordered,
// at least one is a write, and not both are atomic; the order in which they happened to run does
// not matter. Blocks are ordered by atomics that follow fences, and by nothing else.
//
// Accesses of one or two bytes have shadows of their own, one for each byte. These are made at the
// first such access.
#include "state.hpp"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

namespace emu {

struct Record {
    u32 block, interval, clock;
    u32 who;  // the thread (10 bits), VALID, ATOMICALLY, the source line (20 bits)
};

struct Word {
    Record write, first, second;
};

struct Shadow {
    Word *words, *bytes;  // `bytes` is null until it is needed
    u64 size;
};

enum Byte : u8 { UNWRITTEN, WRITTEN, PENDING, OUTSIDE };
constexpr u32 VALID = 1 << 10, ATOMICALLY = 1 << 11, ARENA_MAX = 256 * 1024;

static u32 interval;                  // never reset: it counts through all blocks and launches
static u32 (*known)[MAX_THREADS];     // known[t][u]: the tick of thread u's clock after which t is ordered, in this interval
static u8 dirty[MAX_THREADS];         // whether row t may be set outside of its own warp's columns
static Shadow of_shared, *of_region;  // of_region has one for each region
static u8 shared_bytes[ARENA_MAX];
static u32 last_region;

struct Object {
    u64 name;
    u32 interval, used;
    u32 row[MAX_THREADS];
};
static Object* objects;
static u32 object_count;

struct Published {
    u64 address;
    u8* blocks;  // whether each block has released at the address
};
static Published* published;
static u32 published_count, published_room, block_total;
static u8* heard;  // whether each block is ordered before this one
static bool heard_any;

static Word* map_words(u64 count) {
    void* at = mmap(nullptr, count * sizeof(Word) + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return at == MAP_FAILED ? nullptr : (Word*)at;
}

static void drop(Shadow& s) {
    if (s.words) munmap(s.words, (s.size / 4 + 2) * sizeof(Word) + 1);
    if (s.bytes) munmap(s.bytes, s.size * sizeof(Word) + 1);
    s = {};
}

static bool make(Shadow& s, u64 size) {
    s = {map_words(size / 4 + 2), nullptr, size};
    return s.words;
}

void shadow_launch() {
    const Launch& l = *state.launch;
    if (!known) known = (u32(*)[MAX_THREADS])mmap(nullptr, sizeof(u32) * MAX_THREADS * MAX_THREADS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    make(of_shared, state.shared_size);
    block_total = l.grid[0] * l.grid[1] * l.grid[2];
    heard = (u8*)calloc(block_total, 1);
    of_region = (Shadow*)calloc(l.region_count + 1, sizeof(Shadow));
    for (u32 i = 0; i < l.region_count; ++i) make(of_region[i], l.regions[i].size);
    last_region = 0;
    ++interval;
}

// Counts the bytes of a region that were read, and those that were written. Each has left a record,
// its own or its word's. An atomic update counts as a write.
static void count_distinct(const Shadow& s, Region& r) {
    const auto seen = [](const Record& record) { return (u64)(record.who & VALID ? 1 : 0); };
    for (u64 at = 0; at < s.size; at += 4) {
        const Word& w = s.words[at / 4];
        const u64 end = at + 4 < s.size ? at + 4 : s.size;
        for (u64 i = at; i < end; ++i) {
            r.read += seen(w.first) | (s.bytes ? seen(s.bytes[i].first) : 0);
            r.wrote += seen(w.write) | (s.bytes ? seen(s.bytes[i].write) : 0);
        }
    }
}

void shadow_end() {
    drop(of_shared);
    for (u32 i = 0; i < state.launch->region_count; ++i) {
        Region& r = state.launch->regions[i];
        if (r.loaded || r.stored) count_distinct(of_region[i], r);
        drop(of_region[i]);
    }
    free(of_region);
    free(heard);
    while (published_count) free(published[--published_count].blocks);
}

void shadow_block() {
    ++interval;
    if (heard_any) memset(heard, 0, block_total), heard_any = false;
    memset(shared_bytes, UNWRITTEN, state.shared_size);
    for (u32 i = 0; i < state.launch->zone_count; ++i)
        memset(shared_bytes + state.launch->zones[2 * i], OUTSIDE, state.launch->zones[2 * i + 1]);
}

// ---- the order of accesses
// Blocks are ordered through atomics, as in a reduction that the last block finishes: the accesses
// of a block before a fence and an atomic write are ordered before a block that then reads the same
// address atomically. The whole block counts as ordered, not only the threads that release and
// acquire: a race between blocks may be missed, but no race is reported where there is order.
static void publish(u64 address, bool reads, bool writes) {
    u32 i = 0;
    while (i < published_count && published[i].address != address) ++i;
    if (i == published_count) {
        if (!writes) return;
        if (i == published_room) {
            published_room = published_room ? 2 * published_room : 64;
            published = (Published*)realloc(published, published_room * sizeof(Published));
        }
        published[published_count++] = {address, (u8*)calloc(block_total, 1)};
    }
    u8* blocks = published[i].blocks;
    for (u32 b = 0; b < block_total; ++b) {
        if (reads && blocks[b]) heard[b] = 1, heard_any = true;
        if (writes) blocks[b] |= heard[b];
    }
    if (writes) blocks[state.block_index] = 1;
}

// The order that an atomic access makes: a write after a fence releases, a read acquires what was
// released there.
static void synchronise(Thread* t, u64 address, u32 access, bool is_shared) {
    const bool releases = access & WRITE && t->fenced;
    if (access & READ) shadow_acquire(t, address);
    if (releases) shadow_release(t, address);
    if (!is_shared) publish(address, access & READ, releases);
}

// Resets a thread's clock and its row of known clocks when a new interval has begun.
static void settle(Thread* t) {
    if (t->interval == interval) return;
    if (dirty[t->index]) memset(known[t->index], 0, sizeof known[0]);
    else memset(known[t->index] + t->warp * 32, 0, 32 * sizeof(u32));
    t->interval = interval, t->clock = 1, t->wide = dirty[t->index] = 0;
}

static bool ordered(const Record& r, const Thread* t) {
    if (r.block != state.block_index) return heard_any && heard[r.block];
    const u32 thread = r.who & (MAX_THREADS - 1);
    return thread == t->index || r.interval < interval || r.clock <= known[t->index][thread];
}

void shadow_lanes(u32 warp, u32 lanes) {
    u32 met[MAX_THREADS];
    bool wide = false;
    for (u32 left = lanes; left; left &= left - 1) {
        Thread& t = state.thread[warp * 32 + __builtin_ctz(left)];
        settle(&t);
        wide |= t.wide;
    }
    const u32 from = wide ? 0 : warp * 32, to = wide ? state.threads_count : warp * 32 + 32;
    memset(met + from, 0, (to - from) * sizeof(u32));
    for (u32 left = lanes; left; left &= left - 1) {
        const Thread& t = state.thread[warp * 32 + __builtin_ctz(left)];
        for (u32 u = from; u < to; ++u) met[u] = known[t.index][u] > met[u] ? known[t.index][u] : met[u];
    }
    for (u32 left = lanes; left; left &= left - 1) {
        Thread& t = state.thread[warp * 32 + __builtin_ctz(left)];
        met[t.index] = t.clock++;
    }
    for (u32 left = lanes; left; left &= left - 1) {
        Thread& t = state.thread[warp * 32 + __builtin_ctz(left)];
        memcpy(known[t.index] + from, met + from, (to - from) * sizeof(u32));
        t.wide = wide, dirty[t.index] |= wide;
    }
}

void shadow_full_barrier() { ++interval; }

static Object* find(u64 name, bool create) {
    Object* empty = nullptr;
    for (u32 i = 0; i < object_count; ++i) {
        Object& o = objects[i];
        if (o.used && o.interval != interval) o.used = 0;  // a barrier of the whole block has ordered everything since
        if (o.used && o.name == name) return &o;
        if (!o.used && !empty) empty = &o;
    }
    if (!create) return nullptr;
    if (!empty) {
        objects = (Object*)realloc(objects, (object_count ? 2 * object_count : 16) * sizeof(Object));
        empty = objects + object_count;
        for (u32 more = object_count ? object_count : 16; more; --more) objects[object_count++].used = 0;
    }
    memset(empty->row, 0, sizeof empty->row);
    empty->name = name, empty->interval = interval, empty->used = 1;
    return empty;
}

void shadow_release(Thread* t, u64 name) {
    settle(t);
    Object* o = find(name, true);
    if (!o) return;
    const u32 from = t->wide ? 0 : t->warp * 32, to = t->wide ? state.threads_count : t->warp * 32 + 32;
    for (u32 u = from; u < to; ++u) o->row[u] = known[t->index][u] > o->row[u] ? known[t->index][u] : o->row[u];
    o->row[t->index] = t->clock++;
}

void shadow_acquire(Thread* t, u64 name) {
    settle(t);
    const Object* o = find(name, false);
    if (!o) return;
    u32* row = known[t->index];
    for (u32 u = 0; u < state.threads_count; ++u) row[u] = o->row[u] > row[u] ? o->row[u] : row[u];
    t->wide = dirty[t->index] = 1;
}

void shadow_forget(u64 name) {
    if (Object* o = find(name, false)) o->used = 0;
}

// ---- races
struct Place {  // the place of an access, for messages
    const char* name;
    u64 offset;
};

[[noreturn]] static void race(const Record& r, bool r_wrote, Thread* t, u32 access, const Place& place, u32 site) {
    const u32 other = r.who & (MAX_THREADS - 1);
    const char* now = access & ATOMIC ? "updates" : access & WRITE ? "writes" : "reads";
    const char* then = r_wrote ? "written" : "read";
    if (r.block != state.block_index)
        fault(t, "race", site, "%s byte %llu of %s, %s by block %u @%u@ of the same launch", now, (unsigned long long)place.offset, place.name, then, r.block, r.who >> 12);
    fault(t, "race", site, "%s byte %llu of %s, %s by thread %u @%u@ without a synchronisation between", now, (unsigned long long)place.offset, place.name, then, other, r.who >> 12);
}

static inline bool conflicts(const Record& r, const Thread* t, bool atomic, bool is_shared) {
    if (!(r.who & VALID) || (atomic && r.who & ATOMICALLY)) return false;
    if (is_shared && r.block != state.block_index) return false;  // shared memory of a block that has ended
    return !ordered(r, t);
}

static void compare(const Word& w, Thread* t, u32 access, bool is_shared, const Place& place, u32 site) {
    const bool atomic = access & ATOMIC;
    if (conflicts(w.write, t, atomic, is_shared)) race(w.write, true, t, access, place, site);
    if (!(access & WRITE)) return;
    if (conflicts(w.first, t, atomic, is_shared)) race(w.first, false, t, access, place, site);
    if (conflicts(w.second, t, atomic, is_shared)) race(w.second, false, t, access, place, site);
}

static void note(Word& w, Thread* t, u32 access, bool is_shared, u32 site) {
    const Record me = {state.block_index, interval, t->clock, t->index | VALID | (access & ATOMIC ? ATOMICALLY : 0) | site << 12};
    if (access & WRITE) {
        w.write = me;
        return;
    }
    const bool replaces = !(w.first.who & VALID) || (is_shared && w.first.block != state.block_index) || ordered(w.first, t);
    if (replaces) w.first = me;
    else if (!(w.second.who & VALID) || w.second.block != state.block_index || ordered(w.second, t) || (w.second.who & 1023) / 32 == (w.first.who & 1023) / 32)
        w.second = me;
}

static void touch(Shadow& s, Thread* t, u64 offset, u32 size, u32 access, bool is_shared, const char* name, u32 site, u64 address = 0) {
    settle(t);
    if (access & ATOMIC) synchronise(t, is_shared ? offset : address, access, is_shared);
    else if (access & WRITE) t->fenced = 0;
    if (size < 4 && !s.bytes) s.bytes = map_words(s.size);
    if (size >= 4)
        for (u64 i = offset / 4; i < (offset + size + 3) / 4; ++i) {
            compare(s.words[i], t, access, is_shared, {name, i * 4}, site);
            note(s.words[i], t, access, is_shared, site);
        }
    else
        compare(s.words[offset / 4], t, access, is_shared, {name, offset}, site);
    if (s.bytes)
        for (u64 i = offset; i < offset + size; ++i) {
            compare(s.bytes[i], t, access, is_shared, {name, i}, site);
            if (size < 4) note(s.bytes[i], t, access, is_shared, site);
        }
}

// ---- the four state spaces
static const char* verb(u32 access) { return access & ATOMIC ? "atomic operation on" : access & WRITE ? "write of" : "read of"; }

extern "C" void emu_check_global(Machine*, Thread* t, u64 at, u32 size, u32 access, u32 site) {
    const Launch& l = *state.launch;
    u32 i = last_region;
    const auto holds = [&](const Region& r) { return at >= r.address && at + size <= r.address + r.size && at + size >= at; };
    if (i >= l.region_count || !holds(l.regions[i]))
        for (i = 0; i < l.region_count && !holds(l.regions[i]); ++i) {}
    if (i == l.region_count) {
        const Region* near = nullptr;
        u64 best = ~0ull;
        for (u32 k = 0; k < l.region_count; ++k) {
            const Region& r = l.regions[k];
            const u64 away = at < r.address ? r.address - at : at + size - (r.address + r.size);
            if (away < best) best = away, near = &r;
        }
        if (!near || best > 1ull << 32)
            fault(t, "out of bounds", site, "%s %u bytes at address 0x%llx, far from every argument", verb(access), size, (unsigned long long)at);
        fault(t, "out of bounds", site, "%s %u bytes at byte %lld of %s, which has %llu", verb(access), size, (long long)(at - near->address), near->name, (unsigned long long)near->size);
    }
    last_region = i;
    Region& r = l.regions[i];
    const u64 offset = at - r.address;
    if (at % size) fault(t, "misaligned", site, "%s %u bytes at byte %llu of %s, address 0x%llx", verb(access), size, (unsigned long long)offset, r.name, (unsigned long long)at);
    if (access & WRITE && r.read_only) fault(t, "read only", site, "%s %u bytes at byte %llu of %s", verb(access), size, (unsigned long long)offset, r.name);
    if (r.written) {
        u8* written = (u8*)r.written + offset;
        if (access & READ)
            for (u32 k = 0; k < size; ++k)
                if (!written[k]) fault(t, "uninitialised", site, "read of byte %llu of %s, which nothing has written", (unsigned long long)offset + k, r.name);
        if (access & WRITE) memset(written, 1, size);
    }
    if (access & READ) r.loaded += size;
    if (access & WRITE) r.stored += size;
    touch(of_region[i], t, offset, size, access, false, r.name, site, at);
}

extern "C" void emu_check_shared(Machine*, Thread* t, u64 at, u32 size, u32 access, u32 site) {
    bool outside = at + size > state.shared_size;
    for (u32 k = 0; k < size && !outside; ++k) outside = shared_bytes[at + k] == OUTSIDE;
    if (outside)
        fault(t, "out of bounds", site, "%s %u bytes at byte %lld of shared memory, outside its arrays (%u bytes in all)", verb(access), size, (long long)at, state.shared_size);
    if (at % size) fault(t, "misaligned", site, "%s %u bytes at byte %llu of shared memory", verb(access), size, (unsigned long long)at);
    for (u32 k = 0; k < size; ++k) {
        u8& b = shared_bytes[at + k];
        if (b == PENDING) fault(t, "cp.async", site, "%s byte %llu of shared memory, whose copy was not waited for", verb(access), (unsigned long long)at + k);
        if (access & READ && b == UNWRITTEN)
            fault(t, "uninitialised", site, "read of byte %llu of shared memory, which nothing in this block has written", (unsigned long long)at + k);
        if (access & WRITE) b = WRITTEN;
    }
    touch(of_shared, t, at, size, access, true, "shared memory", site);
}

// A copy may write at any time from its issue until the wait for it, when it has landed.
void shadow_copy(Thread* t, u32 to, u32 size, bool landed, u32 site) {
    memset(shared_bytes + to, landed ? WRITTEN : PENDING, size);
    if (landed) touch(of_shared, t, to, size, WRITE, true, "shared memory", site);
}

static Depot* depot_of(Thread* t, u64 at) {
    Depot* d = t->depots;
    while (d && !(at >= (u64)d->base && at < (u64)d->base + d->size)) d = d->outer;
    return d;
}

extern "C" void emu_check_local(Machine*, Thread* t, u64 at, u32 size, u32 access, u32 site) {
    Depot* d = depot_of(t, at);
    if (!d || at + size > (u64)d->base + d->size) {
        const Depot* own = d ? d : t->depots;
        fault(t, "out of bounds", site, "%s %u bytes at byte %lld of the thread's local arrays of %u bytes", verb(access), size, own ? (long long)(at - (u64)own->base) : 0, own ? own->size : 0);
    }
    if (at % size) fault(t, "misaligned", site, "%s %u bytes at byte %llu of the thread's local arrays", verb(access), size, (unsigned long long)(at - (u64)d->base));
    u8* written = d->written + (at - (u64)d->base);
    if (access & READ)
        for (u32 k = 0; k < size; ++k)
            if (!written[k]) fault(t, "uninitialised", site, "read of byte %llu of the thread's local arrays, which it has not written", (unsigned long long)(at - (u64)d->base) + k);
    if (access & WRITE) memset(written, 1, size);
}

extern "C" void emu_check_generic(Machine* m, Thread* t, u64 at, u32 size, u32 access, u32 site) {
    const u64 arena = (u64)state.shared;
    if (at >= arena && at < arena + ARENA_MAX) emu_check_shared(m, t, at - arena, size, access, site);
    else if (depot_of(t, at)) emu_check_local(m, t, at, size, access, site);
    else emu_check_global(m, t, at, size, access, site);
}

}  // namespace emu
