"""Which pixels a class score rests on: its gradient, Grad-CAM, and occlusion."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpunet import functional as F
from gpunet.autograd import Function, Tensor, backward, no_grad
from gpunet.backends.contract import Array
from gpunet.geometry import Pair, pair, positive_int
from gpunet.nn import Module
from gpunet.progress import track
from gpunet.vision.inspect.run import as_batch, as_input, chosen_classes, inference, one_hot, run


def saliency(model: Module, images: Any, target: Any = None) -> np.ndarray:
    """How strongly each pixel affects the class score: (N, H, W), the largest of |d score / d x|.

    The largest is taken over the channels. Simonyan et al. 2014, "Deep inside convolutional
    networks", section 3. The scores are those before softmax.

    Args:
        target: a class, or one class for each image; the class of each image's highest score if
            None.
    """
    with inference("saliency", model):
        x = as_input(model, as_batch("saliency", images))
        scores = model(x)
        classes = chosen_classes("saliency", scores, target)
        scores.backward(one_hot(scores, classes))
    assert x.grad is not None
    return np.abs(x.backend.to_numpy(x.grad)).max(axis=-1)


def grad_cam(model: Module, images: Any, layer: str | None = None, target: Any = None) -> np.ndarray:
    """Where a layer supports the class: (N, OH, OW), ReLU(sum over k of a_k A_k).

    A_k is channel k of the layer's output, and a_k the mean over its pixels of d score / d A_k.
    Selvaraju et al. 2017, "Grad-CAM", equations 1 and 2. The map has the layer's resolution;
    `plot.heatmaps` scales it to the image.

    Args:
        layer: a layer whose output has pixels, preferably after its ReLU; the last such layer if
            None.
        target: as for `saliency`.
    """
    with inference("grad_cam", model):
        x = as_input(model, as_batch("grad_cam", images))
        scores, outputs = run("grad_cam", model, x, None if layer is None else [layer])
        name, maps = _with_pixels(outputs)
        classes = chosen_classes("grad_cam", scores, target)
        found: list[Array] = []

        def watch(function: Function, dy: Array) -> Any:
            if function is maps.creator:
                found.append(dy)
            return function.run_backward(dy)

        backward(scores, one_hot(scores, classes), rule=watch)
    if not found:
        raise ValueError(f"grad_cam: the scores do not depend on layer {name!r}")
    weights = maps.backend.to_numpy(found[0]).mean(axis=(1, 2), keepdims=True, dtype=np.float64).astype(maps.dtype)
    return np.maximum((weights * maps.numpy()).sum(axis=-1), 0)


def occlusion(
    model: Module,
    images: Any,
    size: int | Pair,
    *,
    stride: int | Pair = 1,
    target: Any = None,
    value: float = 0.0,
    batch_size: int = 256,
) -> np.ndarray:
    """The class's probability with a rectangle of the image covered: (N, OH, OW).

    There is one value for each position of the rectangle. It is low where the covered part matters
    to the network. Zeiler & Fergus 2014, "Visualizing and understanding convolutional networks",
    section 4.2.

    Args:
        size: height and width of the rectangle, in pixels; it is cut off at the image.
        stride: step between the rectangles' middles, which begin at the first pixel: OH = ceil(H /
            stride).
        target: as for `saliency`; if None, the class of each uncovered image's highest score.
        value: of the covering pixels; 0 is the mean of normalised images.
        batch_size: images per run of the model.
    """
    batch = as_batch("occlusion", images)
    (h, w), (down, right) = pair("occlusion", "size", size), pair("occlusion", "stride", stride)
    batch_size = positive_int("occlusion", "batch_size", batch_size)
    if h > batch.shape[1] or w > batch.shape[2]:
        raise ValueError(f"occlusion: size is {h}x{w} but images have {batch.shape[1]}x{batch.shape[2]} pixels")
    rows, columns = range(0, batch.shape[1], down), range(0, batch.shape[2], right)
    places = [(row - h // 2, column - w // 2) for row in rows for column in columns]
    maps = np.empty((len(batch), len(places)))
    with inference("occlusion", model), no_grad():
        classes = chosen_classes("occlusion", model(as_input(model, batch)), target)
        for start in track(range(0, len(places), batch_size), "covering parts of the images", "batch"):
            part = places[start : start + batch_size]
            for n, image in enumerate(batch):
                covered = np.repeat(image[None], len(part), axis=0)
                for each, (top, left) in zip(covered, part, strict=True):
                    each[max(top, 0) : top + h, max(left, 0) : left + w] = value
                probabilities = F.softmax(model(as_input(model, covered))).numpy()
                maps[n, start : start + len(part)] = probabilities[:, classes[n]]
    return maps.reshape(len(batch), len(rows), len(columns))


def _with_pixels(outputs: dict[str, Tensor]) -> tuple[str, Tensor]:
    """(name, output) of the last layer whose output is (N, H, W, C)."""
    for name, y in reversed(outputs.items()):
        if y.ndim == 4:
            return name, y
    shapes = ", ".join(f"{name!r} {y.shape}" for name, y in outputs.items())
    raise ValueError(f"grad_cam: takes a layer with pixels, (N, H, W, C), got {shapes}")
