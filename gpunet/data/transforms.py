"""Transforms: frozen dataclasses of parameters for `gpunet.augmentation`.

Every backend executes them with the same bits. A transform is called with a batch (a tuple of
arrays, the images first) and with everything that a random choice may depend on: each image's index
in its data set, the epoch and the seed. So a choice does not depend on the image's place in the
batch. The transforms here change the images and leave the batch's other arrays as they are.
`Compose` joins neighbours into one pass as far as their order allows: crop or shift, flips, then
cut-out and normalisation. `DeviceLoader` takes transforms that fit into one pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, ClassVar, Protocol

import numpy as np

from gpunet import random
from gpunet.augmentation import BORDERS, Augmentation
from gpunet.backends.numpy.augment import augment
from gpunet.geometry import checked_int

__all__ = [
    "AlternatingFlip", "CenterCrop", "Compose", "Cutout", "Normalize", "RandomCrop", "RandomHorizontalFlip",
    "RandomShift", "RandomVerticalFlip", "Transform",
]  # fmt: skip

Batch = tuple[np.ndarray, ...]


class Transform(Protocol):
    """The protocol of ``transform=`` in `DataLoader`, such as a function of these arguments.

    ``transform(batch, indices=…, epoch=…, seed=…)`` takes a tuple of arrays of B rows, images first,
    and the samples' positions (B,), and returns a tuple of new arrays.
    """

    def __call__(self, batch: Batch, *, indices: np.ndarray, epoch: int, seed: int) -> Batch:
        """The batch transformed, in new arrays.

        Args:
            batch: B images, and other arrays of B rows.
            indices: (B,) int64, the samples' positions in the data set.
        """
        ...


class ImageTransform:
    """A transform that is a part of an `Augmentation`."""

    stage: ClassVar[int]
    """The part's place in the pass: parts run in the order of their stages."""

    def _settings(self, before: Augmentation) -> dict[str, Any]:
        """The fields of `Augmentation` that this transform sets, given what is set before."""
        raise NotImplementedError

    def __call__(self, batch: Batch, *, indices: np.ndarray, epoch: int, seed: int) -> Batch:
        """The batch with its images, (N, H, W, C) of any dtype, transformed."""
        return _run(type(self).__name__, compiled([self]), batch, indices, epoch, seed)


