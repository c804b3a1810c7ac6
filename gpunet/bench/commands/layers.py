"""``gpunet bench layers``: other layers than convolutions, forward and backward."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from itertools import product

from gpunet.bench import record
from gpunet.bench.measure import measure_each
from gpunet.bench.rivals import LAYER_RIVALS
from gpunet.bench.whole_layers import LAYERS


def add_arguments(parser: ArgumentParser) -> None:
    """The options of ``gpunet bench layers``."""
    parser.add_argument(
        "--layers", nargs="+", choices=LAYERS, default=list(LAYERS), metavar="LAYER",
        help=f"some of {', '.join(map(repr, LAYERS))} (default: all)",
    )  # fmt: skip
    parser.add_argument("--batch", type=int, nargs="+", default=[16], help="images per batch (default: 16)")
    record.add_backend(parser)
    record.add_arguments(parser, LAYER_RIVALS)


def run(options: Namespace) -> int:
    """Measure the layers, print and write the results -> the exit status."""
    record.resolve(options, LAYER_RIVALS)
    cases = ({"layer": layer, "batch": batch} for layer, batch in product(options.layers, options.batch))
    return measure_each("Layers, forward and backward", cases, ["gpunet", *options.against], options)
