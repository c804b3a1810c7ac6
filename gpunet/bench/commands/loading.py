"""``gpunet bench loading``: batches of JPEG images, decoded and scaled, in turns with PyTorch."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

import numpy as np

from gpunet.bench import record
from gpunet.bench.measure import Checked, Results, contenders, measure

RIVALS = ("torch-eager",)
LEVELS = 2.0
"""How far the mean levels of the images may differ, since decoders and scalings differ."""


def add_arguments(parser: ArgumentParser) -> None:
    """The options of ``gpunet bench loading``."""
    parser.add_argument(
        "--side", type=int, nargs="+", default=[256, 1024], metavar="PIXELS",
        help="sides of the square images in the files (default: 256 1024)",
    )  # fmt: skip
    parser.add_argument("--size", type=int, default=128, help="side to which they are scaled (default: %(default)s)")
    parser.add_argument("--images", type=int, default=256, help="images in the folder (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="images in a batch (default: %(default)s)")
    record.add_arguments(parser, RIVALS)


def run(options: Namespace) -> int:
    """Measure the loaders, print and write the results -> the exit status."""
    options.backend = "numpy"
    record.resolve(options, RIVALS)
    measured = record.Record("Batches of JPEG images, time for each image", options)
    with contenders("loading", ["gpunet", *options.against], options) as workers:
        for side in options.side:
            case = {"side": side, "size": options.size, "images": options.images, "batch": options.batch}
            measured.add(measure(case, workers, "gpunet", options, same_images), workers)
    return measured.finish()


def same_images(results: Results) -> Checked:
    """Check the largest difference between the contenders' mean levels of a channel."""
    means = np.array([result["means"] for result in results.values()])
    difference = float(np.abs(means - means[0]).max())
    if difference <= LEVELS:
        return Checked({"level_difference": difference}, {})
    return Checked({}, dict.fromkeys(results, f"the mean levels of the contenders' images differ by {difference:.3g}"))
