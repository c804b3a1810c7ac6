"""``gpunet kernels --run``: run one kernel on arrays that the command line describes."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from typing import Any

import numpy as np

from gpunet.emulator.counts import describe
from gpunet.emulator.launches import ARCHITECTURE, parse_schedule
from gpunet.emulator.machine import KernelFault
from gpunet.emulator.runner import Empty, run
from gpunet.nvrtc.compiler import CompileError

CONTENTS = ("random", "zeros", "ones", "arange", "empty")


def run_kernel(arguments: Namespace) -> int:
    """Run the kernel and print a line about each array, or the error.

    Returns:
        the exit status: 1 for a fault or for a source that does not compile.
    """
    file, kernel = arguments.kernel
    rng = np.random.default_rng(0)
    try:
        result = run(
            file,
            kernel,
            _extents("--grid", arguments.grid),
            _extents("--block", arguments.block),
            [parse_argument(text, rng) for text in arguments.arg],
            shared=arguments.shared,
            checked=arguments.checked,
            schedule=parse_schedule(arguments.schedule),
            architecture=(arguments.arch or [ARCHITECTURE])[0].replace("sm_", "compute_"),
            count=arguments.count,
        )
    except (KernelFault, CompileError) as error:
        print(error, file=sys.stderr)
        return 1
    for name, array in result.arrays.items():
        print(f"{name}: {array.dtype} {array.shape} {_summary(array)}")
    counts = result.counts
    print(f"{kernel}: {counts.loaded:,} bytes loaded, {counts.stored:,} stored, {counts.barriers:,} barriers passed")
    if counts.profile:
        print("\n".join(describe(counts.profile)))
    if arguments.save:
        np.savez(arguments.save, **result.arrays)  # type: ignore[arg-type]
    return 0


def parse_argument(text: str, rng: np.random.Generator) -> Any:
    """Return the argument that one ``--arg`` describes.

    Raises:
        ValueError: the text has none of the forms that an argument can have.
    """
    if text.lower() in ("none", "null"):
        return None
    if text.endswith(".npy"):
        return np.load(text, allow_pickle=False)
    if text.startswith("{"):
        return json.loads(text)
    dtype, colon, rest = text.partition(":")
    try:
        if not colon:
            return float(text) if any(c in text for c in ".einf") else int(text, 0)
        kind, (shape, _, content) = np.dtype(dtype), rest.partition(":")
        extents = tuple(int(n) for n in shape.split("x")) if shape else ()
    except (TypeError, ValueError):
        raise ValueError(
            f"--arg {text}: takes a number, none, JSON, FILE.npy or DTYPE:SHAPE:CONTENT, as in float32:64x3:random"
        ) from None
    return _array(text, kind, extents, content or "random", rng)


def _array(text: str, kind: np.dtype, shape: tuple[int, ...], content: str, rng: np.random.Generator) -> Any:
    match content:
        case "empty":
            return Empty(shape, kind.name)
        case "zeros" | "ones":
            return np.full(shape, content == "ones", kind)
        case "arange":
            return np.arange(int(np.prod(shape))).reshape(shape).astype(kind)
        case "random" if kind.kind == "f":
            return rng.normal(size=shape).astype(kind)
        case "random":
            return rng.integers(0, 2 if kind.kind == "b" else 100, size=shape).astype(kind)
    raise ValueError(f"--arg {text}: the content is {content} but takes one of {', '.join(CONTENTS)}")


def _extents(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(n) for n in text.split("x"))
    except ValueError:
        raise ValueError(f"{option} {text}: takes up to three extents, as in 4 or 4x2") from None


def _summary(array: np.ndarray) -> str:
    if not array.size:
        return "nothing"
    if array.size <= 8:
        return np.array2string(array, separator=", ", threshold=8)
    numbers = array.astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    odd = array.size - finite.size
    text = f"min {finite.min():g}, mean {finite.mean():g}, max {finite.max():g}" if finite.size else "no finite element"
    return f"{text}, {odd} NaN or infinite" if odd else text
