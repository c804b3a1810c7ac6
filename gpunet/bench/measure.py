"""Runs contenders in turns, and computes the times of each and the ratios of neighbouring turns."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np

from gpunet.bench import ContenderError, NotMeasuredError, record
from gpunet.bench.contenders import Spec
from gpunet.bench.worker import Worker
from gpunet.progress import track

LOSS_TOLERANCES = {"float32": 1e-4, "tf32": 2e-3, "3xtf32": 1e-4, "bfloat16": 2e-2, "float16": 2e-3}
"""How far the losses of the first steps may differ. PyTorch's autocast keeps more in float32 than
gpunet does."""
PERCENTILES = (("p10", 10), ("median", 50), ("p90", 90))
SETTLING = 0.02
"""Seconds before each turn: the threads of the last contender may still wait awake for more work."""
Results = dict[str, dict[str, Any]]
"""What `prepare` of each contender returned, by name. Its "notes" become columns of the table."""


class Checked(NamedTuple):
    """Whether the contenders do the same work."""

    values: dict[str, float]
    """What was compared, for the record."""
    wrong: dict[str, str]
    """The contenders whose times would mean nothing, and why, by name."""


class Turns(NamedTuple):
    """What was timed, by name of the contender."""

    seconds: dict[str, list[float]]
    """The seconds of each run."""
    ratios: dict[str, list[float]]
    """The time of each rival divided by ours, in each round."""
    failed: dict[str, str]
    """The contenders that failed before the last round, and how; `seconds` and `ratios` leave them
    out."""


@contextmanager
def contenders(kind: str, names: Sequence[str], options: Namespace) -> Iterator[dict[str, Worker]]:
    """A process for each contender, by name. All of them end with the `with` statement."""
    spec = Spec(kind, "", options.backend, options.threads, getattr(options, "precision", "float32"))
    with started({name: spec._replace(name=name) for name in names}, options) as workers:
        yield workers


@contextmanager
def started(specs: dict[str, Spec], options: Namespace) -> Iterator[dict[str, Worker]]:
    """A process for each spec, by the same names. All of them end with the `with` statement."""
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for name, spec in specs.items():
            workers[name] = Worker(spec, options.timeout)
            stack.callback(workers[name].close)
        yield workers


def measure(
    case: dict[str, Any],
    workers: dict[str, Worker],
    ours: str,
    options: Namespace,
    check: Callable[[Results], Checked],
) -> dict[str, Any]:
    """Measure a case -> a row of a record, which says why a contender has no times.

    Args:
        case: what is measured, as `Contender.prepare` takes it.
        workers: the contenders by name.
        ours: the contender by whose time the others' times are divided.
        options: `rounds` is the number of turns, `repeats` the number of runs in a turn.
        check: compares the results of the contenders before anything is timed. Those that it calls
            wrong are not timed.
    """
    results: Results = {}
    times: dict[str, Any] = {}
    for name, worker in workers.items():
        try:
            results[name] = worker.prepare(case)
        except NotMeasuredError as reason:
            times[name] = {"not_measured": str(reason)}
        except ContenderError as reason:
            times[name] = {"error": str(reason)}
    checked = check(results) if results else Checked({}, {})
    right = {name: workers[name] for name in results if name not in checked.wrong}
    turns = in_turns(right, ours, options.rounds, options.repeats)
    for name, why in {**checked.wrong, **turns.failed}.items():
        times[name] = {"error": why}
    for name, values in turns.seconds.items():
        times[name] = {f"{key}_ms": 1e3 * value for key, value in spread(values).items()}
    notes = {key: value for result in results.values() for key, value in result.get("notes", {}).items()}
    row = {
        "case": case,
        "notes": notes,
        "times": {name: times[name] for name in workers},  # in the workers' order
        "ratios": {name: spread(values) for name, values in turns.ratios.items()},
        "checked": checked.values,
    }
    return _rounded(row)


def measure_each(title: str, cases: Iterable[dict[str, Any]], names: Sequence[str], options: Namespace) -> int:
    """Measure cases one after another in the same processes, and compare with float64.

    Args:
        title: the title of the table, in the plural.
        names: the names of the contenders, with "gpunet" among them.
    Returns:
        The exit status.
    """
    measured = record.Record(title, options)
    with contenders(options.kind, names, options) as workers:
        for case in cases:
            measured.add(measure(case, workers, "gpunet", options, small_errors), workers)
    return measured.finish()


def in_turns(workers: dict[str, Worker], ours: str, rounds: int, repeats: int) -> Turns:
    """Time the contenders in turns. The first turn of each is not counted.

    The order is reversed from one round to the next. The turns of a round follow each other
    closely, so the ratio of their medians hardly depends on how fast the machine is at that time. A
    contender that fails takes no further turns. Before each turn is a pause of `SETTLING` seconds.
    """
    names = list(workers)
    turns: dict[str, list[list[float]]] = {name: [] for name in names}
    failed: dict[str, str] = {}
    orders = [names, *(names if turn % 2 == 0 else names[::-1] for turn in range(rounds))]
    for order in track(orders, "timing in turns", "round"):
        for name in order:
            if name not in failed:
                time.sleep(SETTLING)
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


def same_losses(results: Results, precision: str = "float32") -> Checked:
    """Check the largest difference between the contenders' losses, divided by the largest loss.

    If it is larger than rounding can explain, all contenders are called wrong, since the losses do
    not say which one is.
    """
    losses = np.array([result["losses"] for result in results.values()])
    difference = float(np.abs(losses - losses[0]).max() / np.abs(losses[0]).max())
    if difference <= LOSS_TOLERANCES[precision]:
        return Checked({"loss_difference": difference}, {})
    why = f"the contenders' losses differ by {difference:.1e}, so they do not do the same work: here they are"
    return Checked(
        {}, {name: f"{why} {', '.join(f'{v:.5g}' for v in result['losses'])}" for name, result in results.items()}
    )


def small_errors(results: Results) -> Checked:
    """Check the contenders' errors against float64; one with too large an error is wrong."""
    wrong = {
        name: f"its result differs from float64 by {result['error']:.1e}, more than {result['tolerance']:.0e}"
        for name, result in results.items()
        if not result["error"] <= result["tolerance"]  # NaN is wrong too
    }
    return Checked({f"{name}_error": result["error"] for name, result in results.items() if name not in wrong}, wrong)


def _rounded(value: Any) -> Any:
    """A value of a record with all its floats rounded to five digits."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value
