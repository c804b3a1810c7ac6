// The part of the emulated machine that a translated kernel sees.
//
// translate.py makes one C++ function of a PTX entry. Each CUDA thread is a call of this function;
// if the kernel synchronises, each runs on a stack of its own (a "fiber"). machine.cpp runs block
// after block, and switches between the fibers of a block at synchronisations only.
//
// Global memory is the host's, and a global address is a host pointer. Shared memory is one arena:
// a .shared address is an offset into it, and the generic address of the same byte is a host
// pointer. Local memory is the kernel function's own arrays.
//
// The same translation can be compiled in two ways: with CHECKED 1 shadow.cpp looks at every
// access, with CHECKED 0 an access is a plain load or store.
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifndef CHECKED
#define CHECKED 0
#endif

namespace emu {

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t s8;
typedef int16_t s16;
typedef int32_t s32;
typedef int64_t s64;
typedef float f32;
typedef double f64;
typedef unsigned __int128 u128;

struct Machine;
struct Thread;
typedef void (*Body)(Machine*, Thread*);

// A local array of one call of a function. Only the checks use it.
struct Depot {
    char* base;
    u32 size;
    u8* written;
    Depot* outer;
};

struct CopyTable;  // the cp.async copies of a thread that have not landed, see transfer.cpp

struct Thread {
    void* sp;
    u32 tid[3];
    u32 index, lane, warp;  // index is the place in the block; lane = index % 32, warp = index / 32
    u32 site;               // where the thread waits: an index into the entry's table of source lines
    u32 state;
    u32 in[16], out[16];  // operands and results of a warp operation
    u32 kind, mask;       // of the warp operation at which the thread waits
    u32 barrier;          // the barrier at which the thread waits
    Depot* depots;
    CopyTable* copies;
    // For checks: this thread's clock, the interval that it and its row of known clocks belong to,
    // whether that row reaches beyond its warp, and whether a fence came after its last plain
    // store.
    u32 clock, interval, wide, fenced;
    u64 path;  // for counts: the calls of functions that the thread is in
};

struct Machine {
    char* shared;     // the arena of shared memory
    u32 shared_size;  // bytes of it that this launch uses
    u32 dynamic_size;
    u32 nctaid[3], ntid[3], ctaid[3];
    const char* const* params;
    u64 loaded, stored, barriers;
    u8* hits;       // a byte for each source line of the entry, set when the line runs
    u64* executed;  // a counter for each straight run of instructions; of a counting launch only
};

// Backward branches of a thread after which others run: a counting launch lets lanes catch up.
constexpr int FUEL = 1 << 14, COUNTED_FUEL = 1 << 8;

enum Access : u32 { READ = 1, WRITE = 2, ATOMIC = 4 };

enum Kind : u32 {
    SYNC, SHFL_UP, SHFL_DOWN, SHFL_BFLY, SHFL_IDX, VOTE_ALL, VOTE_ANY, VOTE_UNI, VOTE_BALLOT,
    MATCH_ANY32, MATCH_ANY64, MATCH_ALL32, MATCH_ALL64,
    REDUX_ADD, REDUX_MIN_S, REDUX_MAX_S, REDUX_MIN_U, REDUX_MAX_U, REDUX_AND, REDUX_OR, REDUX_XOR,
    LDMATRIX, LDMATRIX_TRANS, STMATRIX, STMATRIX_TRANS, MMA, ELECT, ACTIVEMASK,
};

enum BarrierOp : u32 { BAR_SYNC, BAR_ARRIVE, BAR_POPC, BAR_AND, BAR_OR, ALIGNED = 16, PREDICATE = 32 };

// The element types of mma operands.
enum Element : u32 { E_F16, E_BF16, E_TF32, E_F32, E_S8, E_U8, E_S32 };

// ---- machine.cpp, warp.cpp and transfer.cpp
#define IMPORT __attribute__((visibility("default")))
extern "C" {
IMPORT u32 emu_barrier(Thread*, u32 id, u32 count, u32 how, u32 site);  // how: a BarrierOp, with ALIGNED and PREDICATE or'ed in
IMPORT void emu_warp(Machine*, Thread*, u32 kind, u32 mask, u32 site);  // operands stand in in[], results in out[]
IMPORT int emu_refuel(Machine*, Thread*, u32 site);
IMPORT void emu_yield(Machine*, Thread*, u32 site);
IMPORT void emu_copy(Machine*, Thread*, u32 to, u64 from, u32 size, u32 source_size, u32 site);
IMPORT void emu_copy_commit(Machine*, Thread*);
IMPORT void emu_copy_wait(Machine*, Thread*, u32 groups, u32 all);  // all: also copies that were not committed
IMPORT void emu_fence(Machine*, Thread*);
IMPORT void emu_trap(Machine*, Thread*, const char* kind, const char* detail, u32 site);
IMPORT void emu_assert(Machine*, Thread*, u64 message, u32 site);
IMPORT u32 emu_print(Machine*, Thread*, u64 format, u64 values);
IMPORT void emu_mbarrier_init(Machine*, Thread*, u64 at, u32 count, u32 site);
IMPORT u64 emu_mbarrier_arrive(Machine*, Thread*, u64 at, u32 count, u32 drop, u32 site);
IMPORT u32 emu_mbarrier_test(Machine*, Thread*, u64 at, u64 state, u32 by_parity, u32 may_wait, u32 site);
// ---- counters.cpp
IMPORT void emu_count(Machine*, Thread*, u32 access, u64 key, u64 at, u32 size);
// ---- shadow.cpp
IMPORT void emu_check_global(Machine*, Thread*, u64 address, u32 size, u32 access, u32 site);
IMPORT void emu_check_shared(Machine*, Thread*, u64 offset, u32 size, u32 access, u32 site);
IMPORT void emu_check_local(Machine*, Thread*, u64 address, u32 size, u32 access, u32 site);
IMPORT void emu_check_generic(Machine*, Thread*, u64 address, u32 size, u32 access, u32 site);
}

// ---- memory: the host address of an access of `size` bytes, which the checked build checks first
#define SPACE(name)                                                                          \
    static inline char* name(Machine* m, Thread* t, char* base, u64 at, u32 size, u32 access, u32 site) { \
        (void)m, (void)t, (void)base, (void)size, (void)access, (void)site;                  \
        if (CHECKED) emu_check_##name(m, t, at, size, access, site);
#define TO(expression) return expression; }
SPACE(global) TO((char*)at)
SPACE(shared) TO(base + at)
SPACE(local) TO((char*)at)
SPACE(generic) TO((char*)at)
#undef SPACE
#undef TO

// Whether an address lies near this call's frame, and so in one of the thread's local arrays.
static inline bool on_stack(Thread*, u64 at) {
    const u64 here = (u64)__builtin_frame_address(0);
    return at - (here - 65536) < 2 * 65536;
}

template <class T>
static inline T get(const char* p) {
    T value;
    __builtin_memcpy(&value, p, sizeof(T));
    return value;
}

template <class T>
static inline void put(char* p, T value) {
    __builtin_memcpy(p, &value, sizeof(T));
}

template <class T, class S>
static inline T bits(S value) {
    static_assert(sizeof(T) == sizeof(S), "bits of one size");
    return __builtin_bit_cast(T, value);
}

}  // namespace emu
