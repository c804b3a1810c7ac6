"""The network of fast CIFAR-10 training.

Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU", section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import sqrt

import numpy as np

from gpunet import nn
from gpunet.autograd import Parameter, Tensor
from gpunet.models.parts import ImageShape, check_extents
from gpunet.nn import init
from gpunet.nn.origin import recorded

__all__ = ["speedrun", "whiten", "whitening_filters"]

PATCH = 2
"""Height and width of the whitening filters, in pixels."""
WHITENED_AT_ONCE = 250
"""Images whose patches are made at a time, so that they fit into a CPU's caches."""
GROUPS = (64, 256, 256)
"""Filters of the two convolutions of each group."""


class Scaled(nn.Sequential):
    """A `Sequential` whose result is multiplied by a factor.

    Args:
        layers, fuse: as for `Sequential`.
        factor: multiplies the result.
    """

    def __init__(self, *layers: nn.Module, factor: float, fuse: bool = True):
        super().__init__(*layers, fuse=fuse)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """x -> factor * layers(x)."""
        return super().forward(x) * self.factor


@partial(recorded, omitted=("images",))
def speedrun(
    input_shape: ImageShape = (32, 32, 3), num_classes: int = 10, images: np.ndarray | None = None
) -> nn.Sequential:
    """The network of fast CIFAR-10 training, which begins with a whitening convolution.

    The whitening convolution is 2x2, followed by GELU. Three groups follow, each of conv 3x3, max
    pool 2, batch norm, GELU, conv 3x3, batch norm, GELU. Then come the maximum over the remaining
    pixels (3x3 for images of 32x32) and a dense layer without bias, whose logits are divided by the
    number of its inputs.

    The whitening filters and batch norm's scales do not learn; the running statistics keep 0.6 of
    their value in each step. The first filters of each convolution start as the identity (Zagoruyko
    & Komodakis 2017). The others, and the whitening biases, are uniform with variance 1 / (3
    fan_in); the dense layer's weights have the standard deviation 1.

    Args:
        input_shape: (H, W, C), at least 9x9 pixels; 32x32x3 gives 1,972,792 parameters, of which
            288 whitening weights and 1,152 scales are fixed.
        num_classes: number of outputs, logits.
        images: (N, H, W, C), scaled as in training, from which the whitening filters are computed:
            see `whitening_filters`. If None, the filters are random until `whiten` or a checkpoint
            sets them.
    """
    h, w, c = input_shape
    check_extents("speedrun", input_shape, 9)
    filters = 2 * PATCH * PATCH * c
    first = nn.Conv2d(c, filters, PATCH)
    first.weight.requires_grad = False
    first.bias = Parameter(init.uniform((filters,), 1 / sqrt(PATCH * PATCH * c)))
    layers: list[nn.Module] = [first, nn.GELU()]
    for before, after in zip((filters, *GROUPS), GROUPS, strict=False):
        layers += [_conv(before, after), nn.MaxPool2d(2), _norm(after), nn.GELU()]
        layers += [_conv(after, after), _norm(after), nn.GELU()]
    rest = (h - 1) // 8, (w - 1) // 8
    head = nn.Linear(GROUPS[-1], num_classes, bias=False, init=_of_unit_deviation)
    model = Scaled(*layers, nn.MaxPool2d(rest), nn.Flatten(), head, factor=1 / GROUPS[-1])
    if images is not None:
        whiten(model, images)
    return model


def whiten(model: nn.Sequential, images: np.ndarray) -> None:
    """Set the whitening filters of a `speedrun` network from images; see `whitening_filters`."""
    first = model[0]
    if not isinstance(first, nn.Conv2d):
        raise TypeError(f"whiten: takes a speedrun network, got one that begins with {type(first).__name__}")
    weight = first.weight
    weight.data = weight.backend.asarray(whitening_filters(images), weight.dtype)
    weight.version += 1


def whitening_filters(images: np.ndarray, *, eps: float = 5e-4) -> np.ndarray:
    """Filters whose outputs on patches of the images are uncorrelated with variance 1.

    They are the eigenvectors v of the patches' second moments, each divided by sqrt(eigenvalue +
    eps), as columns, with the largest eigenvalue first; then come their negatives.

    Args:
        images: (N, H, W, C), scaled as in training; 5,000 images suffice.
        eps: added to the eigenvalues, the smallest of which belong to noise.
    Returns:
        (2, 2, C, 8 C) float32.
    """
    x = np.asarray(images)
    if x.ndim != 4 or min(x.shape[1:3]) < PATCH or not len(x):
        raise ValueError(f"whitening_filters: images have shape {x.shape} but take (N, H, W, C), at least 2x2 pixels")
    c = x.shape[3]
    values, vectors = np.linalg.eigh(_second_moments(x))
    scaled = (vectors / np.sqrt(values + eps))[:, ::-1]
    filters = np.concatenate([scaled, -scaled], axis=1)
    return np.ascontiguousarray(filters.reshape(PATCH, PATCH, c, -1), np.float32)


def _second_moments(images: np.ndarray) -> np.ndarray:
    """The mean product of each two of a patch's 4 C values, over all patches: float64 (4 C, 4 C)."""
    n, h, w, c = images.shape
    rows, columns = h - PATCH + 1, w - PATCH + 1
    products = np.zeros((PATCH * PATCH * c,) * 2)
    for start in range(0, n, WHITENED_AT_ONCE):
        planes = np.asarray(images[start : start + WHITENED_AT_ONCE].transpose(3, 0, 1, 2), np.float64, order="C")
        places = [planes[:, :, i : i + rows, j : j + columns] for i in range(PATCH) for j in range(PATCH)]
        values = np.stack(places).reshape(len(products), -1)  # one row for each value of a patch
        products += values @ values.T
    return products / (n * rows * columns)


def _conv(before: int, filters: int) -> nn.Conv2d:
    return nn.Conv2d(before, filters, 3, padding="same", bias=False, init=_identity_first)


def _norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, eps=1e-12, momentum=0.4)
    if norm.weight is not None:
        norm.weight.requires_grad = False
    return norm


def _uniform(shape: Sequence[int]) -> np.ndarray:
    """Initial weights: uniform with variance 1 / (3 fan_in)."""
    return init.uniform(shape, 1 / sqrt(init.fans(shape)[0]))


def _of_unit_deviation(shape: Sequence[int]) -> np.ndarray:
    """Initial weights: uniform, then scaled to a standard deviation of exactly 1."""
    w = _uniform(shape)
    return w / w.std(ddof=1)


def _identity_first(shape: Sequence[int]) -> np.ndarray:
    """Initial weights where filter i passes channel i on, as far as there are channels."""
    w = _uniform(shape)
    kh, kw, c, o = shape
    same = np.arange(min(c, o))
    w[..., same] = 0
    w[kh // 2, kw // 2, same, same] = 1
    return w
