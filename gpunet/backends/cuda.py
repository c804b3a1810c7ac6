"""`CudaBackend`: every primitive is a launch of a kernel in `kernels/`; what has no kernel raises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from gpunet.backends.base import Activation, Array, Gate, check_fused_pool
from gpunet.backends.cuda_data import CudaData
from gpunet.backends.cuda_device import BUSY, THREADS, activation_fields, check_accumulate, geometry_fields
from gpunet.backends.cuda_group_norm import CudaGroupNorm
from gpunet.backends.cuda_movement import CudaMovement
from gpunet.backends.cuda_norm import CudaNorm
from gpunet.backends.cuda_spatial import CudaSpatial
from gpunet.backends.cuda_training import CudaTraining
from gpunet.backends.cuda_updates import CudaUpdates
from gpunet.cuda.arrays import Arrays
from gpunet.cuda.instantiations import (
    CONV_TILES,
    ELEMENTS,
    MASKS,
    MATMUL_TILES,
    WEIGHT_GRAD_TILES,
    instance,
    pool_vectors,
)
from gpunet.cuda.recording import Recording, RecordingArrays, RecordingLauncher
from gpunet.geometry import Geometry

if TYPE_CHECKING:
    from gpunet.cuda.emulator.launcher import Settings

Tile = tuple[int, int, int, int, int]
"""(TM, TN, RM, RN, V): see gpunet.cuda.instantiations."""
TILE_K = 16
"""Step of a tile along the reduction, as kernels/tile.cuh has it."""
MOST_PIXELS = 2048
"""Pixels of a split at most: a thread adds the products of 48, then these sums, and a longer sum loses digits."""
DEPTHWISE_TILE = 9, 32
"""Taps and filters of a block of a depthwise weight gradient, as kernels/conv2d_weight_grad.cu has them."""


def select_tile(tiles: Sequence[Tile], rows: int, cols: int, *, vector: bool, busy: int = BUSY) -> Tile:
    """The tile for rows x cols results: a pure function of shape, of whether loads of four elements are allowed, and of how
    many blocks keep the device busy."""
    allowed = [t for t in tiles if t[4] == 1 or vector]
    narrow = [t for t in allowed if t[1] == 16]
    if cols <= 16 and narrow:
        return narrow[0]
    wide = [t for t in allowed if t[1] > 16]  # the largest first, of one size the vector's
    smallest = next(t for t in wide if t[0] * t[1] == wide[-1][0] * wide[-1][1])
    return next((t for t in wide if count_tiles(rows, cols, t) >= busy), smallest)


def count_tiles(rows: int, cols: int, tile: Sequence[int]) -> int:
    """Blocks that cover rows x cols results."""
    return -(-rows // tile[0]) * -(-cols // tile[1])


def split_pixels(tiles: int, pixels: int, busy: int = BUSY) -> int:
    """Pixels of one split of a weight gradient's reduction: a multiple of the tile's step, at least four steps, and not more
    than a thread may add in float32."""
    splits = min(-(-busy // tiles), -(-pixels // (4 * TILE_K)))
    each = min(-(-pixels // splits), MOST_PIXELS)
    return -(-each // TILE_K) * TILE_K


def depthwise(g: Geometry) -> bool:
    """Whether each channel has filters of its own. Then the simple kernels of convolution and input gradient are the fast ones:
    neighbouring threads take neighbouring channels of a pixel, and there is no sum over channels for a tile to share. The
    weight gradient, of few and long sums, has a kernel of its own."""
    return g.groups > 1 and g.groups == g.x_shape[3]


class CudaBackend(CudaMovement, CudaData, CudaNorm, CudaGroupNorm, CudaSpatial, CudaTraining, CudaUpdates):
    """Primitives as kernels, on CuPy's arrays or an emulator's.

    No primitive waits for the device or reads it. Launches go to the launcher's current stream. Float primitives take
    float32; convolutions, products, pooling, activations, dropout, elementwise arithmetic and softmax cross entropy also
    float16 and bfloat16, in which arrays are stored while sums are float32. Anything else raises TypeError and says so.
    """

    # ---- convolution

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
        g = geometry
        element = self._element("conv2d_forward", x=(x, g.x_shape), w=(w, g.w_shape), b=(b, (g.filters,)))
        check_fused_pool("conv2d_forward", g, pool)
        pooled = pool is not None
        y = self.arrays.empty(g.y_shape if pool is None else pool.y_shape, x.dtype)
        mask = None if pool is None else self.arrays.empty(pool.y_shape, np.uint8)
        args = x, w, b, y, mask, geometry_fields(g), activation_fields(activation)
        if self.simple or depthwise(g):
            kind = f"{element}, {str(pooled).lower()}"
            self._each("conv2d_forward_simple", y.size, *args, element=kind, flops=2 * g.multiply_adds)
        else:
            rows = y.size // g.filters * (4 if pooled else 1)
            self._conv("conv2d_forward_tiled", element, g, rows, g.filters, self._aligned(x, w, y), args, pooled)
        return y, mask

    def conv2d_input_grad(self, dy: Array, w: Array, *, geometry: Geometry, gate: Gate | None = None) -> Array:
        g = geometry
        gate = self._checked_gate("conv2d_input_grad", dy, g, gate)
        element = self._element("conv2d_input_grad", dy=(dy, None), w=(w, g.w_shape))
        dx = self.arrays.empty(g.x_shape, dy.dtype)
        args = dy, gate.y, gate.mask, w, dx, geometry_fields(g), activation_fields(gate.activation)
        if self.simple or depthwise(g):
            self._each("conv2d_input_grad_simple", dx.size, *args, element=element, flops=2 * g.multiply_adds)
        else:
            aligned = self._aligned(dy, gate.y, w, dx)
            rows = dx.size // g.x_shape[3]
            self._conv("conv2d_input_grad_tiled", element, g, rows, g.x_shape[3], aligned, args)
        return dx

    def _conv(
        self,
        kernel: str,
        element: str,
        g: Geometry,
        rows: int,
        channels: int,
        aligned: bool,
        args: Any,
        *options: object,
    ) -> None:
        """Launch a tiled convolution whose results are `rows` pixels of so many channels."""
        if not rows:
            return
        cols = channels // g.groups
        tile = select_tile(CONV_TILES, rows, cols, vector=aligned and _by_four(g), busy=self.busy)
        blocks = count_tiles(rows, cols, tile) * g.groups
        kernel = instance(kernel, element, *tile, *options)
        self.launcher.launch(kernel, blocks, THREADS, args, flops=2 * g.multiply_adds)

    def _checked_gate(self, operation: str, dy: Array, g: Geometry, gate: Gate | None) -> Gate:
        """The gate, one of nothing if there is none, after the checks of dy's shape against it."""
        gate = gate or Gate(None, None)
        check_fused_pool(operation, g, gate.pool)
        shape = g.y_shape if gate.pool is None else gate.pool.y_shape
        self._element(operation, dy=(dy, shape), gate=(gate.y, shape))
        if (gate.mask is None) != (gate.pool is None) or (gate.mask is not None and gate.mask.shape != shape):
            got = "none" if gate.mask is None else f"shape {gate.mask.shape}"
            raise ValueError(f"{operation}: the gate's mask is {got} but its pool takes {shape}")
        return gate

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
        g = geometry
        self._expect("conv2d_weight_grad", out=(out, g.w_shape), bias_out=(bias_out, (g.filters,)))
        gate = self._checked_gate("conv2d_weight_grad", dy, g, gate)
        element = self._element("conv2d_weight_grad", dy=(dy, None), x=(x, g.x_shape))
        check_accumulate("conv2d_weight_grad", accumulate, bias_out if out is None and bias else out)
        if accumulate and out is None:  # only one of them adds to something: to the other's zeros
            out = self.full(g.w_shape, 0.0, np.float32)
        if accumulate and bias and bias_out is None:
            bias_out = self.full((g.filters,), 0.0, np.float32)
        dw = self._out("conv2d_weight_grad", out, g.w_shape)
        db = self._out("conv2d_weight_grad", bias_out, (g.filters,)) if bias else None
        common = geometry_fields(g), activation_fields(gate.activation)
        opened = dy, gate.y, gate.mask, x
        if self.simple or not g.pixels:  # of no pixels, the zeros
            count = dw.size + g.filters * bias
            args = *opened, dw, db, *common, int(accumulate)
            self._each("conv2d_weight_grad_simple", count, *args, element=element, flops=2 * g.multiply_adds)
            return dw, db
        if depthwise(g):
            kernel = instance("conv2d_weight_grad_depthwise", element)
            tiles = count_tiles(g.window[0] * g.window[1], g.filters, DEPTHWISE_TILE)
        else:
            rows, cols = dw.size // g.filters, g.filters // g.groups
            vector = self._aligned(dy, gate.y, x) and _by_four(g)
            tile = select_tile(WEIGHT_GRAD_TILES, rows, cols, vector=vector, busy=self.busy)
            kernel = instance("conv2d_weight_grad_tiled", element, *tile)
            tiles = count_tiles(rows, cols, tile) * g.groups
        each = split_pixels(tiles, g.pixels, self.busy)
        splits = -(-g.pixels // each)
        partial_w = self.arrays.empty((splits, dw.size), np.float32)
        partial_b = self.arrays.empty((splits, g.filters), np.float32) if bias else None
        self.launcher.launch(
            kernel, tiles * splits, THREADS,
            (*opened, partial_w, partial_b, self._arrivals(tiles), dw, db, *common, each, int(accumulate)),
            flops=2 * g.multiply_adds,
        )  # fmt: skip
        return dw, db

    # ---- matrix product

    def matmul(
        self,
        a: Array,
        b: Array,
        *,
        transpose_a: bool = False,
        transpose_b: bool = False,
        bias: Array | None = None,
        activation: Activation | None = None,
        gate: Gate | None = None,
        out: Array | None = None,
        accumulate: bool = False,
    ) -> Array:
        self._element("matmul", a=(a, None), b=(b, None))
        if a.ndim != 2 or b.ndim != 2:
            raise ValueError(f"matmul: a has shape {a.shape} and b {b.shape} but both take 2 axes")
        m, depth = a.shape[::-1] if transpose_a else a.shape
        inner, p = b.shape[::-1] if transpose_b else b.shape
        if depth != inner:
            raise ValueError(f"matmul: a {a.shape} and b {b.shape} meet in axes of {depth} and {inner}")
        if accumulate and (bias is not None or activation is not None):
            raise ValueError("matmul: accumulate adds a plain product, without bias or activation")
        gate = gate or Gate(None, None)
        element = self._element("matmul", a=(a, None), gate=(gate.y, a.shape), bias=(bias, (p,)), out=(out, (m, p)))
        check_accumulate("matmul", accumulate, out)
        y = self._out("matmul", out, (m, p), a.dtype)
        product = {
            "M": m, "K": depth, "P": p,
            "transpose_a": int(transpose_a), "transpose_b": int(transpose_b), "accumulate": int(accumulate),
        }  # fmt: skip
        args = a, gate.y, b, bias, y, product, activation_fields(gate.activation), activation_fields(activation)
        flops = 2 * m * depth * p
        if self.simple:
            self._each("matmul_simple", y.size, *args, element=element, flops=flops)
        elif y.size:
            by_four = a.shape[1] % 4 == 0 and b.shape[1] % 4 == 0 and p % 4 == 0
            vector = by_four and self._aligned(a, gate.y, b, y)
            tile = select_tile(MATMUL_TILES, m, p, vector=vector, busy=self.busy)
            kernel = instance("matmul_tiled", element, *tile, transpose_a, transpose_b)
            self.launcher.launch(kernel, count_tiles(m, p, tile), THREADS, args, flops=flops)
        return y

    def batched_matmul(self, a: Array, b: Array, *, transpose_a: bool = False, transpose_b: bool = False) -> Array:
        self._element("batched_matmul", a=(a, None), b=(b, None))
        if a.ndim != 3 or b.ndim != 3 or a.shape[0] != b.shape[0]:
            raise ValueError(f"batched_matmul: a has shape {a.shape} and b {b.shape} but take (B, M, K) and (B, K, P)")
        m, p = a.shape[1 + transpose_a], b.shape[2 - transpose_b]
        y = self.arrays.empty((a.shape[0], m, p), a.dtype)
        options: Any = {"transpose_a": transpose_a, "transpose_b": transpose_b}
        for i in range(a.shape[0]):  # a launch each
            one, other, to = (t[i : i + 1].reshape(t.shape[1:]) for t in (a, b, y))
            self.matmul(one, other, out=to, **options)
        return y

    # ---- pooling

    def max_pool2d_forward(self, x: Array, *, geometry: Geometry) -> tuple[Array, Array]:
        self._element("max_pool2d_forward", x=(x, geometry.x_shape))
        y = self.arrays.empty(geometry.y_shape, x.dtype)
        mask = self.arrays.empty(geometry.y_shape, geometry.mask_dtype)
        self._pool("max_pool2d_forward", y.size, (x, y), mask, x, y, mask, geometry_fields(geometry))
        return y, mask

    def max_pool2d_backward(self, dy: Array, mask: Array, *, geometry: Geometry) -> Array:
        self._element("max_pool2d_backward", dy=(dy, geometry.y_shape))
        if mask.shape != dy.shape:
            raise ValueError(f"max_pool2d_backward: mask has shape {mask.shape} but takes {dy.shape}")
        dx = self.arrays.empty(geometry.x_shape, dy.dtype)
        self._pool("max_pool2d_backward", dx.size, (dy, dx), mask, dy, mask, dx, geometry_fields(geometry))
        return dx

    def _pool(self, kernel: str, count: int, floats: tuple[Array, ...], mask: Array, *args: Any) -> None:
        """Launch max pooling, four channels a thread where every load of them is aligned."""
        dtype, kind = floats[0].dtype.name, mask.dtype.name
        vector = not self.simple and floats[0].shape[3] % 4 == 0 and self._aligned(*floats)
        v = pool_vectors(dtype, kind)[0] if vector else 1
        self._each(kernel, count // v, *args, element=f"{ELEMENTS[dtype]}, {MASKS[kind]}, {v}")

    def avg_pool2d_forward(self, x: Array, *, geometry: Geometry, count_padding: bool) -> Array:
        element = self._element("avg_pool2d_forward", x=(x, geometry.x_shape))
        y = self.arrays.empty(geometry.y_shape, x.dtype)
        args = x, y, geometry_fields(geometry), _counted_fields(geometry, count_padding)
        self._each("avg_pool2d_forward", y.size, *args, element=element)
        return y

    def avg_pool2d_backward(self, dy: Array, *, geometry: Geometry, count_padding: bool) -> Array:
        element = self._element("avg_pool2d_backward", dy=(dy, geometry.y_shape))
        dx = self.arrays.empty(geometry.x_shape, dy.dtype)
        args = dy, dx, geometry_fields(geometry), _counted_fields(geometry, count_padding)
        self._each("avg_pool2d_backward", dx.size, *args, element=element)
        return dx


def _counted_fields(g: Geometry, count_padding: bool) -> dict[str, int]:
    """The kernels' Counted."""
    (top, bottom), (left, right) = g.counted_padding if count_padding else ((0, 0), (0, 0))
    return {"top": top, "bottom": bottom, "left": left, "right": right}


def _by_four(g: Geometry) -> bool:
    """Whether the channels of a group come in fours, on both sides of a convolution."""
    return g.x_shape[3] // g.groups % 4 == 0 and g.filters // g.groups % 4 == 0


def cuda_backend(device: int = 0) -> CudaBackend:
    """The backend of one CUDA device, on CuPy.

    Args:
        device: its number.
    """
    from gpunet.cuda.cupy_arrays import CupyArrays
    from gpunet.cuda.launcher import CupyLauncher

    arrays = CupyArrays(device)
    return CudaBackend(arrays, CupyLauncher(device, arrays.owns), name=f"cuda:{device}" if device else "cuda")


def emulated_backend(settings: Settings | None = None, *, memory: int | None = None) -> CudaBackend:
    """The backend of a new emulated device, on this machine's CPU.

    Args:
        settings: how kernels are run; what the environment says if None.
        memory: bytes of the device; None for as many as this machine has.
    """
    from gpunet.cuda.emulator.arrays import EmulatedArrays
    from gpunet.cuda.emulator.launcher import EmulatedLauncher, Settings

    settings = settings or Settings.from_environment()
    arrays = EmulatedArrays(track=settings.checked, properties=settings.describe(), memory=memory)
    return CudaBackend(arrays, EmulatedLauncher(arrays, settings), name="emulated")


def recording_backend(backend: CudaBackend) -> tuple[CudaBackend, Recording]:
    """(another backend on the same device, what it is asked for from now on): its launches and allocations."""
    recording = Recording()
    arrays = cast(Arrays, RecordingArrays(backend.arrays, recording))
    launcher = RecordingLauncher(backend.launcher, backend.arrays, recording)
    return CudaBackend(arrays, launcher, simple=backend.simple, busy=backend.busy, name=backend.name), recording
