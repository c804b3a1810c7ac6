"""Running a kernel of one's own on NumPy arrays, without a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpunet.emulator.arrays import EmulatedArrays
from gpunet.emulator.launches import ARCHITECTURE, Settings, execute, make_work
from gpunet.emulator.machine import Counts, Program, Schedule
from gpunet.nvrtc import signature, source


@dataclass(frozen=True, slots=True)
class Empty:
    """An array argument that nothing has written: a checked run refuses to read it before the kernel writes it."""

    shape: tuple[int, ...]
    dtype: str = "float32"


class Result(NamedTuple):
    """What a kernel left."""

    arrays: dict[str, np.ndarray]
    """Every array argument after the run, by the parameter's name."""
    counts: Counts


def run(
    file: str | Path,
    kernel: str,
    grid: int | tuple[int, ...],
    block: int | tuple[int, ...],
    args: Sequence[Any],
    *,
    shared: int = 0,
    checked: bool = True,
    schedule: Schedule | None = None,
    architecture: str = ARCHITECTURE,
) -> Result:
    """Run one kernel of a `.cu` file, compiled by NVRTC and executed on the CPU.

        y = run("scale.cu", "scale<float>", 4, 256, [x, Empty((1024,)), 1024, 2.0]).arrays["y"]

    Args:
        file: a path; its quoted includes are looked for beside it, then among gpunet's kernels. A name alone may be one
            of gpunet's own files.
        kernel: the name, with the arguments of a template.
        grid, block: up to three extents, in blocks and in threads.
        args: one for each parameter: a NumPy array (copied: yours is not changed) or :class:`Empty` for a pointer, None for
            a null one marked OR_NULL, a number, a mapping of fields for a struct of numbers.
        shared: bytes of dynamic shared memory.
        checked: check every access for bounds, alignment, uninitialised reads and races; slower.
        schedule: the order of threads; first in, first out if None.
        architecture: the virtual architecture, as in ``"compute_90"``.
    Raises:
        KernelFault: what the kernel did wrong, with the source line.
        TypeError, ValueError: arguments that the kernel does not take, or a kernel that the file does not have.
        gpunet.nvrtc.compiler.CompileError: with the compiler's log.
        BackendError: NVRTC, g++, or Linux on x86-64 is missing.
    """
    path = Path(file)
    if not path.is_file() and path.name == str(file) and path.name in source.files():
        path = source.kernels_folder() / path.name
    text = source.read_path(path)
    grid, block = signature.check_extents(kernel, grid, block)
    parameters = signature.parse_parameters(path.name, text, kernel)
    device = EmulatedArrays(track=checked)

    def on_device(value: Any) -> Any:
        if isinstance(value, Empty):
            return device.empty(value.shape, value.dtype)
        return device.asarray(value) if isinstance(value, np.ndarray) and value.dtype.names is None else value

    bound = signature.bind_to(parameters, kernel, [on_device(value) for value in args], device.owns)
    program = Program.from_source(path.name, text, [kernel], arch=architecture)
    work = make_work(kernel, grid, block, parameters, bound, shared)
    counts = execute(program, work, Settings(checked, schedule or Schedule(), architecture))
    arrays = {p.name: device.to_host(v) for p, v in zip(parameters, bound, strict=True) if device.owns(v)}
    return Result(arrays, counts)
