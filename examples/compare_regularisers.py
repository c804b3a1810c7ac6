"""Train one network with one regulariser at a time on few images, and compare how far each one overfits.

    python compare_regularisers.py                          # 300 handwritten digits, which come with scikit-learn
    python compare_regularisers.py --dataset fashion_mnist --images 1000 --epochs 40 --backend numpy

Every run starts from the same seed and takes the same number of steps. After each epoch the plain cross entropy and the
accuracy are measured on the training images, as they are, and on images that were never trained on; the picture shows
both losses of each regulariser, over those of none.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import gpunet as gp
from gpunet import data, nn, optim
from gpunet import functional as F
from gpunet.train import EarlyStopping, Trainer, recipes

CLASSES = 10


@dataclass(frozen=True)
class Run:
    """What is done otherwise than in the plain run."""

    optimizer: dict[str, Any] = field(default_factory=dict)  # options of the optimizer
    loss: dict[str, Any] = field(default_factory=dict)  # options of the loss
    images: Callable[[int], list[data.Transform]] = lambda height: []  # of uint8 images, by their height
    batch: Sequence[data.Transform] = ()  # of normalised ones
    layer: Callable[[], nn.Module] | None = None  # before each dense layer
    block: Callable[[int], nn.Module] | None = None  # behind each convolution, by its filters
    patience: int | None = None  # epochs without a better validation loss
    average: float | None = None  # decay of the weights' average


RUNS = {
    "none": Run(),
    "L2": Run(optimizer={"weight_decay": 5e-3}),
    "L1": Run(optimizer={"l1": 5e-4}),
    "decoupled decay": Run(optimizer={"weight_decay": 1.0, "decoupled_weight_decay": True}),
    "max-norm": Run(optimizer={"max_norm": 1.5}),
    "dropout": Run(layer=lambda: nn.Dropout(0.5)),
    "spatial dropout": Run(block=lambda filters: nn.Dropout2d(0.2)),
    "batch norm": Run(block=nn.BatchNorm2d),
    "label smoothing": Run(loss={"label_smoothing": 0.1}),
    "augmentation": Run(images=lambda height: [data.RandomShift(max(1, height // 14))]),
    "cutout": Run(images=lambda height: [data.Cutout(height // 3)]),
    "noise": Run(images=lambda height: [data.GaussianNoise(0.15)]),
    "mixup": Run(batch=[data.Mixup(CLASSES, alpha=0.4)]),
    "early stopping": Run(patience=4),
    "weight average": Run(average=0.95),
}


def network(run: Run, shape: tuple[int, ...]) -> nn.Module:
    """Two convolutions with 2x2 pools, and two dense layers."""
    height, width, channels = shape
    layers: list[nn.Module] = []
    for before, filters in ((channels, 16), (16, 32)):
        layers += [nn.Conv2d(before, filters, 3, padding="same")]
        layers += [run.block(filters)] if run.block else []
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
    features = 32 * (height // 4) * (width // 4)
    extra = [run.layer()] if run.layer else []
    return nn.Sequential(
        *layers, nn.Flatten(), *extra, nn.Linear(features, 128), nn.ReLU(), *extra, nn.Linear(128, CLASSES)
    )


class Curves:
    """A callback that notes (loss, accuracy) of each set of images after each epoch, without what regularises."""

    order = 100

    def __init__(self, sets: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
        self.sets = sets
        self.rows: list[list[tuple[float, float]]] = []

    def after_epoch(self, trainer: Trainer) -> None:
        """Measure, and note it."""
        self.rows.append(self.measure(trainer))

    def measure(self, trainer: Trainer) -> list[tuple[float, float]]:
        """(loss, accuracy) of each set, with averaged weights if there are."""
        if trainer.average is not None:
            with trainer.average.applied():
                return [figures(trainer, *each) for each in self.sets]
        return [figures(trainer, *each) for each in self.sets]


def figures(trainer: Trainer, images: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """(cross entropy, accuracy)."""
    logits = trainer.predict(images)
    return F.cross_entropy(gp.tensor(logits), labels).item(), float((logits.argmax(axis=1) == labels).mean())


def train(run: Run, train_set: data.ArrayDataset, sets: Sequence[Any], options: argparse.Namespace) -> Curves:
    gp.seed(options.seed)
    normalize = data.Normalize(*options.moments)
    model = network(run, train_set[0][0].shape)
    optimizer = optim.Adam(model.parameters(), lr=options.lr, **run.optimizer)
    average = None if run.average is None else optim.ExponentialMovingAverage(model, optimizer, run.average)
    transform = data.Compose([*run.images(len(sets[0][0][0])), normalize, *run.batch])
    loader = data.DataLoader(train_set, options.batch_size, shuffle=True, transform=transform)
    curves = Curves(sets)
    stopping = [EarlyStopping("valid_loss", run.patience)] if run.patience else []
    trainer = Trainer(
        model, optimizer, loss=partial(F.cross_entropy, **run.loss), metrics=[], average=average,
        backend=options.backend, callbacks=[curves, *stopping], progress=False,
    )  # fmt: skip
    trainer.fit(loader, options.epochs, valid=[sets[1]])
    curves.rows.append(curves.measure(trainer))  # early stopping has gone back to its best epoch
    return curves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits", choices=recipes.DATASETS)
    parser.add_argument("--images", type=int, default=300, help="how many to train on")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS), metavar="NAME", help=", ".join(RUNS))
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/regularisers.png"), metavar="FILE.png")
    options = parser.parse_args()

    recipe = recipes.recipe(options.dataset)
    options.moments = recipe.mean, recipe.std
    chosen = [name for name in RUNS if name in {"none", *options.only}]
    train_set, test_set = recipes.load_dataset(options.dataset)
    few = data.ArrayDataset(*train_set[: options.images])
    normalize = data.Normalize(*options.moments)
    sets = [next(iter(data.DataLoader(part, 1000, transform=normalize, prefetch=0))) for part in (few, test_set)]
    print(f"{options.dataset}: {len(few)} images to train on, {len(sets[1][0])} to validate, {options.epochs} epochs\n")
    print(f"{'regulariser':16}{'train loss':>12}{'accuracy':>10}{'valid loss':>12}{'accuracy':>10}{'lowest loss':>13}")
    results = {}
    for name in chosen:
        results[name] = rows = np.array(train(RUNS[name], few, sets, options).rows)  # (epochs + 1, 2 sets, 2 figures)
        (train_loss, train_share), (valid_loss, valid_share) = rows[-1]
        lowest = rows[:, 1, 0].min()
        print(
            f"{name:16}{train_loss:12.4f}{train_share:10.1%}{valid_loss:12.4f}{valid_share:10.1%}{lowest:13.4f}",
            flush=True,
        )
    draw(options.output, results, f"{options.dataset}, {len(few)} training images")
    print(f"\nwrote {options.output}")


def draw(path: Path, results: dict[str, np.ndarray], title: str) -> None:
    """A panel a regulariser: its training and validation loss, over the plain run's in grey."""
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
        for values, own in ((plain, False), (results[name], True)):
            epochs = np.arange(1, len(values))
            for i, (label, colour) in enumerate((("training", "tab:blue"), ("validation", "tab:orange"))):
                if own:
                    axis.plot(epochs, values[:-1, i, 0], color=colour, label=f"{label} loss")
                elif name != "none":
                    axis.plot(epochs, values[:-1, i, 0], color="0.75", linestyle=("-", "--")[i], label=f"{label}, none")
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
    main()
