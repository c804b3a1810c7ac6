// The machine: fibers, the scheduler, barriers, copies in flight, and a launch.
//
// Every thread of a block runs until it must wait; then the next runnable one is switched to directly. A warp operation is
// computed by the last of its lanes to arrive, a barrier is opened by the last thread; when nothing can run and not all
// have returned, the block is stuck, and the fault says where each warp waits ("@n@" stands for source line n of the
// entry's table; machine.py puts in file and line).
#include "state.hpp"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#if !defined(__x86_64__) || !defined(__linux__)
#error "the emulated machine needs Linux on x86-64"
#endif

namespace emu {

State state;

// ---- fibers. emu_switch saves the callee-saved registers on this stack, its top in *from, and goes on at `to`.
extern "C" void emu_switch(void** from, void* to);
asm(R"(
.text
.globl emu_switch
.hidden emu_switch
.type emu_switch, @function
emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emu_switch, .-emu_switch
)");

static char* stacks;
static size_t stack_size, stack_count;
static const size_t GUARD = 4096;
static char signal_stack[65536];

static bool reserve_stacks(size_t count, size_t size) {
    size = (size + 65536 + 4095) / 4096 * 4096;
    if (count <= stack_count && size <= stack_size) return true;
    if (stacks) munmap(stacks, stack_count * stack_size);
    stack_count = count > stack_count ? count : stack_count;
    stack_size = size > stack_size ? size : stack_size;
    void* at = mmap(nullptr, stack_count * stack_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) return stacks = nullptr, stack_count = stack_size = 0, false;
    stacks = (char*)at;
    for (size_t i = 0; i < stack_count; ++i) mprotect(stacks + i * stack_size, GUARD, PROT_NONE);
    return true;
}

// A stack that starts `body` when it is switched to. Tops are spread over the cache's sets: without that the hot ends of
// all stacks would fall into the same ones.
static void* fresh_stack(u32 i, void (*body)()) {
    char* top = stacks + (i + 1) * stack_size - 64 - (i % 61) * 192;
    void** sp = (void**)((u64)top & ~63ull);
    *--sp = nullptr;         // where `body` would return to; keeps its stack aligned as after a call
    *--sp = (void*)body;
    for (int r = 0; r < 6; ++r) *--sp = nullptr;
    return sp;
}

static void leave() {  // back to emu_launch; this stack is not needed again
    void* unused;
    emu_switch(&unused, state.main_sp);
    __builtin_unreachable();
}

void fault(Thread* t, const char* kind, u32 site, const char* format, ...) {
    Launch& l = *state.launch;
    if (!l.faulted) {
        l.faulted = 1, l.site = site;
        memcpy(l.at_block, state.ctaid, sizeof l.at_block);
        if (t) memcpy(l.at_thread, t->tid, sizeof l.at_thread);
        else l.at_thread[0] = ~0u;
        snprintf(l.kind, sizeof l.kind, "%s", kind);
        va_list rest;
        va_start(rest, format);
        vsnprintf(l.detail, sizeof l.detail, format, rest);
        va_end(rest);
    }
    leave();
    __builtin_unreachable();
}

// ---- a plain launch does not look at addresses: the host's memory protection does, where it reaches
static u64 bad_address;

static void land() {
    fault(state.current, "out of bounds", NO_SITE, "an access to address 0x%llx, which is not mapped (a checked launch "
          "names the line)", (unsigned long long)bad_address);
}

static void on_signal(int, siginfo_t* info, void* context) {
    greg_t* registers = ((ucontext_t*)context)->uc_mcontext.gregs;
    bad_address = (u64)info->si_addr;
    registers[REG_RSP] = (registers[REG_RSP] & ~15ll) - 8 - 4096;  // past the red zone, as after a call
    registers[REG_RIP] = (greg_t)land;
}

// ---- the scheduler
static u64 draw() {  // SplitMix64
    u64 z = state.random += 0x9E3779B97F4A7C15ull;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ z >> 27) * 0x94D049BB133111EBull;
    return z ^ z >> 31;
}

