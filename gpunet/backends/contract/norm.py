"""The contract of normalisations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from gpunet.backends.contract.activation import Activation
from gpunet.backends.contract.arrays import Array


class Moments(NamedTuple):
    """What a normalisation normalised by: batch norm by the batch's in training, by the running ones in inference."""

    mean: Array
    """(C,); of group norm (N, groups)."""
    variance: Array
    """The same, biased: the sum of squares over n."""


class NormPrimitives(ABC):
    """Batch and group normalisation."""

    @abstractmethod
    def batch_norm_forward(
        self,
        x: Array,
        gamma: Array | None,
        beta: Array | None,
        running_mean: Array,
        running_var: Array,
        *,
        momentum: float,
        eps: float,
        training: bool,
        activation: Activation | None = None,
        residual: Array | None = None,
    ) -> tuple[Array, Moments]:
        """(y, saved): y = f(gamma (x - mean) / sqrt(variance + eps) + beta + residual), by channel (Ioffe & Szegedy 2015).

        x, residual and y are (…, C), the parameters and statistics (C,); gamma None is 1, beta None 0. With `training` the
        moments are those of the n elements that share a channel, the variance biased, and the running ones are
        updated in place, on the device: running = (1 - momentum) running + momentum batch, where the batch's variance is the
        unbiased one, over n - 1. Without, the running ones normalise and are saved themselves. Statistics are float32 or wider.
        """

    @abstractmethod
    def batch_norm_backward(
        self,
        dy: Array,
        x: Array,
        y: Array | None,
        gamma: Array | None,
        saved: Moments,
        *,
        eps: float,
        training: bool,
        activation: Activation | None = None,
        residual: bool = False,
        gamma_out: Array | None = None,
        beta_out: Array | None = None,
        accumulate: bool = False,
    ) -> tuple[Array, Array, Array, Array | None]:
        """(dx, dgamma, dbeta, dresidual), of the shapes of what they are the gradients of.

        With g = f'(y) dy, h = (x - mean) / sqrt(variance + eps) and sums by channel:
        dbeta = sum of g; dgamma = sum of g h; dresidual = g, None unless `residual` (dy itself without an activation);
        dx = gamma / sqrt(variance + eps) (g - (dbeta + h dgamma) / n), without the last term unless `training`: running
        moments do not depend on x.

        Args:
            y: the output; read only with an activation.
            gamma_out, beta_out: where to write dgamma and dbeta.
            accumulate: add to what `gamma_out` and `beta_out` hold.
        """

    @abstractmethod
    def group_norm_forward(
        self, x: Array, gamma: Array | None, beta: Array | None, *, groups: int, eps: float
    ) -> tuple[Array, Moments]:
        """(y, saved): y = gamma (x - mean) / sqrt(variance + eps) + beta of x (N, …, C) (Wu & He 2018, equation 1).

        The moments, (N, groups) and float32 or wider, are of a sample's positions and the C // groups neighbouring channels of
        a group; gamma and beta are (C,), None for 1 and 0.
        """

    @abstractmethod
    def group_norm_backward(
        self,
        dy: Array,
        x: Array,
        gamma: Array | None,
        saved: Moments,
        *,
        groups: int,
        eps: float,
        gamma_out: Array | None = None,
        beta_out: Array | None = None,
        accumulate: bool = False,
    ) -> tuple[Array, Array, Array]:
        """(dx, dgamma, dbeta).

        With h = (x - mean) / sqrt(variance + eps) and d = gamma dy: dbeta and dgamma are the sums of dy and of dy h by channel;
        dx = (d - mean of d - h mean of d h) / sqrt(variance + eps), with means over a group of a sample.

        Args:
            gamma_out, beta_out, accumulate: as for `batch_norm_backward`.
        """
