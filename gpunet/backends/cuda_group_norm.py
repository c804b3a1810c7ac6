"""Group normalisation on a CUDA device: kernels/group_norm.cu."""

from __future__ import annotations

from abc import ABC
from math import prod
from typing import Any

import numpy as np

from gpunet.backends.base import Array, Moments
from gpunet.backends.cuda_device import MAX_BLOCKS, THREADS, CudaDevice
from gpunet.backends.cuda_norm import PARTIALS, UNROLL, WARP
from gpunet.cuda.instantiations import ELEMENTS, instance


class CudaGroupNorm(CudaDevice, ABC):
    """Primitives of kernels/group_norm.cu."""

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
