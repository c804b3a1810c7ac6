// Fibers: a stack for each thread of a block, the switch between them, and the way out of one that
// faults.
#include "state.hpp"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#if !defined(__x86_64__) || !defined(__linux__)
#error "the emulated machine needs Linux on x86-64"
#endif

namespace emu {

// ---- fibers
// emu_switch pushes the callee-saved registers onto this stack, stores its top in *from, and
// continues on the stack whose top is `to`.
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

bool reserve_stacks(size_t count, size_t size) {
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

// Returns the top of a stack that starts `body` when it is switched to. The tops are spread over
// the sets of the cache; otherwise the busy ends of all stacks would fall into the same sets.
void* fresh_stack(u32 i, void (*body)()) {
    char* top = stacks + (i + 1) * stack_size - 64 - (i % 61) * 192;
    void** sp = (void**)((u64)top & ~63ull);
    *--sp = nullptr;         // the return address of `body`, which never returns; it aligns the stack as after a call
    *--sp = (void*)body;
    for (int r = 0; r < 6; ++r) *--sp = nullptr;
    return sp;
}

void leave() {  // this stack is not needed again
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

// ---- faults of the host: how a launch without checks finds addresses that are not mapped
static u64 bad_address;

static char landing_stack[65536] __attribute__((aligned(64)));

static void land() {
    if (stacks && bad_address - (u64)stacks < stack_count * stack_size)
        fault(state.current, "out of bounds", NO_SITE, "the thread's stack overflows");
    fault(state.current, "out of bounds", NO_SITE, "an access to address 0x%llx, which is not mapped (a checked launch "
          "names the line)", (unsigned long long)bad_address);
}

static void on_signal(int, siginfo_t* info, void* context) {
    greg_t* registers = ((ucontext_t*)context)->uc_mcontext.gregs;
    bad_address = (u64)info->si_addr;
    registers[REG_RSP] = (greg_t)(landing_stack + sizeof landing_stack - 8);  // aligned as after a call
    registers[REG_RIP] = (greg_t)land;
}

static stack_t old_stack;
static struct sigaction old_segv, old_bus;

void catch_signals() {
    stack_t own = {};
    own.ss_sp = signal_stack, own.ss_size = sizeof signal_stack;
    struct sigaction catching = {};
    catching.sa_sigaction = on_signal, catching.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaltstack(&own, &old_stack);
    sigaction(SIGSEGV, &catching, &old_segv);
    sigaction(SIGBUS, &catching, &old_bus);
}

void release_signals() {
    sigaction(SIGSEGV, &old_segv, nullptr);
    sigaction(SIGBUS, &old_bus, nullptr);
    sigaltstack(&old_stack, nullptr);
}

}  // namespace emu
