"""``gpunet bench ranks``: what the ranks of a training step cost each other, under ``mpirun -n 2``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np

from gpunet import optim
from gpunet.bench import record
from gpunet.bench.measure import spread
from gpunet.bench.nets import NETS, make_batch, make_model
from gpunet.cores import wanted_threads
from gpunet.distributed import Alone, Ranks, Share, share_of, world
from gpunet.distributed.commands import expect_same_options
from gpunet.functional import cross_entropy
from gpunet.train.eager import EagerStep
from gpunet.version import __version__

OURS, BLOCKING, UNADDED, ALONE = "overlapped", "blocking", "not added up", "each alone"
SUMS = tuple(4 * 32**i for i in range(1, 6))
"""Bytes of the arrays whose sums alone are timed."""


class Blocking:
    """The same ranks, each of whose messages is waited for where it is sent."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ranks, name)

    def begin_add(self, array: np.ndarray) -> Callable[[], None]:
        """See `Ranks`."""
        self._ranks.add(array)
        return lambda: None


class Unadded(Blocking):
    """The same ranks, whose gradients stay their own; all else they tell each other as ever."""

    def begin_add(self, array: np.ndarray) -> Callable[[], None]:
        """Nothing."""
        return lambda: None

    def gather(self, what: str, value: Any) -> list[Any]:
        """This rank's value alone: checksums of the parameters, which do not stay alike."""
        return [value]


def add_arguments(parser: ArgumentParser) -> None:
    """The options of ``gpunet bench ranks``."""
    parser.epilog = (
        f"Four kinds of step take turns. {OURS}: gradients are added up over the ranks while the backward pass still "
        f"runs, as a Trainer does it. {BLOCKING}: each sum is waited for where it begins. {UNADDED}: the ranks tell each "
        f"other their results, but keep their gradients. {ALONE}: each rank steps for itself, with its share of the batch."
    )
    parser.add_argument(
        "--nets",
        nargs="+",
        choices=tuple(NETS),
        default=["cnn"],
        metavar="NET",
        help=f"nets, some of {', '.join(NETS)} (default: cnn)",
    )
    parser.add_argument(
        "--batch", type=int, nargs="+", default=[128],
        help="images in a step of all ranks together, each of which takes its share (default: 128)",
    )  # fmt: skip
    record.add_arguments(parser)


def run(options: Namespace) -> int:
    """Measure the steps on all ranks; rank 0 prints and writes the results -> the exit status."""
    ranks = world()
    if ranks.size == 1:
        raise ValueError("bench ranks: takes several ranks, such as mpirun -n 2 gpunet bench ranks; got 1")
    expect_same_options(options)
    options.output = options.output if ranks.leads else None
    record.resolve(options)
    options.threads = wanted_threads("bench ranks")  # of each rank, whatever was asked for
    measured = record.Record("Training steps of several ranks, with their gradients added up", options, ours=OURS)
    measured.contents["command"] = f"mpirun -n {ranks.size} {record.command(options)}"
    about = {"gpunet": __version__, "ranks": ranks.size, "threads of a rank": options.threads}
    sums = [{"bytes": size, "seconds": _sum_seconds(ranks, size, options.rounds)} for size in SUMS]
    if ranks.leads:
        measured.contents["sums"] = sums
        print(
            ", ".join(f"{each['bytes']:,} bytes added up in {1e6 * each['seconds']:.1f} us" for each in sums),
            flush=True,
        )
    for net in options.nets:
        for batch in options.batch:
            row = _measured(ranks, net, batch, options)
            if ranks.leads:
                measured.contents["contenders"][OURS] = about
                measured.add(row, {})
    return measured.finish() if ranks.leads else 0


def _measured(ranks: Ranks, net: str, batch: int, options: Namespace) -> dict[str, Any]:
    """A row of the record: the kinds of step take turns."""
    share = share_of(make_batch(net, batch), ranks.rank, ranks.size)
    kinds: dict[str, Ranks] = {OURS: ranks, BLOCKING: Blocking(ranks), UNADDED: Unadded(ranks), ALONE: Alone()}
    steps = {name: _step(net, kind) for name, kind in kinds.items()}
    for name in steps:  # which are not counted
        _turn(ranks, steps[name], share, 2)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    ratios: dict[str, list[float]] = {name: [] for name in steps if name != OURS}
    for turn in range(options.rounds):
        medians = {}
        for name in list(steps) if turn % 2 else reversed(steps):
            taken = _turn(ranks, steps[name], share, options.repeats)
            seconds[name] += taken
            medians[name] = float(np.median(taken))
        for name in ratios:
            ratios[name].append(medians[name] / medians[OURS])
    size = steps[OURS].optimizer.arena.grad.nbytes
    return {
        "case": {"net": net, "batch": batch, "ranks": ranks.size},
        "notes": {"megabytes of gradients": round(size / 1e6, 2)},
        "times": {
            name: {f"{key}_ms": 1e3 * value for key, value in spread(all_).items()} for name, all_ in seconds.items()
        },
        "ratios": {name: spread(values) for name, values in ratios.items()},
        "checked": {},
    }


def _sum_seconds(ranks: Ranks, size: int, rounds: int) -> float:
    """The median of the seconds in which the ranks add up an array of so many bytes."""
    array, taken = np.zeros(size // 4, np.float32), []
    for _ in range(10 * rounds):
        ranks.gather("a turn", None)
        start = perf_counter()
        ranks.add(array)
        taken.append(perf_counter() - start)
    return float(np.median(taken))


def _step(net: str, ranks: Ranks) -> EagerStep:
    model = make_model(net)
    optimizer = optim.SGD(model.parameters(), lr=NETS[net].rate, momentum=0.9)
    return EagerStep(model, optimizer, loss=cross_entropy, ranks=ranks)


def _turn(ranks: Ranks, step: EagerStep, share: Share, repeats: int) -> list[float]:
    """The seconds of each of so many steps, which all ranks begin together."""
    taken = []
    for i in range(repeats):
        ranks.gather("a turn", None)
        start = perf_counter()
        step.run([share], 0, i)
        taken.append(perf_counter() - start)
    return [max(of_ranks) for of_ranks in zip(*ranks.gather("times", taken), strict=True)]
