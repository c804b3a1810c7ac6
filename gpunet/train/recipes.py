"""Recipes: for each data set, how to train the small networks to good accuracy. What the CLI and the examples share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gpunet import data, models, nn, optim
from gpunet import functional as F
from gpunet.backends.base import Backend
from gpunet.data.standard import Root
from gpunet.optim.schedule import Schedule
from gpunet.train.step import Loss

DATASETS = ("digits", "mnist", "fashion_mnist", "cifar10")
MODELS = ("lenet", "cnn", "alexnet", "vgg11", "vgg16", "resnet9", "resnet18", "resnet34", "mobilenet")
OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop", "adagrad", "lion", "muon")
SCHEDULES = ("onecycle", "cosine", "constant")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train one network on one data set.

    Attributes:
        lr: the schedule's largest learning rate.
        shift: images are moved by up to this many pixels; `flip`: half of them are mirrored.
        mean, std: of each channel, on the scale 0 to 1.
    """

    dataset: str
    model: str = "cnn"
    epochs: int = 10
    batch_size: int = 64
    lr: float = 0.05
    optimizer: str = "sgd"
    weight_decay: float = 5e-4
    schedule: str = "onecycle"
    dropout: float = 0.25
    label_smoothing: float = 0.0
    shift: int = 0
    flip: bool = False
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.25,)

    def __post_init__(self) -> None:
        choices = {"model": MODELS, "optimizer": OPTIMIZERS, "schedule": SCHEDULES}
        for name, taken in choices.items():
            if getattr(self, name) not in taken:
                raise ValueError(f"recipe: {name} is {getattr(self, name)!r} but takes {', '.join(taken)}")
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"recipe: {name} is {getattr(self, name)} but must be at least 1")

    def as_dict(self) -> dict[str, Any]:
        """What JSON can hold."""
        return asdict(self)


_BY_DATASET = {
    "digits": Recipe(dataset="digits", epochs=36, label_smoothing=0.1, shift=1, mean=(0.305,), std=(0.377,)),
    "mnist": Recipe(dataset="mnist", epochs=5, shift=2, mean=(0.1307,), std=(0.3081,)),
    "fashion_mnist": Recipe(
        dataset="fashion_mnist", epochs=6, label_smoothing=0.05, flip=True, mean=(0.2860,), std=(0.3530,)
    ),
    "cifar10": Recipe(
        dataset="cifar10", epochs=20, label_smoothing=0.05, shift=3, flip=True,
        mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616),
    ),
}  # fmt: skip
_FOR_LENET: dict[str, dict[str, Any]] = {"fashion_mnist": {"epochs": 12}}
"""What the small net wants otherwise: more epochs, for each costs it little."""
_FOR_OPTIMIZER: dict[str, dict[str, Any]] = {
    "sgd": {"lr": 0.05, "weight_decay": 5e-4},
    "adam": {"lr": 2e-3, "weight_decay": 0.0},
    "adamw": {"lr": 2e-3, "weight_decay": 0.01},
    "rmsprop": {"lr": 1e-3, "weight_decay": 0.0},
    "adagrad": {"lr": 0.02, "weight_decay": 0.0},
    "lion": {"lr": 3e-4, "weight_decay": 0.1},
    "muon": {"lr": 0.02, "weight_decay": 0.01},
}
"""What an optimizer wants that is asked for by name. Images no one has tried get AdamW, which seldom diverges."""


def recipe(dataset: str, model: str = "cnn", **changes: Any) -> Recipe:
    """The recipe for a data set, one of `DATASETS` or a folder of images, and a model, one of `MODELS`.

    Args:
        changes: attributes of `Recipe` to set otherwise; None leaves one as it is.
    """
    if dataset not in DATASETS and Path(dataset).is_dir():
        dataset = str(Path(dataset).resolve())  # found again from another working folder
    given = {name: value for name, value in changes.items() if value is not None}
    base = _BY_DATASET.get(dataset, Recipe(dataset=dataset))
    if dataset not in _BY_DATASET:
        given.setdefault("optimizer", "adamw")
    for_model = {} if model == "cnn" else {"dropout": 0.0}  # the others have none
    if model == "lenet":
        for_model |= _FOR_LENET.get(dataset, {})
    for_optimizer = _FOR_OPTIMIZER.get(given.get("optimizer", ""), {})
    return replace(base, model=model, **{**for_model, **for_optimizer, **given})


