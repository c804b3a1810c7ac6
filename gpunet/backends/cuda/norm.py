"""Normalisations on a CUDA device."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import numpy as np

from gpunet.backends.contract import NEW, Array, BatchNorm, BatchNormGrads, BatchRanks, GroupNorm, Into, Moments
from gpunet.backends.cuda.device import MAX_BLOCKS, MOST_POSITIONS, THREADS, WARP, CudaDevice, activation_fields
from gpunet.backends.cuda.shares import across as threads_across
from gpunet.cuda.naming import ELEMENTS, instance
from gpunet.nvrtc.source import constant

REDUCTION_BLOCKS = 528
"""Blocks of a reduction over the rows at most: as many as an H200 runs at once. It is a constant,
so that the order of a sum depends on the shape alone."""
BLOCKS, BLOCKS_BY_EIGHT = constant("norm.cuh", "BLOCKS"), constant("norm.cuh", "BLOCKS_BY_EIGHT")
"""Blocks that a multiprocessor runs at once, and those with eight channels per thread."""
WAVES = 8
"""Waves of blocks in a pass with eight channels per thread at most. Each block first computes the
constants of its channels, which takes as long as several rows."""
UNROLL = constant("norm.cuh", "UNROLL")
"""Rows that a thread takes at once; no part of the rows that a block reduces is shorter."""

MERGED = constant("norm.cuh", "MERGED")
"""Channels of a block that merges the partial results of a reduction."""

FEW_GROUPS, LARGE_GROUP = 132, 16384
"""Fewer groups than this, of at least so many elements, leave multiprocessors idle if each takes a
block."""
SECTOR, LONG_SAMPLE = 32, 256
"""Bytes that are loaded together, and the rows of a sample from which three launches that use all of
them take less time than one that does not, for its groups are narrower."""


class Split(NamedTuple):
    """How a pass over x (rows, C) is cut into blocks, in which a thread keeps its channels."""

    vector: int
    """Neighbouring channels that a thread takes at once: 8, 4 or 1."""
    across: int
    """Threads of a block that stand side by side across the channels; the others take other
    rows."""
    splits: int
    """Parts that the rows are cut into."""
    rows: int
    """Rows of a part."""
    blocks: int
    """Blocks of the whole pass."""


class CudaNorm(CudaDevice):
    """Primitives of kernels/batch_norm.cu and kernels/group_norm.cu."""

    def batch_norm_forward(
        self, x: Array, w: Array | None, b: Array | None, running: Moments, norm: BatchNorm, residual: Array | None
    ) -> tuple[Array, Moments]:
        c, saved = x.shape[-1:], running
        self._element("batch_norm_forward", x=(x, None), residual=(residual, x.shape))
        self._expect("batch_norm_forward", weight=(w, c), bias=(b, c))
        self._expect("batch_norm_forward", running_mean=(running.mean, c), running_var=(running.variance, c))
        rows = _check_rows("batch_norm_forward", x)
        if norm.training:
            if rows < 2 and norm.ranks is None:
                raise ValueError(f"batch_norm_forward: training takes at least 2 elements per channel, got x {x.shape}")
            saved = self._moments(x, running, norm)
        y = self.arrays.empty(x.shape, x.dtype)
        args, opens = (x, w, b, *saved, residual, y), activation_fields(norm.activation)
        self._each_channel("batch_norm_forward", x, args, {"eps": norm.eps}, opens)
        return y, saved

    def _moments(self, x: Array, running: Moments, norm: BatchNorm) -> Moments:
        """The moments of the batch, which the running ones follow."""
        c, ranks, options = x.shape[-1], norm.ranks, {"momentum": norm.momentum}
        saved = Moments(self.arrays.empty((c,), np.float32), self.arrays.empty((c,), np.float32))
        weighted = None if ranks is None else self.arrays.empty((c + 1,), np.float32)
        out = (*saved, *(running if ranks is None else (None, None)), weighted)
        if norm.left is None or self.simple:
            self._reduce("batch_norm_moments", x, (x,), out, options)
        else:
            parts = norm.left.parts
            split = Split(1, 1, parts.shape[0], norm.left.rows, 0)
            self._merge("batch_norm_moments", x, parts, out, batch_norm_fields(x, options, split))
        if ranks is not None:
            distances, fields = self.arrays.empty((c,), np.float32), batch_norm_fields(x, options)
            weighted = self._sums_over(ranks, weighted)
            self._each("batch_norm_distances", c, *saved, weighted, distances, fields, element="")
            args = weighted, self._sums_over(ranks, distances), *saved, *running, fields
            self._each("batch_norm_joined_moments", c, *args, element="")
        return saved

    def _sums_over(self, ranks: BatchRanks, terms: Array) -> Array:
        """The sums over the ranks of this rank's terms, which they may overwrite; of zeros if it does not count."""
        sums = terms if ranks.contributes else self.full(terms.shape, 0.0, np.float32)
        ranks.add(sums)
        return sums

    def batch_norm_backward(
        self, dy: Array, x: Array, y: Array | None, w: Array | None, b: Array | None, saved: Moments, norm: BatchNorm,
        into: Into = NEW,
    ) -> BatchNormGrads:  # fmt: skip
        c, fused = x.shape[-1:], norm.activation is not None
        y = y if fused else None
        self._element("batch_norm_backward", dy=(dy, x.shape), x=(x, None), y=(y, x.shape))
        self._expect_moments("batch_norm_backward", c, w, c, saved, into)
        self._expect("batch_norm_backward", bias=(b, c))
        _check_rows("batch_norm_backward", x)
        opens, options = activation_fields(norm.activation), {"eps": norm.eps, "accumulate": int(into.add)}
        sums = self.arrays.empty((2 * c[0] + 1,), np.float32)
        affine = () if self.simple else (w, b)
        if norm.activation is not None and norm.activation.name == "relu" and not (norm.residual or self.simple):
            y = None  # the kernels find its sign again, which takes less time than to read it
        self._reduce("batch_norm_sums", x, (dy, y, x, *affine, *saved), (sums, into.weight, into.bias), options, opens)
        dw = sums[: c[0]] if into.weight is None else into.weight
        db = sums[c[0] : -1] if into.bias is None else into.bias
        if norm.training and norm.ranks is not None:
            kept = into.weight is None or into.bias is None
            sums = self._sums_over(norm.ranks, self.copy(sums) if kept else sums)
        through = norm.training and (norm.ranks is None or norm.ranks.contributes)
        dx = self.arrays.empty(x.shape, x.dtype)
        dresidual = self.arrays.empty(x.shape, x.dtype) if norm.residual and fused else None
        args = dy, y, x, *(affine or (w,)), *saved, sums if through else None, dx, dresidual
        self._each_channel("batch_norm_input_grad", x, args, options, opens)
        return dx, dw, db, dy if norm.residual and not fused else dresidual

    def _reduce(self, kernel: str, x: Array, given: tuple, out: tuple, options: dict[str, Any], *opens: dict) -> None:
        """Reduce `given`, arrays of x's shape or (C,), over the rows of x -> results in `out`."""
        element, c = ELEMENTS[x.dtype.name], x.shape[-1]
        if self.simple:
            self._each(f"{kernel}_simple", c, *given, *out, batch_norm_fields(x, options), *opens, element=element)
            return
        vector = self._piece_of(c, x, *given)
        split = _split(x, vector, _blocks_at_once(vector))
        partial = self.arrays.empty((split.splits, 2, c), np.float32)
        fields = batch_norm_fields(x, options, split)
        parts = *given, partial, fields, *opens
        self.launcher.launch(instance(kernel, element, split.vector), split.blocks, THREADS, parts)
        self._merge(kernel, x, partial, out, fields)

    def _merge(self, kernel: str, x: Array, partial: Array, out: tuple, fields: dict[str, Any]) -> None:
        """Join the partial results (parts, 2, C) of a reduction over the rows of x -> `out`."""
        args = partial, partial.shape[0], *out, fields
        self.launcher.launch(f"{kernel}_merge", -(-x.shape[-1] // MERGED), THREADS, args)

    def _each_channel(self, kernel: str, x: Array, args: tuple, options: dict[str, Any], opens: dict) -> None:
        """Launch an elementwise pass over x in which a thread keeps its channels."""
        element = ELEMENTS[x.dtype.name]
        if self.simple:
            self._each(f"{kernel}_simple", x.size, *args, batch_norm_fields(x, options), opens, element=element)
        elif x.size:
            vector = self._piece_of(x.shape[-1], x, *args)
            most = MAX_BLOCKS if vector <= 4 else min(MAX_BLOCKS, WAVES * _blocks_at_once(vector))
            split = _split(x, vector, most)
            kernel, args = instance(kernel, element, split.vector), (*args, batch_norm_fields(x, options, split), opens)
            self.launcher.launch(kernel, split.blocks, THREADS, args)

    def group_norm_forward(self, x: Array, w: Array | None, b: Array | None, norm: GroupNorm) -> tuple[Array, Moments]:
        c = x.shape[-1:]
        self._element("group_norm_forward", x=(x, None))
        self._expect("group_norm_forward", weight=(w, c), bias=(b, c))
        y, fields = self.arrays.empty(x.shape, x.dtype), group_norm_fields("group_norm_forward", x, norm)
        moments = (x.shape[0], norm.num_groups)
        saved = Moments(self.arrays.empty(moments, np.float32), self.arrays.empty(moments, np.float32))
        vector = self._vector(x, norm.num_groups, x, w, b, y)
        self._each_group("group_norm_forward", x, norm.num_groups, vector, (x, w, b, y, *saved, fields))
        return y, saved

    def group_norm_backward(
        self, dy: Array, x: Array, w: Array | None, saved: Moments, norm: GroupNorm, into: Into = NEW
    ) -> tuple[Array, Array, Array]:
        c, groups = x.shape[-1:], norm.num_groups
        self._element("group_norm_backward", dy=(dy, x.shape), x=(x, None))
        self._expect_moments("group_norm_backward", c, w, (x.shape[0], groups), saved, into)
        fields = group_norm_fields("group_norm_backward", x, norm)
        dx = self.arrays.empty(x.shape, x.dtype)
        if self._in_parts(x, groups):
            parts, means = self._part(x, fields, dy, x, w, dx), self.arrays.empty((2, x.shape[0], groups), np.float32)
            partial = self._reduce_parts("group_norm_sums_parts", x, (dy, x, w, *saved), parts)
            self._merge_parts("group_norm_sums_merge", (partial, means), parts)
            self._each_part("group_norm_input_grad_parts", x, (dy, x, w, *saved, means, dx), parts)
        else:
            vector = self._vector(x, groups, dy, x, w, dx)
            self._each_group("group_norm_input_grad", x, groups, vector, (dy, x, w, *saved, dx, fields))
        dw, db, add = self._place_gradients("group_norm_backward", into._replace(needs_bias=True), c, c)
        self._weight_grad((dy, x, *saved), (dw, db), groups, {**fields, "accumulate": int(add)})
        return dx, dw, db

    def _expect_moments(
        self, operation: str, c: tuple[int], w: Array | None, of_moments: tuple[int, ...], saved: Moments, into: Into
    ) -> None:
        """Check the weight, the moments and the destinations of a backward pass."""
        self._expect(
            operation, weight=(w, c), mean=(saved.mean, of_moments), variance=(saved.variance, of_moments),
            weight_grad=(into.weight, c), bias_grad=(into.bias, c),
        )  # fmt: skip

    def _vector(self, x: Array, groups: int, *arrays: Array | None) -> int:
        """Neighbouring channels that a thread takes at once: 4 or 1."""
        return 4 if x.shape[-1] // groups % 4 == 0 and self._aligned(*arrays) else 1

    def _each_group(self, kernel: str, x: Array, groups: int, vector: int, args: tuple[Any, ...]) -> None:
        """Launch a pass in which each block takes a group, with as many threads as find work."""
        element, count = ELEMENTS[x.dtype.name], x.shape[0] * groups
        if self.simple:
            self._each(f"{kernel}_simple", count, *args, element=element)
        elif count:
            busy = x.size // count // (vector * UNROLL)
            threads = min(THREADS, -(-busy // WARP) * WARP or WARP)
            self.launcher.launch(instance(kernel, element, vector), min(count, MAX_BLOCKS), threads, args)

    def _in_parts(self, x: Array, groups: int) -> bool:
        """Whether the blocks of a group norm's gradient take parts of a sample's rows, not groups."""
        samples, c, count = x.shape[0], x.shape[-1], x.shape[0] * groups
        if self.simple or not count:
            return False
        narrow = c // groups * x.dtype.itemsize < SECTOR and groups > 1 and x.size // (samples * c) >= LONG_SAMPLE
        return narrow or (count < FEW_GROUPS and x.size // count >= LARGE_GROUP)

    def _part(self, x: Array, fields: dict[str, Any], *arrays: Array | None) -> tuple[int, dict[str, Any]]:
        """(channels per thread, the struct GroupNorm) of the kernels of parts."""
        samples, c = x.shape[0], x.shape[-1]
        vector = self._vector_of(c, *arrays)
        across, rows = threads_across(c, vector), x.size // (samples * c)
        tiles, shortest = -(-c // (vector * across)), THREADS // across * UNROLL
        parts = max(1, min(REDUCTION_BLOCKS // (tiles * samples), -(-rows // shortest)))
        each = -(-rows // parts)
        return vector, {**fields, "rows_a_split": each, "parts": -(-rows // each), "across": across}

    def _each_part(self, kernel: str, x: Array, args: tuple, parts: tuple[int, dict[str, Any]]) -> None:
        """Launch a pass in which a block takes a part of a sample's rows."""
        vector, fields = parts
        tiles = -(-x.shape[-1] // (vector * fields["across"]))
        blocks = tiles * fields["parts"] * x.shape[0]
        self.launcher.launch(instance(kernel, ELEMENTS[x.dtype.name], vector), blocks, THREADS, (*args, fields))

    def _reduce_parts(self, kernel: str, x: Array, args: tuple, parts: tuple[int, dict[str, Any]]) -> Array:
        """Return the sums that such a pass leaves, (N, parts, 2, C)."""
        partial = self.arrays.empty((x.shape[0], parts[1]["parts"], 2, x.shape[-1]), np.float32)
        self._each_part(kernel, x, (*args, partial), parts)
        return partial

    def _merge_parts(self, kernel: str, args: tuple, parts: tuple[int, dict[str, Any]]) -> None:
        """Join these sums, in a block for each group of each sample."""
        fields = parts[1]
        self.launcher.launch(kernel, fields["N"] * fields["groups"], THREADS, (*args, fields))

    def _weight_grad(self, given: tuple, out: tuple, groups: int, fields: dict[str, Any]) -> None:
        """Write (dw, db) to `out`, or add them, from `given`: (dy, x, mean, variance)."""
        x, c = given[1], given[1].shape[-1]
        element, rows = ELEMENTS[x.dtype.name], x.size // c
        if self.simple:
            self._each("group_norm_weight_grad_simple", c, *given, *out, fields, element=element)
            return
        vector = self._vector(x, groups, *given[:2])
        tiles, shortest = -(-c // (vector * WARP)), THREADS // WARP * UNROLL
        splits = max(1, min(REDUCTION_BLOCKS // tiles, -(-rows // shortest)))
        fields = {**fields, "rows_a_split": -(-rows // splits)}
        partial = self.arrays.empty((splits, 2, c), np.float32)
        kernel = instance("group_norm_weight_grad", element, vector)
        self.launcher.launch(kernel, tiles * splits, THREADS, (*given, partial, fields))
        merge = partial, splits, *out, fields
        self.launcher.launch("group_norm_weight_grad_merge", -(-c // MERGED), THREADS, merge)


SIMPLE = Split(vector=1, across=1, splits=1, rows=1, blocks=1)
"""What the simple kernels, which do not read it, are given."""


def _blocks_at_once(vector: int) -> int:
    """Blocks that an H200 runs at once, of kernels with so many channels per thread."""
    return REDUCTION_BLOCKS if vector <= 4 else REDUCTION_BLOCKS * BLOCKS_BY_EIGHT // BLOCKS


def _split(x: Array, vector: int, most_blocks: int) -> Split:
    """The split of x into at most `most_blocks` blocks, unless its channels need more."""
    c = x.shape[-1]
    across = threads_across(c, vector)
    tiles, rows, shortest = -(-c // (vector * across)), x.size // c, THREADS // across * UNROLL
    each = max(1, -(-rows // max(1, min(most_blocks // tiles, -(-rows // shortest)))))
    splits = max(1, -(-rows // each))
    return Split(vector, across, splits, each, tiles * splits)


def batch_norm_fields(x: Array, options: dict[str, Any], split: Split = SIMPLE) -> dict[str, Any]:
    """The struct BatchNorm of the kernels."""
    c = x.shape[-1]
    fields = {"rows": x.size // c, "rows_a_split": split.rows, "C": c, "across": split.across}
    return {**fields, "eps": 0.0, "momentum": 0.0, "accumulate": 0, **options}


def _check_rows(operation: str, x: Array) -> int:
    """The number of elements per channel, of an x (…, C)."""
    if x.ndim < 2 or not x.shape[-1]:
        raise ValueError(f"{operation}: x has shape {x.shape} but takes (…, C)")
    if (rows := x.size // x.shape[-1]) >= MOST_POSITIONS:
        raise ValueError(f"{operation}: CUDA takes fewer than 2^31 elements of a channel, got x {x.shape}")
    return rows


def group_norm_fields(operation: str, x: Array, norm: GroupNorm) -> dict[str, Any]:
    """The struct GroupNorm of the kernels, after checks of x's shape."""
    groups = norm.num_groups
    if x.ndim < 2 or groups < 1 or not x.shape[-1] or x.shape[-1] % groups:
        raise ValueError(f"{operation}: x has shape {x.shape} but takes (N, …, C), C a multiple of num_groups {groups}")
    if max(prod(x.shape[1:]), prod(x.shape[:-1])) >= MOST_POSITIONS:
        raise ValueError(f"{operation}: CUDA takes fewer than 2^31 positions and elements per sample, got x {x.shape}")
    return {
        "N": x.shape[0], "P": prod(x.shape[1:-1]), "C": x.shape[-1], "groups": groups, "rows_a_split": 1, "parts": 1,
        "across": 1, "eps": norm.eps, "accumulate": 0,
    }  # fmt: skip
