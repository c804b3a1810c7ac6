"""Runs small sources on the emulated machine; NumPy arrays are its device memory."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from gpunet.emulator.machine import Counts, Program, Region, Schedule

SCHEDULES = (Schedule("fifo"), Schedule("lifo"), *(Schedule("random", seed) for seed in range(3)))
schedules = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: f"{s.kind}{s.seed}")
both = pytest.mark.parametrize("checked", [False, True], ids=["plain", "checked"])


def run(
    text: str,
    kernel: str,
    arrays: dict[str, np.ndarray],
    *values: np.generic,
    grid: int = 1,
    block: int | Sequence[int] = 32,
    shared: int = 0,
    arch: str = "compute_80",
    checked: bool = True,
    schedule: Schedule = SCHEDULES[0],
    written: dict[str, np.ndarray] | None = None,
) -> Counts:
    """Run a kernel whose parameters are the arrays, as pointers, and then the values."""
    program = Program.from_source("test.cu", text, [kernel], arch=arch)
    params = [np.uint64(a.ctypes.data).tobytes() for a in arrays.values()] + [v.tobytes() for v in values]
    maps = {name: m.ctypes.data for name, m in (written or {}).items()}
    regions = [Region(a.ctypes.data, a.nbytes, name, written=maps.get(name, 0)) for name, a in arrays.items()]
    extents: Any = (block,) if isinstance(block, int) else tuple(block)
    return program.launch(
        kernel, (grid,), extents, params, shared=shared, regions=regions, checked=checked, schedule=schedule
    )


def table(expressions: dict[str, str], inputs: str, result: str) -> str:
    """Return a kernel that writes each expression of a, b, c to a row of y: ``y[row * n + i]``."""
    lines = "\n".join(f"    y[{row} * n + i] = ({result})({e});" for row, e in enumerate(expressions.values()))
    names = inputs.split(",")
    given = ", ".join(f"const {t.strip()}* {n}_" for t, n in zip(names, "abc", strict=False))
    reads = " ".join(f"const {t.strip()} {n} = {n}_[i];" for t, n in zip(names, "abc", strict=False))
    return (
        f'extern "C" __global__ void table({given}, {result}* y, int n) {{\n'
        f"    const int i = blockIdx.x * blockDim.x + threadIdx.x;\n    if (i >= n) return;\n    {reads}\n{lines}\n}}\n"
    )


def run_table(
    expressions: dict[str, str],
    inputs: str,
    result: str,
    arrays: Sequence[np.ndarray],
    dtype: Any,
    *,
    before: str = "",
    **options: Any,
) -> dict[str, np.ndarray]:
    """Compute each expression over the arrays, and return the results by name."""
    n = len(arrays[0])
    y = np.zeros((len(expressions), n), dtype)
    given = dict(zip("abc", map(np.ascontiguousarray, arrays), strict=False)) | {"y": y}
    run(
        before + table(expressions, inputs, result),
        "table",
        given,
        np.int32(n),
        grid=-(-n // 128),
        block=128,
        **options,
    )
    return dict(zip(expressions, y, strict=True))


# ---- single instructions, as inline PTX, compared with oracles

W, L, H = "unsigned", "unsigned long long", "unsigned short"
ABC, WORDS = ("unsigned:a", "unsigned:b", "unsigned:c"), ("unsigned:a", "unsigned:b")
LETTERS = {W: "r", L: "l", H: "h"}
BITS = {W: 32, L: 64, H: 16}
Row = tuple[str, tuple[str, ...], str, Callable[[int, int, int], int]]
"""An instruction, its inputs, the type of its result, and an oracle of the 64-bit words a, b, c."""


def signed(value: int, bits: int = 32) -> int:
    return (value + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)


def ptx(instruction: str, *inputs: str, result: str) -> str:
    """Return an instruction that writes %0 as an expression; an input is ``type:expression``."""
    given = ", ".join(f'"{LETTERS[kind]}"(({kind})({text}))' for kind, text in (i.split(":", 1) for i in inputs))
    return f'[&] {{ {result} d; asm("{instruction}" : "={LETTERS[result]}"(d) : {given}); return d; }}()'


def check(rows: dict[str, Row], words: list[list[int]]) -> None:
    """Run instructions over three columns of 64-bit words, and compare with the oracles."""
    got = run_table(
        {name: ptx(instruction, *inputs, result=result) for name, (instruction, inputs, result, _) in rows.items()},
        f"{L}, {L}, {L}", L, [np.array(column, np.uint64) for column in words], np.uint64,
    )  # fmt: skip
    for name, (_, _, result, oracle) in rows.items():
        expected = [oracle(*row) % 2 ** BITS[result] for row in zip(*words, strict=True)]
        pairs = zip(zip(*words, strict=True), got[name].tolist(), expected, strict=True)
        wrong = [(*map(hex, row), f"{mine:#x} is not {theirs:#x}") for row, mine, theirs in pairs if mine != theirs]
        assert not wrong, f"{name}: {len(wrong)} wrong, as {wrong[:3]}"