// At a synchronisation: lifo turns the order round, so that who came last goes on first; random draws new priorities.
static void reorder(bool at_barrier) {
    if (state.launch->schedule == RANDOM) {
        for (u32 i = state.warps; i > 1; --i) {
            const u32 j = draw() % i, w = state.order[j];
            state.order[j] = state.order[i - 1], state.order[i - 1] = w;
        }
        state.backward = draw() & 1;
    } else if (state.launch->schedule == LIFO && at_barrier) {
        state.backward = !state.backward;
        for (u32 i = 0; i < state.warps; ++i) state.order[i] = state.backward ? state.warps - 1 - i : i;
    }
}

static Thread* pick() {
    for (u32 i = 0; i < state.warps; ++i) {
        const u32 w = state.order[i], lanes = state.ready[w];
        if (lanes) return &state.thread[w * 32 + (state.backward ? 31 - __builtin_clz(lanes) : __builtin_ctz(lanes))];
    }
    return nullptr;
}

static void set_ready(Thread* t) {
    t->state = RUNNABLE;
    state.ready[t->warp] |= 1u << t->lane;
    state.waiting[t->warp] &= ~(1u << t->lane);
}

static void progress() { state.slices = state.yields = 0; }

// Lanes of a warp where nothing can run any more, gathered at the same __activemask().
static bool gather() {
    bool found = false;
    for (u32 w = 0; w < state.warps; ++w)
        for (u32 left = state.waiting[w]; left; left &= left - 1) {
            Thread& first = state.thread[w * 32 + __builtin_ctz(left)];
            if (first.state != AT_WARP || first.kind != ACTIVEMASK) continue;
            u32 lanes = 0;
            for (u32 rest = left; rest; rest &= rest - 1) {
                const Thread& other = state.thread[w * 32 + __builtin_ctz(rest)];
                if (other.state == AT_WARP && other.kind == ACTIVEMASK && other.site == first.site) lanes |= 1u << other.lane;
            }
            for (u32 rest = lanes; rest; rest &= rest - 1) {
                Thread& member = state.thread[w * 32 + __builtin_ctz(rest)];
                member.out[0] = lanes;
                set_ready(&member);
            }
            found = true;
        }
    return found;
}

static int describe(char* text, int size) {
    int used = 0;
    for (u32 w = 0; w < state.warps && used < size - 80; ++w) {
        used += snprintf(text + used, size - used, "%swarp %u", w ? "; " : "", w);
        for (u32 left = state.exist[w]; left && used < size - 80;) {
            const Thread& first = state.thread[w * 32 + __builtin_ctz(left)];
            u32 same = 0;
            for (u32 rest = left; rest; rest &= rest - 1) {
                const Thread& other = state.thread[w * 32 + __builtin_ctz(rest)];
                if (other.state == first.state && (first.state == DONE || other.site == first.site)) same |= 1u << other.lane;
            }
            const u32 count = __builtin_popcount(same);
            const char* what = first.state == AT_BARRIER ? "at the barrier" : first.state == AT_WARP ? kind_name(first.kind) : "running";
            if (first.state == DONE) used += snprintf(text + used, size - used, " %u returned", count);
            else used += snprintf(text + used, size - used, " %u %s @%u@", count, what, first.site);
            left &= ~same;
        }
    }
    return used;
}

[[noreturn]] static void stuck() {
    char where[900];
    describe(where, sizeof where);
    Thread *at_barrier = nullptr, *at_warp = nullptr;
    bool exited_full = false;
    for (u32 i = 0; i < state.threads_count; ++i) {
        Thread& t = state.thread[i];
        if (t.state == AT_BARRIER && !at_barrier) at_barrier = &t;
        if (t.state == AT_WARP && !at_warp) at_warp = &t;
    }
    exited_full = at_barrier && state.done_count;
    Thread* t = at_barrier ? at_barrier : at_warp;
    if (exited_full) fault(t, "barrier never reached", t->site, "%u threads returned without it: %s", state.done_count, where);
    fault(t, "divergent barrier", t->site, "threads wait in different places: %s", where);
}

// Give the processor to the next runnable thread; returns when this one runs again. A thread that is done never does.
static void switch_away(Thread* t) {
    Thread* next = pick();
    while (!next) {
        for (u32 w = 0; w < state.warps; ++w) {  // who gave way comes again when nobody else can run
            for (u32 left = state.yielded[w]; left; left &= left - 1) state.thread[w * 32 + __builtin_ctz(left)].state = RUNNABLE;
            state.ready[w] |= state.yielded[w], state.yielded[w] = 0;
        }
        if ((next = pick())) break;
        if (state.done_count == state.threads_count) leave();
        if (!gather()) stuck();
        next = pick();
    }
    if (next == t) return;
    state.current = next;
    emu_switch(&t->sp, next->sp);
}

