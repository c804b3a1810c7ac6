"""Barriers, shared memory, atomics, asynchronous copies and mbarriers of the emulated machine."""

import numpy as np
import pytest
from machine_runs import both, run, schedules

from gpunet.emulator import machine
from gpunet.emulator.machine import KernelFault, Schedule


@both
@schedules
def test_a_block_reduces_over_shared_memory_and_shuffles(
    schedule: Schedule, checked: bool, rng: np.random.Generator
) -> None:
    text = """
    extern "C" __global__ void total(const float* x, float* y) {
        __shared__ float of_warp[32];
        float v = x[blockIdx.x * blockDim.x + threadIdx.x];
        for (int d = 16; d > 0; d /= 2) v += __shfl_down_sync(0xffffffff, v, d);
        if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = v;
        __syncthreads();
        if (threadIdx.x < 32) {
            v = threadIdx.x < blockDim.x / 32 ? of_warp[threadIdx.x] : 0.0f;
            for (int d = 16; d > 0; d /= 2) v += __shfl_xor_sync(0xffffffff, v, d);
            if (threadIdx.x == 0) y[blockIdx.x] = v;
        }
    }"""
    x, y = rng.normal(size=3 * 1024).astype(np.float32), np.zeros(3, np.float32)
    counts = run(text, "total", {"x": x, "y": y}, grid=3, block=1024, schedule=schedule, checked=checked)
    np.testing.assert_allclose(y, x.reshape(3, -1).sum(axis=1, dtype=np.float64), rtol=1e-5, atol=1e-5)
    assert (counts.loaded, counts.stored, counts.barriers) == (x.nbytes, y.nbytes, 3)


