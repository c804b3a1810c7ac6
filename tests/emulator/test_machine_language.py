"""CUDA C++ on the emulated machine: functions, constants, address spaces, printf, the stack."""

import numpy as np
import pytest
from machine_runs import run

from gpunet.emulator.machine import KernelFault


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
