// The inside of the machine, which its .cpp files share. One launch runs at a time.
#pragma once
#include "machine.hpp"

namespace emu {

// machine.py mirrors Region and Launch with ctypes. The fields of 8 bytes come first, so that there
// is no padding.
struct Region {
    u64 address, size;
    const char* name;
    u64 written;
    u64 read_only;
    // Set by a checked launch: the bytes of all its loads and stores here, and how many different
    // bytes these were.
    u64 loaded, stored, read, wrote;
};

// What the requests of one access were. machine.py reads these as rows of six numbers.
struct Tally {
    u64 requests, lanes, sectors, ideal_sectors, wavefronts, ideal_wavefronts;
};

enum Counted : u8 { IN_SHARED = 1, LOADS = 2, MATRIX = 4 };  // what counters.cpp must know of an access

struct Launch {
    Body body;
    const char* const* params;
    Region* regions;
    u8* hits;
    const u32* zones;  // pairs of offset and size of the shared bytes that belong to no array
    Tally* tallies;     // one for each access of the kernel; null unless the launch counts
    const u8* counted;  // a Counted for each access
    u64* executed;
    u64 seed, loaded, stored, barriers, step_limit;
    u32 grid[3], block[3];
    u32 static_shared, dynamic_shared, region_count, fibers, stack, flush, schedule, checked, zone_count;
    // Set by a fault.
    u32 faulted, site, at_block[3], at_thread[3];
    char kind[32], detail[1024];
};

enum Schedule : u32 { FIFO, LIFO, RANDOM };
enum ThreadState : u32 { RUNNABLE, AT_BARRIER, AT_WARP, YIELDED, DONE };  // AT_BARRIER and AT_WARP hold only while the lane's bit in `waiting` is set
constexpr u32 MAX_THREADS = 1024, MAX_WARPS = 32, NO_SITE = 0;

struct Barrier {
    u32 arrived, expected, popc, all, any;
    u32 arrives, reduces;  // of the threads that arrived, how many do not wait, and how many take a result
};

// Lanes of a warp that wait at one warp operation. Those that wait at others, which only divergent
// code has, belong to no meeting.
struct Meeting {
    u32 kind, mask, lanes;
};

struct State : Machine {
    Launch* launch;
    u32 threads_count, warps, block_index;
    u32 ready[MAX_WARPS], yielded[MAX_WARPS], exist[MAX_WARPS], done[MAX_WARPS], waiting[MAX_WARPS];  // lanes, a bit each
    u32 barrier_id[MAX_WARPS], barrier_site[MAX_WARPS];  // of the aligned barrier at which lanes of the warp wait
    u32 at_barrier[MAX_WARPS];                           // those lanes
    Meeting meeting[MAX_WARPS];
    u32 order[MAX_WARPS];  // warps, in the order in which they run
    bool backward;         // whether the lanes of a warp run from the last to the first
    u32 done_count;
    u64 random, slices, yields;
    Thread* current;
    void* main_sp;
    Barrier barrier[16];
    Thread thread[MAX_THREADS];
};

extern State state;

// fibers.cpp
extern "C" void emu_switch(void** from, void* to);
bool reserve_stacks(size_t count, size_t bytes);
void* fresh_stack(u32 number, void (*body)());
void leave();  // returns to emu_launch, which started the fibers
void catch_signals();
void release_signals();
[[noreturn]] __attribute__((format(printf, 4, 5))) void fault(Thread*, const char* kind, u32 site, const char* format, ...);

// machine.cpp
u64 draw();                     // the next random number of the schedule
void reorder(bool at_barrier);  // sets the order in which warps run from here on
Thread* pick();                 // the next runnable thread
void fiber_main();              // the body of a fiber
void progress();                // restarts the count of steps after which a block counts as hanging

void execute_warp(u32 kind, u32 warp, u32 lanes, u32 site);  // warp.cpp: computes a warp operation into out[]
const char* kind_name(u32 kind);
void drop_copies(Thread& t);  // transfer.cpp: forgets the copies that a thread has not waited for

// shadow.cpp: which accesses are ordered. Called in checked launches only.
void shadow_launch();
void shadow_end();
void shadow_block();
void shadow_lanes(u32 warp, u32 lanes);       // these lanes of a warp have synchronised
void shadow_full_barrier();                   // the whole block has synchronised
void shadow_release(Thread*, u64 object);     // the thread's accesses are ordered before those of threads that acquire the object later
void shadow_acquire(Thread*, u64 object);
void shadow_forget(u64 object);
void shadow_copy(Thread*, u32 to, u32 size, bool landed, u32 site);

// counters.cpp: what an access costs. Called in counting launches only.
void counters_settle(u32 warp, u32 more_than = 0);  // counts the requests noted of a warp, if they are more
void counters_settle_all(u32 more_than = 0);
void counters_end();
constexpr u32 REQUESTS_KEPT = 1 << 14;  // of a warp whose lanes meet nowhere for long

}  // namespace emu
