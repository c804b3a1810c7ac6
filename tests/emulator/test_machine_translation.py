"""Reading and translating the PTX of kernels for several architectures, and of other code."""

import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from machine_runs import run

from gpunet.cuda.instantiations import instantiations
from gpunet.emulator import build, ptx
from gpunet.emulator.machine import KernelFault, Program
from gpunet.emulator.translate import translate
from gpunet.errors import BackendError
from gpunet.nvrtc import compiler, source

EMPTY = 'extern "C" __global__ void empty() {}'


def arguments_of(expression: str) -> set[tuple[str, str, int, str]]:
    kernel, _, arguments = expression.rstrip(">").partition("<")
    element, *others = arguments.split(", ")
    return {(kernel, element, place, argument) for place, argument in enumerate(["", *others])}


def with_every_argument(expressions: Iterable[str]) -> Iterator[str]:
    """Few instances of each kernel: for each type of elements, every template argument is in one."""
    missing = {expression: arguments_of(expression) for expression in expressions}
    while any(missing.values()):
        chosen = max(missing, key=lambda expression: len(missing[expression]))
        shown = missing.pop(chosen)
        missing = {expression: arguments - shown for expression, arguments in missing.items()}
        yield chosen


def test_few_instances_show_every_template_argument() -> None:
    for expressions in instantiations().values():
        few = list(with_every_argument(expressions))
        assert set().union(*map(arguments_of, few)) == set().union(*map(arguments_of, expressions))
    assert len(list(with_every_argument([f"f<float, {i}, {j}>" for i in range(5) for j in range(5)]))) == 5


@pytest.mark.parametrize("arch", ["compute_75", "compute_100"])  # every instance of compute_80 is run
@pytest.mark.parametrize("file", instantiations())
def test_kernels_are_translated_with_every_template_argument(file: str, arch: str) -> None:
    text, names = compiler.to_ptx(file, source.read(file), arch, list(with_every_argument(instantiations()[file])))
    module = ptx.parse(text)
    for expression, name in names.items():
        kernel = translate(module, name, checked=True)
        assert kernel.covered, expression
        assert kernel.static_shared >= kernel.real_shared


@pytest.mark.parametrize(
    ("statement", "opcode"),
    [
        ('asm volatile("wgmma.fence.sync.aligned;");', "wgmma.fence"),
        ('asm volatile("cp.async.bulk.commit_group;");', "cp.async.bulk"),
    ],
)
def test_an_unknown_opcode_is_named_with_its_line(statement: str, opcode: str) -> None:
    text = f'extern "C" __global__ void odd(int* y) {{\n    y[0] = 1;\n    {statement}\n}}'
    with pytest.raises(KernelFault, match=re.escape(opcode)) as caught:
        run(text, "odd", {"y": np.zeros(1, np.int32)}, arch="compute_90")
    assert (caught.value.kind, caught.value.file, caught.value.line) == ("unknown opcode", "test.cu", 3)


def test_labels_and_registers_of_an_inner_scope_are_its_own() -> None:
    text = """
    extern "C" __global__ void scopes(int* y) {
        int a = threadIdx.x, b = 7;
        asm volatile("{.reg .pred p; .reg .b32 k; mov.b32 k, 0;"
                     "again: add.s32 %0, %0, 2; add.s32 k, k, 1; setp.lt.s32 p, k, 3; @p bra again;}" : "+r"(a));
        asm volatile("{.reg .pred p; .reg .b32 k; mov.b32 k, 5;"
                     "again: add.s32 %0, %0, 1; sub.s32 k, k, 1; setp.gt.s32 p, k, 0; @p bra again;}" : "+r"(b));
        y[threadIdx.x] = 100 * a + b;
    }"""
    y = np.zeros(32, np.int32)
    run(text, "scopes", {"y": y})
    np.testing.assert_array_equal(y, 100 * (np.arange(32) + 6) + 12)


def test_lines_that_ran_are_counted_apart_from_those_that_exist() -> None:
    text = """extern "C" __global__ void lines(int* y, int n) {
        if (n > 3)
            y[0] = n / 7;
        else
            y[1] = n * 5;
    }"""
    y = np.zeros(2, np.int32)
    counts = run(text, "lines", {"y": y}, np.int32(1), block=1)
    assert ("test.cu", 5) in counts.lines
    assert ("test.cu", 3) not in counts.lines
    assert ("test.cu", 3) in Program.from_source("test.cu", text, ["lines"]).lines("lines")


