"""Barriers, warp operations, shared memory, atomics, matrices and asynchronous copies of the emulated machine."""

import numpy as np
import pytest
from machine_runs import SCHEDULES, run

from gpunet.cuda.emulator.machine import KernelFault, Schedule

schedules = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: f"{s.kind}{s.seed}")
both = pytest.mark.parametrize("checked", [False, True], ids=["plain", "checked"])


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
def test_shuffles_take_the_lane_that_the_manual_says(schedule: Schedule) -> None:
    text = """
    extern "C" __global__ void shuffles(int* y) {
        const int i = threadIdx.x;
        int* row = y + i;
        row[0] = __shfl_sync(~0u, i * 10, 5);
        row[32] = __shfl_sync(~0u, i * 10, i + 3, 8);
        row[64] = __shfl_up_sync(~0u, i * 10, 3);
        row[96] = __shfl_up_sync(~0u, i * 10, 3, 16);
        row[128] = __shfl_down_sync(~0u, i * 10, 3, 8);
        row[160] = __shfl_xor_sync(~0u, i * 10, 9);
        int inside;
        asm("{.reg .pred p; .reg .b32 d; shfl.sync.down.b32 d|p, %1, 4, 0x1f, 0xffffffff; selp.b32 %0, 1, 0, p;}"
            : "=r"(inside) : "r"(i));
        row[192] = inside;
        const long long wide = __shfl_sync(~0u, (long long)i << 33, 31 - i);
        row[224] = (int)wide + (int)(wide >> 33);
    }"""
    y = np.zeros(8 * 32, np.int32)
    run(text, "shuffles", {"y": y}, schedule=schedule)
    i = np.arange(32)
    expected = [
        np.full(32, 5), i // 8 * 8 + (i + 3) % 8, np.where(i < 3, i, i - 3), np.where(i % 16 < 3, i, i - 3),
        np.where(i % 8 + 3 > 7, i, i + 3), i ^ 9,
    ]  # fmt: skip
    np.testing.assert_array_equal(y.reshape(8, 32)[:6], 10 * np.array(expected))
    np.testing.assert_array_equal(y[192:224], i + 4 < 32)
    np.testing.assert_array_equal(y[224:], 31 - i)


