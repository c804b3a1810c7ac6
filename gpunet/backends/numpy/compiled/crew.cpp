// Lets the backend's threads share a loop at once. Between two loops they wait here, without the interpreter's
// lock, which the caller holds then; and for some time awake, for a thread that sleeps needs some 80 microseconds
// to begin, one that is awake less than one.
#include <sched.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>

#include "loops.hpp"

struct Crew {
    std::atomic<uint64_t> tickets{0};   // generation * WAITING + parts that no thread has begun
    std::atomic<long> unfinished{0};    // parts
    std::atomic<long> dismissals{0};    // how often the threads were told to leave
    std::atomic<long> asleep{0};        // threads that `wake` wakes
    std::atomic<bool> failed{false};    // whether a part could not get its memory
    std::mutex mutex;
    std::condition_variable wake;
    std::atomic_flag busy = ATOMIC_FLAG_INIT;
    Loop loop = nullptr;
    const Slot* arguments = nullptr;
    long count = 0, parts = 0;
};
constexpr uint64_t WAITING = 1 << 16;

// Wakes the threads that sleep. A thread counts itself first, and then looks once more for what it is woken for.
static void wake_all(Crew& crew) {
    if (!crew.asleep.load()) return;
    const std::lock_guard<std::mutex> lock(crew.mutex);
    crew.wake.notify_all();
}

// Does a part that no thread has begun, if there is one. It is taken by one exchange with the generation that
// it belongs to, so that no thread takes a part of an earlier loop.
static bool takes_part(Crew& crew) {
    uint64_t now = crew.tickets.load(std::memory_order_acquire);
    while (now % WAITING) {
        if (!crew.tickets.compare_exchange_weak(now, now - 1, std::memory_order_acq_rel)) continue;
        const long part = (long)(now % WAITING) - 1;
        const long begin = crew.count * part / crew.parts, end = crew.count * (part + 1) / crew.parts;
        if (!crew.loop(begin, end, crew.arguments)) crew.failed.store(true, std::memory_order_relaxed);
        crew.unfinished.fetch_sub(1, std::memory_order_release);
        return true;
    }
    return false;
}

// Waits a moment, and lets other processes have the core now and then.
static void rest(long& turns) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
    if (++turns % 64 == 0) sched_yield();
}

extern "C" {

Crew* crew_make() { return new Crew; }
void crew_free(Crew* crew) { delete crew; }

// Calls loop(i, j, arguments) for `parts` parts i … j - 1 of `count`, and returns when all are done: whether each
// of them could get its memory. The caller does what no other thread has begun: all of it, where the threads share
// another loop.
bool crew_share(Crew* crew, Loop loop, const Slot* arguments, long count, long parts) {
    if (parts <= 1 || crew->busy.test_and_set(std::memory_order_acquire)) return loop(0, count, arguments);
    crew->loop = loop, crew->arguments = arguments, crew->count = count, crew->parts = parts;
    crew->unfinished.store(parts, std::memory_order_relaxed), crew->failed.store(false, std::memory_order_relaxed);
    const uint64_t generation = crew->tickets.load(std::memory_order_relaxed) / WAITING + 1;
    crew->tickets.store(generation * WAITING + (uint64_t)parts);
    wake_all(*crew);
    while (takes_part(*crew)) {}
    for (long turns = 0; crew->unfinished.load(std::memory_order_acquire);) rest(turns);
    const bool done = !crew->failed.load(std::memory_order_relaxed);
    crew->busy.clear(std::memory_order_release);
    return done;
}

// Takes parts until the threads are told to leave, which `dismissals` counts; sleeps when there were none for some
// microseconds.
void crew_attend(Crew* crew, long dismissals, long microseconds) {
    typedef std::chrono::steady_clock Clock;
    const auto patience = std::chrono::microseconds(microseconds);
    auto end = Clock::now() + patience;
    for (long turns = 0; crew->dismissals.load() == dismissals;) {
        if (takes_part(*crew)) end = Clock::now() + patience;
        else if (rest(turns); turns % 16 == 0 && Clock::now() > end) {
            std::unique_lock<std::mutex> lock(crew->mutex);
            ++crew->asleep;
            crew->wake.wait(lock, [&] { return crew->tickets.load() % WAITING || crew->dismissals.load() != dismissals; });
            --crew->asleep;
        }
    }
}

long crew_dismissals(Crew* crew) { return crew->dismissals.load(); }

// Tells the threads to leave.
void crew_dismiss(Crew* crew) {
    ++crew->dismissals;
    wake_all(*crew);
}
}
