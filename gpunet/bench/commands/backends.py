"""``gpunet bench backends``: the same training steps on several backends, such as a CPU's and a
GPU's, with a plot."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from gpunet.backends import available_backends
from gpunet.backends.registry import NAMES
from gpunet.bench import record
from gpunet.bench.commands.step import add_nets
from gpunet.bench.contenders import Spec
from gpunet.bench.drawing import pyplot
from gpunet.bench.measure import measure, same_losses, started
from gpunet.bench.nets import NETS


def add_arguments(parser: ArgumentParser) -> None:
    """The options of ``gpunet bench backends``."""
    add_nets(parser)
    parser.add_argument(
        "--backends", nargs="+", default=["numpy", "cuda"], metavar="BACKEND",
        help=f"two or more of {', '.join(NAMES)} (default: numpy cuda); the ratios divide by the last one's time",
    )  # fmt: skip
    record.add_arguments(parser)
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the times (needs matplotlib)")


def run(options: Namespace) -> int:
    """Measure the steps, print and write the results, draw them -> the exit status."""
    record.resolve(options)
    names = list(dict.fromkeys(options.backends))
    _check(names)
    if options.plot:
        pyplot()  # if matplotlib is missing, this raises before anything is measured
    measured = record.Record("Training steps on several backends", options, ours=names[-1])
    for net in options.nets:
        for batch in options.batch or NETS[net].batches:
            specs = {name: Spec("step", "gpunet", name, options.threads) for name in names}
            with started(specs, options) as workers:
                row = measure({"net": net, "batch": batch}, workers, names[-1], options, same_losses)
                measured.add(row, workers)
    status = measured.finish()
    if options.plot:
        plot(measured.rows, names, options.plot)
        print(f"drawn to {options.plot}")
    return status


def _check(names: list[str]) -> None:
    if len(names) < 2:
        raise ValueError(f"bench: --backends names {names[0]} alone but takes at least two")
    for name in names:
        if name.partition(":")[0] not in NAMES:
            raise ValueError(f"bench: --backends names {name!r} but takes some of {', '.join(NAMES)}")
    if not set(names) & set(available_backends()):
        raise ValueError(f"bench: none of {', '.join(names)} can be used here; gpunet info says why")


def plot(rows: list[dict[str, Any]], names: list[str], path: Path) -> None:
    """Draw the median of each backend in each row as a bar, with the 10th and 90th percentile.

    The axis is logarithmic. A backend that gave no time has a text in place of its bar.
    """
    plotter = pyplot()
    figure, axes = plotter.subplots(figsize=(1.5 + 1.2 * len(rows), 4), layout="constrained")
    width = 0.8 / len(names)
    for k, name in enumerate(names):
        for i, row in enumerate(rows):
            times = row["times"][name]
            x = i + (k - (len(names) - 1) / 2) * width
            if "median_ms" not in times:
                why = f"{name}: {'failed' if 'error' in times else 'not measured'}"
                axes.text(x, 0.02, why, rotation=90, ha="center", transform=axes.get_xaxis_transform())
                continue
            median = times["median_ms"]
            errors = [[median - times["p10_ms"]], [times["p90_ms"] - median]]
            axes.bar(x, median, width, yerr=errors, color=f"C{k}", label=name if i == 0 else None)
    axes.set_xticks(range(len(rows)), [f"{row['case']['net']}, {row['case']['batch']} images" for row in rows])
    axes.set(yscale="log", ylabel="ms per training step")
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside upper left", ncols=len(names))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plotter.close(figure)
