"""Runs a kernel of one's own on NumPy arrays, without a GPU."""

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
    """An array argument without content.

    A checked run raises KernelFault if the kernel reads an element before it has written it.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"


class Result(NamedTuple):
    """The outcome of a run."""

    arrays: dict[str, np.ndarray]
    """Each array argument after the run, by the name of its parameter."""
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
    count: bool = False,
) -> Result:
    """Run one kernel of a `.cu` file, compiled by NVRTC and executed on the CPU.

    Args:
        file: a path, or the name of one of gpunet's own files. Quoted includes are looked for
            beside the file, then among gpunet's kernels.
        kernel: the kernel's name, with the arguments of a template.
        grid, block: one to three extents, in blocks and in threads.
        args: one for each parameter. A pointer takes a NumPy array, which is copied and not
            changed, or :class:`Empty`; if it is marked OR_NULL it also takes None. A struct of
            numbers takes a mapping of its fields.
        shared: bytes of dynamic shared memory.
        checked: check every access for bounds, alignment, uninitialised reads and races; this is
            slower.
        schedule: the order of threads; first in, first out if None.
        architecture: the virtual architecture, as in ``"compute_90"``.
        count: also count what every access costs; `counts.profile` of the result says it.
    Raises:
        KernelFault: what the kernel did wrong, with the source line.
        TypeError, ValueError: arguments that the kernel does not take, or no such kernel in the
            file.
        gpunet.nvrtc.compiler.CompileError: the source does not compile; the message is the log.
        BackendError: NVRTC or g++ is missing, or this is not Linux on x86-64.
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
    counts = execute(program, work, Settings(checked, schedule or Schedule(), architecture, count))
    arrays = {p.name: device.to_host(v) for p, v in zip(parameters, bound, strict=True) if device.owns(v)}
    return Result(arrays, counts)
