"""``gpunet bench scaling``: how a training step's time grows with the batch and with the image, on one
thread and on several, with a plot."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from gpunet.bench import record
from gpunet.bench.contenders import Spec
from gpunet.bench.drawing import pyplot
from gpunet.bench.measure import measure, same_losses, started

BATCHES = tuple(2**i for i in range(11))
SIDES = (8, 16, 32, 64, 128, 256)
BY_BATCH, BY_SIDE = "lenet", "resnet9"
"""The net that gets ever more images, and the one that gets ever larger ones, as many pixels in all."""
PIXELS = 1 << 14
"""Pixels of a batch of `BY_SIDE`; the largest images have more."""


def add_arguments(parser: ArgumentParser) -> None:
    """The options of ``gpunet bench scaling``."""
    parser.add_argument(
        "--batch", type=int, nargs="+", default=list(BATCHES), metavar="BATCH",
        help=f"images in a step of {BY_BATCH} (default: the powers of 2 from 1 to {BATCHES[-1]})",
    )  # fmt: skip
    parser.add_argument(
        "--side", type=int, nargs="+", default=list(SIDES), metavar="PIXELS",
        help=f"sides of the images in a step of {BY_SIDE} (default: the powers of 2 from {SIDES[0]} to {SIDES[-1]})",
    )  # fmt: skip
    record.add_backend(parser)
    record.add_arguments(parser)
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the times (needs matplotlib)")


def run(options: Namespace) -> int:
    """Measure the steps, print and write the results, draw them -> the exit status."""
    record.resolve(options)
    if options.plot:
        pyplot()  # if matplotlib is missing, this raises before anything is measured
    counts = list(dict.fromkeys((1, options.threads)))
    specs = {_name(count): Spec("step", "gpunet", options.backend, count) for count in counts}
    ours = _name(counts[-1])
    measured = record.Record("Time of a training step, by images and by pixels", options, ours=ours)
    for case in cases(options):
        with started(specs, options) as workers:
            row = measure(case, workers, ours, options, same_losses)
            row["notes"] = {f"{name}, ns per pixel": time for name in specs if (time := per_pixel(row, name))}
            measured.add(row, workers)
    for name in specs:
        for net, (rise, at) in rises(measured.rows, name).items():
            print(f"{name}: a pixel of {net} takes at most {rise:.2f} times as long as in smaller steps ({at})")
    status = measured.finish()
    if options.plot:
        plot(measured.rows, list(specs), options.plot)
        print(f"drawn to {options.plot}")
    return status


def cases(options: Namespace) -> list[dict[str, Any]]:
    """What is measured: one net with ever more images, another with ever larger ones."""
    by_batch = [{"net": BY_BATCH, "batch": batch, "side": 28} for batch in options.batch]
    return by_batch + [{"net": BY_SIDE, "batch": max(1, PIXELS // side**2), "side": side} for side in options.side]


def per_pixel(row: dict[str, Any], name: str) -> float | None:
    """Nanoseconds of a contender's step for each pixel of its images, if it was timed."""
    case, times = row["case"], row["times"][name]
    if "median_ms" not in times:
        return None
    return float(f"{1e6 * times['median_ms'] / (case['batch'] * case['side'] ** 2):.5g}")


def rises(rows: list[dict[str, Any]], name: str) -> dict[str, tuple[float, str]]:
    """For each net the most by which a pixel takes longer than in the best of all smaller steps, as a
    factor, and where: 1 if more images, and larger ones, never cost more than their number."""
    found: dict[str, tuple[float, str]] = {}
    best: dict[str, float] = {}
    for row in rows:
        net, time = row["case"]["net"], per_pixel(row, name)
        if time is None:
            continue
        at = f"{row['case']['batch']} images of {row['case']['side']} pixels"
        found[net] = max(found.get(net, (1.0, at)), (time / best.get(net, time), at))
        best[net] = min(time, best.get(net, time))
    return found


def _name(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"


def plot(rows: list[dict[str, Any]], names: list[str], path: Path) -> None:
    """Draw the nanoseconds per pixel of each net over the batch or the side, on logarithmic axes."""
    plotter = pyplot()
    figure, panels = plotter.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for axes, net, key, label in (
        (panels[0], BY_BATCH, "batch", f"images in a step of {BY_BATCH}, 28x28"),
        (panels[1], BY_SIDE, "side", f"side of the images of {BY_SIDE}, in pixels"),
    ):
        for name in names:
            points = [(r["case"][key], time) for r in rows if r["case"]["net"] == net and (time := per_pixel(r, name))]
            axes.plot(*zip(*points, strict=True), marker="o", label=name) if points else None
        axes.set_xscale("log", base=2)
        axes.set(yscale="log", xlabel=label, ylabel="ns per pixel and training step")
        axes.grid(visible=True, which="both", alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plotter.close(figure)
