"""Transforms: frozen dataclasses of parameters, and for each the function that computes it on the host.

A transform is called with a batch (a tuple of arrays, the images first) and with what a random choice may depend on:
each image's index in its data set, the epoch and the seed. So the choice does not depend on the place in a batch.
All of an image's choices in an epoch come from the first Philox block of its stream, counter (1, 0, index, epoch), key
(seed, "augment"): word 0 moves it by rows, word 1 by columns, the uppermost bit of word 2 mirrors it. They are integers
computed by integers, and agree bit for bit wherever they are computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Protocol

import numpy as np

from gpunet.random import PURPOSES

Batch = tuple[np.ndarray, ...]

_FACTORS = np.array([[0xD2E7470EE14C6C93], [0xCA5A826395121157]], np.uint64)


class Transform(Protocol):
    """What `DataLoader` takes as `transform`: any function of this signature."""

    def __call__(self, batch: Batch, *, indices: np.ndarray, epoch: int, seed: int) -> Batch:
        """The batch transformed, in new arrays; `indices` (B,) int64 are those of its samples in the data set."""
        ...


@dataclass(frozen=True)
class Normalize:
    """Images (N, H, W, C) to float32 of mean 0 and deviation 1; see `normalize`. The batch's other arrays stay.

    Attributes:
        mean, std: of each channel, on the scale 0 to 1; one number stands for every channel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        object.__setattr__(self, "mean", _channels("mean", mean))
        object.__setattr__(self, "std", _channels("std", std))
        if len(self.mean) != len(self.std):
            raise ValueError(f"Normalize: mean has {len(self.mean)} channels but std has {len(self.std)}")
        if min(self.std) <= 0:
            raise ValueError(f"Normalize: std must be positive, got {self.std}")

    def __call__(self, batch: Batch, *, indices: np.ndarray, epoch: int, seed: int) -> Batch:
        """The batch with its images normalized."""
        return normalize(batch[0], self.mean, self.std), *batch[1:]


@dataclass(frozen=True)
class RandomShift:
    """Images moved by up to `pixels` up, down, left or right; see `random_shift`. The batch's other arrays stay."""

    pixels: int

    def __post_init__(self) -> None:
        if not isinstance(self.pixels, Integral):
            raise TypeError(f"RandomShift: pixels must be an integer, got {self.pixels!r}")
        if self.pixels < 0:
            raise ValueError(f"RandomShift: pixels must not be negative, got {self.pixels}")

    def __call__(self, batch: Batch, *, indices: np.ndarray, epoch: int, seed: int) -> Batch:
        """The batch with its images shifted."""
        return random_shift(batch[0], self.pixels, indices=indices, epoch=epoch, seed=seed), *batch[1:]


@dataclass(frozen=True)
class RandomFlip:
    """Images mirrored left to right, every second one by chance; see `random_flip`. The batch's other arrays stay."""

    def __call__(self, batch: Batch, *, indices: np.ndarray, epoch: int, seed: int) -> Batch:
        """The batch with its images flipped."""
        return random_flip(batch[0], indices=indices, epoch=epoch, seed=seed), *batch[1:]


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
        for transform in self.transforms:
            batch = transform(batch, indices=indices, epoch=epoch, seed=seed)
        return batch


def normalize(images: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """(x - mean) / std of each channel, with x = images / 255 if they are uint8 -> float32 (N, H, W, C).

    Computed as images * a + b in float32, with a = 1 / (255 std) and b = -mean / std.

    Args:
        images: (N, H, W, C), uint8, or any float dtype on the scale 0 to 1.
        mean, std: one number a channel, or one for all.
    Raises:
        ValueError: images without four axes, or a number of channels that fits neither mean nor std.
        TypeError: images of another dtype.
    """
    n, h, w, c = _checked_shape("normalize", images)
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise TypeError(f"normalize: images are {images.dtype} but must be uint8 or float")
    if len(mean) != len(std) or len(mean) not in (1, c):
        raise ValueError(f"normalize: images have {c} channels but mean has {len(mean)} and std {len(std)}")
    unit = 255.0 if images.dtype == np.uint8 else 1.0
    scale = (1 / (unit * np.array(std))).astype(np.float32)
    shift = (-np.array(mean) / np.array(std)).astype(np.float32)
    if len(mean) > 1:  # one row of pixels: loops over the few channels of one pixel would be slow
        scale, shift = np.tile(scale, w), np.tile(shift, w)
    y = np.multiply(images.reshape(n, h, w * c), scale, dtype=np.float32, casting="same_kind")
    y += shift
    return y.reshape(n, h, w, c)


def random_shift(images: np.ndarray, pixels: int, *, indices: np.ndarray, epoch: int, seed: int) -> np.ndarray:
    """Images (N, H, W, C) of any dtype, each moved by -pixels to pixels rows and columns; what enters is 0.

    Args:
        pixels: less than H and W.
        indices: (N,) of the images in their data set.
        epoch, seed: what else decides the choices.
    Raises:
        ValueError: images without four axes, as many rows as `indices`, or room for the shift.
    """
    n, h, w, c = _checked_shape("random_shift", images, indices)
    if pixels >= min(h, w):
        raise ValueError(f"random_shift: pixels is {pixels} but must be less than the images' extents, {h}x{w}")
    words = _augment_words(indices, epoch, seed)
    rows, columns = _below(words[0], 2 * pixels + 1), _below(words[1], 2 * pixels + 1)  # where the windows begin
    padded = np.zeros((n, h + 2 * pixels, (w + 2 * pixels) * c), images.dtype)
    padded[:, pixels : pixels + h, pixels * c : (pixels + w) * c] = images.reshape(n, h, w * c)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (h, w * c), axis=(1, 2))
    return windows[np.arange(n), rows, columns * c].reshape(n, h, w, c)


