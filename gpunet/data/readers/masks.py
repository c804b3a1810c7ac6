"""Masks in COCO's terms, polygons and run-length codes: checked, decoded, encoded."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from gpunet.data.readers.checks import LARGEST, checked_size, numbers, shown

__all__ = ["boxes_of_masks", "decode_mask", "encode_mask"]

MOST_PIXELS = 2**31 - 1
"""The most pixels of an image whose masks are decoded: pycocotools counts them in 32 bits."""

OUTLINE = 2**18
"""The largest length in pixels of an outline that is drawn at once, however small the image is.

pycocotools takes 5 steps for each pixel and two integers for each step, so this is about 10 MB of
memory.
"""


def boxes_of_masks(masks: np.ndarray, *, source: str = "mask") -> np.ndarray:
    """The smallest upright boxes around masks (K, H, W) -> (K, 4) float32, (x0, y0, x1, y1).

    Args:
        source: what error messages call a mask, whose number follows.
    Raises:
        ValueError: a mask without a pixel, or another number of axes.
    """
    masks = np.asarray(masks)
    if masks.ndim != 3:
        raise ValueError(f"boxes_of_masks: masks have shape {masks.shape} but take (K, H, W)")
    boxes = np.zeros((len(masks), 4), np.float32)
    for i, mask in enumerate(masks):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not rows.size:
            raise ValueError(f"boxes_of_masks: {source} {i} has no pixel")
        boxes[i] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """A mask (H, W) as COCO's compressed run-length code: {"size": [H, W], "counts": str}.

    Elements other than 0 belong to the mask.

    Raises:
        ValueError: another shape, or NaN.
        TypeError: elements that are not real numbers or booleans.
        ImportError: pycocotools is not installed.
    """
    coder, mask = _coder(), np.asarray(mask)
    if mask.ndim != 2 or not mask.size:
        raise ValueError(f"encode_mask: mask has shape {mask.shape} but takes (H, W) of at least one pixel")
    if mask.dtype.kind not in "biuf":
        raise TypeError(f"encode_mask: mask must be real numbers or booleans, got {mask.dtype}")
    if np.isnan(mask).any():
        raise ValueError("encode_mask: mask must not be NaN")
    with _older_numpy():
        made: dict[str, Any] = plain_segmentation(coder.encode(np.asfortranarray(mask != 0, np.uint8)))
    return made


def decode_mask(segmentation: Any, size: tuple[int, int], *, source: str = "segmentation") -> np.ndarray:
    """The mask, (H, W) bool, of a segmentation of COCO: polygons, or a run-length code.

    The whole segmentation is checked before anything is decoded. Parts of a polygon outside the
    image are cut off; however large the polygon is, it takes only the memory of the image and of
    the polygon's points.

    Args:
        segmentation: [[x, y, x, y, …], …] in pixels, up to 2^53, or {"size": [H, W], "counts": str
            or list}.
        size: (H, W) of the image.
        source: what error messages call the segmentation.
    Raises:
        ValueError: a code of another size, or of more or fewer pixels than the image has; a polygon
            of fewer than three points, or with a coordinate that is not a finite number; anything
            that cannot be read.
        ImportError: there are polygons, and pycocotools is not installed.
    """
    height, width = checked_size(f"decode_mask: {source}", size)
    if height * width > MOST_PIXELS:
        raise ValueError(f"decode_mask: {source} is of {height} x {width} pixels, more than {MOST_PIXELS}")
    if isinstance(segmentation, Mapping):
        counts = _checked_counts(segmentation, (height, width), source)
        inside = np.arange(len(counts)) % 2 == 1
        return np.repeat(inside, counts).reshape(width, height).T  # runs go down the columns
    polygons = _checked_polygons(segmentation, source)
    mask = np.zeros((height, width), bool)
    for polygon in polygons:
        mask |= _painted(polygon, (height, width))
    return mask


def plain_segmentation(segmentation: Any) -> Any:
    """A segmentation in JSON's types: counts may have been bytes, and polygons arrays."""
    if not isinstance(segmentation, Mapping):
        return [np.asarray(polygon).tolist() for polygon in segmentation]
    counts = segmentation["counts"]
    if not isinstance(counts, str):
        counts = counts.decode("ascii") if isinstance(counts, bytes) else np.asarray(counts).tolist()
    return {"size": [int(n) for n in segmentation["size"]], "counts": counts}


