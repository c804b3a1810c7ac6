"""Train a network with one regulariser at a time, and compare how far each one overfits.

    python compare_regularisers.py                          # 300 digits, from scikit-learn
    python compare_regularisers.py --dataset fashion_mnist --images 1000 --epochs 40

Every run starts from the same seed and takes the same number of steps. After each epoch, the plain
cross entropy and the accuracy are measured on the training images without augmentation, and on
images that were never trained on. The picture shows both losses of each regulariser, and in grey
those of the run without any.
"""

import argparse
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import gpunet as gp
from gpunet import data, nn, optim
from gpunet import functional as F
from gpunet.distributed import world
from gpunet.train import EarlyStopping, Trainer, recipes

CLASSES = 10


@dataclass(frozen=True)
class Run:
    """How a run differs from the plain one.

    Attributes:
        optimizer: options of the optimizer.
        loss: options of the loss.
        augment: makes a transform of uint8 images from their height.
        mix: a transform of normalised batches.
        before_dense: makes a layer that stands before each dense layer.
        after_conv: makes a layer that stands after each convolution from the number of its filters.
        patience: epochs without a better validation loss after which training stops.
        average_decay: decay of an exponential moving average of the weights.
    """

    optimizer: dict[str, Any] = field(default_factory=dict)
    loss: dict[str, Any] = field(default_factory=dict)
    augment: Callable[[int], data.Transform] | None = None
    mix: data.Transform | None = None
    before_dense: Callable[[], nn.Module] | None = None
    after_conv: Callable[[int], nn.Module] | None = None
    patience: int | None = None
    average_decay: float | None = None