@schedules
def test_named_and_partial_barriers_order_their_threads_alone(schedule: Schedule) -> None:
    """The halves of a block exchange values at named barriers; producers arrive without waiting."""
    text = """
    extern "C" __global__ void halves(int* y) {
        __shared__ int box[128], mail[64];
        const int i = threadIdx.x, half = i / 64;
        for (int round = 0; round < 3; ++round) {
            box[i] = i + round;
            asm volatile("bar.sync %0, 64;" :: "r"(1 + half) : "memory");
            y[i] = box[half * 64 + (i + 1) % 64];
            asm volatile("bar.sync %0, 64;" :: "r"(1 + half) : "memory");
        }
        if (half == 0) {
            mail[i] = 7 * i;
            __threadfence_block();
            asm volatile("bar.arrive 5, 128;" ::: "memory");
        } else {
            asm volatile("bar.sync 5, 128;" ::: "memory");
            y[i] += mail[127 - i];
        }
        y[128 + i] = __syncthreads_count(i % 3 == 0) + 1000 * __syncthreads_and(i >= 0) + 2000 * __syncthreads_or(i > 500);
    }"""
    y = np.zeros(256, np.int32)
    run(text, "halves", {"y": y}, block=128, schedule=schedule)
    i = np.arange(128)
    np.testing.assert_array_equal(y[:128], i // 64 * 64 + (i + 1) % 64 + 2 + np.where(i < 64, 0, 7 * (127 - i)))
    np.testing.assert_array_equal(y[128:], 43 + 1000)


@both
@schedules
def test_atomics_of_every_kind(schedule: Schedule, checked: bool) -> None:
    text = """
    #include <cuda_fp16.h>
    extern "C" __global__ void atomics(int* y, float* f, unsigned long long* u, __half2* h) {
        __shared__ int sum;
        if (threadIdx.x == 0) sum = 0;
        __syncthreads();
        const int i = blockIdx.x * blockDim.x + threadIdx.x;
        atomicAdd(&sum, i);
        atomicAdd(y, 1);
        atomicMin(y + 1, -i);
        atomicMax((unsigned*)y + 2, (unsigned)i);
        atomicOr(y + 3, 1 << (i % 32));
        atomicAnd(y + 4, ~(1 << (i % 32)));
        atomicXor(y + 5, 3);
        atomicInc((unsigned*)y + 6, 9);
        int seen = y[7 + 0 * i] , old;
        do { old = seen; seen = atomicCAS(y + 7, old, old + 2); } while (seen != old);
        atomicExch(y + 8, 5);
        atomicAdd(f, 0.5f);
        atomicAdd((double*)u + 1, 0.25);
        atomicAdd(u, 1ull << 40);
        atomicAdd(h, __floats2half2_rn(1.0f, 2.0f));
        __syncthreads();
        if (threadIdx.x == 0) atomicAdd(y + 9, sum);
    }""".replace("y[7 + 0 * i]", "atomicAdd(y + 7, 0)")
    y, f, u, h = np.zeros(10, np.int32), np.zeros(1, np.float32), np.zeros(2, np.uint64), np.zeros(2, np.float16)
    y[4] = -1
    run(text, "atomics", {"y": y, "f": f, "u": u, "h": h}, grid=4, block=64, schedule=schedule, checked=checked)
    np.testing.assert_array_equal(y, [256, -255, 255, -1, 0, 0, 256 % 10, 512, 5, 255 * 128])
    assert f[0] == 128
    assert u[0] == 256 << 40
    assert u.view(np.float64)[1] == 64
    np.testing.assert_array_equal(h, [256, 512])


PIPELINE = """
extern "C" __global__ void pipeline(const float4* x, float4* y, int steps) {
    __shared__ float4 stage[2][64];
    const int i = threadIdx.x;
    const auto fetch = [&](int step) {
        const unsigned at = (unsigned)__cvta_generic_to_shared(&stage[step % 2][i]);
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(at), "l"(x + step * 64 + i) : "memory");
        asm volatile("cp.async.commit_group;" ::: "memory");
    };
    fetch(0);
    for (int step = 0; step < steps; ++step) {
        if (step + 1 < steps) { fetch(step + 1); asm volatile("cp.async.wait_group 1;" ::: "memory"); }
        else asm volatile("cp.async.wait_all;" ::: "memory");
        __syncthreads();
        y[step * 64 + i] = stage[step % 2][63 - i];
        __syncthreads();
    }
}"""


@both
@schedules
def test_copies_in_flight_land_at_their_wait(schedule: Schedule, checked: bool, rng: np.random.Generator) -> None:
    x = rng.normal(size=(5, 64, 4)).astype(np.float32)
    y = np.zeros_like(x)
    run(PIPELINE, "pipeline", {"x": x, "y": y}, np.int32(5), block=64, schedule=schedule, checked=checked)
    np.testing.assert_array_equal(y, x[:, ::-1])


def test_a_copy_of_fewer_bytes_fills_up_with_zeros() -> None:
    text = """
    extern "C" __global__ void part(const float* x, float* y) {
        __shared__ __align__(16) float s[4 * 32];
        const unsigned at = (unsigned)__cvta_generic_to_shared(s + 4 * threadIdx.x);
        asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" :: "r"(at), "l"(x), "r"(threadIdx.x % 5 * 4) : "memory");
        asm volatile("cp.async.wait_all;" ::: "memory");
        for (int i = 0; i < 4; ++i) y[4 * threadIdx.x + i] = s[4 * threadIdx.x + i];
    }"""
    x, y = np.arange(1, 5, dtype=np.float32), np.zeros((32, 4), np.float32)
    run(text, "part", {"x": x, "y": y})
    np.testing.assert_array_equal(y, [[v if j < i % 5 else 0 for j, v in enumerate(x)] for i in range(32)])


@schedules
@pytest.mark.parametrize("arch", ["compute_80", "compute_90"])
def test_an_mbarrier_orders_producers_and_consumers(arch: str, schedule: Schedule) -> None:
    wait = "try_wait" if arch == "compute_90" else "test_wait"
    text = f"""
    extern "C" __global__ void passing(int* y) {{
        __shared__ unsigned long long full;
        __shared__ int box[64];
        const unsigned at = (unsigned)__cvta_generic_to_shared(&full);
        if (threadIdx.x == 0) asm volatile("mbarrier.init.shared.b64 [%0], 32;" :: "r"(at) : "memory");
        __syncthreads();
        if (threadIdx.x < 32) {{
            box[threadIdx.x] = 3 * threadIdx.x;
            unsigned long long state;
            asm volatile("mbarrier.arrive.shared.b64 %0, [%1];" : "=l"(state) : "r"(at) : "memory");
        }} else {{
            int done = 0;
            while (!done)
                asm volatile("{{.reg .pred p; mbarrier.{wait}.parity.shared.b64 p, [%1], 0; selp.b32 %0, 1, 0, p;}}"
                             : "=r"(done) : "r"(at) : "memory");
            y[threadIdx.x - 32] = box[63 - threadIdx.x];
        }}
    }}"""
    if arch == "compute_80":
        text = (
            text.replace(".parity", "")
            .replace("[%1], 0;", "[%1], %2;")
            .replace(': "r"(at) : "memory");\n            y', ': "r"(at), "l"(0ull) : "memory");\n            y')
        )
    y = np.zeros(32, np.int32)
    run(text, "passing", {"y": y}, block=64, arch=arch, schedule=schedule)
    np.testing.assert_array_equal(y, 3 * np.arange(31, -1, -1))


@both
@schedules
def test_two_mbarriers_pass_a_buffer_to_and_fro_through_many_phases(
    schedule: Schedule, checked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One warp fills a buffer and another empties it; both wait for phases by parity."""
    text = """
    extern "C" __global__ void ring(const int* x, int* y) {
        __shared__ unsigned long long full, empty;
        __shared__ int box[32];
        const unsigned f = (unsigned)__cvta_generic_to_shared(&full), e = (unsigned)__cvta_generic_to_shared(&empty);
        const int i = threadIdx.x % 32;
        if (threadIdx.x == 0)
            asm volatile("mbarrier.init.shared.b64 [%0], 33; mbarrier.init.shared.b64 [%1], 32;" :: "r"(f), "r"(e) : "memory");
        __syncthreads();
        const auto wait = [](unsigned at, unsigned parity) {
            int done = 0;
            while (!done)
                asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared.b64 p, [%1], %2; selp.b32 %0, 1, 0, p;}"
                             : "=r"(done) : "r"(at), "r"(parity) : "memory");
        };
        for (int round = 0; round < 7; ++round) {
            if (threadIdx.x < 32) {
                wait(e, round & 1 ^ 1);  // a barrier that is new counts as past the phase before its first
                box[i] = x[32 * round + i];
                if (i == 0 && round == 4)  // from the next phase on nobody arrives for the 33rd
                    asm volatile("{.reg .b64 s; mbarrier.arrive_drop.shared.b64 s, [%0];}" :: "r"(f) : "memory");
                else if (i == 0 && round < 4)
                    asm volatile("{.reg .b64 s; mbarrier.arrive.shared.b64 s, [%0], 1;}" :: "r"(f) : "memory");
                asm volatile("{.reg .b64 s; mbarrier.arrive.shared.b64 s, [%0];}" :: "r"(f) : "memory");
            } else {
                wait(f, round & 1);
                y[32 * round + i] = box[31 - i];
                asm volatile("{.reg .b64 s; mbarrier.arrive.shared.b64 s, [%0];}" :: "r"(e) : "memory");
            }
        }
    }"""
    x, y = np.arange(7 * 32, dtype=np.int32), np.zeros((7, 32), np.int32)
    run(text, "ring", {"x": x, "y": y}, block=64, arch="compute_90", schedule=schedule, checked=checked)
    np.testing.assert_array_equal(y, x.reshape(7, 32)[:, ::-1])
    monkeypatch.setattr(machine, "STEP_LIMIT", 2**22)
    with pytest.raises(KernelFault) as caught:  # the buffer is filled too early, or a phase is missed
        run(
            text.replace("wait(e, round & 1 ^ 1);", ""),
            "ring",
            {"x": x, "y": y},
            block=64,
            arch="compute_90",
            schedule=schedule,
        )
    assert caught.value.kind in ("race", "hang")


@schedules
def test_a_store_that_releases_orders_what_came_before_it(schedule: Schedule) -> None:
    text = """
    extern "C" __global__ void passing(int* y) {
        __shared__ int box, flag;
        if (threadIdx.x == 0) flag = 0;
        __syncthreads();
        const unsigned at = (unsigned)__cvta_generic_to_shared(&flag);
        if (threadIdx.x == 0) {
            box = y[1];
            asm volatile("st.STORE.shared.u32 [%0], 1;" :: "r"(at) : "memory");
        } else if (threadIdx.x == 32) {
            int seen = 0;
            while (!seen) asm volatile("ld.acquire.cta.shared.u32 %0, [%1];" : "=r"(seen) : "r"(at) : "memory");
            y[0] = box;
        }
    }"""
    y = np.array([0, 42], np.int32)
    run(text.replace("STORE", "release.cta"), "passing", {"y": y}, block=64, schedule=schedule)
    assert y[0] == 42
    with pytest.raises(KernelFault, match="race"):
        run(text.replace("STORE", "relaxed.cta"), "passing", {"y": y}, block=64, schedule=schedule)


def test_as_many_flags_as_a_kernel_likes_order_its_threads() -> None:
    text = """
    extern "C" __global__ void flags(int* y) {
        __shared__ int flag[256], box[256];
        const int i = threadIdx.x, next = (i + 33) % 256;
        flag[i] = 0;
        __syncthreads();
        box[i] = i;
        __threadfence_block();
        atomicExch(flag + i, 1);
        while (!atomicAdd(flag + next, 0)) {}
        y[i] = box[next];
    }"""
    y = np.zeros(256, np.int32)
    run(text, "flags", {"y": y}, block=256)
    np.testing.assert_array_equal(y, (np.arange(256) + 33) % 256)


@schedules
def test_the_last_block_may_read_what_the_others_published(schedule: Schedule, rng: np.random.Generator) -> None:
    text = """
    __device__ unsigned arrived = 0;
    extern "C" __global__ void total(const int* x, int* partial, int* y) {
        __shared__ bool last;
        const int sum = __reduce_add_sync(~0u, x[blockIdx.x * 32 + threadIdx.x]);
        if (threadIdx.x == 0) {
            partial[blockIdx.x] = sum;
            FENCE
            last = atomicInc(&arrived, gridDim.x - 1) == gridDim.x - 1;
        }
        __syncthreads();
        if (last) {
            const int all = __reduce_add_sync(~0u, threadIdx.x < gridDim.x ? partial[threadIdx.x] : 0);
            if (threadIdx.x == 0) y[0] = all;
        }
    }"""
    x, partial, y = rng.integers(0, 99, 7 * 32).astype(np.int32), np.zeros(7, np.int32), np.zeros(1, np.int32)
    arrays = {"x": x, "partial": partial, "y": y}
    for _ in range(2):
        run(text.replace("FENCE", "__threadfence();"), "total", arrays, grid=7, schedule=schedule)
        assert y[0] == x.sum()
    with pytest.raises(KernelFault, match="race"):
        run(text.replace("FENCE", ""), "total", arrays, grid=7, schedule=schedule)


def test_a_lock_with_fences_orders_the_threads_of_a_block() -> None:
    text = """
    extern "C" __global__ void locked(int* y) {
        __shared__ int lock;
        if (threadIdx.x == 0) lock = 0;
        __syncthreads();
        if (threadIdx.x % 32 == 0) {
            while (atomicCAS(&lock, 0, 1) != 0) {}
            __threadfence();
            y[0] += 1;
            __threadfence();
            atomicExch(&lock, 0);
        }
    }"""
    y = np.zeros(1, np.int32)
    run(text, "locked", {"y": y}, block=256)
    assert y[0] == 8


def test_a_hang_is_reported_with_the_position_of_every_warp(monkeypatch: pytest.MonkeyPatch) -> None:
    text = """
    extern "C" __global__ void spins(int* y) {
        if (threadIdx.x >= 64) return;
        if (threadIdx.x < 32) {
            while (atomicAdd(y, 0) != 7) {}
        }
        __syncthreads();
    }"""
    monkeypatch.setattr(machine, "STEP_LIMIT", 2**22)
    where = (
        r"test.cu:5: .*hang: .*: warp 0 32 running test.cu:5; warp 1 32 at the barrier test.cu:7; warp 2 32 returned"
    )
    for checked in (False, True):
        with pytest.raises(KernelFault, match=where):
            run(text, "spins", {"y": np.zeros(1, np.int32)}, block=96, checked=checked)
