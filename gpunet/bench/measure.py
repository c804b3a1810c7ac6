"""Contenders in turns: what each took, and the ratios of neighbouring turns."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from gpunet.bench import NotMeasuredError, record
from gpunet.bench.contenders import Spec
from gpunet.bench.worker import Worker

LOSS_TOLERANCES = {"ieee": 1e-4, "bfloat16": 2e-2, "float16": 2e-3}
"""Of the losses of the first steps; PyTorch's autocast keeps more in float32 than gpunet does."""
PERCENTILES = (("p10", 10), ("median", 50), ("p90", 90))
Found = dict[str, dict[str, Any]]
"""What each contender's `prepare` gave, by name; its "notes" become columns of the table."""


@contextmanager
def contenders(kind: str, names: Sequence[str], options: Namespace) -> Iterator[dict[str, Worker]]:
    """A process for each contender, by name; all end with the `with`."""
    spec = Spec(kind, "", options.backend, options.threads, getattr(options, "precision", "ieee"))
    with started({name: spec._replace(name=name) for name in names}) as workers:
        yield workers


@contextmanager
def started(specs: dict[str, Spec]) -> Iterator[dict[str, Worker]]:
    """A process for each spec, by the same names; all end with the `with`."""
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for name, spec in specs.items():
            workers[name] = Worker(spec)
            stack.callback(workers[name].close)
        yield workers


def measure(
    case: dict[str, Any], workers: dict[str, Worker], ours: str, options: Namespace, check: Callable[[Found], Any]
) -> dict[str, Any]:
    """A row of a record.

    Args:
        case: what is measured, as `Contender.prepare` takes it.
        workers: by name.
        ours: whose time the others' are divided by.
        options: `rounds` turns of `repeats` runs.
        check: raises RuntimeError if what the contenders found shows that they do not do the same work; else gives what it
            looked at, for the record. Nothing is timed before it.
    """
    found: Found = {}
    times: dict[str, Any] = {}
    for name, worker in workers.items():
        try:
            found[name] = worker.prepare(case)
        except NotMeasuredError as reason:
            times[name] = {"not_measured": str(reason)}
    checked = check(found) if found else {}
    seconds, ratios = in_turns({name: workers[name] for name in found}, ours, options.rounds, options.repeats)
    for name, values in seconds.items():
        times[name] = {f"{key}_ms": 1e3 * value for key, value in spread(values).items()}
    notes = {key: value for f in found.values() for key, value in f.get("notes", {}).items()}
    row = {
        "case": case,
        "notes": notes,
        "times": {name: times[name] for name in workers},  # in the workers' order
        "ratios": {name: spread(values) for name, values in ratios.items()},
        "checked": checked,
    }
    return _rounded(row)


def measure_each(title: str, cases: Iterable[dict[str, Any]], names: Sequence[str], options: Namespace) -> int:
    """Measure cases whose results are held against float64, one after another in the same processes; print, write the files.

    Args:
        title: of the table, in the plural.
        names: of the contenders; "gpunet" among them.
    Returns:
        The exit status.
    """
    measured = record.Record(title, options)
    with contenders(options.kind, names, options) as workers:
        for case in cases:
            measured.add(measure(case, workers, "gpunet", options, small_errors), workers)
    measured.write()
    return 0


def in_turns(
    workers: dict[str, Worker], ours: str, rounds: int, repeats: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """(seconds of each contender's runs, each rival's time over ours in each round), by name.

    The order turns round from one round to the next. A round's medians are neighbours in time, so their ratio feels little of
    the machine's moods.
    """
    for worker in workers.values():
        worker.time(repeats)  # warm
    names = list(workers)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    ratios: dict[str, list[float]] = {name: [] for name in names if name != ours and ours in workers}
    for turn in range(rounds):
        medians = {}
        for name in names if turn % 2 == 0 else names[::-1]:
            values = workers[name].time(repeats)
            seconds[name] += values
            medians[name] = float(np.median(values))
        for name, values in ratios.items():
            values.append(medians[name] / medians[ours])
    return seconds, ratios


def spread(values: Sequence[float]) -> dict[str, float]:
    """10th percentile, median and 90th percentile."""
    return {key: float(np.percentile(values, q)) for key, q in PERCENTILES}


def same_losses(found: Found, precision: str = "ieee") -> dict[str, float]:
    """The largest difference between the contenders' losses, over the largest loss; RuntimeError if rounding makes no such."""
    losses = np.array([f["losses"] for f in found.values()])
    difference = float(np.abs(losses - losses[0]).max() / np.abs(losses[0]).max())
    if not difference <= LOSS_TOLERANCES[precision]:  # nor NaN
        values = "; ".join(f"{name} {f['losses']}" for name, f in found.items())
        raise RuntimeError(
            f"bench: the contenders' losses differ by {difference:.1e}, so they do not do the same work: {values}"
        )
    return {"loss_difference": difference}


def small_errors(found: Found) -> dict[str, Any]:
    """The contenders' errors against float64; RuntimeError where one is too large."""
    for name, f in found.items():
        if not f["error"] <= f["tolerance"]:
            raise RuntimeError(
                f"bench: {name}'s result differs from float64 by {f['error']:.1e}, more than {f['tolerance']:.0e}"
            )
    return {f"{name}_error": f["error"] for name, f in found.items()}


def _rounded(value: Any) -> Any:
    """Floats of a record to five digits."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value
