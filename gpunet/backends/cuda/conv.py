"""Convolutions on a CUDA device."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd, prod
from typing import Any

import numpy as np

from gpunet.backends.contract import NEW, Array, Conv, Gate, Grads, Into, PartMoments
from gpunet.backends.cuda.depthwise import CudaDepthwise, is_depthwise, reads_depthwise
from gpunet.backends.cuda.device import activation_fields, geometry_fields
from gpunet.backends.cuda.pool import CudaPool
from gpunet.cuda.tile_lists import BIT_COLS, BIT_ROWS, GATES
from gpunet.cuda.work import Work
from gpunet.geometry import Geometry


class CudaConv(CudaDepthwise, CudaPool):
    """The primitives of conv2d_*.cu."""

    def conv2d_forward(
        self, x: Array, w: Array, b: Array | None, conv: Conv, residual: Array | None = None
    ) -> tuple[Array, Array | None]:
        return self._convolve(x, w, b, conv, residual, leaves_moments=False)[:2]

    def conv2d_forward_with_moments(
        self, x: Array, w: Array, b: Array | None, conv: Conv, residual: Array | None = None
    ) -> tuple[Array, Array | None, PartMoments | None]:
        return self._convolve(x, w, b, conv, residual, leaves_moments=True)

    def _convolve(
        self, x: Array, w: Array, b: Array | None, conv: Conv, residual: Array | None, *, leaves_moments: bool
    ) -> tuple[Array, Array | None, PartMoments | None]:
        g, pooled = conv.geometry, conv.pool is not None
        element = self._element(
            "conv2d_forward", x=(x, g.x_shape), w=(w, g.w_shape), b=(b, (g.filters,)), residual=(residual, g.y_shape)
        )
        if pooled and residual is not None:
            raise ValueError("conv2d_forward: takes a pool or a residual, got both")
        y = self.arrays.empty(conv.y_shape, x.dtype)
        mask = self.arrays.empty(conv.y_shape, np.uint8) if pooled else None
        opened, common = (x, w, b, residual, y, mask), (geometry_fields(g), activation_fields(conv.activation))
        left = None
        if reads_depthwise(g) and not self.simple:
            self._depthwise_forward(*opened, conv)
        elif self.simple:
            options = f"{element}, {str(pooled).lower()}"
            self._each(
                "conv2d_forward_simple", y.size, *opened, *common, element=options, work=Work(2 * g.multiply_adds)
            )
        elif y.size:
            left = self._convolve_in_tiles(element, opened, common, conv, leaves_moments=leaves_moments)
        return y, mask, left

    def _convolve_in_tiles(
        self, element: str, opened: Sequence[Any], common: Sequence[Any], conv: Conv, *, leaves_moments: bool
    ) -> PartMoments | None:
        """Launch a convolution in tiles -> the moments that it leaves, if it does."""
        name, g, (x, w, _, residual, y, _) = "conv2d_forward", conv.geometry, opened
        each = 1 if conv.pool is None else 4  # pixels of a result
        terms = self._terms_of_windows(element, conv, g.window, x, w, residual, y)
        other = not (conv.activation is None or conv.activation.name == "relu")
        general = other or (not terms and element != "float")
        layout = self._lay_out(
            name, element, y.size // g.filters * each, _made(g), g.window[0] * g.window[1] * _taken(g), copies=g.groups,
            general=general, terms=terms, left=_taken(g) % 4 == 0 and self._aligned(x),
            right=_made(g) % 4 == 0 and self._aligned(w, residual, y),
        )  # fmt: skip
        left = None
        if terms and leaves_moments:
            rows = layout.tile.rows // each
            left = PartMoments(self.arrays.empty((-(-(y.size // g.filters) // rows), 2, g.filters), np.float32), rows)
        flags: tuple[bool, ...] = (general,) if terms else (conv.pool is not None, general)
        moments = (left and left.parts,) if terms else ()
        args = *opened, *moments, *self._slots(layout), *common, layout.turns
        self._launch_tiles(name, element, layout, flags, args, 2 * g.multiply_adds)
        return left

    def _terms_of_windows(self, element: str, conv: Conv, taps: Sequence[int], *arrays: Array | None) -> int:
        """As `_terms`, for windows of (rows, columns) of taps: each row and each column has a bit."""
        fit = taps[0] <= BIT_ROWS and taps[1] <= BIT_COLS
        g = conv.geometry
        return self._terms(element, conv.precision, (_taken(g), _made(g)), *arrays) if fit else 0

    def open_pool(self, dy: Array, conv: Conv, gate: Gate | None) -> tuple[Array, Gate | None]:
        return (dy, gate) if gate is None or gate.mask is None else (self._opened("open_pool", dy, conv, gate)[0], None)

    def conv2d_input_grad(self, dy: Array, w: Array, conv: Conv, gate: Gate | None = None) -> Array:
        g, name = conv.geometry, "conv2d_input_grad"
        dy, gate = self._opened(name, dy, conv, gate)
        element = self._element(name, dy=(dy, None), w=(w, g.w_shape))
        dx = self.arrays.empty(g.x_shape, dy.dtype)
        opened, common = (dy, gate.y, w, dx), (geometry_fields(g), activation_fields(gate.activation))
        if is_depthwise(g) and not self.simple:
            self._depthwise_input_grad(dy, w, dx, g, gate)
        elif self.simple:
            self._each(f"{name}_simple", dx.size, *opened, *common, element=element, work=Work(2 * g.multiply_adds))
        elif dx.size:
            (n, h, width, _), (tall, wide) = g.x_shape, g.stride
            taps = [_taps_of_a_residue(*axis) for axis in zip(g.window, g.stride, g.dilation, strict=True)]
            terms = self._terms_of_windows(element, conv, taps, dy, gate.y, w, dx)
            kind = _gate_name(gate, has_relu=element == "float" and not terms)
            vector = _made(g) % 4 == 0 and self._aligned(dy, gate.y, w)
            layout = self._lay_out(
                name, element, n * -(-h // tall) * -(-width // wide), _taken(g), prod(taps) * _made(g), gate=kind,
                copies=g.groups * tall * wide, terms=terms, left=vector, right=vector,
            )  # fmt: skip
            args = *opened, *self._slots(layout), *common, layout.turns
            self._launch_tiles(name, element, layout, (GATES[kind],), args, 2 * g.multiply_adds)
        return dx

    def conv2d_weight_grad(self, dy: Array, x: Array, conv: Conv, gate: Gate | None = None, into: Into = NEW) -> Grads:
        g, name = conv.geometry, "conv2d_weight_grad"
        dy, gate = self._opened(name, dy, conv, gate)
        element = self._element(name, dy=(dy, None), x=(x, g.x_shape))
        dw, db, add = self._place_gradients(name, into, g.w_shape, (g.filters,))
        opened = dy, gate.y, x
        common = geometry_fields(g), activation_fields(gate.activation)
        if self.simple or not g.pixels:  # without pixels, the simple kernel writes zeros
            count = dw.size + (0 if db is None else db.size)
            simple = *opened, dw, db, *common, int(add)
            self._each(f"{name}_simple", count, *simple, element=element, work=Work(2 * g.multiply_adds))
            return dw, db
        if reads_depthwise(g):
            self._depthwise_weight_grad(dy, x, dw, db, g, gate, add=add)
            return dw, db
        terms = self._terms(element, conv.precision, (_taken(g), _made(g)), dy, gate.y, x, dw)
        kind = _gate_name(gate, has_relu=element == "float" and not terms)
        layout = self._lay_out(
            name, element, g.window[0] * g.window[1] * _taken(g), _made(g), g.pixels, gate=kind, copies=g.groups,
            terms=terms, left=_taken(g) % 4 == 0 and self._aligned(x),
            right=_made(g) % 4 == 0 and self._aligned(dy, gate.y),
        )  # fmt: skip
        args = *opened, *self._slots(layout, layout.tile.cols), dw, db, *common, layout.turns, int(add)
        self._launch_tiles(name, element, layout, (GATES[kind],), args, 2 * g.multiply_adds)
        return dw, db

    def _opened(self, operation: str, dy: Array, conv: Conv, gate: Gate | None) -> tuple[Array, Gate]:
        """dy in front of a fused pool, and the gate that is left; an error if the gate does not fit
        dy and `conv`."""
        shape = conv.geometry.y_shape if gate is None else conv.y_shape
        gate = gate or Gate(None, None)
        self._element(operation, dy=(dy, shape), gate=(gate.y, shape))
        if gate.mask is None:
            fits = shape == conv.geometry.y_shape
        else:
            fits = conv.pool is not None and gate.mask.shape == shape
        if not fits:
            got = "none" if gate.mask is None else f"of shape {gate.mask.shape}"
            takes = "no pool is fused" if conv.pool is None else f"its pool takes {shape}"
            raise ValueError(f"{operation}: the gate's mask is {got} but {takes}")
        if gate.mask is None or conv.pool is None:
            return dy, gate
        return self._undo_max_pool(dy, gate, conv.pool), Gate(None, None)


def _gate_name(gate: Gate, *, has_relu: bool) -> str:
    """The gate of `gpunet.cuda.tile_lists.GATES` that a gradient needs.

    Args:
        has_relu: whether there is a gate for ReLU alone.
    """
    if gate.activation is None:
        return "NONE"
    return "RELU" if has_relu and gate.activation.name == "relu" else "ACTIVATION"


def _taps_of_a_residue(taps: int, stride: int, dilation: int) -> int:
    """The taps at most that reach an input whose place has one remainder by the stride."""
    return -(-taps // (stride // gcd(stride, dilation)))


def _taken(g: Geometry) -> int:
    """The channels of a group."""
    return g.x_shape[3] // g.groups


def _made(g: Geometry) -> int:
    """The filters of a group."""
    return g.filters // g.groups
