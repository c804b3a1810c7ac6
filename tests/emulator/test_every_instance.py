"""Every kernel instance runs, checked, at sizes with remainders, and most source lines execute.

The calls are those of `gpunet check`. The tests launch all that they need themselves, so their
results do not depend on which other tests run.
"""

import pytest
from helpers import needs_emulator

from gpunet.backends.cuda.backend import emulated_backend
from gpunet.backends.reference.backend import ReferenceBackend
from gpunet.check.cases import all_cases, variant
from gpunet.check.compare import difference
from gpunet.cuda.emulated import EmulatedLauncher
from gpunet.cuda.instantiations import instantiations
from gpunet.emulator.launches import Settings
from gpunet.nvrtc.signature import parameters

pytestmark = needs_emulator

LINES = 0.95
"""The share of the kernels' lines that must execute."""


class Noting(EmulatedLauncher):
    """Notes which arguments, as (kernel, name), are read, and which are written."""

    def __init__(self, arrays):
        super().__init__(arrays, Settings(checked=True))
        self.read, self.written = set(), set()

    def execute(self, work):
        super().execute(work)
        kernel = work.kernel.split("<")[0]
        self.read |= {(kernel, region.name) for region in self.last.regions if region.loaded}
        self.written |= {(kernel, region.name) for region in self.last.regions if region.stored}


@pytest.fixture(scope="module")
def run():
    """(a checked launcher that has launched all variants of all cases, differences by case)."""
    backend, reference, wrong = emulated_backend(Settings(checked=True)), ReferenceBackend(), {}
    backend.launcher = Noting(backend.arrays)
    for case in all_cases():
        expected = case.expected(reference)
        for name in case.variants:
            found = difference(case.results(variant(backend, name)), expected)
            if not found.passes:
                wrong[f"{case.key}, {name}"] = found
    return backend.launcher, wrong


@pytest.fixture
def launcher(run):
    return run[0]


def test_every_case_agrees_with_the_reference(run):
    assert run[1] == {}


def test_cases_are_told_apart_and_drawn_alike_each_time():
    one, other = list(all_cases()), list(all_cases())
    assert len({case.key for case in one}) == len(one)
    for a, b in zip(one, other, strict=True):
        assert {name: x.tobytes() for name, x in a.inputs.items()} == {
            name: x.tobytes() for name, x in b.inputs.items()
        }


def test_every_instance_is_launched(launcher):
    listed = {e for expressions in instantiations().values() for e in expressions}
    assert sorted(listed - set(launcher.totals)) == [], "no test launches these on the emulated device"


def test_the_marks_of_pointers_say_what_is_read_and_written(launcher):
    listed = {(p.name, e.split("<")[0]): p for f, es in instantiations().items() for e in es for p in parameters(f, e)}
    pointers = {(kernel, name): p for (name, kernel), p in listed.items() if p.is_pointer}
    always = {key for key, p in pointers.items() if p.is_const or p.is_updated}
    sometimes = {key for key, p in pointers.items() if p.is_added_to}
    apart = {key for key in launcher.read | launcher.written if ", " in key[1]}  # arguments that overlap are one region
    assert always <= launcher.read - apart <= always | sometimes
    outputs = {key for key, p in pointers.items() if not p.is_const}
    assert {key for key in outputs if not pointers[key].may_be_null} <= launcher.written - apart <= outputs


def test_the_kernels_lines_are_executed(launcher, record_property):
    lines = launcher.lines()
    missed = sorted(lines - launcher.covered)
    share = 1 - len(missed) / len(lines)
    record_property("kernel lines executed", f"{share:.1%} of {len(lines)}")
    print(f"\nkernel lines executed: {share:.1%} of {len(lines)}; missed: {missed}")
    assert share >= LINES, f"{share:.1%} of {len(lines)} lines; not executed: {missed}"
