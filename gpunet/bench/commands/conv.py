"""``gpunet bench conv``: each pass of each convolution of the nets, beside PyTorch's."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpunet.backends import get_backend
from gpunet.bench import record, tuning
from gpunet.bench.convolutions import PASSES, SINGLE, SINGLE_BATCH, layers_of
from gpunet.bench.measure import measure_each
from gpunet.bench.nets import NETS
from gpunet.bench.rivals import CONV_RIVALS
from gpunet.precision import PRECISIONS, split_precision


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
    parser.add_argument(
        "--precision", default="float32", choices=PRECISIONS,
        help="precision of gpunet and of its rivals: PyTorch allows TF32 for tf32, multiplies in float32 for 3xtf32, "
        "and stores 16 bits where gpunet does (default: float32)",
    )  # fmt: skip
    parser.add_argument(
        "--tune", type=Path, metavar="FILE.json",
        help="instead of measuring the passes, time every tile that can compute them, and write those that beat the "
        "predicted ones to this file, which the environment variable GPUNET_TILES can name (CUDA only)",
    )  # fmt: skip
    record.add_arguments(parser, CONV_RIVALS)


def run(options: Namespace) -> int:
    """Measure the convolutions, print and write the results -> the exit status."""
    record.resolve(options, CONV_RIVALS)
    # A precision that the backend does not have raises here, not in each process.
    split_precision("bench", options.precision, get_backend(options.backend))
    if options.tune:
        return tuning.tune(_cases(options), options)
    return measure_each("Convolutions", _cases(options), ["gpunet", *options.against], options)


def _cases(options: Namespace) -> Iterator[dict[str, Any]]:
    precision = {} if options.precision == "float32" else {"precision": options.precision}
    for net in options.nets:
        for batch in options.batch or ((SINGLE_BATCH,) if net == SINGLE else NETS[net].batches):
            for number, layer in enumerate(layers_of(net)):
                for name in options.passes:
                    exists = {"input_grad": layer.inner, "fused": layer.activation or layer.pool}
                    if exists.get(name, True):
                        yield {
                            "net": net,
                            "batch": batch,
                            "layer": number,
                            "shape": str(layer),
                            "pass": name,
                            **precision,
                        }
