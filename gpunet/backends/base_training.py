"""The contract of what training takes beside a model: random numbers, batches of a data set, updates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from gpunet.augmentation import Augmentation
from gpunet.backends.gather import Clock
from gpunet.backends.values import Array, FlatStorage, Note, Segments
from gpunet.random import Stream


class TrainingPrimitives(ABC):
    """Random numbers, batches of a data set, updates of parameters."""

    # ---- random numbers ----------------------------------------------------------------------------------------------

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

    # ---- data --------------------------------------------------------------------------------------------------------

    @abstractmethod
    def gather_augment(
        self,
        images: Array,
        labels: Array | None,
        order: Array,
        augmentation: Augmentation,
        *,
        seed: int,
        epoch: int = 0,
        start: int = 0,
        rows: int | None = None,
        clock: Clock | None = None,
        out: tuple[Array, Array | None] | None = None,
    ) -> tuple[Array, Array | None]:
        """(x, y): a batch of a data set, augmented, and its labels.

        Args:
            images, labels: the whole data set, uint8 (M, H, W, C) and int32 (M,).
            order: int32, positions in the data set, not checked to be from 0 to M - 1.
            augmentation: what is done to each image, drawn from (seed, epoch, position).
            start, rows: the batch is ``order[start : start + rows]``; to the end of the order if `rows` is None.
            clock: takes the place of `epoch` and `start`, read when the kernel runs; a batch that then reaches beyond the
                end of the order repeats the last position.
            out: where to write x and y.
        Returns:
            x (rows, h, w, C), float32 if it is normalised, else uint8; y int32 (rows,), None without labels.
        """

    # ---- updates -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def gradient_norm(self, arena: FlatStorage, segments: Segments, *, max_norm: float) -> Array:
        """(norm, scale), shape (2,): the 2-norm of the segments' gradients, and min(1, max_norm / (norm + 1e-6)).

        With `arena.scaling` the norm is that of the loss's own gradients, and scale takes the loss scale out of them; a norm
        that is not finite means that they overflowed.
        """

    @abstractmethod
    def sgd_update(
        self,
        arena: FlatStorage,
        segments: Segments,
        *,
        nesterov: bool = False,
        clip: Array | None = None,
        note: Note | None = None,
    ) -> None:
        """Stochastic gradient descent, in place. Columns of `segments.hyper`: lr, momentum, weight decay, L1.

        g = clip[1] grad + decay w + l1 sign(w); v = momentum v + g; w -= lr (g + momentum v if nesterov, else v).
        The slot is "momentum"; without it v = g. `note` is written, and decides whether anything else is. `arena.shadow` is
        written as well; `arena.scaling` wants `clip`, and changes as it says there.
        """

    @abstractmethod
    def adam_update(
        self,
        arena: FlatStorage,
        segments: Segments,
        *,
        decoupled: bool = False,
        clip: Array | None = None,
        note: Note | None = None,
    ) -> None:
        """Adam (Kingma & Ba 2015, algorithm 1), in place.

        Columns of `segments.hyper`: lr, beta1, beta2, eps, weight decay, 1 - beta1^t, 1 - beta2^t.
        Slots "mean" and "square". The decay is added to the gradient, or, `decoupled` (AdamW, Loshchilov & Hutter 2019),
        shrinks w by lr decay first. `note` as for `sgd_update`.
        """
