"""The contract of normalisations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from gpunet.backends.contract.activation import Activation
from gpunet.backends.contract.arrays import Array
from gpunet.backends.contract.gradients import NEW, Into

__all__ = ["BatchNorm", "BatchNormGrads", "BatchRanks", "GroupNorm", "Moments", "PartMoments", "check_eps"]


class Moments(NamedTuple):
    """A mean and a variance per channel, or per group of channels of each sample."""

    mean: Array
    """(C,) in batch normalisation, (N, num_groups) in group normalisation."""
    variance: Array
    """Of the mean's shape. A variance that normalises is biased: the sum of squares over n."""


class PartMoments(NamedTuple):
    """The moments of parts of a batch, which the convolution that computed it has left."""

    parts: Array
    """(parts, 2, C) float32: of each part the means, and the summed squared distances from them."""
    rows: int
    """Elements of a channel in a part; the last one may have fewer."""


class BatchRanks(Protocol):
    """The ranks that share a batch, as one of them sees them."""

    @property
    def contributes(self) -> bool:
        """Whether this rank's elements are part of the batch; one that has no share computes as if it had."""

    def add(self, array: Array) -> None:
        """Add up an array of the backend over the ranks, in place. All of them must call it alike."""


@dataclass(frozen=True, slots=True)
class BatchNorm:
    """What batch normalisation takes beside its arrays.

    Raises:
        ValueError: a negative eps.
    """

    training: bool
    """Whether to normalise by the batch's own moments and to update the running ones."""
    momentum: float = 0.1
    """The share of the batch in the updated running moments, from 0 to 1."""
    eps: float = 1e-5
    """Added to the variance, at least 0."""
    activation: Activation | None = None
    """Applied to the result in the same pass."""
    residual: bool = False
    """Whether there was a residual, whose gradient the backward pass gives."""
    left: PartMoments | None = None
    """The moments of x, if the same backend's `conv2d_forward_with_moments` has left them; read in
    training."""
    ranks: BatchRanks | None = None
    """Those that share the batch, and its moments in training; None where x is the whole batch."""

    def __post_init__(self) -> None:
        check_eps("batch_norm", self.eps)


@dataclass(frozen=True, slots=True)
class GroupNorm:
    """What group normalisation takes beside its arrays.

    Raises:
        ValueError: a negative eps.
    """

    num_groups: int
    """How many groups the C channels form; it divides C."""
    eps: float = 1e-5
    """Added to the variance, at least 0."""

    def __post_init__(self) -> None:
        check_eps("group_norm", self.eps)


def check_eps(operation: str, eps: float) -> None:
    """Raise ValueError unless `eps` is at least 0."""
    if not eps >= 0:
        raise ValueError(f"{operation}: eps is {eps} but must be at least 0")


BatchNormGrads = tuple[Array, Array, Array, Array | None]
"""Gradients of x, w, b and the residual."""


class NormPrimitives(ABC):
    """Batch and group normalisation."""

    @abstractmethod
    def batch_norm_forward(
        self, x: Array, w: Array | None, b: Array | None, running: Moments, norm: BatchNorm, residual: Array | None
    ) -> tuple[Array, Moments]:
        """Normalise each channel by its moments -> (y, saved).

            y = f(w (x - mean) / sqrt(variance + eps) + b + residual), with the activation f

        (Ioffe & Szegedy 2015, algorithms 1 and 2). In training the moments are those of the n
        elements that share a channel, with the biased variance, and the running moments are
        updated in place, on the device: running = (1 - momentum) running + momentum batch, where
        the batch's variance is the unbiased one, over n - 1. In inference the running moments
        normalise, and they are also what is saved. Moments are float32 or wider.

        Where ranks share the batch, the elements of all of them are meant, and each rank gets the
        same moments. They tell each other two things: sums of x, or what stands for them, with the
        counts of elements; then squared distances from the mean of all, since a difference of mean
        squares would lose digits. They do it in float64 on a CPU, and in the dtype of the moments on
        CUDA.

        Args:
            x: (…, C).
            w, b: (C,); None stands for 1 and 0.
            running: (C,), read in inference, updated in training.
            residual: of x's shape, or None.
        """

    @abstractmethod
    def batch_norm_backward(
        self, dy: Array, x: Array, y: Array | None, w: Array | None, b: Array | None, saved: Moments, norm: BatchNorm,
        into: Into = NEW,
    ) -> BatchNormGrads:  # fmt: skip
        """Gradients of batch normalisation -> (dx, dw, db, dresidual), each of its input's shape.

        With g = f'(y) dy, h = (x - mean) / sqrt(variance + eps) and sums over the n elements of a
        channel:

            db = sum of g
            dw = sum of g h
            dx = w / sqrt(variance + eps) (g - (db + h dw) / n)
            dresidual = g, or dy itself if there is no activation; None without a residual

        In inference dx lacks its last term, because the running moments do not depend on x.

        Where ranks share the batch, dw and db are this rank's terms, but in dx they and n are those
        of all ranks, which tell each other their terms. Elements that do not count have no last
        term in dx, since no moment depends on them.

        Args:
            y: the output; read only if there is an activation.
            b: a backend may compute the sign of y again from x, w and b instead of reading y, if
                the activation is a ReLU and there was no residual.
            saved: the moments that the forward pass returned.
            into: where dw and db go. Both are always computed, because dx takes them.
        """

    @abstractmethod
    def group_norm_forward(self, x: Array, w: Array | None, b: Array | None, norm: GroupNorm) -> tuple[Array, Moments]:
        """Normalise the groups of channels of each sample -> (y, saved).

            y = w (x - mean) / sqrt(variance + eps) + b

        (Wu & He 2018, equation 1). The moments, (N, num_groups) and float32 or wider, are taken
        over the positions of a sample and the C // num_groups neighbouring channels of a group.

        Args:
            x: (N, …, C).
            w, b: (C,); None stands for 1 and 0.
        """

    @abstractmethod
    def group_norm_backward(
        self, dy: Array, x: Array, w: Array | None, saved: Moments, norm: GroupNorm, into: Into = NEW
    ) -> tuple[Array, Array, Array]:
        """Gradients of group normalisation -> (dx, dw, db).

        With h = (x - mean) / sqrt(variance + eps), d = w dy, sums over the elements of a channel
        and means over a group of a sample:

            db = sum of dy
            dw = sum of dy h
            dx = (d - mean of d - h mean of d h) / sqrt(variance + eps)

        Args:
            saved, into: as for `batch_norm_backward`.
        """