static void wait_here(Thread* t, ThreadState why, u32 site) {
    t->state = why, t->site = site;
    state.ready[t->warp] &= ~(1u << t->lane);
    state.waiting[t->warp] |= 1u << t->lane;
    switch_away(t);
}

static void fiber_main() {
    Thread* t = state.current;
    state.launch->body(&state, t);
    const u32 bit = 1u << t->lane;
    t->state = DONE;
    state.ready[t->warp] &= ~bit, state.done[t->warp] |= bit, ++state.done_count;
    for (u32 left = state.waiting[t->warp]; left; left &= left - 1) {
        Thread& other = state.thread[t->warp * 32 + __builtin_ctz(left)];
        if (other.state == AT_WARP && other.kind != ACTIVEMASK && other.mask & bit)
            fault(&other, "exited lane", other.site, "%s names lane %u, which returned", kind_name(other.kind), t->lane);
    }
    progress();
    switch_away(t);
}

// ---- what a thread waits for
extern "C" u32 emu_barrier(Machine*, Thread* t, u32 id, u32 count, u32 op, u32 predicate, u32 aligned, u32 site) {
    const u32 whole = state.warps * 32;  // a warp that is not full counts as one
    const u32 expected = count ? count : whole;
    if (id > 15) fault(t, "divergent barrier", site, "barrier %u: there are 16", id);
    if (expected % 32) fault(t, "divergent barrier", site, "barrier %u for %u threads, not a multiple of 32", id, expected);
    Barrier& b = state.barrier[id];
    if (b.arrived && b.expected != expected)
        fault(t, "divergent barrier", site, "barrier %u for %u threads, for %u by those that wait", id, expected, b.expected);
    if (aligned)
        for (u32 left = state.waiting[t->warp]; left; left &= left - 1) {
            const Thread& other = state.thread[t->warp * 32 + __builtin_ctz(left)];
            if (other.state == AT_BARRIER && (other.barrier != id || other.kind != site))
                fault(t, "divergent barrier", site, "lane %u of the same warp waits at another barrier, @%u@", other.lane, other.site);
        }
    if (!b.arrived) b.expected = expected, b.popc = 0, b.all = 1, b.any = 0, b.arrives = 0;
    const u32 missing = t->lane == 0 ? 32 - __builtin_popcount(state.exist[t->warp]) : 0;
    b.arrived += 1 + missing;
    b.popc += predicate, b.all &= predicate, b.any |= predicate;
    b.arrives += op == BAR_ARRIVE;
    const u32 result = op == BAR_POPC ? 0 : op == BAR_AND ? 1 : 2;
    if (state.launch->checked && (b.expected != whole || b.arrives)) shadow_release(t, 16 * 1024 * 1024 + id);
    t->barrier = id, t->kind = site;
    if (b.arrived < b.expected) {
        if (op == BAR_ARRIVE) return 0;
        wait_here(t, AT_BARRIER, site);
    } else {
        const u32 results[3] = {b.popc, b.all, b.any};
        if (op != BAR_ARRIVE) t->state = AT_BARRIER;
        if (state.launch->checked && b.expected == whole && !b.arrives) shadow_full_barrier();
        else if (state.launch->checked)
            for (u32 i = 0; i < state.threads_count; ++i)
                if (state.thread[i].state == AT_BARRIER && state.thread[i].barrier == id)
                    shadow_acquire(&state.thread[i], 16 * 1024 * 1024 + id);
        for (u32 i = 0; i < state.threads_count; ++i) {
            Thread& member = state.thread[i];
            if (member.state != AT_BARRIER || member.barrier != id) continue;
            set_ready(&member);
            memcpy(member.out, results, sizeof results);
        }
        b.arrived = 0;
        ++state.barriers;
        progress();
        reorder(true);
        if (op == BAR_ARRIVE) return 0;
        switch_away(t);
    }
    return t->out[result];
}

