"""Matrix products on a CUDA device."""

from __future__ import annotations

from abc import ABC
from typing import Any

from gpunet.backends.contract.activation import Activation
from gpunet.backends.contract.arrays import Array
from gpunet.backends.contract.gate import Gate
from gpunet.backends.cuda.device import THREADS, CudaDevice, activation_fields, check_accumulate
from gpunet.backends.cuda.tiles import count_tiles, select_tile
from gpunet.cuda.instantiations import MATMUL_TILES, instance


class CudaMatmul(CudaDevice, ABC):
    """Primitives of kernels/matmul.cu."""

    def matmul(
        self,
        a: Array,
        b: Array,
        *,
        transpose_a: bool = False,
        transpose_b: bool = False,
        bias: Array | None = None,
        activation: Activation | None = None,
        gate: Gate | None = None,
        out: Array | None = None,
        accumulate: bool = False,
    ) -> Array:
        self._element("matmul", a=(a, None), b=(b, None))
        if a.ndim != 2 or b.ndim != 2:
            raise ValueError(f"matmul: a has shape {a.shape} and b {b.shape} but both take 2 axes")
        m, depth = a.shape[::-1] if transpose_a else a.shape
        inner, p = b.shape[::-1] if transpose_b else b.shape
        if depth != inner:
            raise ValueError(f"matmul: a {a.shape} and b {b.shape} meet in axes of {depth} and {inner}")
        if accumulate and (bias is not None or activation is not None):
            raise ValueError("matmul: accumulate adds a plain product, without bias or activation")
        gate = gate or Gate(None, None)
        element = self._element("matmul", a=(a, None), gate=(gate.y, a.shape), bias=(bias, (p,)), out=(out, (m, p)))
        check_accumulate("matmul", accumulate, out)
        y = self._out("matmul", out, (m, p), a.dtype)
        product = {
            "M": m, "K": depth, "P": p,
            "transpose_a": int(transpose_a), "transpose_b": int(transpose_b), "accumulate": int(accumulate),
        }  # fmt: skip
        args = a, gate.y, b, bias, y, product, activation_fields(gate.activation), activation_fields(activation)
        flops = 2 * m * depth * p
        if self.simple:
            self._each("matmul_simple", y.size, *args, element=element, flops=flops)
        elif y.size:
            by_four = a.shape[1] % 4 == 0 and b.shape[1] % 4 == 0 and p % 4 == 0
            vector = by_four and self._aligned(a, gate.y, b, y)
            tile = select_tile(MATMUL_TILES, m, p, vector=vector, busy=self.busy)
            kernel = instance("matmul_tiled", element, *tile, transpose_a, transpose_b)
            self.launcher.launch(kernel, count_tiles(m, p, tile), THREADS, args, flops=flops)
        return y

    def batched_matmul(self, a: Array, b: Array, *, transpose_a: bool = False, transpose_b: bool = False) -> Array:
        self._element("batched_matmul", a=(a, None), b=(b, None))
        if a.ndim != 3 or b.ndim != 3 or a.shape[0] != b.shape[0]:
            raise ValueError(f"batched_matmul: a has shape {a.shape} and b {b.shape} but take (B, M, K) and (B, K, P)")
        m, p = a.shape[1 + transpose_a], b.shape[2 - transpose_b]
        y = self.arrays.empty((a.shape[0], m, p), a.dtype)
        options: Any = {"transpose_a": transpose_a, "transpose_b": transpose_b}
        for i in range(a.shape[0]):  # a launch each
            one, other, to = (t[i : i + 1].reshape(t.shape[1:]) for t in (a, b, y))
            self.matmul(one, other, out=to, **options)
        return y
