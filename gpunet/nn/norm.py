"""Batch normalisation, what it makes possible (deep residual nets), and how it goes again after training."""

from __future__ import annotations

import copy
from math import prod

import numpy as np

from gpunet import functional as F
from gpunet.autograd import Parameter, Tensor, parameter
from gpunet.geometry import positive_int
from gpunet.nn import init as initial
from gpunet.nn.layers import Conv2d, Linear, Shape
from gpunet.nn.module import Buffer, Module
from gpunet.nn.sequential import Sequential


class BatchNorm2d(Module):
    """Batch normalisation by channel: (…, C) -> (…, C); images (N, H, W, C), or features (N, C).

    In training mode the batch's moments normalise, and the running ones follow them; in `eval` mode the running ones normalise.

    Args:
        channels: C.
        eps, momentum: as for `functional.batch_norm`.
        affine: whether to learn a scale and a shift.
        activation: as for `functional.conv2d`, fused.
    Attributes:
        weight, bias: (C,), gamma and beta, 1 and 0 at first; None unless `affine`.
        running_mean, running_var: buffers (C,), 0 and 1 at first.
    """

    def __init__(
        self,
        channels: int,
        *,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        activation: str | None = None,
    ):
        shape = (positive_int("BatchNorm2d", "channels", channels),)
        if not 0 <= momentum <= 1:
            raise ValueError(f"BatchNorm2d: momentum is {momentum} but must be from 0 to 1")
        if not eps >= 0:
            raise ValueError(f"BatchNorm2d: eps is {eps} but must be at least 0")
        self.eps, self.momentum = eps, momentum
        self.activation = F.activation.activation_of("BatchNorm2d", activation)
        self.weight = parameter(np.ones(shape, np.float32)) if affine else None
        self.bias = parameter(initial.zeros(shape)) if affine else None
        self.running_mean = Buffer(initial.zeros(shape))
        self.running_var = Buffer(np.ones(shape, np.float32))

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """x (…, C), and what is added before the activation, of x's shape -> (…, C)."""
        return F.batch_norm(
            x, self.weight, self.bias, self.running_mean, self.running_var,
            training=self.training, momentum=self.momentum, eps=self.eps, activation=self.activation, residual=residual,
        )  # fmt: skip

    def parameter_formula(self) -> str:
        """2·C."""
        return "" if self.weight is None else f"2·{self.weight.size}"

    def flops(self, x_shape: Shape, y_shape: Shape) -> int:
        """In inference: two an element, for a scale and a shift, and one a fused activation."""
        return prod(y_shape) * (2 + (self.activation is not None))

    def extra_repr(self) -> str:
        """Channels and options."""
        fused = "" if self.activation is None else f", activation={self.activation.name!r}"
        affine = "" if self.weight is not None else ", affine=False"
        return f"{self.running_mean.size}, eps={self.eps}, momentum={self.momentum}{affine}{fused}"


class Residual(Sequential):
    """x + layers(x): what the layers, one after another, add to their input (He et al. 2016, section 3.1).

    The layers keep the shape: they are Sequential's, and so are their names.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x -> x + layers(x), of x's shape."""
        y = super().forward(x)
        if y.shape != x.shape:
            raise ValueError(f"Residual: the layers make {y.shape} of {x.shape}, and only equal shapes add up")
        return x + y


def fold_batch_norm(model: Module) -> Module:
    """A copy of a model for inference, in `eval` mode, in which batch norms are part of the products before them.

    With the running moments, batch norm of x w + b is x (w s) + (b - mean) s + beta, s = gamma / sqrt(variance + eps): one
    product with other filters, and its output is not passed over again. Folded is a `BatchNorm2d` that follows a `Conv2d` or a
    `Linear` without activation in a `Sequential`, wherever in the model that stands; others stay. The product takes over the
    batch norm's activation. The model itself is not changed, and shares nothing with the copy.
    """
    memo: dict[int, object] = {}
    for p in model.parameters():
        memo[id(p)] = Parameter(p.backend.copy(p.data), p.backend, p.requires_grad)
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
    kept: list[Module] = []
    for layer in layers:
        before = kept[-1] if kept else None
        if isinstance(layer, BatchNorm2d) and isinstance(before, Conv2d | Linear) and before.activation is None:
            kept[-1] = _joined(before, layer)
        else:
            kept.append(layer)
    return kept


def _joined(product: Conv2d | Linear, norm: BatchNorm2d) -> Module:
    """A layer that does what both did; a new one, for the product may stand elsewhere too."""

    def values(tensor: Tensor | None, otherwise: float) -> np.ndarray:
        return np.full(norm.running_mean.shape, otherwise) if tensor is None else tensor.numpy().astype(np.float64)

    def made(array: np.ndarray) -> Parameter:
        backend, dtype = product.weight.backend, product.weight.dtype
        return Parameter(backend.asarray(array.astype(dtype), dtype), backend)

    scale = values(norm.weight, 1) / np.sqrt(values(norm.running_var, 1) + norm.eps)
    joined = copy.copy(product)
    joined.weight = made(product.weight.numpy() * scale)
    joined.bias = made((values(product.bias, 0) - values(norm.running_mean, 0)) * scale + values(norm.bias, 0))
    joined.activation = norm.activation
    return joined
