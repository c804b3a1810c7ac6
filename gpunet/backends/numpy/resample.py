"""Separable resampling of `NumpyBackend`: a pass along one axis, then one along the other.

A pass sees images as (n, before, extent, inner): (n, 1, H, W C) along the rows, and (n, H, W, C)
along the columns. It makes few, long calls.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Protocol

import numpy as np

from gpunet.backends.contract import Array
from gpunet.backends.host import memory
from gpunet.backends.numpy.sums import CHUNK, add_middle
from gpunet.backends.numpy.threads import NumpyThreads
from gpunet.resampling import Taps

IMAGE_ELEMENTS = 1 << 20
"""Elements of a block of images: smaller blocks would fit a cache, but their calls cost more."""
BAND = 16
"""Pixels of the longer side of a matrix of `Bands`: of a larger one, most elements would be 0."""
NARROW = 16
"""Neighbouring elements below which a loop along them is too short to be worth it."""
MOST_ADDED_TAPS = 8
"""Taps, beside the first of each output, that `TapByTap` may add one by one."""
COLUMN_COST = 2
"""How many times as long a pass along the columns takes as one along the rows."""


class NumpyResample(NumpyThreads):
    """Images of other extents, by tables of weights."""

    def resample2d(self, x: Array, rows: Taps, columns: Taps) -> Array:
        y = memory.empty((x.shape[0], rows.outputs, columns.outputs, x.shape[3]), x.dtype)

        def work(start: int, stop: int) -> None:
            resample(x[start:stop], y[start:stop], rows, columns)

        self._parallel(work, len(x), max(prod(x.shape[1:]), prod(y.shape[1:])))
        return y


class ResamplePass(Protocol):
    """A resampling along one axis."""

    dense: bool
    """Whether sums contain terms of weight 0, which a NaN or an infinity would turn into NaN."""

    def __call__(self, x: Array, y: Array) -> None:
        """Write y (n, before, outputs, inner) of x (n, before, extent, inner)."""
        ...


def resample(x: Array, y: Array, rows: Taps, columns: Taps) -> None:
    """Write y (n, OH, OW, C) of images x (n, H, W, C)."""
    n, h, w, c = x.shape
    count = max(1, IMAGE_ELEMENTS // max(h * w * c, rows.outputs * columns.outputs * c))
    order, shape = [(1, rows), (2, columns)], (rows.outputs, w)
    if _cost(columns, rows, COLUMN_COST, 1) < _cost(rows, columns, 1, COLUMN_COST):
        order, shape = order[::-1], (h, columns.outputs)
    passes = [choose_pass(taps, x.dtype, min(shape[1] * c if axis == 1 else c, NARROW)) for axis, taps in order]
    between = memory.empty((min(count, n), *shape, c), x.dtype)

    def run(source: Array, target: Array, both: list[ResamplePass]) -> None:
        half = between[: len(source)]
        for one, (axis, _), a, b in zip(both, order, (source, half), (half, target), strict=True):
            one(_by_axis(a, axis), _by_axis(b, axis))

    for i in range(0, n, count):
        source, target = x[i : i + count], y[i : i + count]
        run(source, target, passes)
        if any(one.dense for one in passes) and not _is_finite(source):
            careful = [TapByTap(taps) if one.dense else one for one, (_, taps) in zip(passes, order, strict=True)]
            for j in range(len(source)):
                if not _is_finite(source[j]):  # by itself, so that an image never depends on the others of its block
                    run(source[j : j + 1], target[j : j + 1], careful)


@lru_cache(maxsize=128)
def choose_pass(taps: Taps, dtype: np.dtype, inner: int) -> ResamplePass:
    """How a pass along an axis with these taps is computed.

    Args:
        inner: how many neighbouring elements share the taps; NARROW if they are more.
    """
    if np.diff(taps.starts).max() > CHUNK:
        return Long(taps)
    if inner == NARROW and (places := _regular(taps)) is not None:
        return Sums(places, float(taps.weight[0]))
    if np.maximum(np.diff(taps.starts) - 1, 0).sum() <= min(MOST_ADDED_TAPS, taps.outputs // 2):
        return TapByTap(taps)
    return Bands(taps, dtype) if inner == NARROW else NarrowBands(taps, dtype, inner)


def _regular(taps: Taps) -> Array | None:
    """The pixels of each output, (outputs, taps), if `Sums` can add them; else None."""
    counts = np.diff(taps.starts)
    if taps.outputs < 2 or counts[0] < 2 or (counts != counts[0]).any() or (taps.weight != taps.weight[0]).any():
        return None
    places = taps.index.reshape(taps.outputs, -1)
    steps = np.diff(places, axis=0)
    return places if steps[0, 0] > 0 and (steps == steps[0, 0]).all() else None


class TapByTap:
    """Takes the first tap of every output in one call, then adds the others one by one."""

    dense = False

    def __init__(self, taps: Taps):
        starts, counts = taps.starts[:-1], np.diff(taps.starts)
        self._empty = np.flatnonzero(counts == 0)
        first = np.minimum(starts, len(taps.index) - 1)
        self._index, weight = taps.index[first].astype(np.intp), np.where(counts, taps.weight[first], 1)
        alike = bool((weight == weight[0]).all())
        self._scale = float(weight[0]) if alike else 1.0
        self._weight: Array | None = None if alike else weight[:, None]
        owner = np.repeat(np.arange(taps.outputs), counts)
        more = np.delete(np.arange(len(taps.index)), starts[counts > 0])
        self._more = [(int(owner[t]), int(taps.index[t]), float(taps.weight[t])) for t in more]

    def __call__(self, x: Array, y: Array) -> None:
        """See `ResamplePass`."""
        early = self._scale != 1 and x.size < y.size  # where x has fewer elements to multiply
        first = x * x.dtype.type(self._scale) if early else x
        np.take(first, self._index, axis=2, out=y, mode="clip")  # no index needs it, but other modes buffer y
        if self._empty.size:
            y[:, :, self._empty] = 0
        if self._weight is not None:
            y *= self._weight.astype(y.dtype)
        elif self._scale != 1 and not early:
            y *= self._scale
        for output, pixel, weight in self._more:
            y[:, :, output] += x[:, :, pixel] if weight == 1 else x[:, :, pixel] * x.dtype.type(weight)


class Sums:
    """Adds equally many pixels, of one weight, for outputs whose pixels lie a fixed step apart."""

    dense = False

    def __init__(self, places: Array, weight: float):
        step = int(places[1, 0] - places[0, 0])
        self._parts = [slice(first, last + 1, step) for first, last in zip(*places[[0, -1]].tolist(), strict=True)]
        self._weight = weight

    def __call__(self, x: Array, y: Array) -> None:
        """See `ResamplePass`."""
        first, second, *others = (x[:, :, part] for part in self._parts)
        np.add(first, second, out=y)
        for part in others:
            y += part
        if self._weight != 1:
            y *= self._weight


class Long:
    """Computes every output by itself, from many taps."""

    dense = False

    def __init__(self, taps: Taps):
        self._outputs = []
        for start, stop in zip(taps.starts[:-1], taps.starts[1:], strict=True):
            index, weight = taps.index[start:stop], taps.weight[start:stop]
            neighbours = len(index) > 0 and (np.diff(index) == 1).all()
            alike = len(index) > 0 and (weight == weight[0]).all()
            self._outputs.append((
                slice(int(index[0]), int(index[-1]) + 1) if neighbours else index,
                float(weight[0]) if alike else weight[:, None],
            ))  # fmt: skip

    def __call__(self, x: Array, y: Array) -> None:
        """See `ResamplePass`."""
        n, before, _, inner = x.shape
        for output, (index, weight) in enumerate(self._outputs):
            part = x[:, :, index] if isinstance(weight, float) else x[:, :, index] * weight.astype(x.dtype)
            part = np.ascontiguousarray(part).reshape(n * before, -1, inner)
            total = add_middle(part).reshape(n, before, inner)
            y[:, :, output] = total * x.dtype.type(weight) if isinstance(weight, float) else total


class Bands:
    """Multiplies dense matrices, of the weights of a few neighbouring outputs, with the pixels."""

    dense = True

    def __init__(self, taps: Taps, dtype: np.dtype):
        self._tiles = [(p, q, i, j, matrix.astype(dtype)) for p, q, i, j, matrix in bands(taps)]

    def __call__(self, x: Array, y: Array) -> None:
        """See `ResamplePass`."""
        for p, q, i, j, matrix in self._tiles:
            np.matmul(matrix, x[:, :, i:j], out=y[:, :, p:q])


class NarrowBands:
    """`Bands` for a short inner axis, which becomes part of the matrices."""

    dense = True

    def __init__(self, taps: Taps, dtype: np.dtype, inner: int):
        self._tiles = [
            (slice(p * inner, q * inner), slice(i * inner, j * inner), np.kron(matrix.T, np.eye(inner)).astype(dtype))
            for p, q, i, j, matrix in bands(taps)
        ]

    def __call__(self, x: Array, y: Array) -> None:
        """See `ResamplePass`."""
        x, y = x.reshape(*x.shape[:2], -1), y.reshape(*y.shape[:2], -1)
        for outputs, pixels, matrix in self._tiles:
            np.matmul(x[:, :, pixels], matrix, out=y[:, :, outputs])


def bands(taps: Taps) -> list[tuple[int, int, int, int, Array]]:
    """(p, q, i, j, matrix) for each band: outputs p … q - 1 are the matrix times pixels i … j -
    1."""
    each = max(1, BAND * taps.outputs // max(taps.outputs, taps.extent))
    tiles = []
    for p in range(0, taps.outputs, each):
        starts = taps.starts[p : p + each + 1]
        index, weight = taps.index[starts[0] : starts[-1]], taps.weight[starts[0] : starts[-1]]
        i, j = (int(index.min()), int(index.max()) + 1) if index.size else (0, 0)
        matrix = np.zeros((len(starts) - 1, j - i))
        matrix[np.repeat(np.arange(len(matrix)), np.diff(starts)), index - i] = weight
        tiles.append((p, p + len(matrix), i, j, matrix))
    return tiles


def _by_axis(images: Array, axis: int) -> Array:
    """View of (n, H, W, C) with the axis as the third of four, as a pass sees images."""
    return images.reshape(len(images), 1, images.shape[1], -1) if axis == 1 else images


def _is_finite(x: Array) -> bool:
    """Whether x has no NaN, no infinity, and nothing so large that its square is infinite."""
    flat = x.reshape(-1)
    return bool(np.isfinite(np.dot(flat, flat)))


def _cost(first: Taps, then: Taps, first_weight: int, then_weight: int) -> int:
    """Cost of two passes: the pixels that each reads or writes (the more), times its weight."""
    one = max(first.extent, first.outputs) * then.extent
    other = max(then.extent, then.outputs) * first.outputs
    return first_weight * one + then_weight * other
