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
        dtype: Any = None,
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
            dtype: of normalised images: float32, or one of the backend's to which they are rounded.
            out: where to write x and y.
        Returns:
            x (rows, h, w, C), of `dtype` if it is normalised, else uint8; y int32 (rows,), None without labels.
        """

    # ---- updates -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def gradient_norm(self, arena: FlatStorage, segments: Segments, *, max_norm: float) -> Array:
        """(norm, scale), shape (2,): the 2-norm of the segments' gradients, and min(1, max_norm / (norm + 1e-6)).

        With `arena.scaling` the norm is that of the loss's own gradients, and scale takes the loss scale out of them; a norm
        that is not finite means that they overflowed.
        """

    @abstractmethod
    def update(
        self, rule: str, arena: FlatStorage, segments: Segments, *, clip: Array | None = None, note: Note | None = None
    ) -> None:
        """A step of an optimizer, in place: w' = w - lr decoupled w, g = clip[1] grad + decay w' + l1 sign(w'), then a rule:

        - "sgd": a = momentum a + g; w = w' - lr (g + momentum a if nesterov, else a).
        - "adam" (Kingma & Ba 2015, algorithm 1): a = beta1 a + (1 - beta1) g; b = beta2 b + (1 - beta2) g^2;
          w = w' - lr a / (1 - beta1^t) / (sqrt(b / (1 - beta2^t)) + eps).
        - "rmsprop" (Tieleman & Hinton 2012): a = alpha a + (1 - alpha) g^2; b = momentum b + g / (sqrt(a) + eps);
          w = w' - lr b.
        - "adagrad" (Duchi et al. 2011): a = a + g^2; w = w' - lr g / (sqrt(a) + eps).
        - "lion" (Chen et al. 2023, algorithm 2): w = w' - lr sign(beta1 a + (1 - beta1) g); a = beta2 a + (1 - beta2) g.
        - "muon" (Jordan 2024): where orthogonal, a = beta1 a + (1 - beta1) g; w = w' - lr b; elsewhere "adam".

        Args:
            rule: one of `rules.RULES`, which names the slots a and b of the arena and the columns of `segments.hyper`. A slot
                that the arena does not have reads as 0.
            clip: what `gradient_norm` gave; needed with `arena.scaling`, which changes as it says there.
            note: written, and decides whether anything else is. `arena.shadow` is written with the parameters.
        """

    @abstractmethod
    def clip_units(
        self, w: Array, limit: float, *, shadow: Array | None, clip: Array | None = None, held: Array | None = None
    ) -> None:
        """Max-norm (Srivastava et al. 2014, section 5.1), in place: each column of w (R, O), the weights that come into one
        unit, whose 2-norm is above `limit`, is scaled down to it.

        Args:
            shadow: w rounded, written with it; None if there is none.
            clip: of the update before, if it was of a scaled loss: where that overflowed, nothing is changed.
            held: (3,), the note's row that the update before has written: where that updated nothing, neither does this.
        """

    @abstractmethod
    def average_update(
        self, average: Array, value: Array, decay: float, *, clip: Array | None = None, held: Array | None = None
    ) -> None:
        """average = decay average + (1 - decay) value, in place; both of one shape. `clip` and `held` as for `clip_units`."""
