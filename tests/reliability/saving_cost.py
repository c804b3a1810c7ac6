"""How much slower training is with a checkpoint every 50 steps.

    python tests/reliability/saving_cost.py --pairs 20

Trains the network `cnn` on 28x28 images on NumPy in blocks of 50 steps. Every second block begins with what
`Checkpoint` does: a copy of the state, which a thread writes while the block runs. Prints the ratio of each
such block's time to that of the block before it: the median, and the 10th and 90th percentile.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np

from gpunet import Trainer, data, models, optim

STEPS = 50


class Blocks:
    """Times blocks of steps, of which every second one begins with a checkpoint.

    Attributes:
        seconds: of each block.
    """

    def __init__(self, path):
        self.path, self.seconds, self.start = path, [], None

    def after_step(self, trainer):
        if (trainer.step + 1) % STEPS:
            return
        if self.start is not None:
            self.seconds.append(perf_counter() - self.start)
        self.start = perf_counter()
        if len(self.seconds) % 2:
            trainer.save(self.path, keep=2, wait=False)


def main():
    """Measure, and print a row of a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    images = data.ArrayDataset(rng.random((6400, 28, 28, 1), dtype=np.float32), rng.integers(0, 10, 6400))
    sampler = data.WeightedRandomSampler(np.ones(6400), STEPS * (2 * options.pairs + 1) * options.batch_size)
    loader = data.DataLoader(images, options.batch_size, sampler=sampler, prefetch=0)
    model = models.cnn((28, 28, 1), 10)
    optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    with tempfile.TemporaryDirectory() as folder:
        blocks = Blocks(Path(folder) / "last.safetensors")
        Trainer(model, optimizer, backend="numpy", callbacks=[blocks], progress=False).fit(loader, 1)
        size = blocks.path.stat().st_size
    plain, saving = np.reshape(blocks.seconds, (-1, 2)).T
    low, median, high = np.percentile(saving / plain, [10, 50, 90])
    print("| net | batch | file | a step | with checkpoints over without: median (10th to 90th percentile) |")
    print("|---|---|---|---|---|")
    step = np.median(plain) / STEPS * 1e3
    print(
        f"| cnn | {options.batch_size} | {size / 1e6:.1f} MB | {step:.1f} ms | {median:.3f} ({low:.3f} to {high:.3f}) |"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
