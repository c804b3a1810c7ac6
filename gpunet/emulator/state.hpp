// The inside of the machine, which its files share. One launch runs at a time.
#pragma once
#include "machine.hpp"

namespace emu {

// Mirrored by machine.py with ctypes: fields of 8 bytes first.
struct Region {
    u64 address, size;
    const char* name;
    u64 written;
    u64 read_only;
    // set by a checked launch: bytes of all its loads and stores here, and how many different ones they were
    u64 loaded, stored, read, wrote;
};

struct Launch {
    Body body;
    const char* const* params;
    Region* regions;
    u8* hits;
    const u32* zones;  // pairs of offset and size: shared bytes that belong to no array
    u64 seed, loaded, stored, barriers, step_limit;
    u32 grid[3], block[3];
    u32 static_shared, dynamic_shared, region_count, fibers, stack, flush, schedule, checked, zone_count;
    // the fault
    u32 faulted, site, at_block[3], at_thread[3];
    char kind[32], detail[1024];
};

enum Schedule : u32 { FIFO, LIFO, RANDOM };
enum ThreadState : u32 { RUNNABLE, AT_BARRIER, AT_WARP, YIELDED, DONE };  // the first three: if the lane's bit in `waiting` is set
constexpr u32 MAX_THREADS = 1024, MAX_WARPS = 32, NO_SITE = 0;

struct Barrier {
    u32 arrived, expected, popc, all, any;
    u32 arrives, reduces;  // how many of those that arrived do not wait, and want a result
};

struct State : Machine {
    Launch* launch;
    u32 threads_count, warps, block_index;
    u32 ready[MAX_WARPS], yielded[MAX_WARPS], exist[MAX_WARPS], done[MAX_WARPS], waiting[MAX_WARPS];  // lanes
    u32 barrier_id[MAX_WARPS], barrier_site[MAX_WARPS];  // where lanes of the warp wait for an aligned barrier
    u32 at_barrier[MAX_WARPS];                           // those lanes
    u32 order[MAX_WARPS];  // warps, the first to run first
    bool backward;         // lanes of a warp run from the last to the first
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
void leave();  // back to who started the fibers
void catch_signals();
void release_signals();
[[noreturn]] __attribute__((format(printf, 4, 5))) void fault(Thread*, const char* kind, u32 site, const char* format, ...);

// machine.cpp
u64 draw();                     // a random number of the schedule
void reorder(bool at_barrier);  // who runs first from here on
Thread* pick();                 // the next runnable thread
void fiber_main();              // what a fiber runs
void progress();                // something was waited for and came: this is no hang

void execute_warp(u32 kind, u32 warp, u32 lanes, u32 site);  // warp.cpp: results of a warp operation, into out[]
const char* kind_name(u32 kind);
void drop_copies(Thread& t);  // transfer.cpp: forget those that a thread did not wait for

// shadow.cpp: what is ordered before what. Called in checked launches only.
void shadow_launch();
void shadow_end();
void shadow_block();
void shadow_lanes(u32 warp, u32 lanes);       // these lanes of a warp have met
void shadow_full_barrier();                   // the whole block has met
void shadow_release(Thread*, u64 object);     // what this thread has done is ordered before who acquires the object
void shadow_acquire(Thread*, u64 object);
void shadow_forget(u64 object);
void shadow_copy(Thread*, u32 to, u32 size, bool landed, u32 site);

}  // namespace emu
