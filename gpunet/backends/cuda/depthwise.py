"""Depthwise convolutions on a CUDA device."""

from __future__ import annotations

from collections.abc import Collection
from math import prod

import numpy as np

from gpunet.backends.contract import Array, Conv, Gate
from gpunet.backends.cuda.device import THREADS, CudaDevice, activation_fields, geometry_fields
from gpunet.cuda.instantiations import DEPTHWISE, DEPTHWISE_OF_X
from gpunet.cuda.naming import ELEMENTS, instance
from gpunet.cuda.waves import counters_of
from gpunet.cuda.work import Work
from gpunet.geometry import Geometry
from gpunet.nvrtc.signature import BLOCK_LIMITS
from gpunet.nvrtc.source import constant

FILE = "conv2d_depthwise.cu"
ROWS, COLS = constant(FILE, "ROWS"), constant(FILE, "COLS")
"""Pixels of a thread's patch; COLS are also those of a strip of dy."""
SLICE = constant(FILE, "SLICE")
"""Channels of a block at most."""
TAPS, TAPS_OF_5 = constant(FILE, "TAPS"), constant(FILE, "TAPS_OF_5")
"""Taps of a block of a weight gradient; those of an unrolled window of 5."""
LEAST_STRIPS = 2
"""Strips of a thread at least, if the strips are split."""
MOST_STRIPS = 32 * constant(FILE, "ROUND")
"""Strips of a thread at most. It adds up the products of a round, then these sums; more of them
would lose digits."""


