"""Batch normalisation folded into the layers before it, for inference."""

from __future__ import annotations

import copy

import numpy as np

from gpunet.autograd import Parameter, Tensor
from gpunet.nn.layers import Conv2d, Linear
from gpunet.nn.module import Module
from gpunet.nn.norm import BatchNorm2d
from gpunet.nn.sequential import Sequential

__all__ = ["fold_batch_norm"]


def fold_batch_norm(model: Module) -> Module:
    """A copy of a model for inference, in which batch norms are folded into the layers before them.

    The copy is in `eval` mode. With the running moments, the batch norm of x w + b is x (w s) + (b
    - mean) s + bias, where s = weight / sqrt(variance + eps). That is one product with other
    filters, whose output need not be normalised in a pass of its own. A `BatchNorm2d` is folded if
    it follows a `Conv2d` or a `Linear` without activation or pool in a `Sequential`, anywhere in
    the model; others stay. The layer before takes over the activation of the batch norm.

    Args:
        model: it is not changed, and shares nothing with the copy.
    """
    memo: dict[int, object] = {}
    for p in model.parameters():
        memo[id(p)] = Parameter(p.backend.copy(p.data), p.backend, p.requires_grad, p.matrix)
    for _, buffer in model.named_buffers():
        twin = copy.copy(buffer)
        twin.data = buffer.backend.copy(buffer.data)
        memo[id(buffer)] = twin
    folded = copy.deepcopy(model, memo)
    for _, module in list(folded.named_modules()):
        if isinstance(module, Sequential):
            module.layers = _folded(module.layers)
    return folded.eval()


def _folded(layers: list[Module]) -> list[Module]:
    """The layers of a `Sequential` after folding."""
    kept: list[Module] = []
    for layer in layers:
        before = kept[-1] if kept else None
        if type(layer) is BatchNorm2d and isinstance(before, Conv2d | Linear) and _meet(before, layer):
            kept[-1] = _joined(before, layer)
        else:
            kept.append(layer)
    return kept


def _meet(product: Conv2d | Linear, norm: BatchNorm2d) -> bool:
    """Whether no `forward` of a subclass and no forward hook acts between the two layers."""
    plain = type(product) in (Conv2d, Linear) and product.activation is None and getattr(product, "pool", None) is None
    return plain and not (product.hooked or norm.hooked)


def _joined(product: Conv2d | Linear, norm: BatchNorm2d) -> Module:
    """A new layer that does what both layers did; the model may use `product` elsewhere too."""

    def values(tensor: Tensor | None) -> np.ndarray | None:
        return None if tensor is None else tensor.numpy()

    def made(array: np.ndarray) -> Parameter:
        backend, dtype = product.weight.backend, product.weight.dtype
        return Parameter(backend.asarray(array.astype(dtype), dtype), backend)

    moments = norm.running_mean.numpy(), norm.running_var.numpy()
    scale, shift = scale_and_shift(values(norm.weight), values(norm.bias), *moments, norm.eps)
    joined = copy.copy(product)
    joined.weight = made(product.weight.numpy() * scale)
    joined.bias = made(shift if product.bias is None else product.bias.numpy() * scale + shift)
    joined.activation = norm.activation
    return joined


def scale_and_shift(
    weight: np.ndarray | None, bias: np.ndarray | None, mean: np.ndarray, variance: np.ndarray, eps: float
) -> tuple[np.ndarray, np.ndarray]:
    """What batch norm with these moments does to a channel x: x scale + shift, both (C,) float64.

    Args:
        weight, bias: (C,), or None for 1 and 0.
        mean, variance: (C,).
        eps: added to the variance.
    """
    scale = 1 / np.sqrt(variance.astype(np.float64) + eps)
    if weight is not None:
        scale = scale * weight
    shift = -mean.astype(np.float64) * scale
    return scale, shift if bias is None else shift + bias
