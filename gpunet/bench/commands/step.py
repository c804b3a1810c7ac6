"""``gpunet bench step`` and ``gpunet bench inference``: what a net does over and over, in gpunet and in
its rivals, in turns."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from functools import partial

from gpunet.backends import get_backend
from gpunet.bench import record
from gpunet.bench.measure import contenders, measure, same_losses
from gpunet.bench.nets import NETS
from gpunet.bench.rivals import RIVALS
from gpunet.precision import PRECISIONS, split_precision

TITLES = {"step": "Training steps", "inference": "Forward passes without gradients"}


def add_nets(parser: ArgumentParser) -> None:
    """Add the options that say which nets run, and on how many images at a time."""
    parser.add_argument(
        "--nets", nargs="+", choices=NETS, default=["lenet", "cnn"], metavar="NET",
        help=f"nets, some of {', '.join(NETS)} (default: lenet cnn)",
    )  # fmt: skip
    parser.add_argument("--batch", type=int, nargs="+", help="images at a time (default: the batch sizes of the net)")


def add_arguments(parser: ArgumentParser) -> None:
    """The options of both commands."""
    add_nets(parser)
    record.add_backend(parser)
    parser.add_argument(
        "--precision",
        default="float32",
        choices=PRECISIONS,
        help="precision of gpunet and of its rivals: PyTorch allows TF32 for tf32, multiplies in float32 for 3xtf32, "
        "and uses autocast for 16 bits (default: float32)",
    )
    record.add_arguments(parser, tuple(RIVALS))


def run(options: Namespace) -> int:
    """Measure the nets, print and write the results -> the exit status."""
    record.resolve(options, tuple(RIVALS))
    # A precision that the backend does not have raises here, not in each process.
    split_precision("bench", options.precision, get_backend(options.backend))
    check = partial(same_losses, precision=options.precision)
    measured = record.Record(TITLES[options.kind], options)
    for net in options.nets:
        for batch in options.batch or NETS[net].batches:
            with contenders(options.kind, ["gpunet", *options.against], options) as workers:
                row = measure({"net": net, "batch": batch}, workers, "gpunet", options, check)
                measured.add(row, workers)
    return measured.finish()
