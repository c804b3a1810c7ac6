"""The contract of convolutions, and `Conv`: what a convolution takes beside its arrays."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from gpunet.backends.contract.activation import Activation
from gpunet.backends.contract.arrays import Array, ArrayPrimitives
from gpunet.backends.contract.gradients import NEW, Gate, Grads, Into
from gpunet.backends.contract.matmul import check_matrix_precision
from gpunet.backends.contract.norm import PartMoments
from gpunet.geometry import Geometry, Shape4

__all__ = ["FUSED_POOL", "Conv"]

FUSED_POOL = (2, 2)
"""Window, and stride, of the max pool that can be fused behind a convolution."""


@dataclass(frozen=True, slots=True)
class Conv:
    """A convolution without its arrays: where its windows lie, and what is fused behind it.

    The order is convolution, bias, residual, activation, pool. The pool's mask is that of the values
    before bias and activation, for these keep the order of the values in a window; a residual does
    not, so it is not fused together with a pool.

    Raises:
        ValueError: a pool that cannot be fused behind this convolution; an unknown precision.
    """

    geometry: Geometry
    activation: Activation | None = None
    pool: Geometry | None = None
    """A max pool of `FUSED_POOL` windows side by side over the convolution's output."""
    precision: str = "float32"
    """The least accuracy with which float32 operands are multiplied, forward and backward, see
    `MATRIX_PRECISIONS`."""

    def __post_init__(self) -> None:
        check_matrix_precision("conv2d", self.precision)
        pool, y_shape = self.pool, self.geometry.y_shape
        if pool is None or (pool.x_shape == y_shape and pool.window == pool.stride == FUSED_POOL and not pool.padded):
            return
        raise ValueError(f"conv2d: pool is {pool} but only 2x2 windows side by side over {y_shape} are fused")

    @property
    def y_shape(self) -> Shape4:
        """Shape of the result: (N, OH, OW, O), or the pool's."""
        return self.geometry.y_shape if self.pool is None else self.pool.y_shape

    def gate(self, y: Array, mask: Array | None) -> Gate | None:
        """The gate that takes dy back through activation and pool; None if neither is fused.

        Args:
            y, mask: what `conv2d_forward` returned.
        """
        if self.activation is None:
            return None if mask is None else Gate(None, None, mask)
        return Gate(y, self.activation, mask)


class ConvPrimitives(ArrayPrimitives):
    """A convolution, and the gradients of its input and of its weights."""

    @abstractmethod
    def conv2d_forward(
        self, x: Array, w: Array, b: Array | None, conv: Conv, residual: Array | None = None
    ) -> tuple[Array, Array | None]:
        """Convolution, bias, residual, activation f and max pool.

        With x (N, H, W, C), w (KH, KW, C // groups, O), b (O,), stride s and dilation d,

            y[n, p, q, o] = f(b[o] + residual[n, p, q, o] + sum over i, j, c of
                x[n, p s + i d - pad, q s + j d - pad, c] w[i, j, c, o]),

        which is the cross-correlation that deep learning calls a convolution. Each group connects
        its own C // groups channels with its own O // groups filters.

        Args:
            residual: of y's shape and dtype, or None; with a pool it must be None.
        Returns:
            y of `conv.y_shape`, and the pool's mask as `max_pool2d_forward` gives it, or None
            without a pool.
        """

    def conv2d_forward_with_moments(
        self, x: Array, w: Array, b: Array | None, conv: Conv, residual: Array | None = None
    ) -> tuple[Array, Array | None, PartMoments | None]:
        """`conv2d_forward` for a batch norm that follows -> (y, mask, the moments of y's channels).

        The moments are None where a backend, or the kernel for these shapes, leaves none.
        """
        return (*self.conv2d_forward(x, w, b, conv, residual), None)

    def open_pool(self, dy: Array, conv: Conv, gate: Gate | None) -> tuple[Array, Gate | None]:
        """Take dy back through a fused pool, for the gradients of the input and of the weights.

        Each of them takes dy through a gate's pool by itself. This does so for both at once, where a
        backend is faster so.
        Returns:
            The dy and the gate to give to both.
        """
        return dy, gate

    @abstractmethod
    def conv2d_input_grad(self, dy: Array, w: Array, conv: Conv, gate: Gate | None = None) -> Array:
        """Gradient of x: the full convolution of dy with the filters rotated by 180 degrees.

        The rows and columns of dy are spread a stride apart, and input and output channels of the
        filters change places. dx is (N, H, W, C).

        Args:
            dy: of `conv.y_shape`; of `conv.geometry.y_shape` without a gate.
            gate: applied to dy first, see `Conv.gate`. Without one, only the geometry and the
                precision of `conv` are read. CUDA rounds what it takes back through a pool to dy's
                dtype.
        """

    def conv_transpose2d(self, x: Array, w: Array, b: Array | None, conv: Conv) -> Array:
        """Transposed convolution: `conv2d_input_grad` of x, of `conv.geometry.y_shape`, with a bias.

        Args:
            b: (C,), added to every pixel of the result (N, H, W, C), or None.
        """
        y = self.conv2d_input_grad(x, w, conv)
        return y if b is None else self.binary("add", y, b, out=y)

    @abstractmethod
    def conv2d_weight_grad(self, dy: Array, x: Array, conv: Conv, gate: Gate | None = None, into: Into = NEW) -> Grads:
        """Gradients of w and b -> (dw (KH, KW, C // groups, O), db (O,) or None).

            dw[i, j, c, o] = sum over n, p, q of
                x[n, p s + i d - pad, q s + j d - pad, c] dy[n, p, q, o]

        db is the sum of dy over its pixels. Both are float32 where dy and x are of 16 bits.

        Args:
            dy, gate: as for `conv2d_input_grad`.
            into: where dw and db go, and whether db is computed.
        """
