import sys
from types import ModuleType

import pytest

from gpunet.cuda import gate, sass
from gpunet.cuda.instantiations import instantiations, is_mma
from gpunet.errors import BackendError
from gpunet.nvrtc import compiler


@pytest.fixture(scope="module", autouse=True)
def needs_compiler():
    why = compiler.why_unavailable()
    if why:
        pytest.skip(why)


@pytest.mark.slow
def test_every_kernel_compiles_without_a_spill():
    rows = list(gate.compile_all(["sm_90"]))  # .ci/run compiles for all architectures with `gpunet kernels`
    assert [row for row in rows if not row.passes] == []
    assert [row.kernel for row in rows] == [e for expressions in instantiations().values() for e in expressions]
    assert all(0 < row.registers <= 255 and row.shared <= 48 * 1024 for row in rows)
    if not sass.why_unavailable():
        assert all(any(name.startswith(("STG", "RED")) for name in row.instructions) for row in rows)


def test_the_oldest_architecture_has_no_instances_on_tensor_cores(monkeypatch, tmp_path):
    monkeypatch.setenv("GPUNET_CACHE", str(tmp_path))
    monkeypatch.setattr(gate, "ProcessPoolExecutor", SerialPool)
    first, *_, last = instantiations()["matmul.cu"]
    assert is_mma(last)
    monkeypatch.setattr(gate, "instantiations", lambda: {"matmul.cu": (first, last)})
    for architecture, kernels in (("sm_75", [first]), ("sm_80", [first, last])):
        rows = list(gate.compile_all([architecture], files=["matmul.cu"]))
        assert [row.kernel for row in rows] == kernels
        assert all(row.passes for row in rows)


def test_a_file_compiles_on_its_own():
    rows = list(gate.compile_all(["sm_90"], files=["activation.cu"]))
    assert [row.kernel for row in rows] == list(instantiations()["activation.cu"])
    assert all(row.passes for row in rows)


def test_what_was_compiled_is_kept_until_something_that_decides_it_changes(monkeypatch, tmp_path):
    monkeypatch.setenv("GPUNET_CACHE", str(tmp_path))
    rows = list(gate.compile_all(["sm_90"], files=["activation.cu"]))
    kept = list((tmp_path / "gate").iterdir())
    monkeypatch.setattr(gate, "ProcessPoolExecutor", SerialPool)
    monkeypatch.setattr(compiler, "compile", refuse := Refusal())
    assert list(gate.compile_all(["sm_90"], files=["activation.cu"])) == rows
    assert list((tmp_path / "gate").iterdir()) == kept
    changes = [
        (gate.source, "read", lambda file: "// another source"), (compiler, "releases", lambda: ("another NVRTC",)),
        (compiler, "options", lambda: ("-another",)), (sass, "version", lambda: "another disassembler"),
        (gate, "instantiations", lambda: {"activation.cu": ("activation_forward<float>",)}),
    ]  # fmt: skip
    for number, (module, name, value) in enumerate(changes, start=1):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            gate._tools.cache_clear()
            (row,) = gate.compile_all(["sm_90"], files=["activation.cu"])
            assert row.error == "refused"
            assert refuse.times == number, name
    gate._tools.cache_clear()


class Refusal:
    times = 0

    def __call__(self, *args):
        self.times += 1
        raise compiler.CompileError("refused")


class SerialPool:
    """A pool that works in this process, where functions are patched."""

    def __init__(self, workers, *, mp_context, initializer):
        self.map = map

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


COPIES = """
extern "C" __global__ void copies(const float4* x, float4* y, const unsigned* b, const float* z) {
    __shared__ __align__(16) float4 tile[32];
    const unsigned at = (unsigned)__cvta_generic_to_shared(tile + threadIdx.x);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(at), "l"(x + threadIdx.x) : "memory");
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncthreads();
    unsigned a[4];
    float d[4] = {z[threadIdx.x], 0, 0, 0};
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3]) : "r"(at));
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[0]));
    y[threadIdx.x] = make_float4(d[0], d[1], d[2], d[3]);
}
extern "C" __global__ void nothing() {}
"""


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_120"])
def test_the_machine_code_shows_its_matrix_and_copy_instructions(architecture):
    if why := sass.why_unavailable():
        pytest.skip(why)
    compiled = compiler.compile_source("k.cu", COPIES, architecture, ("copies", "nothing"))
    assert sass.instructions(compiled.cubin) == {
        "copies": {"HMMA.16816": 1, "LDSM": 1, "LDG": 2, "LDGSTS.128": 1, "STG.128": 1},
        "nothing": {},
    }


def test_the_table_lists_what_the_disassembler_finds(monkeypatch, tmp_path, capsys):
    """A stub stands for the disassembler, so that the test runs where there is none."""
    monkeypatch.setenv("GPUNET_CACHE", str(tmp_path))
    monkeypatch.setattr(gate, "ProcessPoolExecutor", SerialPool)
    monkeypatch.setattr(gate, "instantiations", lambda: {"activation.cu": ("activation_forward<float>",)})
    monkeypatch.setattr(sass, "version", lambda: "V0")
    listing = """
	.section	.text._Z18activation_forwardIfEvPKT_PS0_x10Activation,"ax",@progbits
        /*0010*/                   LDG.E.128.CONSTANT R4, desc[UR4][R2.64] ;
        /*0020*/              @!PT LDS RZ, [RZ] ;
        /*0030*/             @!P0  LDGSTS.E.BYPASS.128 [R9], desc[UR6][R2.64] ;
        /*0040*/                   HGMMA.64x128x16.F32 R24, gdesc[UR4], R24 ;
        /*0050*/             @UP0  UTMALDG.2D [UR8], [UR4] ;
        /*0060*/                   LDG.E.128 R8, desc[UR4][R2.64] ;
        /*0070*/                   FFMA R4, R4, R4, R4 ;
"""
    monkeypatch.setattr(sass, "_run", lambda *arguments: listing)
    gate._tools.cache_clear()
    try:
        assert gate.print_table(["sm_90"]) == 0
    finally:
        gate._tools.cache_clear()
    out = capsys.readouterr().out
    assert out.splitlines()[1].endswith("  HGMMA.64x128x16 x1  LDG.128 x2  LDGSTS.128 x1  UTMALDG x1")


