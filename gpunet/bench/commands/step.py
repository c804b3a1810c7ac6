"""``gpunet bench step``: whole training steps, against rivals in turns."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from functools import partial

from gpunet.backends import get_backend
from gpunet.bench import record
from gpunet.bench.measure import contenders, measure, same_losses
from gpunet.bench.nets import NETS
from gpunet.bench.rivals import RIVALS
from gpunet.precision import PRECISIONS, stored_dtype


def add_nets(parser: ArgumentParser) -> None:
    """The options of the kinds that train nets."""
    parser.add_argument(
        "--nets", nargs="+", choices=NETS, default=["lenet", "cnn"], help="nets to train (default: lenet cnn)"
    )
    parser.add_argument("--batch", type=int, nargs="+", help="images a step; the net's own numbers if not given")


def add_arguments(parser: ArgumentParser) -> None:
    """The options of ``gpunet bench step``."""
    add_nets(parser)
    record.add_backend(parser)
    parser.add_argument(
        "--precision",
        default="ieee",
        choices=PRECISIONS,
        help="of both sides; 16 bits are PyTorch's autocast (default: ieee)",
    )
    record.add_arguments(parser, tuple(RIVALS))


def run(options: Namespace) -> int:
    """Measure, print, write the files."""
    record.resolve(options, tuple(RIVALS))
    stored_dtype("bench", options.precision, get_backend(options.backend))  # raises here, not in each process
    check = partial(same_losses, precision=options.precision)
    measured = record.Record("Training steps", options)
    for net in options.nets:
        for batch in options.batch or NETS[net].batches:
            with contenders("step", ["gpunet", *options.against], options) as workers:
                row = measure({"net": net, "batch": batch}, workers, "gpunet", options, check)
                measured.add(row, workers)
    return measured.finish()
