"""Batch normalisation on a CUDA device: kernels/batch_norm.cu."""

from __future__ import annotations

from abc import ABC
from typing import Any

import numpy as np

from gpunet.backends.base import Activation, Array, Moments
from gpunet.backends.cuda_device import MAX_BLOCKS, THREADS, CudaDevice, activation_fields
from gpunet.cuda.instantiations import ELEMENTS, instance

WARP = 32
PARTIALS = 528
"""Most blocks of a reduction over the rows: as many as an H200 runs at once. A constant, so that a sum's order is the shape's
alone."""
UNROLL = 4
"""Rows that a thread takes at once, as kernels/batch_norm.cu has it: no split of the rows is shorter."""


class CudaNorm(CudaDevice, ABC):
    """Primitives of kernels/batch_norm.cu."""

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
