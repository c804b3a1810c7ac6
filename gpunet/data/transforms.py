"""Transforms: frozen dataclasses of parameters for `gpunet.augmentation`, which every backend executes with the same bits.

A transform is called with a batch (a tuple of arrays, the images first) and with what a random choice may depend on:
each image's index in its data set, the epoch and the seed. So the choice does not depend on the place in a batch. The
transforms here change the images and leave the batch's other arrays. `Compose` joins them into as few passes as their
order allows: crop or shift, flips, then cut-out and normalisation. `DeviceLoader` takes what is one pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, ClassVar, Protocol

import numpy as np

from gpunet.augmentation import BORDERS, Augmentation
from gpunet.backends.host.augment import augment
from gpunet.geometry import checked_int

Batch = tuple[np.ndarray, ...]


class Transform(Protocol):
    """What `DataLoader` takes as `transform`: any function of this signature."""

    def __call__(self, batch: Batch, *, indices: np.ndarray, epoch: int, seed: int) -> Batch:
        """The batch transformed, in new arrays; `indices` (B,) int64 are those of its samples in the data set."""
        ...


class ImageTransform:
    """A transform that is a part of an `Augmentation`."""

    stage: ClassVar[int]
    """Where the part stands in the pass: after parts of a lower stage, beside those of its own."""

    def parameters(self, before: Augmentation) -> dict[str, Any]:
        """The fields that it sets, after what is there already."""
        raise NotImplementedError

    def __call__(self, batch: Batch, *, indices: np.ndarray, epoch: int, seed: int) -> Batch:
        """The batch with its images, (N, H, W, C) of any dtype, transformed."""
        return _run(type(self).__name__, compiled([self]), batch, indices, epoch, seed)


@dataclass(frozen=True)
class RandomCrop(ImageTransform):
    """A part of each image, at a place that is drawn.

    Attributes:
        size: extents of the part, in pixels: one for both, or (height, width).
        padding: pixels added on each side before; less than the image's extents.
        border: what they are: "zero", or "reflect" of the image without its outermost pixels.
    """

    size: tuple[int, int]
    padding: int = 0
    border: str = "zero"
    stage: ClassVar[int] = 0

    def __init__(self, size: int | Sequence[int], padding: int = 0, border: str = "zero") -> None:
        name = type(self).__name__
        extents = (size, size) if isinstance(size, Integral) else tuple(size) if isinstance(size, Sequence) else ()
        if len(extents) != 2:
            raise TypeError(f"{name}: size must be an integer or (height, width), got {size!r}")
        height, width = (checked_int(name, "size", extent, least=1) for extent in extents)
        object.__setattr__(self, "size", (height, width))
        object.__setattr__(self, "padding", checked_int(name, "padding", padding, least=0))
        object.__setattr__(self, "border", _border(name, border))

    def parameters(self, before: Augmentation) -> dict[str, Any]:
        """As `ImageTransform.parameters`."""
        return {"size": self.size, "padding": self.padding, "border": self.border, "random_crop": True}


class CenterCrop(RandomCrop):
    """The middle of each image; as `RandomCrop`, with nothing drawn. An odd pixel too many is left out at the end."""

    def parameters(self, before: Augmentation) -> dict[str, Any]:
        """As `ImageTransform.parameters`."""
        return {**super().parameters(before), "random_crop": False}


@dataclass(frozen=True)
class RandomShift(ImageTransform):
    """Images moved by up to `pixels` up, down, left or right.

    Attributes:
        pixels: less than the image's extents.
        border: what enters: "zero", or "reflect" of the image without its outermost pixels.
    """

    pixels: int
    border: str = "zero"
    stage: ClassVar[int] = 0

    def __post_init__(self) -> None:
        checked_int("RandomShift", "pixels", self.pixels, least=0)
        _border("RandomShift", self.border)

    def parameters(self, before: Augmentation) -> dict[str, Any]:
        """As `ImageTransform.parameters`."""
        return {"padding": self.pixels, "border": self.border, "random_crop": True}


@dataclass(frozen=True)
class RandomFlip(ImageTransform):
    """Images mirrored left to right, every second one by chance."""

    stage: ClassVar[int] = 1

    def parameters(self, before: Augmentation) -> dict[str, Any]:
        """As `ImageTransform.parameters`."""
        return {"flip": "random"}


@dataclass(frozen=True)
class AlternatingFlip(ImageTransform):
    """Images mirrored left to right: in even epochs those that `RandomFlip` mirrors in epoch 0, in odd ones the others.

    So two epochs show every image both ways (Jordan 2024, "94% on CIFAR-10 in 3.29 seconds", section 3.6).
    """

    stage: ClassVar[int] = 1

    def parameters(self, before: Augmentation) -> dict[str, Any]:
        """As `ImageTransform.parameters`."""
        return {"flip": "alternate"}


@dataclass(frozen=True)
class RandomVerticalFlip(ImageTransform):
    """Images turned upside down, in a mirror, every second one by chance."""

    stage: ClassVar[int] = 1

    def parameters(self, before: Augmentation) -> dict[str, Any]:
        """As `ImageTransform.parameters`."""
        return {"vertical": True}


@dataclass(frozen=True)
class Cutout(ImageTransform):
    """A square of each image set to 0, its centre drawn anywhere in the image (DeVries & Taylor 2017).

    After `Normalize` in a `Compose` that is the mean, as in the paper; before it, black.

    Attributes:
        size: extent of the square, in pixels; what is outside the image is not there.
    """

    size: int
    stage: ClassVar[int] = 2

    def __post_init__(self) -> None:
        checked_int("Cutout", "size", self.size, least=1)

    def parameters(self, before: Augmentation) -> dict[str, Any]:
        """As `ImageTransform.parameters`."""
        return {"cutout": self.size, "cutout_last": bool(before.mean)}


@dataclass(frozen=True)
class Normalize(ImageTransform):
    """Images, uint8 or of any float dtype, to float32 of mean 0 and deviation 1.

    (x - mean) / std of each channel, with x = images / 255 if they are uint8; computed as images * a + b in float32, with
    a = 1 / (255 std) and b = -mean / std.

    Attributes:
        mean, std: of each channel, on the scale 0 to 1; one number stands for every channel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    stage: ClassVar[int] = 2

    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        object.__setattr__(self, "mean", _channels("mean", mean))
        object.__setattr__(self, "std", _channels("std", std))
        if len(self.mean) != len(self.std):
            raise ValueError(f"Normalize: mean has {len(self.mean)} channels but std has {len(self.std)}")
        if min(self.std) <= 0:
            raise ValueError(f"Normalize: std must be positive, got {self.std}")

    def parameters(self, before: Augmentation) -> dict[str, Any]:
        """As `ImageTransform.parameters`."""
        return {"mean": self.mean, "std": self.std}