extern "C" void emu_warp(Machine*, Thread* t, u32 kind, u32 mask, u32 site) {
    const u32 w = t->warp, bit = 1u << t->lane;
    t->kind = kind, t->mask = mask;
    if (kind == ACTIVEMASK) return wait_here(t, AT_WARP, site);
    const u32 lanes = mask & state.exist[w];
    if (!(mask & bit)) fault(t, "divergent barrier", site, "%s with the mask 0x%08x, which leaves lane %u itself out", kind_name(kind), mask, t->lane);
    if (lanes & state.done[w])
        fault(t, "exited lane", site, "%s names lane %u, which returned", kind_name(kind), __builtin_ctz(lanes & state.done[w]));
    u32 arrived = bit;
    for (u32 left = state.waiting[w] & lanes; left; left &= left - 1) {
        const Thread& other = state.thread[w * 32 + __builtin_ctz(left)];
        if (other.state != AT_WARP || other.mask != mask) continue;
        if (other.kind != kind)
            fault(t, "divergent barrier", site, "%s, but lane %u of its mask waits at %s, @%u@", kind_name(kind), other.lane, kind_name(other.kind), other.site);
        arrived |= 1u << other.lane;
    }
    if (arrived != lanes) return wait_here(t, AT_WARP, site);
    execute_warp(kind, w, lanes, site);
    if (state.launch->checked) shadow_lanes(w, lanes);
    for (u32 left = lanes & ~bit; left; left &= left - 1) set_ready(&state.thread[w * 32 + __builtin_ctz(left)]);
    progress();
    if (state.launch->schedule == RANDOM) {
        reorder(false);
        switch_away(t);
    }
}

static void give_way(Thread* t, u32 site) {
    if (!state.launch->fibers) return;
    t->site = site, t->state = YIELDED;
    state.ready[t->warp] &= ~(1u << t->lane);
    state.yielded[t->warp] |= 1u << t->lane;
    switch_away(t);
}

extern "C" int emu_refuel(Machine*, Thread* t, u32 site) {
    const int slice = 1 << 14;
    if ((++state.slices + state.yields / 64) * slice > state.launch->step_limit) {
        char where[900];
        t->site = site, t->state = YIELDED;
        if (state.launch->fibers) describe(where, sizeof where);
        else where[0] = 0;
        fault(t, "hang", site, "still running after %llu backward branches without any synchronisation: %s",
              (unsigned long long)state.launch->step_limit, where);
    }
    give_way(t, site);
    return slice;
}

extern "C" void emu_yield(Machine* m, Thread* t, u32 site) {
    if (++state.yields % 1024 == 0) emu_refuel(m, t, site);
    else give_way(t, site);
}

extern "C" void emu_trap(Machine*, Thread* t, const char* kind, const char* detail, u32 site) { fault(t, kind, site, "%s", detail); }

extern "C" void emu_assert(Machine*, Thread* t, u64 message, u64, u32, u32 site) {
    fault(t, "trap", site, "assertion failed: %.200s", (const char*)message);
}

// ---- cp.async: copies land at the wait, not before
struct Copy {
    u64 from;
    u32 to, size, source_size, group, site;
};

struct CopyTable {
    u32 count, room, group;
    Copy* copies;
};

extern "C" void emu_copy(Machine*, Thread* t, u32 to, u64 from, u32 size, u32 source_size, u32 site) {
    if (!t->copies) t->copies = (CopyTable*)calloc(1, sizeof(CopyTable));
    CopyTable& table = *t->copies;
    if (source_size > size) source_size = size;
    if (state.launch->checked) {
        if (to % size || from % size) fault(t, "misaligned", site, "a copy of %u bytes from 0x%llx to shared byte %u", size, (unsigned long long)from, to);
        if (source_size) emu_check_global(&state, t, from, source_size, READ, site);
        emu_check_shared(&state, t, to, size, WRITE, site);
        shadow_copy(t, to, size, false, site);
    }
    if (table.count == table.room) {
        table.room = table.room ? 2 * table.room : 16;
        table.copies = (Copy*)realloc(table.copies, table.room * sizeof(Copy));
    }
    table.copies[table.count++] = {from, to, size, source_size, table.group, site};
    state.loaded += source_size;
}

extern "C" void emu_copy_commit(Machine*, Thread* t) {
    if (t->copies) ++t->copies->group;
}

