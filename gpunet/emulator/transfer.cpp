// cp.async copies and mbarriers, for which threads wait; and printf, assert and trap, which report
// to the host.
#include "state.hpp"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace emu {

extern "C" void emu_trap(Machine*, Thread* t, const char* kind, const char* detail, u32 site) { fault(t, kind, site, "%s", detail); }

extern "C" void emu_assert(Machine*, Thread* t, u64 message, u32 site) {
    fault(t, "trap", site, "assertion failed: %.200s", (const char*)message);
}

// printf. Each conversion takes the next value, aligned to its size, as the compiler packs them.
extern "C" u32 emu_print(Machine*, Thread*, u64 format, u64 values) {
    const char* f = (const char*)format;
    u64 at = 0, count = 0;
    for (; *f; ++f) {
        if (*f != '%' || f[1] == '%') {
            putchar(*f);
            f += *f == '%';
            continue;
        }
        char one[32] = {};
        u32 n = 0;
        while (n < 30 && !strchr("diouxXcsfFeEgGaAp", *f)) one[n++] = *f++;
        const bool wide = strchr(one, 'l') || strchr(one, 'z') || strchr("sfFeEgGaAp", *f);
        one[n] = *f;
        at = wide ? (at + 7) / 8 * 8 : (at + 3) / 4 * 4;
        if (strchr("fFeEgGaA", *f)) printf(one, get<f64>((char*)values + at));
        else if (wide) printf(one, get<u64>((char*)values + at));
        else printf(one, get<u32>((char*)values + at));
        at += wide ? 8 : 4, ++count;
    }
    fflush(stdout);
    return count;
}

// ---- cp.async: a copy lands when the thread waits for it, and not before
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
        for (u32 at = 0; at < source_size; at += 4)
            emu_check_global(&state, t, from + at, source_size - at < 4 ? source_size - at : 4, READ, site);
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

extern "C" void emu_copy_wait(Machine*, Thread* t, u32 groups, u32 all) {
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

// ---- mbarrier: 8 bytes of shared memory that hold expected and pending arrivals and a phase
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

extern "C" u64 emu_mbarrier_arrive(Machine* m, Thread* t, u64 at, u32 count, u32 drop, u32 site) {
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

void drop_copies(Thread& t) {
    if (t.copies) t.copies->count = t.copies->group = 0;
}

}  // namespace emu
