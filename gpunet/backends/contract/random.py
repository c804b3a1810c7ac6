"""The contract of random numbers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from gpunet.backends.contract.arrays import Array
from gpunet.random import Stream


class RandomPrimitives(ABC):
    """Random numbers, dropout and permutations."""

    @abstractmethod
    def random_words(self, stream: Stream, count: int) -> Array:
        """The first `count` uint64 words of a stream, whatever its `first`."""

    @abstractmethod
    def random_normal(self, stream: Stream, shape: Sequence[int], dtype: Any) -> Array:
        """Standard normal numbers: element e is entry u[e] of `random.normal_table`.

        u are the uint16 numbers of the stream, as in `dropout_forward`.
        """

    @abstractmethod
    def dropout_forward(self, x: Array, p: float, *, stream: Stream) -> Array:
        """y = x times 0 with probability p, else times 1 / (1 - p), elementwise.

        Srivastava et al. 2014. Element e is dropped where u[e] < round(65536 p), and p stands for
        that number over 65536. The numbers u are the stream's words read as uint16, four per word,
        the lowest bits first, from the stream's `first` on. A NaN or an infinity that is dropped is NaN.
        """

    @abstractmethod
    def dropout_backward(self, dy: Array, p: float, *, stream: Stream) -> Array:
        """dx: dy times the factors of the forward pass, which are drawn again and never stored."""

    @abstractmethod
    def permutation(self, stream: Stream, count: int, *, out: Array | None = None) -> Array:
        """A permutation of range(count), int32, count < 2^31: see `random.permutation`."""
