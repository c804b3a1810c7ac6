"""``gpunet bench conv``: each pass of each convolution of the nets, beside PyTorch's."""

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
        "--nets", nargs="+", choices=[*NETS, SINGLE], default=["lenet", "cnn", SINGLE], metavar="NET",
        help=f"nets whose convolutions are measured, some of {', '.join(NETS)}; {SINGLE} is a single convolution of 3x3 "
        f"from 64 to 64 channels (default: lenet cnn {SINGLE})",
    )  # fmt: skip
    parser.add_argument(
        "--passes", nargs="+", choices=PASSES, default=list(PASSES), metavar="PASS",
        help=f"some of {', '.join(PASSES)} (default: all)",
    )  # fmt: skip
    parser.add_argument("--batch", type=int, nargs="+", help="images per batch (default: the batch sizes of the net)")
    record.add_backend(parser)
    record.add_arguments(parser, CONV_RIVALS)


def run(options: Namespace) -> int:
    """Measure the convolutions, print and write the results -> the exit status."""
    record.resolve(options, CONV_RIVALS)
    return measure_each("Convolutions", _cases(options), ["gpunet", *options.against], options)


def _cases(options: Namespace) -> Iterator[dict[str, Any]]:
    for net in options.nets:
        for batch in options.batch or ((SINGLE_BATCH,) if net == SINGLE else NETS[net].batches):
            for number, layer in enumerate(layers_of(net)):
                for name in options.passes:
                    exists = {"input_grad": layer.inner, "fused": layer.activation or layer.pool}
                    if exists.get(name, True):
                        yield {"net": net, "batch": batch, "layer": number, "shape": str(layer), "pass": name}
