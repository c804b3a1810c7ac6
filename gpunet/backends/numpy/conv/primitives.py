"""The convolution primitives of `NumpyBackend`: blocks of images on all threads."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

from gpunet.backends.contract import NEW, Array, Conv, Gate, Grads, Into, Product
from gpunet.backends.host import memory
from gpunet.backends.host.arrays import deliver, deliver_both
from gpunet.backends.numpy.conv.algorithm import ConvAlgorithm
from gpunet.backends.numpy.conv.registry import choose, choose_input_grad
from gpunet.backends.numpy.conv.subpixel import convolve_back, rotate
from gpunet.backends.numpy.gate import open_gate, slice_gate
from gpunet.backends.numpy.sums import Total
from gpunet.backends.numpy.threads import PARTS, PRODUCTS, NumpyThreads
from gpunet.geometry import Geometry

FEW_CHANNELS, FEW_PRODUCTS = 16, 8
"""Channels below which so many multiply-adds take as long as one element elsewhere: see `PRODUCTS`."""


class NumpyConv(NumpyThreads):
    """A convolution, and the gradients of its input and of its weights."""

    def conv2d_forward(
        self, x: Array, w: Array, b: Array | None, conv: Conv, residual: Array | None = None
    ) -> tuple[Array, Array | None]:
        y = memory.empty(conv.y_shape, x.dtype)
        mask = None if conv.pool is None else memory.empty(conv.y_shape, conv.pool.mask_dtype)
        kind = choose(conv.geometry)
        filters = self._alone(partial(kind.prepared, w))

        def work(algorithm: ConvAlgorithm, i: int, j: int) -> None:
            own_mask, own_residual = (None if a is None else a[i:j] for a in (mask, residual))
            algorithm.forward(x[i:j], filters, b, y[i:j], own_mask, own_residual)

        self._in_blocks(kind, conv, x.dtype, work, most=kind.most_parts(conv.geometry))
        return y, mask

    def conv2d_input_grad(self, dy: Array, w: Array, conv: Conv, gate: Gate | None = None) -> Array:
        g = conv.geometry
        if g.pointwise and (gate is None or gate.mask is None):
            flat = g.pixels, g.filters
            flat_gate = None if gate is None or gate.y is None else gate._replace(y=gate.y.reshape(flat))
            product = Product(transpose_b=True, gate=flat_gate)
            return self.matmul(dy.reshape(flat), w[0, 0], product).reshape(g.x_shape)
        dx = memory.empty(g.x_shape, dy.dtype)
        own, convolution = choose_input_grad(g)
        if convolution is not None:
            own = choose(convolution)
            w = self._alone(lambda: own.prepared(rotate(w, g.groups, g.stride)))

        def work(algorithm: ConvAlgorithm, i: int, j: int) -> None:
            part = slice_gate(gate, i, j)
            if convolution is None:
                algorithm.input_grad(dy[i:j], w, part, dx[i:j])
            else:
                convolve_back(algorithm, open_gate(dy[i:j], part, conv.pool), w, g, dx[i:j])

        computed = conv if convolution is None else Conv(convolution)
        self._in_blocks(own, computed, dy.dtype, work, most=own.most_parts(computed.geometry))
        return dx

    def conv2d_weight_grad(self, dy: Array, x: Array, conv: Conv, gate: Gate | None = None, into: Into = NEW) -> Grads:
        g = conv.geometry
        if g.pointwise:
            return self._pointwise_weight_grad(open_gate(dy, gate, conv.pool), x, conv, into)

        def begin() -> tuple[Total, Total | None]:
            return Total(g.w_shape, x.dtype), Total((g.filters,), x.dtype) if into.needs_bias else None

        def work(algorithm: ConvAlgorithm, i: int, j: int, dw: Total, db: Total | None) -> None:
            algorithm.weight_grad(dy[i:j], x[i:j], slice_gate(gate, i, j), dw, db)

        kind = choose(g)
        # Each part has its own dw, which takes a pass over memory
        most = min(kind.most_parts(g), max(2, prod(g.x_shape) // prod(g.w_shape)))
        (dw, db), *others = self._in_blocks(kind, conv, x.dtype, work, begin, most)
        for more_dw, more_db in others:
            dw.join(more_dw)
            if db is not None:
                db.join(more_db)
        return deliver_both(dw.result(), None if db is None else db.result(), into, x.dtype)

    def _pointwise_weight_grad(self, dy: Array, x: Array, conv: Conv, into: Into) -> Grads:
        """The gradients of a 1x1 convolution, as products of matrices."""
        g = conv.geometry
        dense, rows = dy.reshape(g.pixels, g.filters), x.reshape(g.pixels, x.shape[3])
        out = None if into.weight is None else into.weight.reshape(-1, g.filters)
        dw = self.matmul(rows, dense, Product(transpose_a=True, out=out, add=into.add))
        db = deliver(self.sum(dense, (0,)), into.bias, into.add) if into.needs_bias else None
        # The array that was given itself, not a view of it: the tape compares them
        return dw.reshape(g.w_shape) if into.weight is None else into.weight, db

    def _in_blocks(
        self, kind: Callable[[Conv, Any], ConvAlgorithm], conv: Conv, dtype: Any, work: Callable[..., None],
        begin: Callable = tuple, most: int = PARTS,
    ) -> list[Any]:  # fmt: skip
        """Call work(algorithm, i, j, *state) for blocks of images i … j - 1, on all threads.

        Args:
            kind: makes the algorithm of a part of the images.
            begin: makes the state of a part.
            most: parts at most.
        Returns:
            The state of each part, in their order.
        """

        def run(start: int, stop: int) -> Any:
            algorithm, state = kind(conv, dtype), begin()
            for i, j in algorithm.blocks(start, stop):
                work(algorithm, i, j, *state)
            return state

        return self._parallel(run, *images_and_work(conv.geometry), most) or [begin()]


def images_and_work(g: Geometry) -> tuple[int, int]:
    """The number of images, and of elements of work that each of them is."""
    images, few = g.x_shape[0], g.w_shape[2] < FEW_CHANNELS
    return images, g.multiply_adds // max(images, 1) // (FEW_PRODUCTS if few else PRODUCTS)
