"""How CuPy compiles gpunet's sources and finds kernels in them.

In CuPy: cupy/cuda/compiler.py, and RawModule in cupy/_core/raw.pyx.
"""

import numpy as np
import pytest

from gpunet.cuda.instantiations import module_of
from gpunet.cuda.launcher import CupyLauncher
from gpunet.nvrtc import compiler as nvrtc
from gpunet.nvrtc import source

KERNELS = (
    "fill<float>",
    "conv2d_forward_tiled<float, 64, 64, 4, 4, 4, 4, false, false>",
    "update<float, Adam>",
    "permutation_rank",
)
FILES = ("elementwise.cu", "conv2d_forward.cu", "optimizer.cu", "permutation.cu")


@pytest.mark.parametrize(("file", "kernel"), list(zip(FILES, KERNELS, strict=True)))
def test_a_name_expression_finds_its_mangled_name(cuda, file, kernel):
    launcher = cuda.launcher
    assert isinstance(launcher, CupyLauncher)
    module = launcher._module(file, module_of(kernel))
    names = module.module.mapping
    assert set(names) == set(module_of(kernel))
    found = module.get_function(kernel)
    assert found.name == names[kernel]
    assert kernel.partition("<")[0] in found.name
    assert found.local_size_bytes == 0


def test_a_kernel_that_the_module_was_not_compiled_for_is_not_found(cuda):
    module = cuda.launcher._module("elementwise.cu", module_of("fill<float>"))
    with pytest.raises(Exception, match="CUDA_ERROR_NOT_FOUND: named symbol not found"):
        module.get_function("fill<char>")


def test_cupy_compiles_to_the_names_that_the_gate_knows(machine, monkeypatch):
    """CuPy compiles for a GPU here, and is given an architecture, so that it asks no device for
    it."""
    from cupy._core import core
    from cupy.cuda import compiler

    monkeypatch.setattr(compiler, "_use_ptx", False)
    expressions = module_of("reduce_sum_rows<float>")
    options = (*core.assemble_cupy_compiler_options(("-std=c++17",)), "-ftz=true")
    code, mapping = compiler.compile_using_nvrtc(
        source.read("reduce.cu"), options, "90", name_expressions=list(expressions)
    )
    assert code[:4] == b"\x7fELF"
    assert mapping == nvrtc.compile("reduce.cu", "sm_90", expressions).names
    for name in mapping.values():
        assert name.encode() in code
    kept = compiler._encode_cache_payload([mapping[e] for e in sorted(expressions)], code)
    assert compiler._decode_cache_payload(kept, len(expressions)) == ([mapping[e] for e in sorted(expressions)], code)


def test_a_source_that_does_not_compile_raises_the_compilers_log(machine):
    import cupy

    module = cupy.RawModule(code="__global__ void broken() { not_declared; }", name_expressions=["broken"])
    with pytest.raises(Exception, match="not_declared"):
        module.get_function("broken")


def test_shared_memory_beyond_48_kib_must_be_allowed_first(machine):
    import cupy

    text = """extern "C" __global__ void ends(float* y, int n) {
        extern __shared__ float whole[]; whole[0] = 3; whole[n - 1] = 4; *y = whole[0] + whole[n - 1];
    }"""
    kernel, y, size = cupy.RawModule(code=text).get_function("ends"), cupy.empty(1, np.float32), 64 * 1024
    arguments = (y, np.int32(size // 4))
    with pytest.raises(Exception, match="CUDA_ERROR_INVALID_VALUE"):
        kernel((1,), (1,), arguments, shared_mem=size)
    kernel.max_dynamic_shared_size_bytes = size
    kernel((1,), (1,), arguments, shared_mem=size)
    assert y.get() == 7
    with pytest.raises(Exception, match="CUDA_ERROR_INVALID_VALUE"):
        kernel.max_dynamic_shared_size_bytes = 2**20


def test_static_shared_memory_counts_for_the_limit_of_48_kib(machine):
    import cupy

    text = """extern "C" __global__ void both(float* y) {
        __shared__ float fixed[4096]; extern __shared__ float whole[];
        fixed[threadIdx.x] = 1; whole[threadIdx.x] = 2; *y = fixed[0] + whole[0];
    }"""
    kernel, y = cupy.RawModule(code=text).get_function("both"), cupy.empty(1, np.float32)
    kernel((1,), (1,), (y,), shared_mem=32 * 1024)
    with pytest.raises(Exception, match="CUDA_ERROR_INVALID_VALUE"):
        kernel((1,), (1,), (y,), shared_mem=33 * 1024)
