"""The translation experiment: how far an input moves before a network's features change."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from gpunet.autograd import no_grad
from gpunet.nn import Module
from gpunet.vision.inspect.run import as_batch, as_input, inference, run


def translation(
    model: Module,
    images: Any,
    layer: str | None = None,
    *,
    shifts: Sequence[int] = tuple(range(9)),
    direction: tuple[int, int] = (0, 1),
    fill: float = 0.0,
) -> np.ndarray:
    """How much a layer's features change when the images move: (S,), the distance for each shift.

    distance[s] = mean over n of |f(x_n moved by s) - f(x_n)| / mean over n of |f(x_n+1) - f(x_n)|.
    0 is no change; 1 is as much as the distance between two images. After Zeiler & Fergus 2014,
    "Visualizing and understanding convolutional networks", section 4.1 and figure 5, who do not
    divide. The features of a convolution move with the image, so each position changes as much as
    the pixels do; after pools, the change grows more slowly.

    Args:
        images: at least 2 different images.
        layer: the layer whose output is f; the model's output if None.
        shifts: S shifts in pixels; negative ones move the other way.
        direction: (down, right), the movement for a shift of 1.
        fill: value of the pixels that enter, usually the background's.
    """
    batch = as_batch("translation", images)
    if len(batch) < 2:
        raise ValueError("translation: takes at least 2 images, to measure the distance between images, got 1")
    if any(not isinstance(n, int | np.integer) for n in (*shifts, *direction)) or len(direction) != 2:
        raise TypeError(f"translation: shifts and direction take whole pixels, got {shifts!r} and {direction!r}")

    def features(moved: np.ndarray) -> np.ndarray:
        y, outputs = run("translation", model, as_input(model, moved), [] if layer is None else [layer])
        return (y if layer is None else outputs[layer]).numpy().reshape(len(moved), -1).astype(np.float64)

    with inference("translation", model), no_grad():
        still = features(batch)
        unit = np.linalg.norm(np.roll(still, -1, axis=0) - still, axis=1).mean()
        if unit == 0:
            raise ValueError(
                "translation: the features of all images are the same, so there is no distance to compare with"
            )
        moves = ((s * direction[0], s * direction[1]) for s in shifts)
        return np.array(
            [np.linalg.norm(features(_moved(batch, *m, fill)) - still, axis=1).mean() / unit for m in moves]
        )


def half_way(shifts: Sequence[int], distances: Sequence[float], level: float = 0.5) -> float:
    """The shift at which `translation`'s distance first reaches `level`; infinity if it never does.

    It is in pixels, interpolated between shifts.

    Args:
        shifts: increasing.
    """
    if len(shifts) != len(distances) or any(b <= a for a, b in pairwise(shifts)):
        raise ValueError(
            f"half_way: takes increasing shifts and one distance for each, got {shifts} and {len(distances)} distances"
        )
    for i, distance in enumerate(distances):
        if distance >= level:
            if i == 0:
                return float(shifts[0])
            part = (level - distances[i - 1]) / (distance - distances[i - 1])
            return float(shifts[i - 1] + part * (shifts[i] - shifts[i - 1]))
    return float("inf")


def _moved(batch: np.ndarray, down: int, right: int, fill: float) -> np.ndarray:
    """Images moved by whole pixels; the pixels that enter are `fill`."""
    moved = np.full_like(batch, fill)
    (to_row, from_row), (to_column, from_column) = (
        (slice(max(n, 0), extent + min(n, 0)), slice(max(-n, 0), extent + min(-n, 0)))
        for n, extent in ((down, batch.shape[1]), (right, batch.shape[2]))
    )
    if abs(down) < batch.shape[1] and abs(right) < batch.shape[2]:
        moved[:, to_row, to_column] = batch[:, from_row, from_column]
    return moved
