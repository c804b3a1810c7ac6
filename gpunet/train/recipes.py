"""Recipes that train small networks well on each data set, for the CLI and the examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gpunet import data, models, nn, optim
from gpunet import functional as F
from gpunet.backends.contract import Backend
from gpunet.data.readers.download import Root
from gpunet.data.readers.folders import match_classes, split_folders
from gpunet.data.readers.shards import shard_splits
from gpunet.optim.schedule import Schedule
from gpunet.train.step import Loss

MakeModel = Callable[[tuple[int, int, int], int], nn.Module]
"""Makes a network for images (H, W, C) and a number of classes."""
DATASETS = ("digits", "mnist", "fashion_mnist", "cifar10")
MODELS = ("lenet", "cnn", "alexnet", "vgg11", "vgg16", "resnet9", "resnet18", "resnet34", "mobilenet")
OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop", "adagrad", "lion", "muon")
SCHEDULES = ("onecycle", "cosine", "constant")
TEST_SHARE = 0.2
"""The share of a folder's images that is kept to test on, if the folder has no split for that."""

HOLD_OUT_SEEDS = {"test": 0, "validate": 1}
"""The seeds by which images of shards are held out, whatever the seed of the run."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train one network on one data set.

    Attributes:
        model: one of `MODELS`, or ``MODULE:FUNCTION``, which names a function of the user.
        lr: the largest learning rate of the schedule.
        shift: by how many pixels at most images are moved.
        flip: whether half of the images are mirrored.
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
        for name, taken in (("model", MODELS), ("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
            given = getattr(self, name)
            if given not in taken and not (name == "model" and is_own(given)):
                also = ", or your own as MODULE:FUNCTION" if name == "model" else ""
                raise ValueError(f"recipe: {name} is {given!r} but takes {', '.join(taken)}{also}")
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"recipe: {name} is {getattr(self, name)} but must be at least 1")

    def as_dict(self) -> dict[str, Any]:
        """The attributes, as JSON can hold them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Recipe:
        """The recipe of which `as_dict` was saved as JSON."""
        return cls(**{**saved, "mean": tuple(saved["mean"]), "std": tuple(saved["std"])})


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
_FOR_LENET: dict[str, dict[str, Any]] = {"fashion_mnist": {"epochs": 10}}
"""What LeNet is given instead: more epochs, since each of them is cheap."""
_FOR_OPTIMIZER: dict[str, dict[str, Any]] = {
    "sgd": {"lr": 0.05, "weight_decay": 5e-4},
    "adam": {"lr": 2e-3, "weight_decay": 0.0},
    "adamw": {"lr": 2e-3, "weight_decay": 0.01},
    "rmsprop": {"lr": 1e-3, "weight_decay": 0.0},
    "adagrad": {"lr": 0.02, "weight_decay": 0.0},
    "lion": {"lr": 3e-4, "weight_decay": 0.1},
    "muon": {"lr": 0.02, "weight_decay": 0.01},
}
"""What an optimizer needs that is asked for by name.

Folders of images, which have no recipe of their own, get AdamW, which seldom diverges.
"""


def recipe(dataset: str, model: str = "cnn", **changes: Any) -> Recipe:
    """The recipe for a data set and a model.

    Args:
        dataset: one of `DATASETS`, or a folder of images.
        model: as for `Recipe`.
        changes: attributes of `Recipe` that get another value; None leaves one as it is.
    """
    if dataset and dataset not in DATASETS and Path(dataset).expanduser().is_dir():
        dataset = str(Path(dataset).expanduser().resolve())  # valid in other working folders too
    given = {name: value for name, value in changes.items() if value is not None}
    base = _BY_DATASET.get(dataset, Recipe(dataset=dataset))
    if dataset not in _BY_DATASET:
        given.setdefault("optimizer", "adamw")
    for_model = {} if model == "cnn" else {"dropout": 0.0}  # only cnn has dropout
    if model == "lenet":
        for_model |= _FOR_LENET.get(dataset, {})
    for_optimizer = _FOR_OPTIMIZER.get(given.get("optimizer", ""), {})
    return replace(base, model=model, **{**for_model, **for_optimizer, **given})


@dataclass(frozen=True)
class Splits:
    """Three data sets of the same classes and image size.

    `valid` is None if no images are held out to choose the best epoch by.
    """

    train: Any
    valid: Any
    test: Any

    def __post_init__(self) -> None:
        shapes = {image_shape(part): name for name, part in vars(self).items() if part is not None}
        if len(shapes) > 1:
            described = ", ".join(f"{name} {shape}" for shape, name in shapes.items())
            raise ValueError(f"splits need images of one size (H, W, C), got {described}: scale them by --image-size")


