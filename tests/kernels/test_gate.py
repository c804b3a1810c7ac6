import sys

import pytest

from gpunet.cuda import gate, nvrtc
from gpunet.cuda.instantiations import instantiations
from gpunet.errors import BackendError


@pytest.fixture(scope="module", autouse=True)
def compiler():
    why = nvrtc.why_unavailable()
    if why:
        pytest.skip(why)


@pytest.mark.slow
def test_every_kernel_compiles_for_every_architecture_without_a_spill():
    rows = list(gate.compile_all())
    assert [row for row in rows if not row.passes] == []
    expected = {(e, a) for expressions in instantiations().values() for e in expressions for a in gate.ARCHITECTURES}
    assert {(row.kernel, row.architecture) for row in rows} == expected
    assert all(0 < row.registers <= 255 and row.shared <= 48 * 1024 for row in rows)


def test_a_file_compiles_on_its_own():
    rows = list(gate.compile_all(["sm_90"], files=["activation.cu"]))
    assert [row.kernel for row in rows] == list(instantiations()["activation.cu"])
    assert all(row.passes for row in rows)


def test_a_stack_frame_is_found():
    text = (
        "__global__ void k(float* x, int i) { float a[99]; for (int j = 0; j < 99; ++j) a[j] = x[j * i]; x[0] = a[i]; }"
    )
    used = nvrtc.compile_source("k.cu", text, "sm_90", ("k",)).resources["k"]
    assert used.stack > 0
    assert not gate.Row("k.cu", "k", "sm_90", stack=used.stack).passes


def test_an_error_carries_the_log_of_the_line():
    with pytest.raises(nvrtc.CompileError, match=r"k\.cuh\(7\).*undefined"):
        nvrtc.compile_source("k.cu", '#line 7 "k.cuh"\n__global__ void k() { nothing(); }', "sm_90", ("k",))


def test_the_table_tells_failure_by_its_status(monkeypatch, capsys):
    good = gate.Row("k.cu", "k", "sm_90", registers=40)
    monkeypatch.setattr(gate, "compile_all", lambda architectures: iter([good]))
    assert gate.print_table() == 0
    for bad in ({"spills": 8}, {"stack": 16}, {"error": "k.cu(3): no"}):
        monkeypatch.setattr(
            gate, "compile_all", lambda architectures, bad=bad: iter([good, gate.Row("k.cu", "k", "sm_75", **bad)])
        )
        assert gate.print_table() == 1
    assert "k.cu(3): no" in capsys.readouterr().out


def test_headers_outside_the_environment_are_refused(tmp_path):
    with pytest.raises(BackendError, match="outside this Python environment"):
        nvrtc.check_include_folder(tmp_path)
    assert nvrtc.options()


def test_the_options_are_those_that_cupy_compiles_with():
    core = pytest.importorskip("cupy._core.core", reason="CuPy is not installed")
    theirs = [option.replace("--std", "-std") for option in core.assemble_cupy_compiler_options(())]
    fixed = [
        "-std=c++17",
        "-ftz=true",
        "--device-as-default-execution-space",
    ]  # the last two it adds to every RawModule
    assert list(nvrtc.options()) == [o for o in theirs if o.startswith("-I")] + fixed
    assert [o for o in theirs if not o.startswith("-I")] == ["-std=c++17"]


def test_cupy_and_the_gate_use_one_library():
    cupy_nvrtc = pytest.importorskip("cupy.cuda.nvrtc", reason="CuPy is not installed")
    assert nvrtc.version() == "{}.{}".format(*cupy_nvrtc.getVersion())


def test_headers_are_found_without_cupy(monkeypatch):
    nvrtc.options.cache_clear()
    monkeypatch.setattr(nvrtc, "find_spec", lambda name: None)
    try:
        (include, *_) = nvrtc.options()
        assert include.startswith("-I")
        assert nvrtc.compile_source("k.cu", "__global__ void k(float* x) { x[0] = 1; }", "sm_90", ("k",)).cubin
    finally:
        nvrtc.options.cache_clear()


@pytest.mark.parametrize(
    ("module", "message"),
    [("cuda.bindings", "NVRTC needs cuda-bindings"), ("cuda.pathfinder", "NVRTC needs cuda-pathfinder")],
)
def test_what_is_missing_is_named(monkeypatch, module, message):
    nvrtc.options.cache_clear()
    nvrtc._binding.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    try:
        why = nvrtc.why_unavailable()
    finally:
        nvrtc._binding.cache_clear()
    assert why.startswith(message)
    assert 'pip install "gpunet[emulator]"' in why
    assert "\n" not in why
