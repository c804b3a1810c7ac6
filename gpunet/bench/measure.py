"""Contenders in turns: what each took, and the ratios of neighbouring turns."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np

from gpunet.bench import ContenderError, NotMeasuredError, record
from gpunet.bench.contenders import Spec
from gpunet.bench.worker import Worker

LOSS_TOLERANCES = {"float32": 1e-4, "bfloat16": 2e-2, "float16": 2e-3}
"""Of the losses of the first steps; PyTorch's autocast keeps more in float32 than gpunet does."""
PERCENTILES = (("p10", 10), ("median", 50), ("p90", 90))
Found = dict[str, dict[str, Any]]
"""What each contender's `prepare` gave, by name; its "notes" become columns of the table."""


class Checked(NamedTuple):
    """Whether the contenders do the same work."""

    values: dict[str, float]
    """What was compared, for the record."""
    wrong: dict[str, str]
    """Whose times would mean nothing, by name, and why."""


class Turns(NamedTuple):
    """What was timed, by name of the contender."""

    seconds: dict[str, list[float]]
    """Of each run."""
    ratios: dict[str, list[float]]
    """Each rival's time over ours in each round."""
    failed: dict[str, str]
    """Who failed before the last round, and how; they are in neither of the others."""


@contextmanager
def contenders(kind: str, names: Sequence[str], options: Namespace) -> Iterator[dict[str, Worker]]:
    """A process for each contender, by name; all end with the `with`."""
    spec = Spec(kind, "", options.backend, options.threads, getattr(options, "precision", "float32"))
    with started({name: spec._replace(name=name) for name in names}, options) as workers:
        yield workers


@contextmanager
def started(specs: dict[str, Spec], options: Namespace) -> Iterator[dict[str, Worker]]:
    """A process for each spec, by the same names; all end with the `with`."""
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for name, spec in specs.items():
            workers[name] = Worker(spec, options.timeout)
            stack.callback(workers[name].close)
        yield workers


def measure(
    case: dict[str, Any], workers: dict[str, Worker], ours: str, options: Namespace, check: Callable[[Found], Checked]
) -> dict[str, Any]:
    """A row of a record, whatever becomes of the contenders: for one that gives no times, it says why.

    Args:
        case: what is measured, as `Contender.prepare` takes it.
        workers: by name.
        ours: whose time the others' are divided by.
        options: `rounds` turns of `repeats` runs.
        check: compares what the contenders found. Nothing is timed before it, and those that it calls wrong are not timed.
    """
    found: Found = {}
    times: dict[str, Any] = {}
    for name, worker in workers.items():
        try:
            found[name] = worker.prepare(case)
        except NotMeasuredError as reason:
            times[name] = {"not_measured": str(reason)}
        except ContenderError as reason:
            times[name] = {"error": str(reason)}
    checked = check(found) if found else Checked({}, {})
    right = {name: workers[name] for name in found if name not in checked.wrong}
    turns = in_turns(right, ours, options.rounds, options.repeats)
    for name, why in {**checked.wrong, **turns.failed}.items():
        times[name] = {"error": why}
    for name, values in turns.seconds.items():
        times[name] = {f"{key}_ms": 1e3 * value for key, value in spread(values).items()}
    notes = {key: value for f in found.values() for key, value in f.get("notes", {}).items()}
    row = {
        "case": case,
        "notes": notes,
        "times": {name: times[name] for name in workers},  # in the workers' order
        "ratios": {name: spread(values) for name, values in turns.ratios.items()},
        "checked": checked.values,
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
    return measured.finish()


def in_turns(workers: dict[str, Worker], ours: str, rounds: int, repeats: int) -> Turns:
    """Time the contenders in turns, after a turn of each that is not counted.

    The order turns round from one round to the next. A round's medians are neighbours in time, so their ratio feels little of
    the machine's moods. A contender that fails is left out of what follows.
    """
    names = list(workers)
    turns: dict[str, list[list[float]]] = {name: [] for name in names}
    failed: dict[str, str] = {}
    for order in [names, *(names if turn % 2 == 0 else names[::-1] for turn in range(rounds))]:
        for name in order:
            if name not in failed:
                try:
                    turns[name].append(workers[name].time(repeats))
                except ContenderError as reason:
                    failed[name] = str(reason)
    counted = {name: values[1:] for name, values in turns.items() if name not in failed}
    medians = {name: [float(np.median(turn)) for turn in values] for name, values in counted.items()}
    ratios = {
        name: [theirs / own for theirs, own in zip(values, medians[ours], strict=True)]
        for name, values in medians.items()
        if name != ours and ours in medians
    }
    return Turns({name: [s for turn in values for s in turn] for name, values in counted.items()}, ratios, failed)


def spread(values: Sequence[float]) -> dict[str, float]:
    """10th percentile, median and 90th percentile."""
    return {key: float(np.percentile(values, q)) for key, q in PERCENTILES}


def same_losses(found: Found, precision: str = "float32") -> Checked:
    """The largest difference between the contenders' losses, over the largest loss.

    Where rounding makes no such difference, all are wrong, for the losses do not tell who is.
    """
    losses = np.array([f["losses"] for f in found.values()])
    difference = float(np.abs(losses - losses[0]).max() / np.abs(losses[0]).max())
    if difference <= LOSS_TOLERANCES[precision]:
        return Checked({"loss_difference": difference}, {})
    why = f"the contenders' losses differ by {difference:.1e}, so they do not do the same work: here they are"
    return Checked({}, {name: f"{why} {', '.join(f'{v:.5g}' for v in f['losses'])}" for name, f in found.items()})


def small_errors(found: Found) -> Checked:
    """The contenders' errors against float64; those with too large a one are wrong."""
    wrong = {
        name: f"its result differs from float64 by {f['error']:.1e}, more than {f['tolerance']:.0e}"
        for name, f in found.items()
        if not f["error"] <= f["tolerance"]  # nor NaN
    }
    return Checked({f"{name}_error": f["error"] for name, f in found.items() if name not in wrong}, wrong)


def _rounded(value: Any) -> Any:
    """Floats of a record to five digits."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value
