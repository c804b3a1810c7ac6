"""Products with filters, and pools: convolutions, dense and locally connected layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpunet.backends.contract import Conv
from gpunet.geometry import Geometry
from gpunet.interop.onnx.exporting.translate.elementwise import activated
from gpunet.interop.onnx.exporting.translate.step import Step, Table

TO_OIHW = (3, 2, 0, 1)
"""The order of axes for ONNX's filters: of ours, (KH, KW, C, O), to (O, C, KH, KW)."""


def _pads(padding: Any) -> list[int]:
    """ONNX's order: the beginnings of all axes, then their ends."""
    (top, bottom), (left, right) = padding
    return [top, left, bottom, right]


def _windows(geometry: Geometry) -> dict[str, Any]:
    """Attributes of a convolution."""
    return {
        "kernel_shape": geometry.window, "strides": geometry.stride, "pads": _pads(geometry.padding),
        "dilations": geometry.dilation, "group": geometry.groups,
    }  # fmt: skip


def _product(step: Step, kind: str, weight_order: tuple[int, ...], **attributes: Any) -> str:
    """A node of x, the filters in another order of axes, and the bias."""
    weight, bias = step.array(1), step.array(2)
    assert weight is not None
    inputs = [step.first(), step.weight(1, weight.transpose(weight_order))]
    if bias is not None:
        inputs.append(step.weight(2, bias))
    return step.emit(kind, *inputs, **attributes)


def _conv2d(step: Step) -> None:
    conv: Conv = step.options["conv"]
    y = _product(step, "Conv", TO_OIHW, **_windows(conv.geometry))
    if step.given(3):
        y = step.emit("Add", y, step.first(3))
    y = activated(step, y, conv.activation)
    step.done_first(y if conv.pool is None else _max_pool(step, y, conv.pool))


def _conv_transpose2d(step: Step) -> None:
    """The geometry is that of the convolution whose input gradient this is: its input is our output."""
    geometry: Geometry = step.options["conv"].geometry
    axes = zip(geometry.x_shape[1:3], geometry.y_shape[1:3], geometry.stride, geometry.effective_window,
               geometry.padding, strict=True)  # fmt: skip
    extra = [out - ((n - 1) * s + e - sum(cut)) for out, n, s, e, cut in axes]
    step.done_first(_product(step, "ConvTranspose", TO_OIHW, output_padding=extra, **_windows(geometry)))


def _linear(step: Step) -> None:
    weight, bias = step.array(1), step.array(2)
    assert weight is not None
    inputs = [step.plain(), step.weight(1, weight)] + ([] if bias is None else [step.weight(2, bias)])
    y = step.emit("MatMul" if bias is None else "Gemm", *inputs)
    step.done(activated(step, y, step.options["activation"]))


def _locally_connected2d(step: Step) -> None:
    """Each output pixel's window is gathered, and the windows of a pixel multiply its filters."""
    geometry: Geometry = step.options["geometry"]
    weight, bias = step.array(1), step.array(2)
    assert weight is not None
    x = step.plain()
    if geometry.padded:
        (top, bottom), (left, right) = geometry.padding
        x = step.emit("Pad", x, step.graph.integers([0, top, left, 0, 0, bottom, right, 0]))
    places = _places(geometry)  # (OH OW, KH KW C)
    count, filters = len(places), geometry.filters
    batch = step.dims[0]
    x = step.reshaped(x, (batch, int(np.prod(geometry.padded_extents)) * geometry.x_shape[3]))
    x = step.emit("Gather", x, step.graph.constant(places, "windows"), axis=1)
    x = step.emit("Transpose", x, perm=(1, 0, 2))
    y = step.emit("MatMul", x, step.weight(1, weight.reshape(count, -1, filters)))
    y = step.emit("Transpose", y, perm=(1, 0, 2))
    if bias is not None:
        y = step.emit("Add", y, step.weight(2, bias.reshape(count, filters)))
    step.done(step.reshaped(y, step.dims))


def _places(geometry: Geometry) -> np.ndarray:
    """Positions of each window's elements in a padded image, (OH OW, KH KW C) int64."""
    h, w = geometry.padded_extents
    c, (sh, sw) = geometry.x_shape[3], geometry.stride
    image = np.arange(h * w * c, dtype=np.int64).reshape(h, w, c)
    windows = np.lib.stride_tricks.sliding_window_view(image, geometry.window, axis=(0, 1))[::sh, ::sw]
    oh, ow = geometry.y_shape[1:3]
    return windows[:oh, :ow].transpose(0, 1, 3, 4, 2).reshape(oh * ow, -1)


def _max_pool(step: Step, x: str, geometry: Geometry) -> str:
    attributes = {"kernel_shape": geometry.window, "strides": geometry.stride, "pads": _pads(geometry.padding)}
    return step.emit("MaxPool", x, **attributes)


def _max_pool2d(step: Step) -> None:
    geometry: Geometry = step.options["geometry"]
    if geometry.y_shape[1:3] == (1, 1) and not geometry.padded and geometry.window == geometry.x_shape[1:3]:
        step.done_first(step.emit("GlobalMaxPool", step.first()))
    else:
        step.done_first(_max_pool(step, step.first(), geometry))


def _avg_pool2d(step: Step) -> None:
    geometry: Geometry = step.options["geometry"]
    counted = bool(step.options["count_padding"])
    y = step.emit(
        "AveragePool", step.first(), kernel_shape=geometry.window, strides=geometry.stride,
        pads=_pads(geometry.padding), count_include_pad=int(counted),
    )  # fmt: skip
    if counted and geometry.beyond != (0, 0):  # ONNX has counted what ceil_mode adds, too
        shares = np.multiply.outer(*(_counted_shares(geometry, axis) for axis in (0, 1)))
        y = step.emit("Mul", y, step.graph.constant(shares.astype(step.dtype), "counted"))
    step.done_first(y)


def _counted_shares(geometry: Geometry, axis: int) -> np.ndarray:
    """A window's pixels over those that count in its mean, for each output along an axis."""
    n, window, step = geometry.x_shape[1 + axis], geometry.window[axis], geometry.stride[axis]
    before, after = geometry.counted_padding[axis]
    starts = np.arange(geometry.y_shape[1 + axis]) * step - before
    return window / (np.minimum(starts + window, n + after) - starts)


def _matmul(step: Step) -> None:
    step.done(step.emit("MatMul", step.plain(0), step.plain(1)))


TABLE: Table = {
    "conv2d": _conv2d,
    "conv_transpose2d": _conv_transpose2d,
    "linear": _linear,
    "locally_connected2d": _locally_connected2d,
    "max_pool2d": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    "matmul": _matmul,
}
