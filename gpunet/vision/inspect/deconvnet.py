"""Deconvnet: a unit's activation taken back to the pixels that caused it."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpunet.autograd import Function, Tensor, backward
from gpunet.backends.contract.activation import Activation
from gpunet.backends.contract.arrays import Array
from gpunet.nn import Module
from gpunet.vision.inspect.features import strongest
from gpunet.vision.inspect.run import as_batch, as_input, checked_unit, inference, run


def deconvnet(model: Module, images: Any, layer: str, unit: int, position: tuple[int, int] | None = None) -> np.ndarray:
    """What in each image made a unit answer: (N, H, W, C), projected back to the pixels.

    The layer's output is set to 0 but for the unit at one position, and goes back through the transposed filters; through
    a max pool to where the maximum was (the switches, which the pool's mask holds); through a ReLU by a ReLU. So it is the
    backward pass with ReLU's rule exchanged (Zeiler & Fergus 2014, "Visualizing and understanding convolutional networks",
    section 2.1; Simonyan et al. 2014, section 4). Biases take no part; operations that the paper does not have go back by
    their own gradients.

    Args:
        layer, unit: whose output.
        position: (row, column) of the unit in the layer's output; where it is strongest in each image if None.
    Raises:
        ValueError: an activation that is no ReLU lies on the way; a layer, unit or position that there is not.
    """
    with inference("deconvnet", model):
        x = as_input(model, as_batch("deconvnet", images))
        # fused, a window of a pool without a positive value would have its switch where it is least negative, not first
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
            raise ValueError(f"deconvnet: layer {layer!r} gives {y.shape}, without pixels, so takes no position")
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
    """The gradients of a function's inputs, with ReLU's by ReLU: it passes what is positive of dy, not where x was."""
    gate = getattr(function, "gate", None)
    if function.name == "activation":
        return (_relu(function, dy, function.activation),)
    if function.name in ("input_activation", "prelu"):
        raise ValueError(f"deconvnet: {_name(function)} is on the way back, which is defined for ReLU only")
    if gate is not None and gate.activation is not None:  # fused: activation, then pool, of which the mask stays
        dy = _relu(function, dy, gate.activation)
        function.gate = gate._replace(activation=None)
    return function.run_backward(dy)


def _name(function: Any) -> str:
    activation = getattr(function, "activation", None)
    return function.name if activation is None else activation.name


def _relu(function: Function, dy: Array, activation: Activation) -> Array:
    if activation.name != "relu":
        raise ValueError(f"deconvnet: {activation.name} is on the way back, which is defined for ReLU only")
    return function.backend.activation_forward(dy, activation)
