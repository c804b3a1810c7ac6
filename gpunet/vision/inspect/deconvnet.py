"""Deconvnet: projects a unit's activation back to the pixels that caused it."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpunet.autograd import Function, Tensor, backward
from gpunet.backends.contract import Activation, Array
from gpunet.nn import Module
from gpunet.vision.inspect.features import strongest
from gpunet.vision.inspect.run import as_batch, as_input, checked_unit, inference, run


def deconvnet(model: Module, images: Any, layer: str, unit: int, position: tuple[int, int] | None = None) -> np.ndarray:
    """Project a unit's activation back to the pixels: (N, H, W, C).

    Everything in the layer's output but the unit at one position is set to 0. The rest goes back
    through the transposed filters; through a max pool to the position of the maximum (the switches,
    which the pool's mask holds); and through a ReLU by another ReLU. So it is the backward pass
    with ReLU's rule exchanged (Zeiler & Fergus 2014, "Visualizing and understanding convolutional
    networks", section 2.1; Simonyan et al. 2014, section 4). Biases have no effect. Operations that
    the paper does not have use their own gradients.

    Args:
        layer, unit: the layer's name and the unit's channel.
        position: (row, column) of the unit in the layer's output; its strongest position in each
            image if None.
    Raises:
        ValueError: another activation than ReLU between the layer and the image; a layer, unit or
            position that does not exist.
    """
    with inference("deconvnet", model):
        x = as_input(model, as_batch("deconvnet", images))
        # Not fused: a fused pool would put the switch of a window without positive values at the
        # largest value before the ReLU, not at the first of the zeros after it.
        y = run("deconvnet", model, x, [layer], fuse=False)[1][layer]
        backward(y, _only(y, layer, unit, position), rule=_rectified)
    if x.grad is None:
        raise ValueError(f"deconvnet: layer {layer!r} does not depend on the images")
    return x.backend.to_numpy(x.grad).copy()


def _only(y: Tensor, layer: str, unit: int, position: tuple[int, int] | None) -> np.ndarray:
    """y with everything but one position of the unit set to 0."""
    unit = checked_unit("deconvnet", layer, unit, y)
    values = y.numpy()[..., unit]
    upstream = np.zeros(y.shape, y.dtype)
    images = np.arange(len(values))
    if values.ndim == 1:
        if position is not None:
            raise ValueError(
                f"deconvnet: layer {layer!r} gives {y.shape}, which has no pixels, so position must be None"
            )
        upstream[:, unit] = values
        return upstream
    if position is None:
        rows, columns = strongest(values)[1].T
    else:
        if len(position) != 2 or not all(0 <= p < n for p, n in zip(position, values.shape[1:], strict=True)):
            raise ValueError(f"deconvnet: position is {position} but layer {layer!r} has {values.shape[1:]} pixels")
        rows, columns = (np.full(len(values), p) for p in position)
    upstream[images, rows, columns, unit] = values[images, rows, columns]
    return upstream


def _rectified(function: Any, dy: Array) -> tuple[Array | None, ...]:
    """The gradients of a function's inputs, where a ReLU passes the positive part of dy."""
    gate = getattr(function, "gate", None)
    if function.name == "activation":
        return (_relu(function, dy, function.activation),)
    if function.name in ("input_activation", "prelu"):
        raise ValueError(f"deconvnet: takes ReLU as the only activation, got {_name(function)}")
    if gate is not None and gate.activation is not None:  # fused with a pool, whose mask is kept
        dy = _relu(function, dy, gate.activation)
        function.gate = gate._replace(activation=None)
    return function.run_backward(dy)


def _name(function: Any) -> str:
    """The name of a function, or of its activation, for messages."""
    activation = getattr(function, "activation", None)
    return function.name if activation is None else activation.name


def _relu(function: Function, dy: Array, activation: Activation) -> Array:
    """ReLU of dy; ValueError for another activation."""
    if activation.name != "relu":
        raise ValueError(f"deconvnet: takes ReLU as the only activation, got {activation.name}")
    return function.backend.activation_forward(dy, activation)
