"""Seeded faults: each kernel of faults/ does one thing wrong if its template argument is true.

The lines that a report may name end in `// FAULT`.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from gpunet.emulator import Empty, KernelFault, Schedule, machine, run, why_unavailable

pytestmark = pytest.mark.skipif(bool(why_unavailable()), reason=why_unavailable())

FAULTS = Path(__file__).parent / "faults"
SCHEDULES = [Schedule("fifo"), Schedule("lifo"), *(Schedule("random", seed) for seed in (1, 2, 3))]
X = np.random.default_rng(0).integers(-9, 10, 576).astype(np.float32)  # their sums are exact


@dataclass(frozen=True)
class Case:
    """How a kernel is launched, and what the report of its fault must say."""

    kinds: tuple[str, ...]
    clean: np.ndarray
    """y after the kernel without the fault."""
    block: int = 64
    grid: int = 1
    size: int | None = None
    """Elements of x that the kernel gets; as many as y has if None."""
    y: np.ndarray | None = None
    """The content of y before the launch; nothing was written to it if None."""
    more: tuple = ()
    shared: tuple[int, int] = (0, 0)
    """Bytes of dynamic shared memory of the launch without and of the one with the fault."""
    plain: bool = False
    """Whether a launch without checks reports the fault too."""
    named: bool = True
    """Whether the report names a line."""


RACE = ("race", "uninitialised")
"""Under some schedules a read that comes too early reads memory that nothing has written."""


def rows(count, width):
    return X[: count * width].reshape(count, width)[:, ::-1].ravel()


CASES = {
    "barrier_after_fill": Case(RACE, X[63::-1]),
    "barrier_before_refill": Case(("race",), rows(4, 64)),
    "write_after_read": Case(("race",), X[31::-1], size=32),
    "double_buffer": Case(RACE, rows(6, 96), block=96),
    "cp_async": Case(("cp.async",), 2 * X[63::-1]),
    "cp_async_group": Case(("cp.async",), X[:64] + X[64:128], size=128),
    "cp_async_flag": Case(("race",), X[31::-1], size=32),
    "cp_async_barrier": Case((*RACE, "cp.async"), X[63::-1]),
    "divergent_barrier": Case(("divergent barrier",), X[:64].sum(keepdims=True), size=64, plain=True),
    "barrier_in_both_branches": Case(("divergent barrier",), X[63::-1], plain=True),
    "partial_barrier": Case(("barrier never reached",), X[63::-1], block=96, plain=True),
    "barrier_after_return": Case(("barrier never reached",), X[49::-1], size=64, plain=True),
    "barrier_of_too_few_rounds": Case(
        ("barrier never reached",), X[:192].reshape(3, 64).sum(axis=0), size=192, plain=True
    ),
    "shuffle_exited": Case(("exited lane",), X[:32].sum(keepdims=True), size=32, block=32, plain=True),
    "shuffle_mask": Case(
        ("divergent barrier", "exited lane"), np.r_[X[:16].reshape(8, 2).sum(axis=1).repeat(2), X[16:32]], block=32, plain=True
    ),
    "global_read_out_of_bounds": Case(("out of bounds",), np.r_[np.diff(X[:100]), 0], block=128, y=np.zeros(100, "f4")),
    "global_write_out_of_bounds": Case(("out of bounds",), 2 * X[:100], grid=2, more=(100,), plain=True),
    "global_misaligned": Case(("misaligned",), X[1:5], block=1, size=5),
    "shared_out_of_bounds": Case(("out of bounds",), X[62::-1], more=(63,)),
    "dynamic_shared_out_of_bounds": Case(("out of bounds",), X[63::-1], shared=(256, 256)),
    "shared_misaligned": Case(("misaligned",), X[12:16].sum(keepdims=True), size=64, more=(3,)),
    "local_out_of_bounds": Case(("out of bounds",), X[[7]], size=8, block=1, more=(5,)),
    "local_misaligned": Case(("misaligned",), X[[2]] + X[[5]], size=8, block=1, more=(3,)),
    "uninitialised_global": Case(("uninitialised",), 2 * X[:64]),
    "uninitialised_shared": Case(
        ("uninitialised",), np.convolve(X[:64], np.ones(3), "same").astype("f4")
    ),
    "uninitialised_local": Case(("uninitialised",), X[[7]], size=8, block=1, more=(5,)),
    "shared_memory_limit": Case(("shared memory limit",), X[63::-1], shared=(163 * 1024, 164 * 1024), plain=True, named=False),
    "atomic_in_a_block": Case(("race",), np.full(1, 64, "f4"), size=64),
    "atomic_between_blocks": Case(("race",), np.full(1, 69, "f4"), size=64, block=16, grid=4, y=np.full(1, 5, "f4")),
    "atomic_and_plain": Case(("race",), np.full(1, 64, "f4"), size=64),
    "race_between_blocks": Case(RACE, np.r_[2 * X[:64], X[[0, 16, 32, 48]]], size=64, block=16, grid=4),
    "neighbouring_bytes": Case(("race",), np.arange(64, dtype=np.uint8), size=64),
    "warp_synchronous": Case(RACE, X[:32].sum(keepdims=True), size=32, block=32),
    "hang": Case(("hang",), X[:1], grid=2, block=32, more=(np.zeros(1, np.int32),), plain=True),
    "read_only": Case(("read only",), 2 * X[:64]),
    "trap": Case(("trap",), X[:32], block=32, plain=True),
    "unknown_opcode": Case(("unknown opcode",), X[:32], block=32, plain=True),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch):
    monkeypatch.setattr(machine, "STEP_LIMIT", 2**22)  # an endless loop counts as a hang at once


def launch(name, case, *, faulty, checked, schedule):
    x = (np.arange(576) if case.clean.dtype == np.uint8 else X)[: case.size or case.clean.size].astype(case.clean.dtype)
    y = Empty(case.clean.shape, case.clean.dtype.name) if case.y is None else case.y
    kernel = f"kernel<{'true' if faulty else 'false'}>"
    return run(
        FAULTS / f"{name}.cu", kernel, case.grid, case.block, [x, y, *case.more],
        shared=case.shared[faulty], checked=checked, schedule=schedule,
    )  # fmt: skip


def marked_lines(name):
    lines = (FAULTS / f"{name}.cu").read_text(encoding="utf-8").splitlines()
    return {number for number, line in enumerate(lines, start=1) if line.endswith("// FAULT")}


def test_every_kernel_is_launched():
    assert {path.stem for path in FAULTS.glob("*.cu")} == set(CASES)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: f"{s.kind}{s.seed}")
@pytest.mark.parametrize("name", CASES)
def test_a_checked_launch_reports_the_fault_and_its_line(name, schedule):
    case = CASES[name]
    with pytest.raises(KernelFault) as caught:
        launch(name, case, faulty=True, checked=True, schedule=schedule)
    assert caught.value.kind in case.kinds, caught.value
    assert caught.value.kernel == "kernel<true>"
    assert "\n" not in str(caught.value)
    if case.named:
        assert caught.value.file == f"{name}.cu"
        assert caught.value.line in marked_lines(name), caught.value


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.plain])
def test_a_launch_without_checks_reports_what_needs_none(name):
    for schedule in SCHEDULES:
        with pytest.raises(KernelFault) as caught:
            launch(name, CASES[name], faulty=True, checked=False, schedule=schedule)
        assert caught.value.kind in CASES[name].kinds, caught.value


@pytest.mark.parametrize("checked", [False, True], ids=["plain", "checked"])
@pytest.mark.parametrize("name", CASES)
def test_the_clean_twin_passes_under_every_schedule(name, checked):
    for schedule in SCHEDULES:
        y = launch(name, CASES[name], faulty=False, checked=checked, schedule=schedule).arrays["y"]
        shown = CASES[name].clean
        np.testing.assert_array_equal(y, shown, err_msg=f"{schedule}")


def test_what_an_earlier_launch_ordered_orders_nothing_in_the_next():
    shuffles, races = CASES["shuffle_exited"], CASES["neighbouring_bytes"]
    races = replace(races, block=32, clean=races.clean[:32], size=32)
    for schedule in SCHEDULES:
        launch("shuffle_exited", shuffles, faulty=False, checked=True, schedule=schedule)
        with pytest.raises(KernelFault, match="race"):
            launch("neighbouring_bytes", races, faulty=True, checked=True, schedule=schedule)
