"""Cases of random numbers, batches of a data set, and updates of parameters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from gpunet.augmentation import Augmentation
from gpunet.backends import Backend
from gpunet.backends.contract import RULES, BatchRequest, Clock, Guard, Samples, Segments, StepReport, columns
from gpunet.check.cases.case import Arrays, Case, Draw
from gpunet.random import Stream

STREAM = Stream(7, 1, 2, 3, 4)
BOUNDS = np.array([[0, 5], [32, 300]], np.int64)
SIZE = 320
"""Elements of the arenas that are updated."""
LOSS_SCALE = 4.0


def cases(dtype: str) -> Iterator[Case]:
    """The cases in one dtype."""
    draw = Draw("training", dtype)
    for shape in ((5, 37), (4, 142)):  # one element per thread, and those of 16 bytes
        yield draw.call("dropout_forward", draw.normal(*shape), 0.3, stream=STREAM, label=str(shape))
    for first in (8 * 517, 523):  # behind other rows of a batch
        label = f"from number {first} on"
        yield draw.call("dropout_forward", draw.normal(4, 142), 0.3, stream=replace(STREAM, first=first), label=label)
    yield _clocked(draw, "dropout_forward", {"x": draw.normal(5, 37)}, 0.3)
    if dtype == "float32":
        yield from _random_numbers(draw)
    yield from _batches(draw)
    for rule in RULES:
        yield _update(draw, rule)
    for limit in (1.0, 1e9):
        yield _clip_units(draw, limit)
    yield _average(draw)


def _random_numbers(draw: Draw) -> Iterator[Case]:
    yield draw.call("random_words", STREAM, 1027)
    for shape in ((5, 37), (4, 141)):
        yield draw.call("random_normal", STREAM, shape, np.float32, label=str(shape))
    for first in (4 * 517, 523):
        behind = replace(STREAM, first=first)
        yield draw.call("random_normal", behind, (4, 141), np.float32, label=f"from number {first} on")
    yield draw.call("permutation", STREAM, 1027)
    yield _clocked(draw, "random_words", {}, 9)
    yield _clocked(draw, "random_normal", {}, (9,), np.float32)


def _clocked(draw: Draw, primitive: str, inputs: dict[str, np.ndarray], *args: Any) -> Case:
    """A case whose place in the random stream is read from the device; the reference is given the
    place as a number."""

    def run(on: Backend, a: Arrays) -> Any:
        here = replace(STREAM, step=STREAM.step + 5, epoch=STREAM.epoch + 6)
        stream = here if on.name == "reference" else replace(STREAM, clock=a["clock"])
        if "x" in a:
            return [getattr(on, primitive)(a["x"], *args, stream=stream)]
        return [getattr(on, primitive)(stream, *args)]

    return Case(f"{primitive} by a clock", draw.dtype, {**inputs, "clock": np.array([5, 6], np.uint64)}, run)


def _batches(draw: Draw) -> Iterator[Case]:
    images, labels = draw.rng.integers(0, 256, (5, 41, 37, 3), dtype=np.uint8), np.arange(5, dtype=np.int32)
    order, drawn = (
        np.array([3, 0, 4, 4, 1, 2], np.int32),
        Augmentation((40, 39), 2, "reflect", True, "alternate", True, 9),
    )
    if draw.dtype == "float32":
        samples = Samples(images, labels, order, drawn)
        yield draw.call("gather_augment", samples, BatchRequest(7, epoch=3, start=1), label="of bytes")
    normalized = replace(drawn, mean=(0.5,), std=(0.25,), cutout_last=True)
    clock = Clock(np.array([6, 3], np.uint64), 3, 2)
    stored = draw.dtype

    def run(on: Backend, a: Arrays) -> Any:
        dtype = np.float32 if on.name == "reference" else stored
        request = BatchRequest(7, rows=2, clock=clock._replace(counters=a["clock"]), dtype=dtype)
        return on.gather_augment(Samples(a["images"], None, a["order"], normalized), request)

    inputs: dict[str, np.ndarray] = {"images": images, "order": order, "clock": clock.counters}
    yield Case("gather_augment normalised, by a clock", stored, inputs, run)


def _update(draw: Draw, rule: str) -> Case:
    """A case of an update with gradient clipping and a report of the loss; with 16 bits also of the
    loss scale and the shadow."""
    flat = {name: np.abs(draw.normal(SIZE)) for name in ("data", "grad", *RULES[rule].slots)}
    inputs = {
        **flat,
        "loss": np.array([0.5], np.float32),
        "correct": np.array(4, np.int32),
        "previous": np.zeros(3),
        "written": np.full(3, 9.0),
    }
    narrow = draw.dtype != "float32"
    single = frozenset(inputs)
    if narrow:
        inputs |= {"shadow": draw.normal(SIZE), "scaling": np.array([LOSS_SCALE, 0, 0], np.float32)}
        inputs["scaled"] = np.float32(LOSS_SCALE * flat["grad"])
    segments = Segments(BOUNDS, np.full((2, columns(rule)), 0.1))

    def run(on: Backend, a: Arrays) -> Any:
        scaled = narrow and on.name != "reference"
        slots = {name: a[name] for name in RULES[rule].slots}
        arena: Any = SimpleNamespace(
            data=a["data"], grad=a["scaled" if scaled else "grad"], slots=slots,
            shadow=a["shadow"] if scaled else None, scaling=a["scaling"] if scaled else None,
        )  # fmt: skip
        clip = on.gradient_norm(arena, segments, max_norm=1.0)
        report = StepReport(a["loss"], a["correct"], a["previous"], a["written"])
        on.update(rule, arena, segments, Guard(clip, report))
        factor = on.asarray(np.array([1, LOSS_SCALE if scaled else 1], clip.dtype))
        shadow = on.get_slice(arena.shadow if scaled else on.copy(arena.data), (slice(0, 5),)) if narrow else None
        return [on.binary("multiply", clip, factor), arena.data, a["written"], *slots.values(), shadow]

    return Case(f"update {rule}", draw.dtype, inputs, run, single | {"scaling", "scaled"})


def _clip_units(draw: Draw, limit: float) -> Case:
    w = np.linspace(-1, 1, 33 * 40, dtype=np.float32).reshape(33, 40)
    narrow = draw.dtype != "float32"
    inputs: dict[str, np.ndarray] = {
        "w": w,
        "clip": np.array([1, 1], np.float32),
        "report": np.zeros(3),
        "shadow": draw.rounded(w),
    }

    def run(on: Backend, a: Arrays) -> Any:
        shadow = a["shadow"] if narrow and on.name != "reference" else None
        on.clip_units(a["w"], limit, shadow, _guard(a))
        clipped = limit == 1.0  # with a limit that nothing reaches, nothing is written
        return [a["w"], (a["w"] if shadow is None else shadow) if narrow and clipped else None]

    return Case(f"clip_units to {limit:g}", draw.dtype, inputs, run, frozenset(["w", "clip"]))


def _average(draw: Draw) -> Case:
    inputs: dict[str, np.ndarray] = {"average": np.ones(1320, np.float32), "value": draw.normal(1320)}
    inputs |= {"clip": np.array([1, 1], np.float32), "report": np.zeros(3)}

    def run(on: Backend, a: Arrays) -> Any:
        on.average_update(a["average"], a["value"], 0.9, _guard(a))
        return [a["average"]]

    return Case("average_update", draw.dtype, inputs, run, frozenset(inputs))


def _guard(a: Arrays) -> Guard:
    """Of an update that has changed the parameters."""
    return Guard(a["clip"], StepReport(a["clip"], None, a["report"], a["report"]))
