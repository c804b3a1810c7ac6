"""Mixup: samples that lie between two."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import ClassVar

import numpy as np

from gpunet.data.transforms import Batch
from gpunet.data.warp import uniform
from gpunet.geometry import checked_int


@dataclass(frozen=True)
class Mixup:
    """Each image, and its label, moved towards another one of the batch (Zhang et al. 2018, section 2).

    x = l x_i + (1 - l) x_j and the same of the labels, 1 at a class, with l from Beta(alpha, alpha), drawn for each image; so
    the labels become soft, float32 (N, K), which `functional.cross_entropy` and the metrics take. j is the next image
    when the batch is sorted by a number that each image draws: so all depends on the images, not on their places. It runs on
    the host, behind Normalize: `DataLoader` takes it, `DeviceLoader` does not.

    Attributes:
        classes: K.
        alpha: above 0; 0.2 to 0.4 mix most images little, 1 evenly.
    """

    classes: int
    alpha: float = 0.2
    BLOCK: ClassVar[int] = 5

    def __post_init__(self) -> None:
        checked_int("Mixup", "classes", self.classes, least=2)
        if not (isinstance(self.alpha, Real) and 0 < self.alpha < np.inf):
            raise ValueError(f"Mixup: alpha is {self.alpha!r} but must be positive, and finite")

    def __call__(self, batch: Batch, *, indices: np.ndarray, epoch: int, seed: int) -> Batch:
        """(x, y) of float images (N, H, W, C) and integer labels (N,), mixed."""
        x, y, *others = batch
        if others or x.dtype.kind != "f":
            raise TypeError(
                f"Mixup: takes (images, labels) of floats, behind Normalize; got {len(batch)} arrays of {x.dtype}"
            )
        if y.dtype.kind not in "iu" or y.ndim != 1:
            raise ValueError(f"Mixup: labels must be integers (N,), got {y.dtype} {y.shape}")
        if y.size and not 0 <= y.min() <= y.max() < self.classes:
            raise ValueError(f"Mixup: labels must be from 0 to {self.classes - 1}, got {y.min()} to {y.max()}")
        first, second, place, _ = uniform(indices, epoch, seed, self.BLOCK)
        share = symmetric_beta(first, second, self.alpha)
        turn = np.argsort(place, kind="stable")
        partner = np.empty_like(turn)
        partner[turn] = np.roll(turn, -1)
        hot = np.eye(self.classes, dtype=np.float32)[y]
        return _between(x, x[partner], share), _between(hot, hot[partner], share)


def symmetric_beta(u: np.ndarray, v: np.ndarray, alpha: float) -> np.ndarray:
    """Numbers from Beta(alpha, alpha) of even ones u and v in [0, 1) (Devroye 1986, section IX.3.5, by Bailey's polar method).

    With T = sqrt(2 alpha (u^(-1 / alpha) - 1)) cos(2 pi v), of Student's distribution of 2 alpha degrees, it is
    (1 + T / sqrt(2 alpha + T^2)) / 2, here without its overflow.
    """
    q, c = u ** (1 / alpha), np.cos(2 * np.pi * v)
    along = (1 - q) * c * c
    return (1 + np.copysign(np.sqrt(along / (q + along)), c)) / 2


def _between(one: np.ndarray, other: np.ndarray, share: np.ndarray) -> np.ndarray:
    share = share.astype(one.dtype).reshape(-1, *(1,) * (one.ndim - 1))
    return share * one + (1 - share) * other
