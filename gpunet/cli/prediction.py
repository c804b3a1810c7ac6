"""``gpunet kernels --predict``: the predicted time of each launch of a net's training step."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from typing import NamedTuple

from gpunet import nn
from gpunet.bench.nets import NETS, make_model
from gpunet.optim import SGD
from gpunet.report.plan import PREDICTED, Plan, plan, predicted_cells
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
        rows = zip(self.plan.launches, self.plan.predictions, strict=True)
        return sum(prediction.microseconds for launch, prediction in rows if launch.label.operation == "conv2d")


def print_predictions(options: Namespace) -> int:
    """Print a table for each case, or one of all with ``--markdown`` -> exit status."""
    cases = list(_cases(options))
    if options.markdown:
        print("\n".join(_markdown(cases)))
        return 0
    for title, planned in cases:
        print(f"{title} on an {planned.gpu}, predicted, not measured\n{_table(planned)}\n")
    rows = [(c.title, str(len(c.plan.launches)), f"{c.convolutions:.0f}", f"{c.plan.microseconds:.0f}") for c in cases]
    head = ("net", "launches", "convolutions, us", "in all, us")
    print(Table(head, rows, ("predicted, not measured", "", "", ""), (False, True, True, True)))
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
            make_model(net), shape, batch_size=batch, gpu=options.gpu,
            optimizer=lambda parameters: SGD(parameters, lr=0.1, momentum=0.9),
        )  # fmt: skip
        yield Case(f"{net}, a training step of {batch} images", planned)
    if not named:
        inputs, outputs = DENSE
        layer = nn.Sequential(nn.Linear(inputs, outputs))
        planned = plan(layer, (inputs,), batch_size=128, training=False, gpu=options.gpu)
        yield Case(f"dense layer {inputs} to {outputs}, forward pass of 128", planned)


def _table(planned: Plan) -> str:
    rows: list[tuple[str, ...]] = []
    for launch, prediction in zip(planned.launches, planned.predictions, strict=True):
        phase, layer, operation = launch.label
        rows.append((phase, layer or operation, launch.kernel.partition("<")[0], *predicted_cells(prediction)))
    total = ("total", "", f"{len(planned.launches)} launches", "", "", "", "", "", f"{planned.microseconds:.1f}", "")
    head = ("pass", "layer or operation", "kernel", *PREDICTED)
    return str(Table(head, rows, total, (False, False, False, True, True, True, True, True, True, False)))


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
