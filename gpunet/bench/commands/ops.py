"""``gpunet bench ops``: primitives that are no matrix products, beside a copy of the bytes that
each must move."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import Any

from gpunet.bench import record
from gpunet.bench.measure import measure_each
from gpunet.bench.operations import OPS


def add_arguments(parser: ArgumentParser) -> None:
    """The options of ``gpunet bench ops``."""
    parser.add_argument(
        "--ops", nargs="+", choices=OPS, default=list(OPS), metavar="OP",
        help=f"some of {', '.join(map(repr, OPS))} (default: all)",
    )  # fmt: skip
    parser.add_argument("--batch", type=int, nargs="+", default=[512], help="images of 28x28 pixels (default: 512)")
    parser.add_argument(
        "--channels", type=int, nargs="+", default=[6, 32], help="channels of the images (default: 6 32)"
    )
    parser.add_argument(
        "--parameters", type=int, default=10_000_000, help="parameters that an optimizer updates (default: %(default)s)"
    )
    record.add_backend(parser)
    record.add_arguments(parser)


def run(options: Namespace) -> int:
    """Measure the primitives, print and write the results -> the exit status."""
    record.resolve(options)
    return measure_each("Operations against a copy of as many bytes", _cases(options), ["gpunet", "copy"], options)


def _cases(options: Namespace) -> Iterator[dict[str, Any]]:
    for op in options.ops:
        if op in ("sgd", "adam"):
            yield {"op": op, "parameters": options.parameters}
            continue
        for batch in options.batch:
            if op == "softmax_cross_entropy":
                yield {"op": op, "batch": batch}
                continue
            for channels in options.channels:
                yield {"op": op, "batch": batch, "channels": channels}