@schedules
def test_votes_matches_and_reductions_of_a_warp(schedule: Schedule) -> None:
    text = """
    extern "C" __global__ void votes(unsigned* y) {
        const int i = threadIdx.x;
        unsigned* row = y + i;
        row[0] = __ballot_sync(~0u, i % 3 == 0);
        row[32] = __any_sync(~0u, i == 7) + 2 * __all_sync(~0u, i < 31) + 4 * __all_sync(~0u, i < 32);
        row[64] = __match_any_sync(~0u, i / 5);
        int same;
        row[96] = __match_all_sync(~0u, 4ll << 40, &same) + same;
        row[128] = __reduce_add_sync(~0u, i);
        row[160] = __reduce_max_sync(~0u, -i);
        row[192] = __reduce_xor_sync(~0u, 1u << i);
        if (i & 1) row[224] = __activemask();
        else row[224] = __reduce_min_sync(0x55555555, i + 9);
        __syncwarp();
        row[256] = __reduce_min_sync(i < 16 ? 0xffffu : 0xffff0000u, (unsigned)i);
    }"""
    y = np.zeros(9 * 32, np.uint32)
    run(text, "votes", {"y": y}, schedule=schedule)
    i = np.arange(32)
    rows = y.reshape(9, 32)
    np.testing.assert_array_equal(rows[0], sum(1 << k for k in range(0, 32, 3)))
    np.testing.assert_array_equal(rows[1], 5)
    np.testing.assert_array_equal(rows[2], [sum(1 << k for k in range(32) if k // 5 == j // 5) for j in i])
    np.testing.assert_array_equal(rows[3], 0)  # all ones and one more
    np.testing.assert_array_equal(rows[4], 496)
    np.testing.assert_array_equal(rows[5], 0)
    np.testing.assert_array_equal(rows[6], 2**32 - 1)
    np.testing.assert_array_equal(rows[7], np.where(i & 1, 0xAAAAAAAA, 9))
    np.testing.assert_array_equal(rows[8], i // 16 * 16)


@schedules
def test_named_and_partial_barriers_order_their_threads_alone(schedule: Schedule) -> None:
    """Two halves of a block pass values on at barriers of their own; producers arrive and do not wait."""
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


def bits_of(values: np.ndarray, kind: str) -> np.ndarray:
    if kind == "f16":
        return values.astype(np.float16).view(np.uint16)
    if kind == "bf16":
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    if kind == "s8":
        return values.astype(np.int8).view(np.uint8)
    return values.astype(np.int32 if kind == "s32" else np.float32).view(np.uint32)


@pytest.mark.parametrize(
    ("k", "kind", "total"),
    [(8, "f16", "f32"), (16, "f16", "f32"), (16, "f16", "f16"), (8, "bf16", "f32"), (16, "bf16", "f32"), (8, "tf32", "f32"),
     (4, "tf32", "f32"), (16, "s8", "s32"), (32, "s8", "s32")],
)  # fmt: skip
def test_mma_multiplies_fragments_laid_out_as_in_the_manual(
    k: int, kind: str, total: str, rng: np.random.Generator
) -> None:
    """The layouts are written out here as PTX's manual states them, element by element."""
    a, b, c = (rng.integers(-3, 4, s).astype(np.float64) for s in ((16, k), (k, 8), (16, 8)))
    each = {"f16": 2, "bf16": 2, "tf32": 1, "s8": 4}[kind]
    na, nb, nc = 16 * k // 32 // each, 8 * k // 32 // each, 2 if total == "f16" else 4
    lane = np.arange(32)
    group, in_group = lane // 4, lane % 4
    fa, fb = np.zeros((32, na, each)), np.zeros((32, nb, each))
    for i in range(each):
        for r in range(na):
            fa[:, r, i] = a[group + 8 * (r % 2), in_group * each + i + 4 * each * (r // 2)]
        for r in range(nb):
            fb[:, r, i] = b[in_group * each + i + 4 * each * r, group]
    rows, cols = np.stack([group, group, group + 8, group + 8], 1), np.stack([in_group * 2, in_group * 2 + 1] * 2, 1)
    words = [np.ascontiguousarray(bits_of(f, kind)).view(np.uint32).ravel() for f in (fa, fb)]
    fc = np.ascontiguousarray(bits_of(c[rows, cols], total)).view(np.uint32).ravel()
    fd = np.zeros(32 * nc, np.uint32)
    number = iter(range(100))
    places = ["{" + ", ".join(f"%{next(number)}" for _ in range(n)) + "}" for n in (nc, na, nb, nc)]
    given = ", ".join(f'"r"({name}[{i}])' for name, n in (("A", na), ("B", nb), ("C", nc)) for i in range(n))
    text = f"""
    extern "C" __global__ void product(const unsigned* a, const unsigned* b, const unsigned* c, unsigned* d) {{
        unsigned A[4], B[2], C[4], D[4];
        for (int i = 0; i < {na}; ++i) A[i] = a[threadIdx.x * {na} + i];
        for (int i = 0; i < {nb}; ++i) B[i] = b[threadIdx.x * {nb} + i];
        for (int i = 0; i < {nc}; ++i) C[i] = c[threadIdx.x * {nc} + i];
        asm volatile("mma.sync.aligned.m16n8k{k}.row.col.{total}.{kind}.{kind}.{total} {", ".join(places)};"
                     : {", ".join(f'"=r"(D[{i}])' for i in range(nc))} : {given});
        for (int i = 0; i < {nc}; ++i) d[threadIdx.x * {nc} + i] = D[i];
    }}"""
    run(text, "product", {"a": words[0], "b": words[1], "c": fc, "d": fd})
    got = fd.view({"f32": np.float32, "f16": np.float16, "s32": np.int32}[total]).reshape(32, 4)
    np.testing.assert_array_equal(got, (a @ b + c)[rows, cols])


@pytest.mark.parametrize("trans", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4])
@both
def test_ldmatrix_hands_out_rows_or_columns(count: int, trans: bool, checked: bool) -> None:
    targets = ", ".join(f"%{i}" for i in range(count))
    text = f"""
    extern "C" __global__ void matrices(const unsigned short* x, unsigned* y) {{
        __shared__ __align__(16) unsigned short tile[{count}][8][16];
        for (int i = threadIdx.x; i < {count * 64}; i += 32) tile[i / 64][i / 8 % 8][i % 8] = x[i];
        __syncthreads();
        unsigned r[{count}];
        const unsigned at = (unsigned)__cvta_generic_to_shared(&tile[threadIdx.x / 8 % {count}][threadIdx.x % 8][0]);
        asm volatile("ldmatrix.sync.aligned.m8n8.x{count}{".trans" if trans else ""}.shared.b16 {{{targets}}}, [%{count}];"
                     : {", ".join(f'"=r"(r[{i}])' for i in range(count))} : "r"(at));
        for (int i = 0; i < {count}; ++i) y[threadIdx.x * {count} + i] = r[i];
    }}"""
    x, y = np.arange(count * 64, dtype=np.uint16), np.zeros(32 * count, np.uint32)
    run(text, "matrices", {"x": x, "y": y}, checked=checked)
    matrices = x.reshape(count, 8, 8)
    if trans:
        matrices = matrices.transpose(0, 2, 1)
    expected = np.ascontiguousarray(matrices).reshape(count, 32, 2).transpose(1, 0, 2)
    np.testing.assert_array_equal(y.view(np.uint16).reshape(32, count, 2), expected)


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


def test_functions_that_are_not_inlined_recursion_tables_and_constants() -> None:
    text = """
    __constant__ int primes[8] = {2, 3, 5, 7, 11, 13, 17, 19};
    __device__ int counter = 40;
    struct Pair { int a; long long b; };
    __device__ __noinline__ int fibonacci(int n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }
    __device__ __noinline__ Pair pair(Pair p, float f) { return {p.a + (int)f, p.b * 2}; }
    __device__ __noinline__ void barrier(int* s) { __syncthreads(); atomicAdd(s, 1); __syncthreads(); }
    extern "C" __global__ void calls(int* y, int which) {
        __shared__ int s;
        extern __shared__ int dynamic[];
        const int i = threadIdx.x;
        dynamic[i] = i;
        if (i == 0) s = 0;
        int local[8];
        for (int k = 0; k < 8; ++k) local[k] = k * i;
        barrier(&s);
        const Pair p = pair({i, 1ll << 33}, 2.5f);
        int chosen = 0;
        switch ((i + which) % 6) {
            case 0: chosen = 11 * which; break;
            case 1: chosen = fibonacci(7); break;
            case 2: chosen = primes[i % 8]; break;
            case 3: chosen = __popc(i) + which; break;
            case 4: chosen = i * i; break;
            default: chosen = -local[(i * which) % 8];
        }
        y[i] = chosen;
        y[32 + i] = p.a + (int)(p.b >> 34) + s + counter + dynamic[31 - i];
    }"""
    y = np.zeros(64, np.int32)
    run(text, "calls", {"y": y}, np.int32(3), shared=128)
    i = np.arange(32)
    primes = np.array([2, 3, 5, 7, 11, 13, 17, 19])
    cases = [
        np.full(32, 33),
        np.full(32, 13),
        primes[i % 8],
        np.array([int(k).bit_count() for k in i]) + 3,
        i * i,
        -(i * 3 % 8) * i,
    ]
    np.testing.assert_array_equal(y[:32], np.choose((i + 3) % 6, cases))
    np.testing.assert_array_equal(y[32:], i + 2 + 1 + 32 + 40 + 31 - i)


def test_generic_addresses_reach_global_shared_and_local_memory() -> None:
    text = """
    __device__ __noinline__ int sum(const int* p, int n) { int s = 0; for (int i = 0; i < n; ++i) s += p[i]; return s; }
    extern "C" __global__ void spaces(const int* x, int* y) {
        __shared__ int s[4];
        int local[4];
        for (int i = 0; i < 4; ++i) local[i] = 100 * i + threadIdx.x;
        if (threadIdx.x < 4) s[threadIdx.x] = 7;
        __syncthreads();
        y[threadIdx.x] = sum(x, 4) + sum(s, 4) * 1000 + sum(local, 4) * 100000
            + __isShared(s) + 2 * __isGlobal(x) + 4 * __isLocal(local) + 8 * __isShared(x);
    }"""
    x, y = np.arange(4, dtype=np.int32), np.zeros(32, np.int32)
    run(text, "spaces", {"x": x, "y": y})
    np.testing.assert_array_equal(y, 6 + 28000 + (600 + 4 * np.arange(32)) * 100000 + 7)


def test_vector_loads_and_narrow_types() -> None:
    text = """
    extern "C" __global__ void narrow(const signed char* a, const unsigned short* b, const int4* c, double2* d, short* e) {
        const int i = threadIdx.x;
        const int4 v = c[i];
        d[i] = make_double2(a[i] * 2.0 + v.x, b[i] - (double)v.w);
        e[i] = (short)(a[i] - b[i]);
    }"""
    a, b = np.arange(-16, 16, dtype=np.int8), np.arange(65504, 65536, dtype=np.uint16)
    c, d, e = np.arange(128, dtype=np.int32), np.zeros(64), np.zeros(32, np.int16)
    run(text, "narrow", {"a": a, "b": b, "c": c, "d": d, "e": e})
    np.testing.assert_array_equal(d.reshape(32, 2), np.stack([a * 2.0 + c[::4], b - c[3::4].astype(float)], 1))
    np.testing.assert_array_equal(e, (a.astype(np.int32) - b).astype(np.int16))


def test_special_registers_give_the_place_of_a_thread() -> None:
    text = """
    extern "C" __global__ void where(int* y) {
        const int i = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * (threadIdx.z + blockDim.z * blockIdx.x));
        unsigned lane, warp, lower;
        asm("mov.u32 %0, %laneid;" : "=r"(lane));
        asm("mov.u32 %0, %warpid;" : "=r"(warp));
        asm("mov.u32 %0, %lanemask_lt;" : "=r"(lower));
        y[i] = lane + 100 * warp + 10000 * threadIdx.z + 100000 * gridDim.x + (__popc(lower) == lane ? 0 : 1 << 30);
    }"""
    y = np.zeros(2 * 60, np.int32)
    run(text, "where", {"y": y}, grid=2, block=(5, 3, 4))
    i = np.arange(60)
    np.testing.assert_array_equal(y, np.tile(i % 32 + 100 * (i // 32) + 10000 * (i // 15) + 200000, 2))


def test_printf_writes_to_the_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    text = r"""
    #include <cstdio>
    extern "C" __global__ void talk(int* y) {
        if (threadIdx.x == 3) y[0] = printf("%d is %5.2f, %s %lld%%\n", 3, 1.5f, "about", 1ll << 40);
    }
    """.replace("#include <cstdio>", 'extern "C" __device__ int printf(const char*, ...);')
    y = np.zeros(1, np.int32)
    run(text, "talk", {"y": y})
    assert capfd.readouterr().out == "3 is  1.50, about 1099511627776%\n"
    assert y[0] == 4


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


def test_a_stack_that_overflows_is_a_fault() -> None:
    text = """
    __device__ __noinline__ int deep(int n) {
        int a[64];
        for (int i = 0; i < 64; ++i) a[i] = n + i;
        return n == 0 ? 0 : deep(n - 1) * 3 ^ a[n % 64];
    }
    extern "C" __global__ void recurse(int* y, int n) { y[0] = deep(n); }"""
    for checked in (False, True):
        with pytest.raises(KernelFault, match="overflows"):
            run(text, "recurse", {"y": np.zeros(1, np.int32)}, np.int32(100000), block=1, checked=checked)