def test_without_a_disassembler_the_table_says_so_in_one_line_and_goes_on(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("GPUNET_CACHE", str(tmp_path))
    monkeypatch.setattr(gate, "ProcessPoolExecutor", SerialPool)
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", ModuleType("cuda.pathfinder"))
    sys.modules["cuda.pathfinder"].find_nvidia_binary_utility = lambda name: None
    monkeypatch.setattr(gate, "instantiations", lambda: {"activation.cu": instantiations()["activation.cu"]})
    compiler.options()  # was found and cached before the patch
    for function in (sass._disassembler, sass.version, gate._tools):
        function.cache_clear()
    try:
        assert gate.print_table(["sm_90"]) == 0
    finally:
        for function in (sass._disassembler, sass.version, gate._tools):
            function.cache_clear()
    first, *table = capsys.readouterr().out.splitlines()
    assert first.startswith("Matrix and copy instructions are not listed: nvdisasm is not installed: pip install")
    listed = instantiations()["activation.cu"]
    assert [line.split()[0] for line in table] == ["kernel", *listed, str(len(listed))]


def test_a_disassembler_that_fails_is_named(monkeypatch, tmp_path):
    script = tmp_path / "nvdisasm"
    script.write_text("#!/bin/sh\necho cannot read it >&2\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setattr(sass, "_disassembler", lambda: str(script))
    with pytest.raises(BackendError, match=r"nvdisasm fails: cannot read it: pip install"):
        sass.instructions(b"")


def test_a_stack_frame_is_found():
    text = (
        "__global__ void k(float* x, int i) { float a[99]; for (int j = 0; j < 99; ++j) a[j] = x[j * i]; x[0] = a[i]; }"
    )
    used = compiler.compile_source("k.cu", text, "sm_90", ("k",)).resources["k"]
    assert used.stack > 0
    assert not gate.GateRow("k.cu", "k", "sm_90", stack=used.stack).passes


def test_an_error_carries_the_log_of_the_line():
    with pytest.raises(compiler.CompileError, match=r"k\.cuh\(7\).*undefined"):
        compiler.compile_source("k.cu", '#line 7 "k.cuh"\n__global__ void k() { nothing(); }', "sm_90", ("k",))


def test_the_table_tells_failure_by_its_status(monkeypatch, capsys):
    good = gate.GateRow("k.cu", "k", "sm_90", registers=40)
    monkeypatch.setattr(gate, "compile_all", lambda architectures: iter([good]))
    assert gate.print_table() == 0
    for bad in ({"spills": 8}, {"stack": 16}, {"error": "k.cu(3): no"}):
        monkeypatch.setattr(
            gate, "compile_all", lambda architectures, bad=bad: iter([good, gate.GateRow("k.cu", "k", "sm_75", **bad)])
        )
        assert gate.print_table() == 1
    assert "k.cu(3): no" in capsys.readouterr().out


def test_headers_outside_the_environment_are_refused(tmp_path):
    with pytest.raises(BackendError, match="outside this Python environment"):
        compiler.check_include_folder(tmp_path)
    assert compiler.options()


def test_the_options_are_those_that_cupy_compiles_with():
    core = pytest.importorskip("cupy._core.core", reason="CuPy is not installed")
    theirs = [option.replace("--std", "-std") for option in core.assemble_cupy_compiler_options(())]
    fixed = [
        "-std=c++17",
        "-ftz=true",
        "--device-as-default-execution-space",
    ]  # CuPy adds the last two to every RawModule
    assert list(compiler.options()) == [o for o in theirs if o.startswith("-I")] + fixed
    assert [o for o in theirs if not o.startswith("-I")] == ["-std=c++17"]


def test_cupy_and_the_gate_use_one_library():
    cupy_nvrtc = pytest.importorskip("cupy_backends.cuda.libs.nvrtc", reason="CuPy is not installed")
    assert compiler.version() == "{}.{}".format(*cupy_nvrtc.getVersion())


def test_headers_are_found_without_cupy(monkeypatch):
    compiler.options.cache_clear()
    monkeypatch.setattr(compiler, "find_spec", lambda name: None)
    try:
        (include, *_) = compiler.options()
        assert include.startswith("-I")
        assert compiler.compile_source("k.cu", "__global__ void k(float* x) { x[0] = 1; }", "sm_90", ("k",)).cubin
    finally:
        compiler.options.cache_clear()


@pytest.mark.parametrize(
    ("module", "message"),
    [("cuda.bindings", "NVRTC needs cuda-bindings"), ("cuda.pathfinder", "NVRTC needs cuda-pathfinder")],
)
def test_what_is_missing_is_named(monkeypatch, module, message):
    compiler.options.cache_clear()
    compiler._binding.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    try:
        why = compiler.why_unavailable()
    finally:
        compiler._binding.cache_clear()
    assert why.startswith(message)
    assert 'pip install "gpunet[emulator]"' in why
    assert "\n" not in why
