"""Fixtures on the real CuPy over the stand-in; skipped with the reason where it cannot be installed."""

from functools import cache

import numpy as np
import pytest

from gpunet.backends import registry
from gpunet.backends.cuda.backend import cuda_backend
from standin.install import install, present, why_impossible

ADD = """extern "C" __global__ void add(float* y, const float* x, float a) { y[threadIdx.x] = x[threadIdx.x] + a; }"""

if not why_impossible():
    install()  # now, while tests are collected: before any of them imports CuPy


@pytest.fixture
def machine():
    """The stand-in's machine, which CuPy sees during the test."""
    if why := why_impossible():
        pytest.skip(why)
    with present() as shown:
        yield shown


@pytest.fixture
def cuda(machine, monkeypatch):
    """A new CUDA backend on it, which `get_backend("cuda")` gives too."""
    original = registry._make
    made = cache(lambda kind, device: cuda_backend(device) if kind == "cuda" else original(kind, device))
    monkeypatch.setattr(registry, "_make", made)
    return made("cuda", 0)


@pytest.fixture
def cupy(machine):
    """CuPy, on the stand-in's machine."""
    import cupy

    return cupy


@pytest.fixture
def add(cupy):
    """y = x + a, of four elements."""
    kernel = cupy.RawModule(code=ADD).get_function("add")
    return lambda y, x, a: kernel((1,), (4,), (y, x, np.float32(a)))
