"""Transforms of colours: brightness, contrast, saturation, hue, noise.

They run on the host and leave every pixel in its place. Images are uint8, or floats on the scale
from 0 to 1, so transforms of colours come before `Normalize`.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import ClassVar

import numpy as np

from gpunet import random
from gpunet.data.transforms import Batch, check_pixels, uniform

__all__ = ["ColorJitter", "GaussianNoise"]

GREY = np.array([0.299, 0.587, 0.114])
"""Shares of red, green and blue in the brightness (ITU-R BT.601)."""


@dataclass(frozen=True)
class ColorJitter:
    """Changes brightness, contrast, saturation and hue of each image by uniformly drawn amounts.

    The changes come in this order. The brightness factor multiplies the image. The contrast factor
    multiplies each pixel's distance from the image's mean grey, the saturation factor its distance
    from the pixel's own grey. The hue turns the colours about the grey axis. The result is clipped
    to the range from black to white. Saturation and hue need 3 channels; the grey of images with
    another number of channels is the mean of the channels.

    Attributes:
        brightness, contrast, saturation: the factor is drawn from 1 - this to 1 + this; at most 1.
        hue: the turn is drawn from -hue to hue, as a share of the full circle of colours, at most
            0.5, as in torchvision.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    STREAM_BLOCK: ClassVar[int] = 4

    def __post_init__(self) -> None:
        for name, most in (("brightness", 1), ("contrast", 1), ("saturation", 1), ("hue", 0.5)):
            value: float = getattr(self, name)
            if not (isinstance(value, Real) and 0 <= value <= most):
                raise ValueError(f"ColorJitter: {name} must be from 0 to {most}, got {value!r}")

    def __call__(self, batch: Batch, *, indices: np.ndarray, epoch: int, seed: int) -> Batch:
        """The batch with its images, (N, H, W, C), in other colours and of the same dtype."""
        white = _white("ColorJitter", batch[0])
        channels = batch[0].shape[3]
        if channels != 3 and (self.saturation or self.hue):
            raise ValueError(f"ColorJitter: saturation and hue take images of 3 channels, got {channels}")
        drawn = 2 * uniform(indices, epoch, seed, self.STREAM_BLOCK)[:, :, None, None, None] - 1
        brightness, contrast, saturation = (
            1 + most * u for most, u in zip((self.brightness, self.contrast, self.saturation), drawn, strict=False)
        )
        grey = GREY if channels == 3 else np.full(channels, 1 / channels)
        y = np.clip(batch[0] * brightness, 0, white)
        middle = (y @ grey).mean(axis=(1, 2))[:, None, None, None]
        y = np.clip(middle + contrast * (y - middle), 0, white)
        if self.saturation:
            level = (y @ grey)[..., None]
            y = level + saturation * (y - level)
        if self.hue:
            y = np.einsum("nhwc,ndc->nhwd", y, _turns(2 * np.pi * self.hue * drawn[3, :, 0, 0, 0]))
        return _like(batch[0], np.clip(y, 0, white)), *batch[1:]


@dataclass(frozen=True)
class GaussianNoise:
    """Adds normal noise of mean 0 to each channel of each pixel.

    Attributes:
        std: the standard deviation, on the scale from 0 to 1. uint8 results are rounded and clipped
            to 0 to 255; floats are not clipped.
    """

    std: float
    STREAM_STEP: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not (isinstance(self.std, Real) and 0 <= self.std < np.inf):
            raise ValueError(f"GaussianNoise: std must be at least 0, and finite, got {self.std!r}")

    def __call__(self, batch: Batch, *, indices: np.ndarray, epoch: int, seed: int) -> Batch:
        """The batch with noise added to its images, (N, H, W, C)."""
        images, white = batch[0], _white("GaussianNoise", batch[0])
        y = images.astype(np.float64)
        for image, index in zip(y, indices.tolist(), strict=True):
            stream = random.Stream(seed, random.PURPOSES["augment"], step=self.STREAM_STEP, call=index, epoch=epoch)
            image += self.std * white * random.normal(stream, image.size).reshape(image.shape)
        return _like(images, np.clip(y, 0, white) if images.dtype == np.uint8 else y), *batch[1:]


def _turns(angles: np.ndarray) -> np.ndarray:
    """Matrices (N, 3, 3) that turn colours about the grey axis by `angles` (Rodrigues' formula)."""
    cos, sin = np.cos(angles)[:, None, None], np.sin(angles)[:, None, None]
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    return cos * np.eye(3) + sin * cross + (1 - cos) / 3


def _white(operation: str, images: np.ndarray) -> float:
    """The level of white: 255 for uint8 images, 1 for floats."""
    check_pixels(operation, images)
    return 255.0 if images.dtype == np.uint8 else 1.0


def _like(images: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (np.rint(y) if images.dtype == np.uint8 else y).astype(images.dtype)
