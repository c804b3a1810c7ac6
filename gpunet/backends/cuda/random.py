"""Random numbers, dropout and permutations on a CUDA device."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import Any

import numpy as np

from gpunet.backends.contract import Array
from gpunet.backends.cuda.device import MAX_BLOCKS, THREADS, CudaDevice
from gpunet.nvrtc.source import constant
from gpunet.random import NUMBERS, Stream, drop_threshold, normal_table

SCAN_THREADS = constant("permutation.cu", "SCAN_THREADS")
"""Threads of the one block that adds up the buckets."""


class CudaRandom(CudaDevice):
    """Primitives of kernels/random.cu and kernels/permutation.cu."""

    def random_words(self, stream: Stream, count: int) -> Array:
        y = self.arrays.empty((count,), np.uint64)
        self._each("random_words", count, y, count, *_stream(stream), element="", each=4)
        return y

    def random_normal(self, stream: Stream, shape: Sequence[int], dtype: Any) -> Array:
        y = self.arrays.empty(shape, dtype)
        self._expect("random_normal", y=(y, None))
        normals = self._constant("normals", lambda: normal_table().astype(np.float32))
        element = str(self._vector_of(gcd(y.size, stream.first), y))
        args = y, y.size, stream.first, normals, *_stream(stream)
        self._each("random_normal", y.size, *args, element=element, each=NUMBERS)
        return y

    def dropout_forward(self, x: Array, p: float, *, stream: Stream) -> Array:
        return self._dropout("dropout_forward", x, p, stream)

    def dropout_backward(self, dy: Array, p: float, *, stream: Stream) -> Array:
        return self._dropout("dropout_backward", dy, p, stream)

    def _dropout(self, operation: str, x: Array, p: float, stream: Stream) -> Array:
        element = self._element(operation, x=(x, None))
        y = self.arrays.empty(x.shape, x.dtype)
        args = x, y, x.size, stream.first, *_stream(stream), *drop_threshold(p)
        piece = self._piece_of(gcd(x.size, stream.first), x, y)
        self._each("dropout", x.size, *args, element=f"{element}, {piece}", each=NUMBERS)
        return y

    def permutation(self, stream: Stream, count: int, *, out: Array | None = None) -> Array:
        if not 0 <= count < 2**31:
            raise ValueError(f"permutation: count is {count} but must be from 0 to 2^31 - 1")
        order = self._out("permutation", out, (count,), np.int32)
        if not count:
            return order
        words = self.random_words(stream, count)
        bits = max((count - 1).bit_length() - 2, 1)
        ends, members = self.full((1 << bits,), 0, np.int32), self.arrays.empty((count,), np.int32)
        blocks, launch = min(-(-count // THREADS), MAX_BLOCKS), self.launcher.launch
        launch("permutation_count", blocks, THREADS, (words, ends, count, bits))
        launch("permutation_offsets", 1, SCAN_THREADS, (ends, 1 << bits))
        launch("permutation_scatter", blocks, THREADS, (words, ends, members, count, bits))
        launch("permutation_rank", blocks, THREADS, (words, ends, members, order, count, bits))
        return order


def _stream(stream: Stream) -> tuple[dict[str, int], Array | None]:
    """The struct Stream of the kernels, and the clock."""
    return {name: getattr(stream, name) for name in ("seed", "purpose", "step", "call", "epoch")}, stream.clock