class CudaDepthwise(CudaDevice):
    """The primitives of conv2d_depthwise.cu, on arguments that :class:`CudaConv` has checked."""

    def _depthwise_forward(
        self, x: Array, w: Array, b: Array | None, residual: Array | None, y: Array, mask: Array | None, conv: Conv
    ) -> None:
        g, halved = conv.geometry, 1 if mask is None else 2
        kernel, _, v = self._depthwise_kernel("forward", g, x, w, b, residual, y)
        n, rows, cols, _ = g.y_shape
        args = x, w, b, residual, y, mask, geometry_fields(g), activation_fields(conv.activation)
        extents = n, rows // halved * halved, cols // halved * halved, g.filters
        self._depthwise_launch(kernel, extents, v, 2 * g.multiply_adds, *args)

    def _depthwise_input_grad(self, dy: Array, w: Array, dx: Array, g: Geometry, gate: Gate) -> None:
        v = self._vector_of(g.filters, dy, gate.y, w, dx) if g.filters == g.x_shape[3] else 1
        kernel = instance("conv2d_depthwise_input_grad", ELEMENTS[dy.dtype.name], *unrolled(g, DEPTHWISE, v), v)
        n, rows, cols, channels = g.x_shape
        (above, _), (left, _) = g.padding  # a patch starts at a multiple of the stride, in the padding
        extents = n, rows + above % g.stride[0], cols + left % g.stride[1], channels
        args = dy, gate.y, w, dx, geometry_fields(g), activation_fields(gate.activation)
        self._depthwise_launch(kernel, extents, v, 2 * g.multiply_adds, *args)

    def _depthwise_launch(self, kernel: str, extents: tuple[int, ...], v: int, flops: int, *args: object) -> None:
        """Launch a kernel that computes images (N, H, W, C), in patches of ROWS x COLS pixels."""
        if not prod(extents):
            return
        n, rows, cols, channels = extents
        lanes, patches, high = block_of(cols, channels, v)
        tiles = -(-cols // (COLS * patches)) * -(-(n * -(-rows // ROWS)) // high)
        self.launcher.launch(
            kernel, -(-channels // (lanes * v)) * tiles, (lanes, patches, high), args, work=Work(flops)
        )

    def _depthwise_weight_grad(
        self, dy: Array, x: Array, dw: Array, db: Array | None, g: Geometry, gate: Gate, *, add: bool
    ) -> None:
        kernel, k, v = self._depthwise_kernel("weight_grad", g, x, dy, gate.y)
        lanes, taps = lanes_of(g.filters, v), TAPS_OF_5 if k == 5 else TAPS
        tiles = -(-g.filters // (lanes * v)) * -(-prod(g.window) // taps)
        n, rows, cols, _ = g.y_shape
        strips = n * rows * -(-cols // COLS)
        length = split_strips(tiles, strips, THREADS // lanes, 2 * self.description.multiprocessors)
        splits, slots, arrivals = -(-strips // length), None, None
        if splits > 1:
            slots = self.arrays.empty((tiles, splits, taps + 1, SLICE), np.float32)
            arrivals = self._arrivals(tiles * counters_of(splits))
        args = dy, gate.y, x, slots, arrivals, dw, db, geometry_fields(g), activation_fields(gate.activation)
        block = lanes, THREADS // lanes
        self.launcher.launch(
            kernel, tiles * splits, block, (*args, length, int(add)), work=Work(2 * g.multiply_adds, splits=splits)
        )

    def _depthwise_kernel(self, kernel: str, g: Geometry, x: Array, *others: Array | None) -> tuple[str, int, int]:
        """(the instance for these arrays, its window or 0 for any, filters per thread) for a kernel
        that reads x, of which filters may share a channel."""
        own = g.filters == g.x_shape[3]
        v = self._vector_of(g.filters // (1 if own else g.x_shape[3]), *others, *([x] if own else []))
        channels = v, v if own else 1
        window = unrolled(g, DEPTHWISE_OF_X, *channels)
        return instance(f"conv2d_depthwise_{kernel}", ELEMENTS[x.dtype.name], *window, *channels), window[0], v


def is_depthwise(g: Geometry) -> bool:
    """Whether each channel has filters of its own."""
    return g.groups > 1 and g.groups == g.x_shape[3]


def reads_depthwise(g: Geometry) -> bool:
    """Whether the forward pass and the weight gradient, which read x, have the depthwise kernels.

    These also serve one channel that all filters share, as that of gray images, under a window of few
    taps: a block of a weight gradient has about TAPS of them, and loads all of dy for these.
    """
    return is_depthwise(g) or (g.x_shape[3] == 1 and prod(g.window) <= 3 * TAPS)


def unrolled(g: Geometry, listed: Collection[tuple[int, ...]], *channels: int) -> tuple[int, int]:
    """The (window, stride) whose loops over taps are unrolled, or (0, 0).

    Args:
        listed: the windows and strides that are, each followed by `channels`.
    """
    own = g.window[0], g.stride[0]
    same = g.window == own[:1] * 2 and g.stride == own[1:] * 2 and g.dilation == (1, 1)
    return own if same and (*own, *channels) in listed else (0, 0)


def lanes_of(channels: int, v: int) -> int:
    """Neighbouring lanes that take neighbouring channels, `v` each: a power of two."""
    return min(1 << (-(-channels // v) - 1).bit_length(), SLICE // v)


def block_of(cols: int, channels: int, v: int) -> tuple[int, int, int]:
    """A block's threads: (lanes, patches of a row, rows of patches).

    A block is about as high as it is wide, in pixels, for its neighbours load the pixels around it
    again. It has fewer than THREADS threads where a narrow image would make it higher than a device
    allows.
    """
    lanes = lanes_of(channels, v)
    together = THREADS // lanes
    patches = min(1 << (-(-cols // COLS) - 1).bit_length(), 1 << (together.bit_length() - 1) // 2)
    return lanes, patches, min(together // patches, BLOCK_LIMITS[2])


def split_strips(tiles: int, strips: int, together: int, busy: int) -> int:
    """Strips of one split of a weight gradient: a multiple of those that a block walks together.

    Args:
        busy: blocks that the device runs at once. The splits of all tiles are no more, so that no
            block is left over for a second turn.
    """
    splits = max(min(busy // tiles, strips // (LEAST_STRIPS * together)), 1)
    each = min(-(-strips // (splits * together)), MOST_STRIPS)
    return each * together
