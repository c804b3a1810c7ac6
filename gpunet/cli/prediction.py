"""``gpunet kernels --predict`` and ``--turns``: what is predicted of a net's training step, and of
the main loops of the kernels."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

from gpunet import nn
from gpunet.bench.nets import NETS, make_model
from gpunet.cuda.instantiations import instantiations
from gpunet.cuda.prediction.gpus import find_gpu
from gpunet.cuda.prediction.kernels import tile_of
from gpunet.cuda.prediction.model import Prediction, turns
from gpunet.optim import SGD
from gpunet.report.plan import PREDICTED, Plan, peak_cell, plan, predicted_cells
from gpunet.tables import Table

DEFAULT_CASES = (("lenet", 128), ("cnn", 128), ("resnet9", 512))
"""The nets and batch sizes that are predicted where the command names none."""
DENSE = (3136, 128)
"""Inputs and outputs of the dense layer that is predicted beside them: that of `cnn`."""


class Case(NamedTuple):
    """What is predicted, and the plan of it."""

    title: str
    plan: Plan

    @property
    def convolutions(self) -> float:
        """Microseconds of the convolutions: the forward pass and both gradients."""
        return sum(prediction.microseconds for prediction in self._convolutions)

    @property
    def share(self) -> float:
        """The share of their precisions' peak that the convolutions reach; 0 without any."""
        reached = sum(prediction.share * prediction.microseconds for prediction in self._convolutions)
        return reached / self.convolutions if reached else 0.0

    @property
    def _convolutions(self) -> list[Prediction]:
        rows = zip(self.plan.launches, self.plan.predictions, strict=True)
        return [prediction for launch, prediction in rows if launch.label.operation == "conv2d"]


def print_predictions(options: Namespace) -> int:
    """Print a table for each case, or one of all with ``--markdown`` -> exit status."""
    cases = list(_cases(options))
    if options.markdown:
        print("\n".join(_markdown(cases)))
        return 0
    for title, planned in cases:
        print(f"{title} on an {planned.gpu}, predicted, not measured\n{_table(planned)}\n")
    rows = [
        (c.title, str(len(c.plan.launches)), f"{c.convolutions:.0f}", f"{c.share:.0%}", f"{c.plan.microseconds:.0f}")
        for c in cases
    ]
    head = ("net", "launches", "convolutions, us", "of their peak", "in all, us")
    print(Table(head, rows, ("predicted, not measured", "", "", "", ""), (False, True, True, True, True)))
    return 0


def print_turns(options: Namespace) -> int:
    """Print the cycles of a turn of each main loop -> exit status."""
    gpu = find_gpu("kernels", options.gpu)
    listed = chain.from_iterable(instantiations().values())
    named = [name for name in listed if name.startswith(options.turns) and tile_of(name)]
    if not named:
        raise ValueError(f"kernels: --turns is {options.turns} but takes the start of the name of a kernel with tiles")
    rows = [
        (
            t.kernel, t.registers, t.threads, t.held, f"{t.alone:.0f}", f"{t.together:.0f}", peak_cell(t),
            f"{t.cache:.0f}", t.bound,
        )
        for t in turns(named, gpu)
    ]  # fmt: skip
    head = ("instance", "registers", "threads", "held", "alone", "together", "of the peak", "L2 bytes", "bound")
    note = (
        f"cycles of a turn on a multiprocessor of an {gpu.name}, without a gate: of one block alone, and of all that it holds "
        "together; bytes that the L2 cache gives in a cycle; predicted, not measured"
    )
    texts = [tuple(map(str, row)) for row in rows]
    print(Table(head, texts, (), (False, *[True] * 7, False), note))
    return 0


def _cases(options: Namespace) -> Iterator[Case]:
    if options.batch is not None and not options.net:
        raise ValueError("kernels: --batch takes a net: --net lenet --batch 128")
    for net in options.net or ():
        if net not in NETS:
            raise ValueError(f"kernels: --net is {net} but takes one of {', '.join(NETS)}")
    named = [(net, NETS[net].batches[0] if options.batch is None else options.batch) for net in options.net or ()]
    for net, batch in named or DEFAULT_CASES:
        shape = NETS[net].input_shape
        planned = plan(
            make_model(net), shape, batch_size=batch, gpu=options.gpu, precision=options.precision,
            optimizer=lambda parameters: SGD(parameters, lr=0.1, momentum=0.9),
        )  # fmt: skip
        yield Case(f"{net}, a training step of {batch} images", planned)
    if not named:
        inputs, outputs = DENSE
        layer = nn.Sequential(nn.Linear(inputs, outputs))
        planned = plan(layer, (inputs,), batch_size=128, training=False, gpu=options.gpu, precision=options.precision)
        yield Case(f"dense layer {inputs} to {outputs}, forward pass of 128", planned)


def _table(planned: Plan) -> str:
    rows: list[tuple[str, ...]] = []
    for launch, prediction in zip(planned.launches, planned.predictions, strict=True):
        phase, layer, operation = launch.label
        rows.append((phase, layer or operation, launch.kernel.partition("<")[0], *predicted_cells(prediction)))
    total = ("total", "", f"{len(planned.launches)} launches", *[""] * 5, f"{planned.microseconds:.1f}", "", "")
    head = ("pass", "layer or operation", "kernel", *PREDICTED)
    return str(Table(head, rows, total, (False, False, False, *[True] * 7, False)))


def _markdown(cases: list[Case]) -> Iterator[str]:
    yield f"| on an {cases[0].plan.gpu}, predicted | launches | convolutions, µs | in all, µs | most of it |"
    yield "|---|---|---|---|---|"
    for case in cases:
        convolutions = f"{case.convolutions:,.0f}" if case.convolutions else ""
        cells = case.title, len(case.plan.launches), convolutions, f"{case.plan.microseconds:,.0f}", _bounds(case.plan)
        yield f"| {' | '.join(map(str, cells))} |"


def _bounds(planned: Plan) -> str:
    """What bounds the launches, by their share of the time, from 10% on."""
    shares: dict[str, float] = {}
    for p in planned.predictions:
        shares[p.bound] = shares.get(p.bound, 0.0) + p.microseconds / planned.microseconds
    return ", ".join(
        f"{name} {share:.0%}" for name, share in sorted(shares.items(), key=lambda i: -i[1]) if share >= 0.1
    )