def load_dataset(name: str, *, root: Root = None, size: tuple[int, int] | None = None) -> tuple[Any, Any]:
    """(train, test) of a public data set by name, or of a folder.

    A folder holds ``train/CLASS/`` and ``test/CLASS/``, or just ``CLASS/``: then a fifth of the images, chosen at
    random but the same whatever the seed, is for the test.

    Args:
        root: where public data sets are, see `gpunet.data`.
        size: (height, width) that a folder's images are scaled to.
    """
    if name in DATASETS:
        load = getattr(data, name)
        options = {} if name == "digits" else {"root": root}
        return load("train", **options), load("test", **options)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise ValueError(f"data set {name!r} is neither {', '.join(DATASETS)} nor a folder of images")
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        parts = [data.ImageFolder(folder / part, size=size) for part in ("train", "test")]
        if parts[0].classes != parts[1].classes:
            raise ValueError(f"data set {name}: train/ has classes {parts[0].classes} but test/ {parts[1].classes}")
        return parts[0], parts[1]
    train, test = data.random_split(data.ImageFolder(folder, size=size), [0.8, 0.2], seed=0)
    return train, test


def image_shape(dataset: Any) -> tuple[int, int, int]:
    """(H, W, C) of a data set's images."""
    h, w, c = np.shape(dataset[0][0])
    return h, w, c


def make_model(recipe: Recipe, input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The recipe's network, with initial parameters that the seed decides."""
    if recipe.model == "cnn":
        return models.cnn(input_shape, classes, dropout=recipe.dropout)
    if recipe.dropout:
        raise ValueError(f"{recipe.model} takes no dropout option: leave it out, or take cnn")
    return getattr(models, recipe.model)(input_shape, classes)


def make_loaders(recipe: Recipe, train: Any, *others: Any, backend: Backend | None = None) -> tuple[Any, ...]:
    """A shuffled, augmented loader of `train`, and plain ones of the others.

    Args:
        backend: a device that the data sets, of uint8 images, are uploaded to; if None the host makes the batches.
    """
    normalize = data.Normalize(recipe.mean, recipe.std)
    steps: list[data.Transform] = [data.RandomShift(recipe.shift)] if recipe.shift else []
    steps += [data.RandomFlip()] if recipe.flip else []
    make = data.DataLoader if backend is None else partial(data.DeviceLoader, backend=backend)
    first = make(train, recipe.batch_size, shuffle=True, transform=data.Compose([*steps, normalize]))
    return first, *(make(each, 256, transform=normalize) for each in others)


def make_optimizer(recipe: Recipe, parameters: Iterable[nn.Parameter]) -> optim.Optimizer:
    """The recipe's optimizer; SGD with Nesterov's momentum 0.9."""
    if recipe.optimizer == "sgd":
        return optim.SGD(parameters, recipe.lr, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay)
    kinds: dict[str, Any] = {
        "adam": optim.Adam, "adamw": optim.AdamW, "rmsprop": optim.RMSprop, "adagrad": optim.Adagrad, "lion": optim.Lion,
        "muon": optim.Muon,
    }  # fmt: skip
    made: optim.Optimizer = kinds[recipe.optimizer](parameters, recipe.lr, weight_decay=recipe.weight_decay)
    return made


def make_schedule(recipe: Recipe, optimizer: optim.Optimizer, steps: int) -> Schedule:
    """The recipe's schedule over `steps` steps of all epochs."""
    if recipe.schedule == "onecycle":
        return optim.OneCycleLR(optimizer, steps)
    if recipe.schedule == "cosine":
        return optim.CosineLR(optimizer, steps)
    return optim.ConstantLR(optimizer)


def make_loss(recipe: Recipe) -> Loss:
    """Softmax cross-entropy with the recipe's label smoothing."""
    return partial(F.softmax_cross_entropy, label_smoothing=recipe.label_smoothing)