def load_splits(
    name: str, *, root: Root = None, size: tuple[int, int] | None = None, valid: float = 0.0, **reading: Any
) -> Splits:
    """Load the data sets to train, validate and test on.

    A folder holds ``CLASS/``, or the splits ``train/CLASS/``, ``valid/CLASS/`` and ``test/CLASS/``
    (see `data.readers.folders.split_folders`), whose classes are matched by name with those of the
    training images. If there is no test split, a fifth of the training images of each class is held
    out for it, by their names (see `data.stable_split`).

    Args:
        name: one of `DATASETS`, or a folder.
        root: where public data sets are, see `gpunet.data`.
        size: (height, width) to which a folder's images are scaled.
        valid: the share of the training images that is held out to choose the best epoch by; 0 for
            none, or if the folder has a split for it.
        reading: `background` and `unreadable` of `data.ImageFolder`.
    Raises:
        ValueError: neither a data set nor a folder has this name; or the folder has only one class,
            or no split to train on.
    """
    if name in DATASETS:
        public, test = (_public(name, part, root) for part in ("train", "test"))
        if not valid:
            return Splits(public, None, test)
        train, held_out = data.random_split(public, [1 - valid, valid])
        return Splits(train, held_out, test)
    return _folder_splits(name, valid, size=size, **reading)


def _folder_splits(name: str, valid: float, **reading: Any) -> Splits:
    folder = _folder(name)
    parts, read, hold_out = _layout(folder)
    if parts and "train" not in parts:
        raise ValueError(f"data set {name} has no split train/ to train on but {', '.join(parts)}")
    whole = read(parts.get("train", folder), **reading)
    if len(whole.classes) < 2:
        raise ValueError(f"data set {name} holds one class, {whole.classes[0]}, but training takes at least two")
    others: dict[str, Any] = {
        name: read(path, classes=whole.classes, **reading) for name, path in parts.items() if name != "train"
    }
    train: Any = whole
    if "test" not in others:
        train, others["test"] = hold_out(train, TEST_SHARE)
    if valid and "valid" in others:
        raise ValueError(f"data set {name} has a split {parts['valid'].name}/, so that --valid has nothing to hold out")
    if valid:
        train, others["valid"] = hold_out(train, valid, "validate")
    return Splits(train, others.get("valid"), others["test"])


def _layout(folder: Path) -> tuple[dict[str, Path], Callable[..., Any], Callable[..., tuple[Any, Any]]]:
    """(the folders of the splits, what reads one of them, what holds out a share of one)."""
    if shards := shard_splits(folder):
        return shards, _read_shards, _hold_out
    return split_folders(folder), data.ImageFolder, data.stable_split


def _read_shards(folder: Path, unreadable: str = "warn", **reading: Any) -> data.ImageShards:
    """The shards of a folder; images are decoded beforehand only if all must be readable, since
    `write_shards` takes images that have been decoded once, and these may be many."""
    return data.ImageShards(folder, unreadable="raise" if unreadable == "raise" else "later", **reading)


def _hold_out(dataset: Any, share: float, purpose: str = "test") -> tuple[data.Subset, data.Subset]:
    """A random share, which depends on the number of images alone, so that ``gpunet eval`` finds the
    images on which ``gpunet train`` has not trained."""
    kept, held_out = data.random_split(dataset, [1 - share, share], seed=HOLD_OUT_SEEDS[purpose])
    return kept, held_out


def load_dataset(name: str, **options: Any) -> tuple[Any, Any]:
    """(train, test) of `load_splits`, which takes the same arguments."""
    splits = load_splits(name, **options)
    return splits.train, splits.test


def load_test(
    name: str, classes: Sequence[str], *, root: Root = None, size: tuple[int, int] | None = None, **reading: Any
) -> Any:
    """The test images of `load_splits`, whose labels are positions in the classes of a checkpoint.

    Args:
        name, root, size, reading: as for `load_splits`.
        classes: of the checkpoint; some may have no images.
    Raises:
        ValueError: as `load_splits`; or a class of the data set is not among `classes`.
    """
    if name in DATASETS:
        test = _public(name, "test", root)
        labels = np.array(match_classes("eval", f"data set {name}", test.classes or (), classes), np.int64)
        images, own = test.arrays
        return data.ArrayDataset(images, labels[own], classes=classes)
    folder = _folder(name)
    parts, read, hold_out = _layout(folder)
    chosen = parts.get("test", parts.get("train", folder))
    if parts and not {"train", "test"} & set(parts):
        raise ValueError(f"data set {name} has neither a split test/ nor train/ but {', '.join(parts)}")
    whole = read(chosen, size=size, classes=classes, **reading)
    return whole if "test" in parts else hold_out(whole, TEST_SHARE)[1]


