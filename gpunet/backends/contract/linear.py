"""The contract of dense layers, whose launches a backend may join with others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from gpunet.backends.contract.activation import Activation
from gpunet.backends.contract.arrays import Array
from gpunet.backends.contract.conv import Conv
from gpunet.backends.contract.gradients import NEW, Gate, Grads, Into
from gpunet.backends.contract.loss import UNWEIGHTED, CrossEntropy, LossParts
from gpunet.geometry import Geometry

__all__ = ["LinearGrad"]


class LinearGrad(NamedTuple):
    """What the gradients of the weight and the bias of a dense layer are computed from."""

    dy: Array
    """(N, O)."""
    x: Array
    """(N, I)."""
    gate: Gate | None = None
    """Applied to dy first. It has no mask."""
    into: Into = NEW
    """Where dw (I, O) and db (O,) go, and whether db is computed."""
    precision: str = "float32"
    """The least accuracy with which dy and x are multiplied, see `MATRIX_PRECISIONS`."""

    @property
    def w_shape(self) -> tuple[int, int]:
        """(I, O)."""
        return self.x.shape[1], self.dy.shape[1]

    def as_conv(self) -> tuple[Array, Array, Conv, Gate | None, Into]:
        """The arguments of `conv2d_weight_grad` for the same layer as a 1x1 convolution."""
        dy, x, gate, into, precision = self
        conv = _conv_of_one_pixel(x.shape[0], x.shape[1], dy.shape[1], precision)
        if gate is not None:
            gate = gate._replace(y=gate.y.reshape(conv.y_shape))
        if into.weight is not None:
            into = into._replace(weight=into.weight.reshape(conv.geometry.w_shape))
        return dy.reshape(conv.y_shape), x.reshape(conv.geometry.x_shape), conv, gate, into

    def deliver(self, dw: Array, db: Array | None) -> Grads:
        """The gradients of `as_conv` in the layer's shapes; `into.weight` itself where there is one."""
        return (dw.reshape(self.w_shape) if self.into.weight is None else self.into.weight), db


@lru_cache(maxsize=1024)
def _conv_of_one_pixel(images: int, inputs: int, outputs: int, precision: str) -> Conv:
    """A dense layer as a 1x1 convolution of images of one pixel."""
    return Conv(Geometry.conv((images, 1, 1, inputs), (1, 1, inputs, outputs)), precision=precision)


class LinearPrimitives(ABC):
    """Dense layers, also together with the loss behind them, and the gradients of their weights."""

    @abstractmethod
    def linear_forward(
        self, x: Array, w: Array, b: Array | None, activation: Activation | None = None, *, precision: str = "float32"
    ) -> Array:
        """y (N, O) = f(x w + b), with x (N, I), w (I, O) and b (O,).

        Args:
            precision: the least accuracy with which x and w are multiplied, see `MATRIX_PRECISIONS`.
        """

    @abstractmethod
    def linear_cross_entropy(
        self, x: Array, w: Array, b: Array | None, labels: Array, options: CrossEntropy = UNWEIGHTED, *,
        needs_dx: bool = True, precision: str = "float32",
    ) -> tuple[Array, LossParts, Array | None]:  # fmt: skip
        """(logits, (loss, dlogits, correct), dx): `linear_forward`, the `softmax_cross_entropy` of
        its result and, if needed, the product of dlogits and the transposed w. The numbers are
        those of these primitives one by one."""

    def joins_loss(self, x_shape: tuple[int, ...], w_shape: tuple[int, ...]) -> bool:
        """Whether `linear_cross_entropy` is faster for x and w than the primitives one by one."""
        return False

    @abstractmethod
    def linear_weight_grads(self, layers: Sequence[LinearGrad]) -> list[Grads]:
        """The gradients (dw (I, O), db (O,) or None) of each layer.

            dw[i, o] = sum over n of x[n, i] dy[n, o]

        db is the sum of dy over its rows. Both are float32 where dy and x are of 16 bits. A layer
        gets the same numbers alone and beside others, whose results must not share memory.
        """

    def shares_launch(self, layer: LinearGrad) -> bool:
        """Whether `linear_weight_grads` is faster for this layer and other such layers at once."""
        return False