@dataclass(frozen=True)
class RandomCrop(ImageTransform):
    """Cuts a part out of each image, at a random place.

    Attributes:
        size: height and width of the part in pixels: one integer for both, or (height, width).
        padding: pixels added on each side before; less than the image's height and width.
        border: the added pixels: "zero", or "reflect" for the mirrored image without its outermost
            pixels.
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
        object.__setattr__(self, "border", check_border(name, border))

    def _settings(self, before: Augmentation) -> dict[str, Any]:
        return {"size": self.size, "padding": self.padding, "border": self.border, "random_crop": True}


class CenterCrop(RandomCrop):
    """Cuts out the middle of each image; the arguments are `RandomCrop`'s.

    Where an odd number of pixels is left over, the extra one is cut off at the end.
    """

    def _settings(self, before: Augmentation) -> dict[str, Any]:
        return {**super()._settings(before), "random_crop": False}


@dataclass(frozen=True)
class RandomShift(ImageTransform):
    """Moves each image by up to `pixels` up or down and left or right.

    Attributes:
        pixels: less than the image's height and width.
        border: the pixels that enter: "zero", or "reflect" for the mirrored image without its
            outermost pixels.
    """

    pixels: int
    border: str = "zero"
    stage: ClassVar[int] = 0

    def __post_init__(self) -> None:
        checked_int("RandomShift", "pixels", self.pixels, least=0)
        check_border("RandomShift", self.border)

    def _settings(self, before: Augmentation) -> dict[str, Any]:
        return {"padding": self.pixels, "border": self.border, "random_crop": True}


@dataclass(frozen=True)
class RandomHorizontalFlip(ImageTransform):
    """Mirrors each image left to right with probability 1/2."""

    stage: ClassVar[int] = 1

    def _settings(self, before: Augmentation) -> dict[str, Any]:
        return {"flip": "random"}


@dataclass(frozen=True)
class AlternatingFlip(ImageTransform):
    """Mirrors each image left to right in every second epoch.

    Even epochs mirror the images that `RandomHorizontalFlip` mirrors in epoch 0, odd epochs the
    others. So two epochs show every image both ways (Jordan 2024, "94% on CIFAR-10 in 3.29
    seconds", section 3.6).
    """

    stage: ClassVar[int] = 1

    def _settings(self, before: Augmentation) -> dict[str, Any]:
        return {"flip": "alternate"}


@dataclass(frozen=True)
class RandomVerticalFlip(ImageTransform):
    """Mirrors each image top to bottom with probability 1/2."""

    stage: ClassVar[int] = 1

    def _settings(self, before: Augmentation) -> dict[str, Any]:
        return {"vertical": True}


@dataclass(frozen=True)
class Cutout(ImageTransform):
    """Sets a square of each image to 0, centred on a random pixel (DeVries & Taylor 2017).

    After `Normalize` in a `Compose`, 0 is the mean, as in the paper; before it, 0 is black.

    Attributes:
        size: side of the square in pixels; the part of it outside the image has no effect.
    """

    size: int
    stage: ClassVar[int] = 2

    def __post_init__(self) -> None:
        checked_int("Cutout", "size", self.size, least=1)

    def _settings(self, before: Augmentation) -> dict[str, Any]:
        return {"cutout": self.size, "cutout_last": bool(before.mean)}


@dataclass(frozen=True)
class Normalize(ImageTransform):
    """Scales images, uint8 or of any float dtype, to float32 of mean 0 and standard deviation 1.

    The result is (x - mean) / std for each channel, with x = images / 255 if they are uint8. It is
    computed as images * a + b in float32, with a = 1 / (255 std) and b = -mean / std.

    Attributes:
        mean, std: of each channel, on the scale from 0 to 1; one number stands for every channel.
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

    def _settings(self, before: Augmentation) -> dict[str, Any]:
        return {"mean": self.mean, "std": self.std}


@dataclass(frozen=True)
class Compose:
    """Applies transforms one after another, in as few passes as their order allows."""

    transforms: tuple[Transform, ...]

    def __init__(self, transforms: Sequence[Transform]) -> None:
        object.__setattr__(self, "transforms", tuple(transforms))
        for transform in self.transforms:
            if not callable(transform):
                raise TypeError(f"Compose: transforms must be callable, got {transform!r}")

    def __call__(self, batch: Batch, *, indices: np.ndarray, epoch: int, seed: int) -> Batch:
        """The batch after the last transform."""
        waiting: list[ImageTransform] = []  # transforms that will run as one pass
        for transform in flattened(self):
            joins = isinstance(transform, ImageTransform) and _follows(transform, waiting)
            if waiting and not joins:
                batch, waiting = _run("Compose", compiled(waiting), batch, indices, epoch, seed), []
            if isinstance(transform, ImageTransform):
                waiting.append(transform)
            else:
                batch = transform(batch, indices=indices, epoch=epoch, seed=seed)
        return _run("Compose", compiled(waiting), batch, indices, epoch, seed) if waiting else batch


def uniform(indices: np.ndarray, epoch: int, seed: int, block: int) -> np.ndarray:
    """Four uniform numbers in [0, 1) for each image, float64 (4, N).

    They come from one Philox block of each image's stream. Each transform has blocks of its own,
    from `STREAM_BLOCK` on, so that no two transforms draw the same numbers.
    """
    return (random.sample_words(seed, "augment", indices, epoch, block) >> np.uint64(11)) * 2.0**-53


def check_border(operation: str, border: str, known: Sequence[str] = BORDERS) -> str:
    """The name of a border; ValueError for an unknown one."""
    if border not in known:
        raise ValueError(f"{operation}: border is {border!r} but takes one of {', '.join(known)}")
    return border


def check_pixels(operation: str, images: np.ndarray) -> None:
    """Raises a ValueError unless images are uint8 or floats, (N, H, W, C)."""
    if images.ndim != 4 or (images.dtype != np.uint8 and images.dtype.kind != "f"):
        raise ValueError(f"{operation}: images are {images.dtype} {images.shape} but take uint8 or float (N, H, W, C)")


def flattened(transform: Transform | None) -> list[Transform]:
    """The transforms that `transform` consists of, with every `Compose` replaced by its parts."""
    if isinstance(transform, Compose):
        return [part for inner in transform.transforms for part in flattened(inner)]
    return [] if transform is None else [transform]


def compiled(transforms: Iterable[Transform], operation: str = "Compose") -> Augmentation:
    """The `Augmentation` that does in one pass what the transforms do one after another.

    Raises:
        TypeError: a transform that is not an `ImageTransform`; messages begin with `operation`.
        ValueError: an order of transforms that needs more than one pass.
    """
    augmentation, before = Augmentation(), list[ImageTransform]()
    for transform in transforms:
        if not isinstance(transform, ImageTransform):
            raise TypeError(f"{operation}: transform {transform!r} takes host arrays; use one of gpunet.data's")
        if not _follows(transform, before):
            raise ValueError(
                f"{operation}: {type(transform).__name__} cannot follow {', '.join(type(t).__name__ for t in before)} in "
                "one pass: crop or shift first, then flips, then Cutout and Normalize, each once"
            )
        augmentation = replace(augmentation, **transform._settings(augmentation))
        before.append(transform)
    return augmentation


def _follows(transform: ImageTransform, before: Sequence[ImageTransform]) -> bool:
    """Whether the transform can join the pass of the transforms before it."""
    taken = {field for each in before for field in each._settings(Augmentation())}
    new = transform._settings(Augmentation())
    return all(each.stage <= transform.stage for each in before) and taken.isdisjoint(new)


def _run(operation: str, augmentation: Augmentation, batch: Batch, indices: np.ndarray, epoch: int, seed: int) -> Batch:
    return augment(batch[0], indices, augmentation, seed=seed, epoch=epoch, operation=operation), *batch[1:]


def _channels(argument: str, value: Any) -> tuple[float, ...]:
    """One number, or one for each channel, as a tuple of finite floats."""
    numbers = np.atleast_1d(np.asarray(value))
    if numbers.dtype.kind not in "iuf":
        raise TypeError(f"Normalize: {argument} must be numbers, got {value!r}")
    if numbers.ndim != 1 or numbers.size == 0 or not np.isfinite(numbers).all():
        raise ValueError(f"Normalize: {argument} must be one finite number per channel, got {value!r}")
    return tuple(float(number) for number in numbers)
