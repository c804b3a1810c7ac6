"""The contract of locally connected layers."""

from __future__ import annotations

from abc import ABC, abstractmethod

from gpunet.backends.contract.arrays import Array
from gpunet.geometry import Geometry


class LocalPrimitives(ABC):
    """A convolution whose filters belong to one output pixel each."""

    @abstractmethod
    def local_conv2d_forward(self, x: Array, w: Array, b: Array | None = None, *, geometry: Geometry) -> Array:
        """y (N, OH, OW, O): a convolution whose filters are each output pixel's own, w (OH, OW, KH, KW, C, O), b (OH, OW, O).

        y[n, p, q, o] = b[p, q, o] + sum over i, j, c of x[n, p s + i d - pad, q s + j d - pad, c] w[p, q, i, j, c, o].
        """

    @abstractmethod
    def local_conv2d_input_grad(self, dy: Array, w: Array, *, geometry: Geometry) -> Array:
        """dx (N, H, W, C) of dy (N, OH, OW, O)."""

    @abstractmethod
    def local_conv2d_weight_grad(
        self,
        dy: Array,
        x: Array,
        *,
        geometry: Geometry,
        out: Array | None = None,
        bias: bool = True,
        bias_out: Array | None = None,
        accumulate: bool = False,
    ) -> tuple[Array, Array | None]:
        """Gradients of w and b, of their shapes; the rest as for `conv2d_weight_grad`."""
