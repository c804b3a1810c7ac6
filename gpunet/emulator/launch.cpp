// A launch: it runs blocks in the order of the schedule, and the threads of each on fibers, or one
// after another where no thread waits.
#include "state.hpp"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

namespace emu {

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
    t.state = RUNNABLE, t.depots = nullptr, t.path = 0, t.site = NO_SITE, t.fenced = 0, t.interval = 0;
    drop_copies(t);
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

// Runs a kernel without synchronisation: thread after thread, on one stack.
static void straight() {
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
            state.done[w] = state.waiting[w] = state.yielded[w] = state.at_barrier[w] = state.meeting[w].lanes = 0;
            state.order[w] = w;
        }
        state.backward = false, state.done_count = 0;
        memset(state.barrier, 0, sizeof state.barrier);
        reorder(false);
        state.current = pick();
        emu_switch(&state.main_sp, state.current->sp);
        if (state.launch->tallies) counters_settle_all();
    }
}

static const size_t ARENA = 256 * 1024;

extern "C" IMPORT int emu_launch(Launch* l) {
    static char* arena;
    if (!arena) {  // with protected pages on both sides
        arena = (char*)mmap(nullptr, ARENA + 2 * 65536, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (arena == MAP_FAILED) return arena = nullptr, 2;
        arena += 65536;
        mprotect(arena, ARENA, PROT_READ | PROT_WRITE);
    }
    state.launch = l;
    state.shared = arena, state.shared_size = l->static_shared + l->dynamic_shared, state.dynamic_size = l->dynamic_shared;
    memcpy(state.nctaid, l->grid, sizeof l->grid);
    memcpy(state.ntid, l->block, sizeof l->block);
    state.params = l->params, state.hits = l->hits, state.executed = l->executed;
    state.loaded = state.stored = state.barriers = 0;
    state.random = l->seed, state.threads_count = l->block[0] * l->block[1] * l->block[2];
    state.warps = (state.threads_count + 31) / 32;
    if (!reserve_stacks(l->fibers ? state.threads_count : 1, l->stack)) return 2;
    block_count = l->grid[0] * l->grid[1] * l->grid[2];
    blocks = blocks_in_order(block_count);
    if (l->checked) shadow_launch();

    catch_signals();
    const u32 mode = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(l->flush ? 0x1f80 | 0x8040 : 0x1f80);  // -ftz=true: denormal operands and results are zero

    if (l->fibers) with_fibers();
    else emu_switch(&state.main_sp, fresh_stack(0, straight));

    __builtin_ia32_ldmxcsr(mode);
    release_signals();
    if (l->checked) shadow_end();
    if (l->tallies) counters_end();
    free(blocks);
    l->loaded = state.loaded, l->stored = state.stored, l->barriers = state.barriers;
    return l->faulted;
}

}  // namespace emu