extern "C" void emu_copy_wait(Machine*, Thread* t, u32 groups, u32 all, u32) {
    if (!t->copies) return;
    CopyTable& table = *t->copies;
    u32 kept = 0;
    for (u32 i = 0; i < table.count; ++i) {
        const Copy c = table.copies[i];
        if (!all && c.group + groups >= table.group) {
            table.copies[kept++] = c;
            continue;
        }
        if ((u64)c.to + c.size <= state.shared_size) {
            memcpy(state.shared + c.to, (const char*)c.from, c.source_size);
            memset(state.shared + c.to + c.source_size, 0, c.size - c.source_size);
        }
        if (state.launch->checked) shadow_copy(t, c.to, c.size, true, c.site);
    }
    table.count = kept;
}

extern "C" void emu_fence(Machine*, Thread* t) { t->fenced = 1; }

// ---- mbarrier: an object of 8 bytes in shared memory: expected and pending arrivals, and its phase
struct Mbarrier {
    u32 expected : 20, pending_high : 12, pending_low : 8, phase : 23, live : 1;
    u32 pending() const { return pending_high << 8 | pending_low; }
    void set(u32 n) { pending_high = n >> 8, pending_low = n & 255; }
};
static_assert(sizeof(Mbarrier) == 8, "as in shared memory");

static Mbarrier* mbarrier_at(Thread* t, u64 at, u32 site) {
    if (at % 8) fault(t, "misaligned", site, "an mbarrier at shared byte %llu", (unsigned long long)at);
    if (at + 8 > state.shared_size) fault(t, "out of bounds", site, "an mbarrier at shared byte %llu of %u", (unsigned long long)at, state.shared_size);
    return (Mbarrier*)(state.shared + at);
}

extern "C" void emu_mbarrier_init(Machine* m, Thread* t, u64 at, u32 count, u32 site) {
    Mbarrier* b = mbarrier_at(t, at, site);
    if (state.launch->checked) emu_check_shared(m, t, at, 8, WRITE, site);
    b->expected = count, b->phase = 0, b->live = 1;
    b->set(count);
    if (state.launch->checked) shadow_forget(at);
}

extern "C" u64 emu_mbarrier_arrive(Machine* m, Thread* t, u64 at, u32 count, u32, u32 drop, u32 site) {
    Mbarrier* b = mbarrier_at(t, at, site);
    if (state.launch->checked) {
        emu_check_shared(m, t, at, 8, READ | WRITE | ATOMIC, site);
        shadow_release(t, at);
    }
    const u32 phase = b->phase;
    if (b->pending() < count) fault(t, "divergent barrier", site, "more arrivals at an mbarrier than its %u", (u32)b->expected);
    if (drop) b->expected = b->expected - count;
    b->set(b->pending() - count);
    if (!b->pending()) {
        b->set(b->expected), b->phase = b->phase + 1;
        progress();
    }
    return phase;
}

extern "C" u32 emu_mbarrier_test(Machine* m, Thread* t, u64 at, u64 wanted, u32 by_parity, u32 may_wait, u32 site) {
    Mbarrier* b = mbarrier_at(t, at, site);
    if (state.launch->checked) emu_check_shared(m, t, at, 8, READ | ATOMIC, site);
    for (int tries = 0;; ++tries) {
        const bool passed = by_parity ? (b->phase & 1) != (wanted & 1) : b->phase != (u32)wanted;
        if (passed) {
            if (state.launch->checked) shadow_acquire(t, at);
            return 1;
        }
        emu_yield(m, t, site);
        if (tries || !may_wait) return 0;
    }
}

// ---- a launch
static void start_block(u32 index) {
    const Launch& l = *state.launch;
    state.block_index = index;
    state.ctaid[0] = index % l.grid[0], state.ctaid[1] = index / l.grid[0] % l.grid[1], state.ctaid[2] = index / l.grid[0] / l.grid[1];
    memset(state.shared, 0xff, state.shared_size);
    if (l.checked) shadow_block();
    progress();
}

static void reset(Thread& t, u32 i) {
    t.index = i, t.lane = i % 32, t.warp = i / 32;
    t.tid[0] = i % state.ntid[0], t.tid[1] = i / state.ntid[0] % state.ntid[1], t.tid[2] = i / state.ntid[0] / state.ntid[1];
    t.state = RUNNABLE, t.depots = nullptr, t.site = NO_SITE, t.fenced = 0;
    if (t.copies) t.copies->count = t.copies->group = 0;
}