def _checked_counts(code: Mapping[str, Any], size: tuple[int, int], source: str) -> list[int]:
    """The run lengths of a code, outside and inside the mask by turns, checked."""
    stated = numbers(code.get("size"))
    if stated is None or tuple(stated) != size:
        raise ValueError(f"decode_mask: {source} has a mask of {shown(code.get('size'))} but is {list(size)}")
    given = code.get("counts")
    if isinstance(given, str | bytes):
        counts = _unpacked(given.encode("utf-8", "replace") if isinstance(given, str) else given, source)
    else:
        runs = given.tolist() if isinstance(given, np.ndarray) else given
        if not isinstance(runs, list | tuple) or not set(map(type, runs)) <= {int}:
            raise ValueError(f"decode_mask: {source} must have counts of whole numbers, or text, got {shown(given)}")
        counts = list(runs)
    if min(counts, default=0) < 0:
        raise ValueError(f"decode_mask: {source} has counts with a run of {shown(min(counts))} pixels")
    if sum(counts) != size[0] * size[1]:
        raise ValueError(
            f"decode_mask: {source} has counts of {shown(sum(counts))} pixels but the image has {size[0] * size[1]}"
        )
    return counts


def _unpacked(code: bytes, source: str) -> list[int]:
    """The run lengths of COCO's compressed code (pycocotools' `rleFrString`).

    A number is written in groups of 5 bits, the lowest first, each as one character from "0" on. A
    sixth bit says that another group follows, and the highest bit of the last group is the sign.
    From the fourth number on, it is the difference from the previous run of the same kind.
    """
    counts: list[int] = []
    value = shift = 0
    for byte in code:
        group = byte - ord("0")
        if not 0 <= group < 64 or shift >= 60:
            raise ValueError(f"decode_mask: {source} has counts that are not a run-length code: {shown(code)}")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError(f"decode_mask: {source} has counts that end within a number: {shown(code)}")
    return counts


def _checked_polygons(segmentation: Any, source: str) -> list[np.ndarray]:
    """The points (n, 2) float64 of each polygon."""
    polygons: list[np.ndarray] = []
    for given in segmentation if isinstance(segmentation, list | tuple | np.ndarray) else ():
        flat = numbers(given)
        if flat is None:
            raise ValueError(
                f"decode_mask: {source} must have polygons [[x, y, x, y, …], …] of numbers up to {LARGEST:.0f}, "
                f"got {shown(given)}"
            )
        if len(flat) < 6 or len(flat) % 2:
            raise ValueError(
                f"decode_mask: {source} has a polygon that is not x, y of at least three points, got {len(flat)} numbers"
            )
        polygons.append(flat.reshape(-1, 2))
    if not polygons:
        raise ValueError(f"decode_mask: {source} must have polygons or a run-length code, got {shown(segmentation)}")
    return polygons


def _painted(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The pixels of a polygon, (H, W) bool, as pycocotools rasterises it.

    pycocotools walks along the outline, so no outline that is much longer than the image has pixels
    is given to it: a polygon that reaches far out is cut off at some distance, and a long outline
    is drawn in pieces.
    """
    height, width = size
    margin = height + width
    if (points < -margin).any() or (points > (width + margin, height + margin)).any():
        points = _clipped(points, (-margin, -margin), (width + margin, height + margin))
    coder, mask = _coder(), np.zeros(size, bool)
    for piece in _pieces(points, max(OUTLINE, height * width)):
        with _older_numpy():
            mask ^= coder.decode(coder.frPyObjects([piece.ravel().tolist()], height, width))[..., 0].astype(bool)
    return mask


def _clipped(points: np.ndarray, low: tuple[int, int], high: tuple[int, int]) -> np.ndarray:
    """The part of a polygon (n, 2) within a rectangle, clipped at one edge after the other.

    Sutherland & Hodgman 1974, "Reentrant polygon clipping".
    """
    for axis in (0, 1):
        for limit, sign in ((low[axis], 1), (high[axis], -1)):
            inside = sign * (points[:, axis] - limit) >= 0
            after = np.roll(points, -1, axis=0)
            crosses = inside != np.roll(inside, -1)
            run = np.where(crosses, after[:, axis] - points[:, axis], 1)
            meets = points + ((limit - points[:, axis]) / run)[:, None] * (after - points)
            meets[:, axis] = limit
            points = np.stack([points, meets], axis=1)[np.stack([inside, crosses], axis=1)]
    return points


def _pieces(points: np.ndarray, length: int) -> Iterator[np.ndarray]:
    """Polygons with outlines of about `length` pixels whose exclusive or is the given polygon.

    Each piece goes from the first point along a part of the outline and back. The lines from the
    first point, which two pieces share, cancel each other.
    """
    steps = np.abs(np.diff(points, axis=0)).max(axis=1)
    turns = np.flatnonzero(np.diff(steps.cumsum() // length)) + 1
    for start, end in zip([0, *turns], [*turns, len(steps)], strict=True):
        piece = points[start : end + 1] if not start else np.concatenate([points[:1], points[start : end + 1]])
        if len(piece) > 2:
            yield piece


@contextmanager
def _older_numpy() -> Iterator[None]:
    """Hides deprecation warnings of pycocotools, which was written for NumPy 1, under NumPy 2."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _coder() -> Any:
    """pycocotools' module of masks."""
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ImportError('masks of COCO need pycocotools: pip install "gpunet[examples]"') from error
    return mask
