"""The contract of convolutions."""

from __future__ import annotations

from abc import ABC, abstractmethod

from gpunet.backends.contract.activation import Activation
from gpunet.backends.contract.arrays import Array
from gpunet.backends.contract.gate import Gate
from gpunet.geometry import Geometry


class ConvPrimitives(ABC):
    """A convolution, and the gradients of its input and of its weights."""

    @abstractmethod
    def conv2d_forward(
        self,
        x: Array,
        w: Array,
        b: Array | None = None,
        *,
        geometry: Geometry,
        activation: Activation | None = None,
        pool: Geometry | None = None,
    ) -> tuple[Array, Array | None]:
        """Convolution of x (N, H, W, C) with w (KH, KW, C // groups, O), bias b (O,), then activation, then max pool
        -> (y (N, OH, OW, O), None), or y and mask of `pool.y_shape`.

        y[n, p, q, o] = f(b[o] + sum over i, j, c of x[n, p s + i d - pad, q s + j d - pad, c] w[i, j, c, o]): the
        cross-correlation that deep learning calls a convolution. Group g joins its C // groups channels to its O // groups
        filters.

        Args:
            pool: 2x2 windows side by side over the convolution's output, `FUSED_POOL`. The mask is as
                `max_pool2d_forward` gives it for the values before bias and activation, which keep their order.
        """

    @abstractmethod
    def conv2d_input_grad(self, dy: Array, w: Array, *, geometry: Geometry, gate: Gate | None = None) -> Array:
        """Gradient of x: the full convolution of dy (N, OH, OW, O), its pixels a stride apart, with the filters rotated by
        180 degrees and their channels exchanged -> dx (N, H, W, C). With a pool in the gate, dy has the pool's shape."""

    @abstractmethod
    def conv2d_weight_grad(
        self,
        dy: Array,
        x: Array,
        *,
        geometry: Geometry,
        gate: Gate | None = None,
        out: Array | None = None,
        bias: bool = True,
        bias_out: Array | None = None,
        accumulate: bool = False,
    ) -> tuple[Array, Array | None]:
        """Gradients of w and b -> (dw (KH, KW, C // groups, O), db (O,)); db is None unless `bias`.

        Args:
            gate: as for `conv2d_input_grad`.
            out, bias_out: where to write dw and db; float32 where dy and x are of 16 bits, as the gradients are then.
            accumulate: add to what `out` and `bias_out` hold.
        """
