"""Filters, feature maps, and the patches of images that activate a unit most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpunet.autograd import no_grad
from gpunet.geometry import positive_int
from gpunet.nn import Conv2d, Module
from gpunet.progress import track
from gpunet.vision.inspect.fields import field_of
from gpunet.vision.inspect.run import as_batch, as_input, checked_unit, in_batches, inference, run


@dataclass(frozen=True)
class Patches:
    """Where a unit's activation is largest, the strongest patch first.

    Attributes:
        patches: (K, RH, RW, C), the unit's receptive field in each image, 0 outside the image, like
            its padding.
        values: (K,), the unit's output.
        images: (K,), positions of the images.
        boxes: (K, 2, 2), ((top, bottom), (left, right)) in the image; ends are exclusive.
    """

    patches: np.ndarray
    values: np.ndarray
    images: np.ndarray
    boxes: np.ndarray

    def cut(self, k: int, image: np.ndarray) -> np.ndarray:
        """Box k of another image (H, W, C), 0 outside it.

        The image must have the same extents; it may be a projection.
        """
        return _cut(image, self.boxes[k])


def first_layer_filters(model: Module) -> np.ndarray:
    """A copy of the filters (KH, KW, C // groups, O) of the model's first convolution."""
    first = next((module for _, module in model.named_modules() if isinstance(module, Conv2d)), None)
    if first is None:
        raise ValueError(f"first_layer_filters: the model has no Conv2d ({type(model).__name__})")
    return first.weight.numpy().copy()


def feature_maps(model: Module, images: Any, layers: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Each layer's output for each image, (N, OH, OW, O) or (N, O), by name in the order they run.

    Args:
        layers: names of layers; all innermost modules if None.
    """
    batch = as_batch("feature_maps", images)
    with inference("feature_maps", model), no_grad():
        _, outputs = run("feature_maps", model, as_input(model, batch), layers)
    return {name: y.numpy().copy() for name, y in outputs.items()}


def top_patches(model: Module, images: Any, layer: str, unit: int, count: int = 9, *, batch_size: int = 256) -> Patches:
    """The patches that activate a unit most, at most one from each image.

    Zeiler & Fergus 2014, "Visualizing and understanding convolutional networks", section 4.1.

    Args:
        images: the images to search.
        layer, unit: the layer's name and the unit's channel; a unit of a layer without pixels sees
            the whole image.
        count: K, at most the number of images.
        batch_size: images per run of the model.
    """
    batch = as_batch("top_patches", images)
    if positive_int("top_patches", "count", count) > len(batch):
        raise ValueError(f"top_patches: count is {count} but there are {len(batch)} images")
    batch_size = positive_int("top_patches", "batch_size", batch_size)
    values, places = np.empty(len(batch)), np.empty((len(batch), 2), int)
    start = 0
    with inference("top_patches", model):
        x = as_input(model, batch[:1])
        field = field_of(run("top_patches", model, x, [layer])[1][layer], x)
        for part in track(in_batches(batch, batch_size), "looking for patches", "batch"):
            with no_grad():
                y = run("top_patches", model, as_input(model, part), [layer])[1][layer]
            stop = start + len(part)
            values[start:stop], places[start:stop] = strongest(
                y.numpy()[..., checked_unit("top_patches", layer, unit, y)]
            )
            start = stop
    best = np.argsort(-values, kind="stable")[:count]
    boxes = np.array([field.box(*places[i]) for i in best])
    patches = np.stack([_cut(batch[i], box) for i, box in zip(best, boxes, strict=True)])
    return Patches(patches, values[best], best, boxes)


def strongest(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(values (N,), positions (N, 2)): the largest element of each map, and its row and column.

    Maps are (N, OH, OW); for (N,) the positions are (0, 0).
    """
    flat = maps.reshape(len(maps), -1)
    winner = flat.argmax(axis=1)
    width = maps.shape[2] if maps.ndim == 3 else 1
    return flat[np.arange(len(flat)), winner], np.stack([winner // width, winner % width], axis=1)


def _cut(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The box of an image (H, W, C), 0 outside the image."""
    extents = np.array(image.shape[:2])
    patch = np.zeros((*(box[:, 1] - box[:, 0]), image.shape[2]), image.dtype)
    (top, left), (bottom, right) = np.maximum(box[:, 0], 0), np.minimum(box[:, 1], extents)
    y, x = (top, left) - box[:, 0]
    inside = image[top:bottom, left:right]
    patch[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    return patch
