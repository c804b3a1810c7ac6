"""Convolutions, also transposed, and products of matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpunet import functional as F
from gpunet.autograd import Tensor
from gpunet.backends.contract import is_float
from gpunet.interop.onnx.loading.operators.registry import FILTERS, choice, operator
from gpunet.interop.onnx.loading.operators.windows import AUTO_PADS, Windows, sides_of_pads, split_pad, windows
from gpunet.interop.onnx.loading.values import Value, aligned, check_size, of_images


@operator("Conv", parameters={"w": FILTERS, "b": None})
def conv(
    x: Value,
    w: Value,
    b: Value | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Value:
    """Convolution of images with filters (O, C // group, KH, KW)."""
    filters, images = _filters(w, kernel_shape), x.images()
    extents = images.shape[1], images.shape[2]
    geometry = windows(extents, filters.shape[:2], strides, dilations, pads, auto_pad)
    y = F.conv2d(
        images, filters, None if b is None else b.tensor(), stride=geometry.stride, padding=geometry.padding,
        dilation=geometry.dilation, groups=group,
    )  # fmt: skip
    return of_images(y)


def _filters(w: Value, kernel_shape: Sequence[int] | None) -> Tensor:
    """The filters in gpunet's order, whose extents the attribute must repeat."""
    if w.ndim != 4:
        raise ValueError(f"filters have shape {w.shape} but gpunet takes those of images, 4 axes")
    if kernel_shape is not None and tuple(kernel_shape) != w.shape[2:]:
        raise ValueError(f"attribute kernel_shape is {list(kernel_shape)} but the filters have shape {w.shape}")
    return w.tensor(FILTERS)


@operator("ConvTranspose", parameters={"w": FILTERS, "b": None})
def conv_transpose(
    x: Value,
    w: Value,
    b: Value | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Value:
    """Transposed convolution with filters (C, O // group, KH, KW)."""
    choice("auto_pad", auto_pad, *AUTO_PADS)
    filters, images = _filters(w, kernel_shape), x.images()
    given = windows((1, 1), filters.shape[:2], strides, dilations, None, "VALID")
    extra = _two("output_padding", output_padding or (0, 0))
    whole = check_size(_whole_extents((images.shape[1], images.shape[2]), given, extra), images.size)
    if output_shape is not None:
        wanted = _two("output_shape", output_shape[-2:])
    elif auto_pad.startswith("SAME"):
        wanted = (images.shape[1] * given.stride[0], images.shape[2] * given.stride[1])
    else:
        cuts = sides_of_pads(pads or (0, 0, 0, 0))
        return _transposed(images, filters, b, given, cuts, extra, group)
    check_size(wanted, images.size)
    totals = [n - out for n, out in zip(whole, wanted, strict=True)]
    side = "SAME_UPPER" if auto_pad == "SAME_UPPER" else "SAME_LOWER"  # so ONNX says, without auto_pad too
    cuts = (split_pad(max(totals[0], 0), side), split_pad(max(totals[1], 0), side))
    extra = (extra[0] + max(-totals[0], 0), extra[1] + max(-totals[1], 0))
    return _transposed(images, filters, b, given, cuts, extra, group)


def _whole_extents(extents: tuple[int, int], given: Windows, extra: tuple[int, int]) -> tuple[int, ...]:
    """Extents of the output before anything is cut off."""
    parts = zip(extents, given.stride, given.effective, extra, strict=True)
    return tuple((n - 1) * s + e + more for n, s, e, more in parts)


def _transposed(
    images: Tensor, filters: Tensor, b: Value | None, given: Windows, cuts: Any, extra: Any, group: int
) -> Value:
    """The transposed convolution; what `output_padding` adds and `pads` cuts off is not computed."""
    sides, more = [], []
    for (before, after), e in zip(cuts, extra, strict=True):
        both = min(e, after)
        sides.append((before, after - both))
        more.append(e - both)
    y = F.conv_transpose2d(
        images, filters, None if b is None else b.tensor(), stride=given.stride, padding=(sides[0], sides[1]),
        output_padding=(more[0], more[1]), dilation=given.dilation, groups=group,
    )  # fmt: skip
    return of_images(y)


def _two(attribute: str, values: Sequence[int]) -> tuple[int, int]:
    if len(values) != 2:
        raise ValueError(f"attribute {attribute} is {list(values)} but gpunet's images take two")
    return int(values[0]), int(values[1])


@operator("Gemm", parameters={"b": lambda node: (1, 0) if node.get("transB") else (0, 1), "c": None})
def gemm(
    a: Value,
    b: Value,
    c: Value | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Value:
    """alpha A B + beta C, of matrices; a dense layer where nothing is scaled and C is a vector."""
    for name, matrix in (("A", a), ("B", b)):
        if matrix.ndim != 2:
            raise ValueError(f"{name} has shape {matrix.shape} but takes a matrix")
    left = a.tensor((1, 0) if transA else (0, 1))
    right = b.tensor((1, 0) if transB else (0, 1))
    if alpha == 1 and (c is None or (beta == 1 and c.shape == (right.shape[1],))):
        return Value(F.linear(left, right, None if c is None else c.tensor()))
    y = F.matmul(left, right)
    y = y if alpha == 1 else F.multiply(y, alpha)
    if c is None or beta == 0:
        return Value(y)
    (y, shift), _ = aligned(Value(y), c)
    return Value(F.add(y, shift if beta == 1 else shift * beta))


@operator("MatMul", parameters={"b": None})
def matmul(a: Value, b: Value) -> Value:
    """The product of matrices or of batches of them, as NumPy's matmul."""
    if not (is_float(a.dtype) or is_float(b.dtype)):
        return Value(np.matmul(a.host(), b.host()))
    return Value(F.matmul(a.ordered(), b.ordered()))