def _public(name: str, split: str, root: Root) -> data.ArrayDataset:
    if name == "digits":
        return data.digits(split=split)
    made: data.ArrayDataset = getattr(data, name)(split=split, root=root)
    return made


def _folder(name: str) -> Path:
    """The folder of this name; ValueError if there is none."""
    folder = Path(name).expanduser()
    if not name or not folder.is_dir():
        kind = "a file, not" if name and folder.exists() else f"neither {', '.join(DATASETS)} nor"
        raise ValueError(f"data set {name!r} is {kind} a folder of images")
    return folder


def image_shape(dataset: Any) -> tuple[int, int, int]:
    """(H, W, C) of the images of a data set."""
    h, w, c = np.shape(dataset[0][0])
    return h, w, c


def is_own(model: str) -> bool:
    """Whether the name of a model stands for a function of the user: ``MODULE:FUNCTION``."""
    return ":" in model


def make_model(
    recipe: Recipe, input_shape: tuple[int, int, int], classes: int, make: MakeModel | None = None
) -> nn.Module:
    """Make the recipe's network; the seed decides its initial parameters.

    Args:
        make: a function of the user, ``make(input_shape, classes)``, where the recipe names one.
    Raises:
        ValueError: the recipe names one and none is given, or it takes no dropout.
    """
    if is_own(recipe.model):
        if make is None:
            raise ValueError(f"the model is your own, {recipe.model}: give it by --model {recipe.model}")
        return make(input_shape, classes)
    if recipe.model == "cnn":
        return models.cnn(input_shape, classes, dropout=recipe.dropout)
    if recipe.dropout:
        raise ValueError(f"{recipe.model} takes no dropout option: leave it out, or take cnn")
    return getattr(models, recipe.model)(input_shape, classes)


def make_loaders(recipe: Recipe, train: Any, *others: Any, backend: Backend | None = None) -> tuple[Any, ...]:
    """Make a shuffled, augmenting loader of `train`, and plain loaders of the others.

    Args:
        backend: the device to which the data sets, of uint8 images, are uploaded; if None, the host
            makes the batches.
    """
    normalize = data.Normalize(recipe.mean, recipe.std)
    steps: list[data.Transform] = []
    if recipe.shift:
        steps.append(data.RandomShift(recipe.shift))
    if recipe.flip:
        steps.append(data.RandomHorizontalFlip())
    make = data.DataLoader if backend is None else partial(data.DeviceLoader, backend=backend)
    whole = train
    while isinstance(whole, data.Subset):
        whole = whole.dataset
    order = {"sampler": data.ShuffleBuffer(train)} if isinstance(whole, data.ImageShards) else {"shuffle": True}
    first = make(train, recipe.batch_size, transform=data.Compose([*steps, normalize]), **order)
    return first, *(make(each, 256, transform=normalize) for each in others)


def make_optimizer(recipe: Recipe, parameters: Iterable[nn.Parameter]) -> optim.Optimizer:
    """Make the recipe's optimizer; SGD has Nesterov momentum of 0.9."""
    if recipe.optimizer == "sgd":
        return optim.SGD(parameters, recipe.lr, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay)
    kinds: dict[str, Any] = {
        "adam": optim.Adam, "adamw": optim.AdamW, "rmsprop": optim.RMSprop, "adagrad": optim.Adagrad, "lion": optim.Lion,
        "muon": optim.Muon,
    }  # fmt: skip
    made: optim.Optimizer = kinds[recipe.optimizer](parameters, recipe.lr, weight_decay=recipe.weight_decay)
    return made


def make_schedule(recipe: Recipe, optimizer: optim.Optimizer, steps: int) -> Schedule:
    """Make the recipe's schedule over `steps` steps, those of all epochs together."""
    if recipe.schedule == "onecycle":
        rates = [group["lr"] for group in optimizer.groups]
        return optim.OneCycleLR(optimizer, rates, steps, final_div_factor=400)
    if recipe.schedule == "cosine":
        return optim.CosineAnnealingLR(optimizer, steps)
    return optim.ConstantLR(optimizer, factor=1.0)


def make_loss(recipe: Recipe) -> Loss:
    """Cross entropy with the recipe's label smoothing."""
    return partial(F.cross_entropy, label_smoothing=recipe.label_smoothing)