static u32* blocks_in_order(u32 count) {
    u32* blocks = (u32*)malloc(sizeof(u32) * (count ? count : 1));
    for (u32 i = 0; i < count; ++i) blocks[i] = state.launch->schedule == LIFO ? count - 1 - i : i;
    if (state.launch->schedule == RANDOM)
        for (u32 i = count; i > 1; --i) {
            const u32 j = draw() % i, b = blocks[j];
            blocks[j] = blocks[i - 1], blocks[i - 1] = b;
        }
    return blocks;
}

static u32* blocks;
static u32 block_count;

static void straight() {  // without synchronisation there is nothing to switch for: thread after thread, on one stack
    Thread& t = state.thread[0];
    state.current = &t;
    const bool backward = state.launch->schedule == LIFO;
    for (u32 b = 0; b < block_count; ++b) {
        start_block(blocks[b]);
        for (u32 i = 0; i < state.threads_count; ++i) {
            const u32 index = backward ? state.threads_count - 1 - i : i;
            reset(t, index);
            state.slices = 0;
            state.launch->body(&state, &t);
        }
    }
    leave();
}

static void with_fibers() {
    for (u32 b = 0; b < block_count && !state.launch->faulted; ++b) {
        start_block(blocks[b]);
        for (u32 i = 0; i < state.threads_count; ++i) {
            reset(state.thread[i], i);
            state.thread[i].sp = fresh_stack(i, fiber_main);
        }
        for (u32 w = 0; w < state.warps; ++w) {
            const u32 lanes = state.threads_count - w * 32;
            state.exist[w] = state.ready[w] = lanes >= 32 ? ~0u : (1u << lanes) - 1;
            state.done[w] = state.waiting[w] = state.yielded[w] = 0;
            state.order[w] = w;
        }
        state.backward = false, state.done_count = 0;
        memset(state.barrier, 0, sizeof state.barrier);
        reorder(false);
        state.current = pick();
        emu_switch(&state.main_sp, state.current->sp);
    }
}

static const size_t ARENA = 256 * 1024;

extern "C" IMPORT int emu_launch(Launch* l) {
    static char* arena;
    if (!arena) {  // between pages that nobody may touch
        arena = (char*)mmap(nullptr, ARENA + 2 * 65536, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (arena == MAP_FAILED) return arena = nullptr, 2;
        arena += 65536;
        mprotect(arena, ARENA, PROT_READ | PROT_WRITE);
    }
    state.launch = l;
    state.shared = arena, state.shared_size = l->static_shared + l->dynamic_shared, state.dynamic_size = l->dynamic_shared;
    memcpy(state.nctaid, l->grid, sizeof l->grid);
    memcpy(state.ntid, l->block, sizeof l->block);
    state.params = l->params, state.hits = l->hits;
    state.loaded = state.stored = state.barriers = 0;
    state.random = l->seed, state.threads_count = l->block[0] * l->block[1] * l->block[2];
    state.warps = (state.threads_count + 31) / 32;
    if (!reserve_stacks(l->fibers ? state.threads_count : 1, l->stack)) return 2;
    block_count = l->grid[0] * l->grid[1] * l->grid[2];
    blocks = blocks_in_order(block_count);
    if (l->checked) shadow_launch();

    stack_t own = {}, old_stack;
    own.ss_sp = signal_stack, own.ss_size = sizeof signal_stack;
    struct sigaction catching = {}, old_segv, old_bus;
    catching.sa_sigaction = on_signal, catching.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaltstack(&own, &old_stack);
    sigaction(SIGSEGV, &catching, &old_segv);
    sigaction(SIGBUS, &catching, &old_bus);
    const u32 mode = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(l->flush ? 0x1f80 | 0x8040 : 0x1f80);  // -ftz=true: denormals are zero, in and out

    if (l->fibers) with_fibers();
    else emu_switch(&state.main_sp, fresh_stack(0, straight));

    __builtin_ia32_ldmxcsr(mode);
    sigaction(SIGSEGV, &old_segv, nullptr);
    sigaction(SIGBUS, &old_bus, nullptr);
    sigaltstack(&old_stack, nullptr);
    if (l->checked) shadow_end();
    free(blocks);
    l->loaded = state.loaded, l->stored = state.stored, l->barriers = state.barriers;
    return l->faulted;
}

}  // namespace emu
