"""The contract of random numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from gpunet.backends.contract.arrays import Array
from gpunet.random import Stream


class RandomPrimitives(ABC):
    """Random numbers, dropout and permutations."""

    @abstractmethod
    def random_words(self, stream: Stream, count: int) -> Array:
        """`count` uint64 words of a stream."""

    @abstractmethod
    def random_uniform(self, stream: Stream, shape: Sequence[int], dtype: Any) -> Array:
        """Numbers in [0, 1): the upper 24 bits of a word each in float32, the upper 53 in float64."""

    @abstractmethod
    def random_normal(self, stream: Stream, shape: Sequence[int], dtype: Any) -> Array:
        """Standard normal numbers: the entries of `random.normal_table` that 16 bits of the stream each name, four a word."""

    @abstractmethod
    def dropout_forward(self, x: Array, p: float, *, stream: Stream) -> Array:
        """x with elements dropped at rate p and the rest scaled, by `random.drop_threshold` and `random.uint16`."""

    @abstractmethod
    def dropout_backward(self, dy: Array, p: float, *, stream: Stream) -> Array:
        """dx: the mask of the forward pass is drawn again, never stored."""

    @abstractmethod
    def permutation(self, stream: Stream, count: int, *, out: Array | None = None) -> Array:
        """`random.permutation` as int32 (count,), count < 2^31: the stable order of the stream's words."""
