"""`Mixup`: training on weighted means of two images."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import ClassVar

import numpy as np

from gpunet.data.transforms import Batch, uniform
from gpunet.geometry import checked_int

__all__ = ["Mixup"]


@dataclass(frozen=True)
class Mixup:
    """Mixes each image and its label with another of the batch (Zhang et al. 2018, section 2).

    The result is x = l x_i + (1 - l) x_j, and the same for the one-hot labels, with l drawn from
    Beta(alpha, alpha) for each image. So the labels become soft, float32 (N, K), which
    `functional.cross_entropy` and the metrics take. Each image draws a number; the partner j is the
    image with the next larger number in the batch. So the result depends on the images, not on
    their places in the batch. Mixup runs on the host, after Normalize: `DataLoader` takes it,
    `DeviceLoader` does not.

    Attributes:
        num_classes: K.
        alpha: above 0. With 0.2 to 0.4 most images are mixed little; with 1, l is uniform.
    """

    num_classes: int
    alpha: float = 0.2
    STREAM_BLOCK: ClassVar[int] = 5
    mixes_rows: ClassVar[bool] = True
    """Whether a row depends on the others of its batch: see `DataLoader.shares`."""

    def __post_init__(self) -> None:
        checked_int("Mixup", "num_classes", self.num_classes, least=2)
        if not (isinstance(self.alpha, Real) and 0 < self.alpha < np.inf):
            raise ValueError(f"Mixup: alpha is {self.alpha!r} but must be positive, and finite")

    def __call__(self, batch: Batch, *, indices: np.ndarray, epoch: int, seed: int) -> Batch:
        """(x, y) of float images (N, H, W, C) and integer labels (N,), mixed."""
        x, y, *others = batch
        if others or x.dtype.kind != "f":
            raise TypeError(f"Mixup: takes (float images, labels) after Normalize; got {len(batch)} arrays, {x.dtype}")
        if y.dtype.kind not in "iu" or y.ndim != 1:
            raise ValueError(f"Mixup: labels must be integers (N,), got {y.dtype} {y.shape}")
        if y.size and not 0 <= y.min() <= y.max() < self.num_classes:
            raise ValueError(f"Mixup: labels must be from 0 to {self.num_classes - 1}, got {y.min()} to {y.max()}")
        first, second, place, _ = uniform(indices, epoch, seed, self.STREAM_BLOCK)
        share = symmetric_beta(first, second, self.alpha)
        turn = np.argsort(place, kind="stable")
        partner = np.empty_like(turn)
        partner[turn] = np.roll(turn, -1)
        hot = np.eye(self.num_classes, dtype=np.float32)[y]
        return _between(x, x[partner], share), _between(hot, hot[partner], share)


def symmetric_beta(u: np.ndarray, v: np.ndarray, alpha: float) -> np.ndarray:
    """Numbers from Beta(alpha, alpha), made of uniform numbers u and v in [0, 1).

    Bailey's polar method (Devroye 1986, section IX.3.5): with T = sqrt(2 alpha (u^(-1 / alpha) -
    1)) cos(2 pi v), which has Student's distribution with 2 alpha degrees of freedom, the number is
    (1 + T / sqrt(2 alpha + T^2)) / 2. The code computes it without the overflow of this form.
    """
    q, c = u ** (1 / alpha), np.cos(2 * np.pi * v)
    along = (1 - q) * c * c
    return (1 + np.copysign(np.sqrt(along / (q + along)), c)) / 2


def _between(one: np.ndarray, other: np.ndarray, share: np.ndarray) -> np.ndarray:
    """share * one + (1 - share) * other, with one share for each row."""
    share = share.astype(one.dtype).reshape(-1, *(1,) * (one.ndim - 1))
    return share * one + (1 - share) * other
