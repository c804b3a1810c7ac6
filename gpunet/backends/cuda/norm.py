"""Normalisations on a CUDA device."""

from __future__ import annotations

from abc import ABC
from math import prod
from typing import Any

import numpy as np

from gpunet.backends.contract.activation import Activation
from gpunet.backends.contract.arrays import Array
from gpunet.backends.contract.norm import Moments
from gpunet.backends.cuda.device import MAX_BLOCKS, THREADS, CudaDevice, activation_fields
from gpunet.cuda.instantiations import ELEMENTS, instance
from gpunet.nvrtc.source import constant

WARP = constant("common.cuh", "WARP")
PARTIALS = 528
"""Most blocks of a reduction over the rows: as many as an H200 runs at once. A constant, so that a sum's order is the shape's
alone."""
UNROLL = constant("batch_norm.cu", "UNROLL")
"""Rows that a thread takes at once: no split of the rows is shorter."""


class CudaNorm(CudaDevice, ABC):
    """Primitives of kernels/batch_norm.cu and group_norm.cu."""

    def batch_norm_forward(
        self,
        x: Array,
        gamma: Array | None,
        beta: Array | None,
        running_mean: Array,
        running_var: Array,
        *,
        momentum: float,
        eps: float,
        training: bool,
        activation: Activation | None = None,
        residual: Array | None = None,
    ) -> tuple[Array, Moments]:
        c = x.shape[-1:]
        self._element("batch_norm_forward", x=(x, None), residual=(residual, x.shape))
        self._expect(
            "batch_norm_forward", gamma=(gamma, c), beta=(beta, c), running_mean=(running_mean, c),
            running_var=(running_var, c),
        )  # fmt: skip
        rows = _check_rows("batch_norm_forward", x)
        saved = Moments(running_mean, running_var)
        if training:
            if rows < 2:
                raise ValueError(f"batch_norm_forward: training takes at least 2 elements a channel, got x {x.shape}")
            saved = Moments(self.arrays.empty(c, np.float32), self.arrays.empty(c, np.float32))
            self._moments(x, (*saved, running_mean, running_var), {"eps": eps, "momentum": momentum})
        y = self.arrays.empty(x.shape, x.dtype)
        aligned = self._aligned(x, gamma, beta, *saved, residual, y)
        args = x, gamma, beta, *saved, residual, y
        self._each_channel("batch_norm_forward", x, aligned, args, {"eps": eps}, activation_fields(activation))
        return y, saved

    def batch_norm_backward(
        self,
        dy: Array,
        x: Array,
        y: Array | None,
        gamma: Array | None,
        saved: Moments,
        *,
        eps: float,
        training: bool,
        activation: Activation | None = None,
        residual: bool = False,
        gamma_out: Array | None = None,
        beta_out: Array | None = None,
        accumulate: bool = False,
    ) -> tuple[Array, Array, Array, Array | None]:
        c = x.shape[-1:]
        y = None if activation is None else y
        self._element("batch_norm_backward", dy=(dy, x.shape), x=(x, None), y=(y, x.shape))
        self._expect(
            "batch_norm_backward", gamma=(gamma, c), mean=(saved.mean, c), variance=(saved.variance, c),
            gamma_out=(gamma_out, c), beta_out=(beta_out, c),
        )  # fmt: skip
        _check_rows("batch_norm_backward", x)
        opens, options = activation_fields(activation), {"eps": eps, "accumulate": int(accumulate)}
        sums = self.arrays.empty((2, *c), np.float32)
        self._sums((dy, y, x, *saved), (sums, gamma_out, beta_out), options, opens)
        dx = self.arrays.empty(x.shape, x.dtype)
        dresidual = self.arrays.empty(x.shape, x.dtype) if residual and activation is not None else None
        args = dy, y, x, gamma, *saved, sums if training else None, dx, dresidual
        aligned = self._aligned(*args)
        self._each_channel("batch_norm_input_grad", x, aligned, args, options, opens)
        dgamma = sums[:1].reshape(c) if gamma_out is None else gamma_out
        dbeta = sums[1:].reshape(c) if beta_out is None else beta_out
        return dx, dgamma, dbeta, dy if residual and activation is None else dresidual

    def _moments(self, x: Array, out: tuple[Array, ...], options: dict[str, Any]) -> None:
        """Write (mean, variance, running mean, running variance)."""
        if self.simple:
            args = x, *out, norm_fields(x, 1, 1, options)
            self._each("batch_norm_moments_simple", x.shape[-1], *args, element=ELEMENTS[x.dtype.name])
            return
        v, across, splits, each = self._splits(x, self._aligned(x), PARTIALS)
        partial = self.arrays.empty((splits, 2, x.shape[-1]), np.float32)
        fields, blocks = norm_fields(x, across, each, options), _tiles(x, v, across) * splits
        kernel = instance("batch_norm_moments", ELEMENTS[x.dtype.name], v)
        self.launcher.launch(kernel, blocks, THREADS, (x, partial, fields))
        self.launcher.launch("batch_norm_moments_merge", _tiles(x, 1, WARP), THREADS, (partial, splits, *out, fields))

    def _sums(self, given: tuple[Any, ...], out: tuple[Any, ...], options: dict[str, Any], opens: dict) -> None:
        """From (dy, y, x, mean, variance) write (both sums, dgamma, dbeta)."""
        x = given[2]
        if self.simple:
            args = *given, *out, norm_fields(x, 1, 1, options), opens
            self._each("batch_norm_sums_simple", x.shape[-1], *args, element=ELEMENTS[x.dtype.name])
            return
        v, across, splits, each = self._splits(x, self._aligned(*given), PARTIALS)
        partial = self.arrays.empty((splits, 2, x.shape[-1]), np.float32)
        fields, blocks = norm_fields(x, across, each, options), _tiles(x, v, across) * splits
        kernel = instance("batch_norm_sums", ELEMENTS[x.dtype.name], v)
        self.launcher.launch(kernel, blocks, THREADS, (*given, partial, fields, opens))
        self.launcher.launch("batch_norm_sums_merge", _tiles(x, 1, WARP), THREADS, (partial, splits, *out, fields))

    def _each_channel(
        self, kernel: str, x: Array, aligned: bool, args: tuple[Any, ...], options: dict[str, Any], f: dict[str, Any]
    ) -> None:
        """Launch a pass over all elements, in which a thread keeps its channels."""
        element = ELEMENTS[x.dtype.name]
        if self.simple:
            self._each(f"{kernel}_simple", x.size, *args, norm_fields(x, 1, 1, options), f, element=element)
        elif x.size:
            v, across, splits, each = self._splits(x, aligned, MAX_BLOCKS)
            fields, blocks = norm_fields(x, across, each, options), _tiles(x, v, across) * splits
            self.launcher.launch(instance(kernel, element, v), blocks, THREADS, (*args, fields, f))

    def _splits(self, x: Array, aligned: bool, most: int) -> tuple[int, int, int, int]:
        """(V, threads across the channels, splits of the rows, rows of a split), of at most `most` blocks if one a tile of
        channels is not more already."""
        c = x.shape[-1]
        v = 4 if aligned and c % 4 == 0 else 1
        across = min(WARP, 1 << (c // v - 1).bit_length())  # a power of two, so that halves of a block can be joined
        rows, least = x.size // c, THREADS // across * UNROLL
        splits = max(1, min(most // _tiles(x, v, across), -(-rows // least)))
        each = max(1, -(-rows // splits))
        return v, across, max(1, -(-rows // each)), each

    def group_norm_forward(
        self, x: Array, gamma: Array | None, beta: Array | None, *, groups: int, eps: float
    ) -> tuple[Array, Moments]:
        c = x.shape[-1:]
        self._element("group_norm_forward", x=(x, None))
        self._expect("group_norm_forward", gamma=(gamma, c), beta=(beta, c))
        y, fields = self.arrays.empty(x.shape, x.dtype), group_fields("group_norm_forward", x, groups, eps)
        moments = (x.shape[0], groups)
        saved = Moments(self.arrays.empty(moments, np.float32), self.arrays.empty(moments, np.float32))
        vector = self._vectors(x, groups, x, gamma, beta, y)
        self._each_group("group_norm_forward", x, groups, vector, (x, gamma, beta, y, *saved, fields))
        return y, saved

    def group_norm_backward(
        self,
        dy: Array,
        x: Array,
        gamma: Array | None,
        saved: Moments,
        *,
        groups: int,
        eps: float,
        gamma_out: Array | None = None,
        beta_out: Array | None = None,
        accumulate: bool = False,
    ) -> tuple[Array, Array, Array]:
        c, of_group = x.shape[-1:], (x.shape[0], groups)
        self._element("group_norm_backward", dy=(dy, x.shape), x=(x, None))
        self._expect(
            "group_norm_backward", gamma=(gamma, c), mean=(saved.mean, of_group), variance=(saved.variance, of_group),
            gamma_out=(gamma_out, c), beta_out=(beta_out, c),
        )  # fmt: skip
        fields = group_fields("group_norm_backward", x, groups, eps)
        dx = self.arrays.empty(x.shape, x.dtype)
        vector = self._vectors(x, groups, dy, x, gamma, dx)
        self._each_group("group_norm_input_grad", x, groups, vector, (dy, x, gamma, *saved, dx, fields))
        out = self._written("gamma_out", gamma_out, c, accumulate), self._written("beta_out", beta_out, c, accumulate)
        self._weight_grad((dy, x, *saved), out, groups, {**fields, "accumulate": int(accumulate)})
        return dx, *out

    def _written(self, name: str, out: Array | None, shape: tuple[int, ...], accumulate: bool) -> Array:
        """Where a sum is written; zeros where it is added, and there is nothing to add to."""
        if out is None and accumulate:
            return self.full(shape, 0.0, np.float32)
        return self._out("group_norm_backward", out, shape)

    def _vectors(self, x: Array, groups: int, *arrays: Array | None) -> int:
        """How many neighbouring channels a thread takes at once."""
        return 4 if x.shape[-1] // groups % 4 == 0 and self._aligned(*arrays) else 1

    def _each_group(self, kernel: str, x: Array, groups: int, v: int, args: tuple[Any, ...]) -> None:
        """Launch a pass over all groups, one a block, of as many threads as it has use for."""
        element, count = ELEMENTS[x.dtype.name], x.shape[0] * groups
        if self.simple:
            self._each(f"{kernel}_simple", count, *args, element=element)
        elif count:
            busy = x.size // count // (v * UNROLL)
            threads = min(THREADS, -(-busy // WARP) * WARP or WARP)
            self.launcher.launch(instance(kernel, element, v), min(count, MAX_BLOCKS), threads, args)

    def _weight_grad(
        self, given: tuple[Array, ...], out: tuple[Array, Array], groups: int, fields: dict[str, Any]
    ) -> None:
        """From (dy, x, mean, variance) write or add (dgamma, dbeta)."""
        x, c = given[1], given[1].shape[-1]
        element, rows = ELEMENTS[x.dtype.name], x.size // c
        if self.simple:
            self._each("group_norm_weight_grad_simple", c, *given, *out, fields, element=element)
            return
        v = self._vectors(x, groups, *given[:2])
        tiles, least = -(-c // (v * WARP)), THREADS // WARP * UNROLL
        splits = max(1, min(PARTIALS // tiles, -(-rows // least)))
        fields = {**fields, "rows_a_split": -(-rows // splits)}
        partial = self.arrays.empty((splits, 2, c), np.float32)
        self.launcher.launch(
            instance("group_norm_weight_grad", element, v), tiles * splits, THREADS, (*given, partial, fields)
        )
        merge = partial, splits, *out, fields
        self.launcher.launch("group_norm_weight_grad_merge", -(-c // WARP), THREADS, merge)


def _tiles(x: Array, v: int, across: int) -> int:
    """Blocks side by side that cover the channels."""
    return -(-x.shape[-1] // (v * across))


def norm_fields(x: Array, across: int, each: int, options: dict[str, Any]) -> dict[str, Any]:
    """The kernels' BatchNorm."""
    c = x.shape[-1]
    fields = {"rows": x.size // c, "rows_a_split": each, "C": c, "across": across}
    return {**fields, "eps": 0.0, "momentum": 0.0, "accumulate": 0, **options}


def _check_rows(operation: str, x: Array) -> int:
    """Elements that share a channel."""
    if x.ndim < 2 or not x.shape[-1]:
        raise ValueError(f"{operation}: x has shape {x.shape} but takes (…, C)")
    return x.size // x.shape[-1]


def group_fields(operation: str, x: Array, groups: int, eps: float) -> dict[str, Any]:
    """The kernels' GroupNorm."""
    if x.ndim < 2 or groups < 1 or not x.shape[-1] or x.shape[-1] % groups:
        raise ValueError(f"{operation}: x has shape {x.shape} but takes (N, …, C), C a multiple of groups {groups}")
    if max(prod(x.shape[1:]), prod(x.shape[:-1])) >= 2**31 - 2**16:
        raise ValueError(
            f"{operation}: CUDA takes fewer than 2^31 positions, and elements of a sample, got x {x.shape}"
        )
    return {
        "N": x.shape[0], "P": prod(x.shape[1:-1]), "C": x.shape[-1], "groups": groups, "rows_a_split": 1, "eps": eps,
        "accumulate": 0,
    }  # fmt: skip