@dataclass(frozen=True)
class Compose:
    """Transforms one after another."""

    transforms: tuple[Transform, ...]

    def __init__(self, transforms: Sequence[Transform]) -> None:
        object.__setattr__(self, "transforms", tuple(transforms))
        for transform in self.transforms:
            if not callable(transform):
                raise TypeError(f"Compose: transforms must be callable, got {transform!r}")

    def __call__(self, batch: Batch, *, indices: np.ndarray, epoch: int, seed: int) -> Batch:
        """The batch after the last transform."""
        waiting: list[ImageTransform] = []  # one pass so far
        for transform in flattened(self):
            joins = isinstance(transform, ImageTransform) and _follows(transform, waiting)
            if waiting and not joins:
                batch, waiting = _run("Compose", compiled(waiting), batch, indices, epoch, seed), []
            if isinstance(transform, ImageTransform):
                waiting.append(transform)
            else:
                batch = transform(batch, indices=indices, epoch=epoch, seed=seed)
        return _run("Compose", compiled(waiting), batch, indices, epoch, seed) if waiting else batch


def flattened(transform: Transform | None) -> list[Transform]:
    """The transforms that one is made of, those inside `Compose` too."""
    if isinstance(transform, Compose):
        return [part for inner in transform.transforms for part in flattened(inner)]
    return [] if transform is None else [transform]


def compiled(transforms: Iterable[Transform], operation: str = "Compose") -> Augmentation:
    """The one pass that does what the transforms do, one after another.

    Raises:
        TypeError, in the name of `operation`: a transform that is not one of this module's.
        ValueError: an order that takes more than one pass.
    """
    made, before = Augmentation(), list[ImageTransform]()
    for transform in transforms:
        if not isinstance(transform, ImageTransform):
            raise TypeError(f"{operation}: transform {transform!r} is a function of host arrays; take gpunet.data's")
        if not _follows(transform, before):
            raise ValueError(
                f"{operation}: {type(transform).__name__} cannot follow {', '.join(type(t).__name__ for t in before)} in "
                "one pass: crop or shift first, then flips, then Cutout and Normalize, each once"
            )
        made = replace(made, **transform.parameters(made))
        before.append(transform)
    return made


def _follows(transform: ImageTransform, before: Sequence[ImageTransform]) -> bool:
    """Whether it can be done in the pass that does what is before it."""
    taken = {field for each in before for field in each.parameters(Augmentation())}
    return all(each.stage <= transform.stage for each in before) and not taken & set(
        transform.parameters(Augmentation())
    )


def _run(operation: str, made: Augmentation, batch: Batch, indices: np.ndarray, epoch: int, seed: int) -> Batch:
    return augment(batch[0], indices, made, seed=seed, epoch=epoch, operation=operation), *batch[1:]


def _border(name: str, value: Any) -> str:
    if value not in BORDERS:
        raise ValueError(f"{name}: border is {value!r} but takes one of {', '.join(BORDERS)}")
    return str(value)


def _channels(argument: str, value: Any) -> tuple[float, ...]:
    numbers = np.atleast_1d(np.asarray(value))
    if numbers.dtype.kind not in "iuf":
        raise TypeError(f"Normalize: {argument} must be numbers, got {value!r}")
    if numbers.ndim != 1 or numbers.size == 0 or not np.isfinite(numbers).all():
        raise ValueError(f"Normalize: {argument} must be one finite number a channel, got {value!r}")
    return tuple(float(number) for number in numbers)
