"""``gpunet bench conv``: the convolutions of the nets, each pass by itself, against PyTorch's."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import Any

from gpunet.bench import record
from gpunet.bench.convolutions import PASSES, SINGLE, SINGLE_BATCH, layers_of
from gpunet.bench.measure import measure_each
from gpunet.bench.nets import NETS
from gpunet.bench.rivals import CONV_RIVALS


def add_arguments(parser: ArgumentParser) -> None:
    """The options of ``gpunet bench conv``."""
    parser.add_argument(
        "--nets", nargs="+", choices=[*NETS, SINGLE], default=["lenet", "cnn", SINGLE],
        help=f"whose convolutions; {SINGLE}: one of 64 to 64 channels, 3x3 (default: lenet cnn {SINGLE})",
    )  # fmt: skip
    parser.add_argument("--passes", nargs="+", choices=PASSES, default=list(PASSES), help="(default: all)")
    parser.add_argument("--batch", type=int, nargs="+", help="images; the net's own numbers if not given")
    record.add_backend(parser)
    record.add_arguments(parser, CONV_RIVALS)


def run(options: Namespace) -> int:
    """Measure, print, write the files."""
    record.resolve(options, CONV_RIVALS)
    return measure_each("Convolutions", _cases(options), ["gpunet", *options.against], options)


def _cases(options: Namespace) -> Iterator[dict[str, Any]]:
    for net in options.nets:
        for batch in options.batch or ((SINGLE_BATCH,) if net == SINGLE else NETS[net].batches):
            for number, found in enumerate(layers_of(net)):
                for which in options.passes:
                    wanted = {"input_grad": found.inner, "fused": found.activation or found.pool}
                    if wanted.get(which, True):
                        yield {"net": net, "batch": batch, "layer": number, "shape": str(found), "pass": which}