def random_flip(images: np.ndarray, *, indices: np.ndarray, epoch: int, seed: int) -> np.ndarray:
    """Images (N, H, W, C) of any dtype, about half of them mirrored left to right.

    Args:
        indices: (N,) of the images in their data set.
        epoch, seed: what else decides the choices.
    Raises:
        ValueError: images without four axes, or as many rows as `indices`.
    """
    _checked_shape("random_flip", images, indices)
    chosen = np.flatnonzero(_augment_words(indices, epoch, seed)[2] >> np.uint64(63))
    y = images.copy()
    y[chosen] = images[chosen].take(np.arange(images.shape[2])[::-1], axis=2)  # twice as fast as a slice of step -1
    return y


def _below(words: np.ndarray, bound: int) -> np.ndarray:
    """Integers from 0 to bound - 1 by the upper 32 bits of the words."""
    return ((words >> np.uint64(32)) * np.uint64(bound) >> np.uint64(32)).astype(np.int64)


def _augment_words(indices: np.ndarray, epoch: int, seed: int) -> np.ndarray:
    """The first four words of each sample's stream (seed, "augment", call=index, epoch=epoch) -> uint64 (4, N)."""
    counters = np.empty((4, len(indices)), np.uint64)
    counters[0], counters[1], counters[2], counters[3] = 1, 0, indices, epoch
    return _philox(counters, (seed, PURPOSES["augment"]))


def _philox(counters: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """Philox4x64-10 of many counters (4, N) at once: numpy.random.Philox takes one, and long to make."""
    (even, odd), (k0, k1) = (counters[0::2], counters[1::2]), key
    for _ in range(10):
        high, low = _multiply(even, _FACTORS)
        even, odd = high[::-1] ^ odd ^ np.array([[k0], [k1]], np.uint64), low[::-1]
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) % 2**64, (k1 + 0xBB67AE8584CAA73B) % 2**64
    return np.stack([even, odd], axis=1).reshape(counters.shape)


def _multiply(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Upper and lower 64 bits of the products of uint64 numbers, by products of their 32-bit halves."""
    half, mask = np.uint64(32), np.uint64(0xFFFFFFFF)
    a_high, a_low, b_high, b_low = a >> half, a & mask, b >> half, b & mask
    middle = a_high * b_low + (a_low * b_low >> half)
    carry = a_low * b_high + (middle & mask)
    return a_high * b_high + (middle >> half) + (carry >> half), a * b


def _channels(argument: str, value: Any) -> tuple[float, ...]:
    numbers = np.atleast_1d(np.asarray(value))
    if numbers.dtype.kind not in "iuf":
        raise TypeError(f"Normalize: {argument} must be numbers, got {value!r}")
    if numbers.ndim != 1 or numbers.size == 0 or not np.isfinite(numbers).all():
        raise ValueError(f"Normalize: {argument} must be one finite number a channel, got {value!r}")
    return tuple(float(number) for number in numbers)


def _checked_shape(operation: str, images: np.ndarray, indices: np.ndarray | None = None) -> tuple[int, int, int, int]:
    if images.ndim != 4:
        raise ValueError(f"{operation}: images have shape {images.shape} but take 4 axes (N, H, W, C)")
    if indices is not None and np.shape(indices) != (len(images),):
        raise ValueError(
            f"{operation}: indices must have one entry for each of {len(images)} images, got shape {np.shape(indices)}"
        )
    n, h, w, c = images.shape
    return n, h, w, c