@pytest.mark.parametrize(
    ("grid", "block", "message"),
    [
        ((1,), (1025,), "block of"),
        ((1, 70000), (32,), "grid of"),
        ((0,), (32,), "grid of"),
        ((1,), (0,), "block of"),
        ((1,), (1, 1, 65), "block of"),
    ],
)
def test_extents_that_no_device_takes_raise(grid: tuple[int, ...], block: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Program.from_source("test.cu", EMPTY, ["empty"]).launch("empty", grid, block, [], regions=[])


def test_wrong_parameters_instances_and_architectures_raise() -> None:
    program = Program.from_source("test.cu", EMPTY, ["empty"])
    with pytest.raises(ValueError, match="takes parameters of"):
        program.launch("empty", (1,), (1,), [bytes(4)], regions=[])
    with pytest.raises(ValueError, match="no instance other"):
        program.launch("other", (1,), (1,), [], regions=[])
    with pytest.raises(ValueError, match="compute_75"):
        Program.from_source("test.cu", EMPTY, ["empty"], arch="compute_70")
    bounded = 'extern "C" __global__ void __launch_bounds__(64) bounded() {}'
    with pytest.raises(ValueError, match="1 to 64"):
        Program.from_source("test.cu", bounded, ["bounded"]).launch("bounded", (1,), (96,), [], regions=[])


def test_a_missing_compiler_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BackendError, match="no-such-compiler is not found.*apt-get install g\\+\\+"):
        Program.from_source("test.cu", EMPTY, ["empty"])


def test_another_kind_of_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    with pytest.raises(BackendError, match="Linux on x86-64"):
        Program.from_source("test.cu", EMPTY, ["empty"])


def test_a_kernel_is_compiled_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUNET_CACHE", str(tmp_path))
    Program.from_source("test.cu", EMPTY, ["empty"]).compile("empty")
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "emulator").iterdir()}
    assert {p.suffix for p in kept} == {".so", ".json"}
    monkeypatch.setattr(compiler, "to_ptx", None)
    Program.from_source("test.cu", EMPTY, ["empty"]).compile("empty")
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "emulator").iterdir()} == kept


def test_a_kernel_has_one_library_whatever_it_is_compiled_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUNET_CACHE", str(tmp_path))
    loop = 'extern "C" __global__ void NAME(int* y, int n) {{ for (int i = 0; i < n; ++i) y[i] = {} * i; }}'
    a, b = loop.format(1).replace("NAME", "a"), loop.format(2).replace("NAME", "b")
    for text in (b, f"{a}\n{b}", f"{b}\n{a}"):
        run(text, "b", {"y": (y := np.zeros(3, np.int32))}, np.int32(3), block=1)
        assert y.tolist() == [0, 2, 4]
    assert len(list((tmp_path / "emulator").glob("kernel-*.so"))) == 1
    assert len(list((tmp_path / "emulator").glob("b-*.json"))) == 3


@pytest.fixture
def own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], tuple[str, str]]]:
    """The names of a kernel's and of the machine's library after a line was added to a file."""
    for path in build.HERE.glob("*.*"):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(build, "HERE", tmp_path)
    monkeypatch.setattr(build.cache, "keep", lambda kind, name, make: Path(name))

    def names(edited: str) -> tuple[str, str]:
        with (tmp_path / edited).open("a") as file:
            file.write("\n")
        build.own_hash.cache_clear()
        return build.key("a kernel"), build.machine().name

    yield names
    build.own_hash.cache_clear()


@pytest.mark.parametrize(
    ("edited", "kernels_change", "machine_changes"),
    [("arithmetic.py", True, False), ("ops.hpp", True, False), ("machine.hpp", True, True), ("shadow.cpp", False, True),
     ("state.hpp", False, True), ("launches.py", False, False), ("machine.py", False, False), ("build.py", False, False)],
)  # fmt: skip
def test_only_what_decides_a_library_empties_its_cache(
    own_files: Callable[[str], tuple[str, str]], edited: str, kernels_change: bool, machine_changes: bool
) -> None:
    (kernel, machine), (kernel_after, machine_after) = own_files("__init__.py"), own_files(edited)
    assert (kernel != kernel_after, machine != machine_after) == (kernels_change, machine_changes)


def test_everything_that_decides_a_library_is_listed() -> None:
    """The lists hold the modules that translate.py imports, and the headers that are included."""

    def reached(left: list[str], pattern: str, suffix: str) -> set[str]:
        found: set[str] = set()
        while left:
            file = left.pop()
            text = (build.HERE / file).read_text()
            words = [word.strip() + suffix for group in re.findall(pattern, text) for word in group.split(",")]
            found.add(file)
            left += [word for word in words if (build.HERE / word).is_file() and word not in found]
        return found

    modules = reached(["translate.py"], r"from gpunet\.emulator(?:\.| import )([\w, ]+?)(?: import|\n)", ".py")
    include = r'#include "([^"]+)"'
    assert modules | reached(["ops.hpp"], include, "") == set(build.GENERATED)
    machine = reached([path.name for path in build.HERE.glob("*.cpp")], include, "")
    assert machine == set(build.SOURCES + build.HEADERS)
