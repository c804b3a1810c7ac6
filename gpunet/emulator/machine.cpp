// The scheduler, barriers, and the meeting of lanes for warp operations.
//
// A thread of a block runs until it must wait, and switches to the next runnable thread itself. The
// last lane to arrive at a warp operation computes it, and the last thread to arrive opens a
// barrier. When no thread can run and not all have returned, the block is stuck, and the fault says
// where each warp waits. In its text "@n@" stands for source line n of the entry's table;
// machine.py puts in file and line.
#include "state.hpp"

#include <stdio.h>
#include <string.h>

namespace emu {

State state;

// ---- the scheduler
u64 draw() {  // SplitMix64
    u64 z = state.random += 0x9E3779B97F4A7C15ull;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ z >> 27) * 0x94D049BB133111EBull;
    return z ^ z >> 31;
}

// Sets the order in which warps run after a synchronisation. LIFO reverses it at a barrier, so that
// the last to arrive continues first. RANDOM draws a new order.
void reorder(bool at_barrier) {
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

Thread* pick() {
    for (u32 i = 0; i < state.warps; ++i) {
        const u32 w = state.order[i], lanes = state.ready[w];
        if (lanes) return &state.thread[w * 32 + (state.backward ? 31 - __builtin_clz(lanes) : __builtin_ctz(lanes))];
    }
    return nullptr;
}

static void set_ready(u32 w, u32 lanes) {
    state.ready[w] |= lanes;
    state.waiting[w] &= ~lanes, state.at_barrier[w] &= ~lanes, state.meeting[w].lanes &= ~lanes;
}

void progress() { state.slices = state.yields = 0; }

// When nothing can run any more: lets the lanes of a warp that wait at the same __activemask() see
// one another and run on. Returns whether there were any.
static bool gather() {
    bool found = false;
    for (u32 w = 0; w < state.warps; ++w)
        for (u32 left = state.waiting[w]; left; left &= (left - 1) & state.waiting[w]) {
            Thread& first = state.thread[w * 32 + __builtin_ctz(left)];
            if (first.state != AT_WARP || first.kind != ACTIVEMASK) continue;
            u32 lanes = 0;
            for (u32 rest = left; rest; rest &= rest - 1) {
                const Thread& other = state.thread[w * 32 + __builtin_ctz(rest)];
                if (other.state == AT_WARP && other.kind == ACTIVEMASK && other.site == first.site) lanes |= 1u << other.lane;
            }
            for (u32 rest = lanes; rest; rest &= rest - 1) state.thread[w * 32 + __builtin_ctz(rest)].out[0] = lanes;
            set_ready(w, lanes);
            found = true;
        }
    return found;
}

// The state of a thread; `state` is out of date in one that was made runnable or is done.
static u32 state_of(const Thread& t) {
    if (state.done[t.warp] >> t.lane & 1) return DONE;
    return state.waiting[t.warp] >> t.lane & 1 ? t.state : (u32)RUNNABLE;
}

// Writes into `text` where each warp is.
static void describe(char* text, int size) {
    int used = 0;
    for (u32 w = 0; w < state.warps && used < size - 80; ++w) {
        used += snprintf(text + used, size - used, "%swarp %u", w ? "; " : "", w);
        for (u32 left = state.exist[w]; left && used < size - 80;) {
            const Thread& first = state.thread[w * 32 + __builtin_ctz(left)];
            const u32 why = state_of(first);
            u32 same = 0;
            for (u32 rest = left; rest; rest &= rest - 1) {
                const Thread& other = state.thread[w * 32 + __builtin_ctz(rest)];
                if (state_of(other) == why && (why == DONE || other.site == first.site)) same |= 1u << other.lane;
            }
            const u32 count = __builtin_popcount(same);
            const char* what = why == AT_BARRIER ? "at the barrier" : why == AT_WARP ? kind_name(first.kind) : "running";
            if (why == DONE) used += snprintf(text + used, size - used, " %u returned", count);
            else used += snprintf(text + used, size - used, " %u %s @%u@", count, what, first.site);
            left &= ~same;
        }
    }
}

[[noreturn]] static void stuck() {
    char where[900];
    describe(where, sizeof where);
    Thread *at_barrier = nullptr, *at_warp = nullptr;
    bool exited_full = false;
    for (u32 i = 0; i < state.threads_count; ++i) {
        Thread& t = state.thread[i];
        if (state_of(t) == AT_BARRIER && !at_barrier) at_barrier = &t;
        if (state_of(t) == AT_WARP && !at_warp) at_warp = &t;
    }
    exited_full = at_barrier && state.done_count;
    Thread* t = at_barrier ? at_barrier : at_warp;
    if (exited_full) fault(t, "barrier never reached", t->site, "%u threads returned without it: %s", state.done_count, where);
    fault(t, "divergent barrier", t->site, "threads wait in different places: %s", where);
}

static inline void switch_to(Thread* t, Thread* next) {
    if (next == t) return;
    state.current = next;
    emu_switch(&t->sp, next->sp);
}

// Switches to the next runnable thread, and returns when this one runs again, which one that is
// done never does.
static void switch_away(Thread* t) {
    const u32 own = state.ready[t->warp];  // the other lanes of its warp come first
    Thread* next = own ? &state.thread[t->warp * 32 + (state.backward ? 31 - __builtin_clz(own) : __builtin_ctz(own))] : pick();
    while (!next) {
        for (u32 w = 0; w < state.warps; ++w) {  // threads that gave way run again when no other can
            for (u32 left = state.yielded[w]; left; left &= left - 1) state.thread[w * 32 + __builtin_ctz(left)].state = RUNNABLE;
            state.ready[w] |= state.yielded[w], state.yielded[w] = 0;
        }
        if (state.launch->tallies) counters_settle_all(REQUESTS_KEPT);
        if ((next = pick())) break;
        if (state.done_count == state.threads_count) leave();
        if (!gather()) stuck();
        next = pick();
    }
    switch_to(t, next);
}

static void wait_here(Thread* t, ThreadState why, u32 site) {
    t->state = why, t->site = site;
    state.ready[t->warp] &= ~(1u << t->lane);
    state.waiting[t->warp] |= 1u << t->lane;
    switch_away(t);
}

// Whether an operation may name lanes that have returned, and then leaves them out: a vote or a
// __syncwarp(). In any other operation naming them is a fault.
static bool spares_exited(u32 kind) { return kind == SYNC || (VOTE_ALL <= kind && kind <= VOTE_BALLOT); }

static u32 lanes_of(const Thread& t) {
    const u32 w = t.warp, lanes = t.mask & state.exist[w];
    return spares_exited(t.kind) ? lanes & ~state.done[w] : lanes;
}

// Those of `lanes` that wait at the warp operation at which `t` stands.
static u32 waiting_with(const Thread& t, u32 lanes) {
    const Meeting& meeting = state.meeting[t.warp];
    u32 left = state.waiting[t.warp] & lanes, found = 0;
    if (left == meeting.lanes && meeting.kind == t.kind && meeting.mask == t.mask) return left;
    for (; left; left &= left - 1) {
        const Thread& other = state.thread[t.warp * 32 + __builtin_ctz(left)];
        if (other.state == AT_WARP && other.mask == t.mask && other.kind == t.kind) found |= 1u << other.lane;
    }
    return found;
}

// Notes that a lane waits at its warp operation.
static void join(const Thread& t) {
    Meeting& meeting = state.meeting[t.warp];
    if (!meeting.lanes) meeting.kind = t.kind, meeting.mask = t.mask;
    if (meeting.kind == t.kind && meeting.mask == t.mask) meeting.lanes |= 1u << t.lane;
}

// If all lanes of the warp operation at which `t` stands have arrived: computes it, lets the
// waiting lanes run on, and returns true.
static bool complete(Thread& t) {
    const u32 w = t.warp, lanes = lanes_of(t), waiting = waiting_with(t, lanes);
    if ((waiting | 1u << t.lane) != lanes) return false;
    execute_warp(t.kind, w, lanes, t.site);
    if (state.launch->checked) shadow_lanes(w, lanes);
    if (state.launch->tallies && lanes == (state.exist[w] & ~state.done[w])) counters_settle(w);
    set_ready(w, waiting);
    progress();
    return true;
}

void fiber_main() {
    Thread* t = state.current;
    state.launch->body(&state, t);
    const u32 bit = 1u << t->lane, w = t->warp;
    t->state = DONE;
    state.ready[w] &= ~bit, state.done[w] |= bit, ++state.done_count;
    for (u32 left = state.waiting[w]; left; left = (left & (left - 1)) & state.waiting[w]) {
        Thread& other = state.thread[w * 32 + __builtin_ctz(left)];
        if (other.state != AT_WARP || other.kind == ACTIVEMASK || !(other.mask & bit)) continue;
        if (!spares_exited(other.kind))
            fault(&other, "exited lane", other.site, "%s names lane %u, which returned", kind_name(other.kind), t->lane);
        complete(other);
    }
    progress();
    switch_away(t);
}

// ---- barriers and warp operations
static void open_barrier(Barrier& b, u32 id, bool whole) {
    const u64 object = ~(u64)id;  // its name in the checks' order of accesses; an mbarrier's name is its address
    const u32 results[5] = {0, 0, b.popc, b.all, b.any};
    if (whole && !b.reduces) {
        for (u32 w = 0; w < state.warps; ++w) state.ready[w] = state.exist[w], state.waiting[w] = state.at_barrier[w] = 0;
        if (state.launch->checked) shadow_full_barrier();
    } else {
        if (state.launch->checked && whole) shadow_full_barrier();
        for (u32 pass = 0; pass < 3; ++pass)
            for (u32 i = 0; i < state.threads_count; ++i) {
                Thread& member = state.thread[i];
                if (!(state.waiting[member.warp] >> member.lane & 1) || member.state != AT_BARRIER || member.barrier != id) continue;
                if (pass == 2) {
                    memcpy(member.out, results, sizeof results);
                    set_ready(member.warp, 1u << member.lane);
                } else if (state.launch->checked && !whole) {
                    (pass ? shadow_acquire : shadow_release)(&member, object);
                }
            }
        if (state.launch->checked) shadow_forget(object);
    }
    if (whole && state.launch->tallies) counters_settle_all();
    b.arrived = 0;
    ++state.barriers;
    progress();
    reorder(true);
}

extern "C" u32 emu_barrier(Thread* t, u32 id, u32 count, u32 how, u32 site) {
    const u32 all = state.warps * 32, expected = count ? count : all, op = how & 15, bit = 1u << t->lane, w = t->warp;
    const u32 predicate = how & PREDICATE ? 1 : 0;
    if (id > 15) fault(t, "divergent barrier", site, "barrier %u: there are 16", id);
    if (expected % 32) fault(t, "divergent barrier", site, "barrier %u for %u threads, not a multiple of 32", id, expected);
    Barrier& b = state.barrier[id];
    if (!b.arrived) b = {0, expected, 0, 1, 0, 0, 0};
    if (b.expected != expected)
        fault(t, "divergent barrier", site, "barrier %u for %u threads, for %u by those that wait", id, expected, b.expected);
    if (how & ALIGNED && op != BAR_ARRIVE) {  // a BAR_ARRIVE does not wait, and the lanes of a warp may drift apart
        if (state.at_barrier[w] && (state.barrier_id[w] != id || state.barrier_site[w] != site))
            fault(t, "divergent barrier", site, "lane %u of the same warp waits at another barrier, @%u@",
                  __builtin_ctz(state.at_barrier[w]), state.barrier_site[w]);
        state.barrier_id[w] = id, state.barrier_site[w] = site;
    }
    b.arrived += t->lane ? 1 : 33 - __builtin_popcount(state.exist[w]);  // a warp that is not full counts as a full one
    if (op > BAR_ARRIVE) b.popc += predicate, b.all &= predicate, b.any |= predicate, ++b.reduces;
    t->barrier = id;
    if (op == BAR_ARRIVE) {
        ++b.arrives;
        if (state.launch->checked) shadow_release(t, ~(u64)id);
        if (b.arrived >= expected) open_barrier(b, id, false);
        return 0;
    }
    t->state = AT_BARRIER, t->site = site;
    state.ready[w] &= ~bit, state.waiting[w] |= bit;
    if (how & ALIGNED) state.at_barrier[w] |= bit;
    if (b.arrived < expected) {
        switch_away(t);
    } else {
        open_barrier(b, id, expected == all && !b.arrives);
        switch_to(t, pick());
    }
    return t->out[op];
}

extern "C" void emu_warp(Machine*, Thread* t, u32 kind, u32 mask, u32 site) {
    const u32 w = t->warp;
    t->kind = kind, t->mask = mask, t->site = site;
    if (kind == ACTIVEMASK) return wait_here(t, AT_WARP, site);
    const u32 lanes = lanes_of(*t);
    if (!(mask >> t->lane & 1)) fault(t, "divergent barrier", site, "%s with the mask 0x%08x, which leaves lane %u itself out", kind_name(kind), mask, t->lane);
    if (lanes & state.done[w])
        fault(t, "exited lane", site, "%s names lane %u, which returned", kind_name(kind), __builtin_ctz(lanes & state.done[w]));
    for (u32 left = state.waiting[w] & lanes & ~waiting_with(*t, lanes); left; left &= left - 1) {
        const Thread& other = state.thread[w * 32 + __builtin_ctz(left)];
        if (other.state == AT_WARP && other.mask == mask)
            fault(t, "divergent barrier", site, "%s, but lane %u of its mask waits at %s, @%u@", kind_name(kind), other.lane, kind_name(other.kind), other.site);
    }
    if (!complete(*t)) return join(*t), wait_here(t, AT_WARP, site);
    if (state.launch->schedule == RANDOM) {
        reorder(false);
        switch_to(t, pick());
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
    const int slice = state.launch->tallies ? COUNTED_FUEL : FUEL;
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

}  // namespace emu
