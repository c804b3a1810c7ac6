"""How much slower training is with a checkpoint every 50 steps.

    python tests/reliability/saving_cost.py --pairs 10

Trains the network `cnn` on 28x28 images on NumPy, for a hundred steps with and without
`Checkpoint(every_steps=50)` by turns, and prints the ratio of their times: its median, and its 10th and 90th
percentile over the pairs.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np

from gpunet import Trainer, data, models, optim, random
from gpunet.train import Checkpoint

STEPS = 100
PARTS = np.array([10, 50, 90])


def seconds(images, batch_size, path=None):
    """The time of the steps of a fit, with checkpoints at a path or without; the last write is waited for, too."""
    random.seed(0)
    model = models.cnn((28, 28, 1), 10)
    optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    loader = data.DataLoader(images, batch_size, prefetch=0)
    callbacks = [] if path is None else [Checkpoint(path, every_steps=50)]
    trainer = Trainer(model, optimizer, backend="numpy", callbacks=callbacks, progress=False)
    start = perf_counter()
    trainer.fit(loader, 1)
    return perf_counter() - start


def main():
    """Measure, and print a row of a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    count = STEPS * options.batch_size
    images = data.ArrayDataset(rng.random((count, 28, 28, 1), dtype=np.float32), rng.integers(0, 10, count))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "last.safetensors"
        seconds(images, options.batch_size, path)  # warm
        pairs = []
        for i in range(options.pairs):
            order = [path, None] if i % 2 else [None, path]
            times = {each: seconds(images, options.batch_size, each) for each in order}
            pairs.append((times[path], times[None]))
    ratios = np.array([saving / plain for saving, plain in pairs])
    low, median, high = np.percentile(ratios, PARTS)
    step = np.median([plain for _, plain in pairs]) / STEPS * 1e3
    print("| net | batch | step without checkpoints | time with over without: median (10th to 90th percentile) |")
    print("|---|---|---|---|")
    print(f"| cnn | {options.batch_size} | {step:.1f} ms | {median:.3f} ({low:.3f} to {high:.3f}) |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