RUNS = {
    "none": Run(),
    "L2": Run(optimizer={"weight_decay": 5e-3}),
    "L1": Run(optimizer={"l1": 5e-4}),
    "decoupled decay": Run(optimizer={"weight_decay": 1.0, "decoupled_weight_decay": True}),
    "max-norm": Run(optimizer={"max_norm": 1.5}),
    "dropout": Run(before_dense=lambda: nn.Dropout(0.5)),
    "spatial dropout": Run(after_conv=lambda filters: nn.Dropout2d(0.2)),
    "batch norm": Run(after_conv=nn.BatchNorm2d),
    "label smoothing": Run(loss={"label_smoothing": 0.1}),
    "augmentation": Run(augment=lambda height: data.RandomShift(max(1, height // 14))),
    "cutout": Run(augment=lambda height: data.Cutout(height // 3)),
    "noise": Run(augment=lambda height: data.GaussianNoise(0.15)),
    "mixup": Run(mix=data.Mixup(CLASSES, alpha=0.4)),
    "early stopping": Run(patience=4),
    "weight average": Run(average_decay=0.95),
}


def network(run: Run, shape: tuple[int, int, int]) -> nn.Module:
    """Two convolutions with 2x2 pools, and two dense layers."""
    height, width, channels = shape
    layers: list[nn.Module] = []
    for taken, filters in ((channels, 16), (16, 32)):
        layers.append(nn.Conv2d(taken, filters, 3, padding="same"))
        if run.after_conv:
            layers.append(run.after_conv(filters))
        layers.append(nn.ReLU())
        layers.append(nn.MaxPool2d(2))
    layers.append(nn.Flatten())
    if run.before_dense:
        layers.append(run.before_dense())
    layers.append(nn.Linear(32 * (height // 4) * (width // 4), 128))
    layers.append(nn.ReLU())
    if run.before_dense:
        layers.append(run.before_dense())
    layers.append(nn.Linear(128, CLASSES))
    return nn.Sequential(*layers)


class Curves:
    """A callback that measures (loss, accuracy) of each set of images after each epoch."""

    order = 100

    def __init__(self, sets: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
        self.sets = sets
        self.rows: list[list[tuple[float, float]]] = []

    def after_epoch(self, trainer: Trainer) -> None:
        """Measure after an epoch of training."""
        self.measure(trainer)

    def measure(self, trainer: Trainer) -> None:
        """Append (loss, accuracy) of each set, with the averaged weights if there are any."""
        if trainer.average is None:
            self.rows.append([loss_and_accuracy(trainer, images, labels) for images, labels in self.sets])
        else:
            with trainer.average.applied():
                self.rows.append([loss_and_accuracy(trainer, images, labels) for images, labels in self.sets])


def loss_and_accuracy(trainer: Trainer, images: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Cross entropy and share of correct predictions of images (N, H, W, C)."""
    logits = trainer.predict(images)
    loss = F.cross_entropy(gp.tensor(logits), labels).item()
    return loss, float((logits.argmax(axis=1) == labels).mean())


def train(run: Run, train_set: data.ArrayDataset, sets: Sequence[Any], options: argparse.Namespace) -> Curves:
    """Train a new network, and measure it on both sets after each epoch and at the end."""
    gp.seed(options.seed)
    first_image, _ = train_set[0]
    model = network(run, first_image.shape)
    optimizer = optim.Adam(model.parameters(), lr=options.lr, **run.optimizer)

    transforms: list[data.Transform] = []
    if run.augment:
        transforms.append(run.augment(len(first_image)))
    transforms.append(data.Normalize(options.mean, options.std))
    if run.mix:
        transforms.append(run.mix)
    loader = data.DataLoader(train_set, options.batch_size, shuffle=True, transform=data.Compose(transforms))

    average = None
    if run.average_decay is not None:
        average = optim.ExponentialMovingAverage(model, optimizer, run.average_decay)
    curves = Curves(sets)
    callbacks: list[Any] = [curves]
    if run.patience:
        callbacks.append(EarlyStopping("valid_loss", run.patience))
    trainer = Trainer(
        model, optimizer, loss=partial(F.cross_entropy, **run.loss), metrics=[], average=average,
        backend=options.backend, callbacks=callbacks, progress=False,
    )  # fmt: skip
    trainer.fit(loader, options.epochs, valid=[sets[1]])
    curves.measure(trainer)  # early stopping has gone back to its best epoch
    return curves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits", choices=recipes.DATASETS)
    parser.add_argument("--images", type=int, default=300, help="number of images to train on")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS), metavar="NAME", help=", ".join(RUNS))
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/regularisers.png"), metavar="FILE.png")
    options = parser.parse_args()

    leads = world().leads  # under mpirun the ranks meet here, and only rank 0 prints and writes files
    recipe = recipes.recipe(options.dataset)
    options.mean, options.std = recipe.mean, recipe.std
    normalize = data.Normalize(recipe.mean, recipe.std)
    train_set, test_set = recipes.load_dataset(options.dataset)
    few = data.ArrayDataset(*train_set[: options.images])
    # Images and labels to measure on, at most 1,000 of each set
    sets = [next(iter(data.DataLoader(part, 1000, transform=normalize, prefetch=0))) for part in (few, test_set)]
    print(f"{options.dataset}: {len(few)} images to train on, {len(sets[1][0])} to validate, {options.epochs} epochs\n")
    print(f"{'regulariser':16}{'train loss':>12}{'accuracy':>10}{'valid loss':>12}{'accuracy':>10}{'lowest loss':>13}")
    results = {}
    for name in RUNS:
        if name != "none" and name not in options.only:
            continue
        # (epochs + 1, 2, 2): for each epoch and for the end, of the training and the validation
        # set, loss and accuracy
        rows = results[name] = np.array(train(RUNS[name], few, sets, options).rows)
        (train_loss, train_accuracy), (valid_loss, valid_accuracy) = rows[-1]
        lowest = rows[:, 1, 0].min()
        print(
            f"{name:16}{train_loss:12.4f}{train_accuracy:10.1%}{valid_loss:12.4f}{valid_accuracy:10.1%}{lowest:13.4f}",
            flush=True,
        )
    if leads:
        draw(options.output, results, f"{options.dataset}, {len(few)} training images")
    print(f"\nwrote {options.output}")


def draw(path: Path, results: dict[str, np.ndarray], title: str) -> None:
    """Draw a panel for each regulariser: its training and validation loss, and those of the plain
    run in grey."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(5, len(results))
    rows = -(-len(results) // columns)
    size = max(2.4 * columns, 7.5), 2.3 * rows + 0.9
    figure, axes = pyplot.subplots(
        rows, columns, figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    plain = results["none"]
    top = 1.3 * plain[:-1, 1, 0].max()
    for name, axis in zip(results, axes.flat, strict=False):
        if name != "none":
            epochs = np.arange(1, len(plain))
            axis.plot(epochs, plain[:-1, 0, 0], color="0.75", label="training, none")
            axis.plot(epochs, plain[:-1, 1, 0], color="0.75", linestyle="--", label="validation, none")
        epochs = np.arange(1, len(results[name]))
        axis.plot(epochs, results[name][:-1, 0, 0], color="tab:blue", label="training loss")
        axis.plot(epochs, results[name][:-1, 1, 0], color="tab:orange", label="validation loss")
        axis.set_title(f"{name}: {results[name][-1, 1, 1]:.1%}", fontsize=10)
        axis.set_ylim(0, top)
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(results) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("cross entropy")
    for axis in axes.flat[max(len(results) - columns, 0) : len(results)]:
        axis.set_xlabel("epoch")
        axis.tick_params(labelbottom=True)
    handles, labels = axes.flat[len(results) - 1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9)
    figure.suptitle(f"{title}: loss, and validation accuracy at the end", x=0.01, ha="left", fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):  # end quietly where the reader, such as head, closes the pipe
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    main()
