"""The contract between arrays and everything above them: `Backend`, the primitives that every backend computes.

Letters of the shapes: N images, H x W pixels, C channels, KH x KW a window, OH x OW output pixels, O filters. Layouts are
x (N, H, W, C) and w (KH, KW, C // groups, O). An `Array` is the backend's own C-contiguous array; primitives never change
their inputs, and return new arrays unless an `out` is given.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from gpunet.augmentation import Augmentation
from gpunet.backends.gather import Clock
from gpunet.backends.values import (
    ACTIVATIONS,
    BINARY,
    FUSED_POOL,
    UNARY,
    Activation,
    Array,
    FlatStorage,
    Gate,
    Index,
    Moments,
    Note,
    Segments,
    check_fused_pool,
    is_float,
)
from gpunet.geometry import Geometry
from gpunet.random import Stream

if TYPE_CHECKING:
    from gpunet.cuda.capture import Recorder


class Backend(ABC):
    """Where arrays live and primitives run."""

    name: str
    dtypes: ClassVar[tuple[str, ...]]
    """Float dtypes that its primitives compute in."""
    narrow: ClassVar[tuple[str, ...]] = ()
    """Those among them that are only stored, in 16 bits, while sums are float32; parameters then are float32 as well, and are
    rounded when an operation takes them."""

    def __reduce__(self) -> tuple[Any, ...]:
        """A copied or unpickled model finds its backend again by name."""
        from gpunet.backends import get_backend

        return get_backend, (self.name,)

    # ---- arrays -------------------------------------------------------------------------------------------------

    @abstractmethod
    def owns(self, array: object) -> bool:
        """Whether `array` is an array of this backend's kind and device."""

    @abstractmethod
    def asarray(self, data: Any, dtype: Any = None) -> Array:
        """A C-contiguous array of `data` (host array, nested lists or the backend's own array); no copy if it is one."""

    @abstractmethod
    def to_numpy(self, array: Array) -> np.ndarray:
        """The array on the host; on the host backends, the array itself."""

    @abstractmethod
    def empty(self, shape: Sequence[int], dtype: Any) -> Array:
        """An array whose elements are not set."""

    @abstractmethod
    def full(self, shape: Sequence[int], value: float, dtype: Any) -> Array:
        """An array of one value."""

    @abstractmethod
    def copy(self, a: Array, *, out: Array | None = None) -> Array:
        """A copy of `a`, in `out` if one is given."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until everything asked for has been computed."""

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """Device and library versions, for `gpunet info` and for benchmark records."""

    def recorder(self) -> Recorder | None:
        """What records launches, to run them again with one; None where there are none."""
        return None

    # ---- elementwise, reductions, movement ------------------------------------------------------------------------

    @abstractmethod
    def unary(self, name: str, a: Array) -> Array:
        """One of `UNARY`, elementwise."""

    @abstractmethod
    def binary(self, name: str, a: Array, b: Array, *, out: Array | None = None) -> Array:
        """One of `BINARY` with NumPy's broadcasting; `out` may be `a`. Both of one dtype."""

    @abstractmethod
    def cast(self, a: Array, dtype: Any, *, out: Array | None = None) -> Array:
        """`a` in another float dtype, rounded to the nearest, ties to even, in `out` if there is one; else `a` itself if it has
        that dtype."""

    @abstractmethod
    def scale(self, a: Array, by: Array | None, factor: float = 1.0) -> Array:
        """a times `by` times `factor`, rounded once: `by` is one element, float32 or of a's dtype; None for 1."""

    @abstractmethod
    def sum(self, a: Array, axes: tuple[int, ...]) -> Array:
        """Sum over sorted, non-negative `axes`, which are dropped; float32 sums are accumulated in float32 or wider."""

    @abstractmethod
    def max(self, a: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
        """(y, index): maximum over `axes`, and int32 position of the first maximum among the reduced elements (row-major).
        NaN wins."""

    @abstractmethod
    def max_backward(self, dy: Array, index: Array, *, shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
        """dx of `shape`: dy at the winners, 0 elsewhere."""

    @abstractmethod
    def transpose(self, a: Array, axes: tuple[int, ...]) -> Array:
        """Axes in another order, copied into C order."""

    @abstractmethod
    def concatenate(self, arrays: Sequence[Array], axis: int) -> Array:
        """Arrays of one dtype behind one another along a non-negative `axis`."""

    @abstractmethod
    def get_slice(self, a: Array, index: Index) -> Array:
        """a[index] for integers, slices and None, copied into C order."""

    @abstractmethod
    def put_slice(self, dy: Array, index: Index, *, shape: tuple[int, ...]) -> Array:
        """Zeros of `shape` with dy at [index]."""

    @abstractmethod
    def take(self, a: Array, rows: Array) -> Array:
        """a[rows] for int64 `rows` (R,), each from 0 to len(a) - 1."""

    @abstractmethod
    def take_backward(self, dy: Array, rows: Array, *, length: int) -> Array:
        """dx (length, …): the sum of dy's rows that name each row of dx, in the order they stand in."""

    # ---- convolution ------------------------------------------------------------------------------------------------

    @abstractmethod
    def conv2d_forward(
        self,
        x: Array,
        w: Array,
        b: Array | None = None,
        *,
        geometry: Geometry,
        activation: Activation | None = None,
        pool: Geometry | None = None,
    ) -> tuple[Array, Array | None]:
        """Convolution of x (N, H, W, C) with w (KH, KW, C // groups, O), bias b (O,), then activation, then max pool
        -> (y (N, OH, OW, O), None), or y and mask of `pool.y_shape`.

        y[n, p, q, o] = f(b[o] + sum over i, j, c of x[n, p s + i d - pad, q s + j d - pad, c] w[i, j, c, o]): the
        cross-correlation that deep learning calls a convolution. Group g joins its C // groups channels to its O // groups
        filters.

        Args:
            pool: 2x2 windows side by side over the convolution's output, `FUSED_POOL`. The mask is as
                `max_pool2d_forward` gives it for the values before bias and activation, which keep their order.
        """

    @abstractmethod
    def conv2d_input_grad(self, dy: Array, w: Array, *, geometry: Geometry, gate: Gate | None = None) -> Array:
        """Gradient of x: the full convolution of dy (N, OH, OW, O), its pixels a stride apart, with the filters rotated by
        180 degrees and their channels exchanged -> dx (N, H, W, C). With a pool in the gate, dy has the pool's shape."""

    @abstractmethod
    def conv2d_weight_grad(
        self,
        dy: Array,
        x: Array,
        *,
        geometry: Geometry,
        gate: Gate | None = None,
        out: Array | None = None,
        bias: bool = True,
        bias_out: Array | None = None,
        accumulate: bool = False,
    ) -> tuple[Array, Array | None]:
        """Gradients of w and b -> (dw (KH, KW, C // groups, O), db (O,)); db is None unless `bias`.

        Args:
            gate: as for `conv2d_input_grad`.
            out, bias_out: where to write dw and db; float32 where dy and x are of 16 bits, as the gradients are then.
            accumulate: add to what `out` and `bias_out` hold.
        """

    # ---- matrix product ---------------------------------------------------------------------------------------------

    @abstractmethod
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
        """y (M, P) = f(op(a) op(b) + bias): a (M, K) or its transpose, b (K, P) or its transpose, bias (P,).

        Args:
            gate: applied to `a`, whose shape gate.y has: the activation's gradient, on load; without a pool.
            accumulate: add to what `out` holds; not with bias or activation.
        """

    # ---- pooling ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def max_pool2d_forward(self, x: Array, *, geometry: Geometry) -> tuple[Array, Array]:
        """(y, mask), both (N, OH, OW, C). The mask is the winner's position KW i + j in its window: the first of equals, NaN
        before all; uint8 for windows of up to 256 positions, else uint16 or int32. Padded taps are counted and never win."""

    @abstractmethod
    def max_pool2d_backward(self, dy: Array, mask: Array, *, geometry: Geometry) -> Array:
        """dx (N, H, W, C): the sum of dy over the windows that each pixel won."""

    @abstractmethod
    def avg_pool2d_forward(self, x: Array, *, geometry: Geometry, count_padding: bool) -> Array:
        """y (N, OH, OW, C): the mean over each window; over its pixels inside the image unless `count_padding`."""

    @abstractmethod
    def avg_pool2d_backward(self, dy: Array, *, geometry: Geometry, count_padding: bool) -> Array:
        """dx (N, H, W, C)."""

    # ---- normalisation ----------------------------------------------------------------------------------------------

    @abstractmethod
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
        """(y, saved): y = f(gamma (x - mean) / sqrt(variance + eps) + beta + residual), by channel (Ioffe & Szegedy 2015).

        x, residual and y are (…, C), the parameters and statistics (C,); gamma None is 1, beta None 0. With `training` the
        moments are those of the n elements that share a channel, the variance biased, and the running ones are
        updated in place, on the device: running = (1 - momentum) running + momentum batch, where the batch's variance is the
        unbiased one, over n - 1. Without, the running ones normalise and are saved themselves. Statistics are float32 or wider.
        """

    @abstractmethod
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
        """(dx, dgamma, dbeta, dresidual), of the shapes of what they are the gradients of.

        With g = f'(y) dy, h = (x - mean) / sqrt(variance + eps) and sums by channel:
        dbeta = sum of g; dgamma = sum of g h; dresidual = g, None unless `residual` (dy itself without an activation);
        dx = gamma / sqrt(variance + eps) (g - (dbeta + h dgamma) / n), without the last term unless `training`: running
        moments do not depend on x.

        Args:
            y: the output; read only with an activation.
            gamma_out, beta_out: where to write dgamma and dbeta.
            accumulate: add to what `gamma_out` and `beta_out` hold.
        """

    # ---- activations, softmax, losses -------------------------------------------------------------------------------

    @abstractmethod
    def activation_forward(self, x: Array, activation: Activation) -> Array:
        """y of x's shape. ReLU and leaky ReLU take 0 as negative; NaN stays NaN."""

    @abstractmethod
    def activation_backward(self, dy: Array, y: Array, activation: Activation) -> Array:
        """dx from dy and the output y."""

    @abstractmethod
    def gelu_forward(self, x: Array) -> Array:
        """y = x Phi(x) of x's shape, with the standard normal distribution function Phi (Hendrycks & Gimpel 2016)."""

    @abstractmethod
    def gelu_backward(self, dy: Array, x: Array) -> Array:
        """dx = dy (Phi(x) + x phi(x)), phi the density; from the input x, for the output does not determine it."""

    @abstractmethod
    def softmax_forward(self, x: Array, *, log: bool = False) -> Array:
        """exp(x) / sum(exp(x)) over the last axis, or its logarithm."""

    @abstractmethod
    def softmax_backward(self, dy: Array, y: Array, *, log: bool = False) -> Array:
        """dx from dy and the output y."""

    @abstractmethod
    def softmax_cross_entropy(
        self,
        logits: Array,
        labels: Array,
        *,
        weight: Array | None,
        smoothing: float,
        ignore_index: int | None,
        gain: float = 1.0,
    ) -> tuple[Array, Array, Array]:
        """(loss, dlogits, correct) of logits (R, K) and int32 labels (R,).

        With p = softmax(logits) and target t = (1 - smoothing) onehot + smoothing / K, a row's loss is
        -sum over k of weight[k] t[k] log p[k], 0 where the label is `ignore_index`; the loss, shape (), is the sum of the
        rows' over the sum of the labels' weights (0 where those are 0). dlogits (R, K) is its gradient times
        `gain`, which keeps small ones above float16's smallest numbers; correct, int32 shape (), counts the rows whose first
        largest logit is the label's. On CUDA, loss and `weight` are float32 also where the logits are of 16 bits.
        """

    @abstractmethod
    def sigmoid_cross_entropy(self, logits: Array, targets: Array) -> tuple[Array, Array]:
        """(loss, dlogits): mean over all elements of -t log s(z) - (1 - t) log(1 - s(z)), shape (), and its gradient."""

    # ---- random numbers ---------------------------------------------------------------------------------------------

    @abstractmethod
    def random_words(self, stream: Stream, count: int) -> Array:
        """`count` uint64 words of a stream."""

    @abstractmethod
    def random_uniform(self, stream: Stream, shape: Sequence[int], dtype: Any) -> Array:
        """Numbers in [0, 1): the upper 24 bits of a word each in float32, the upper 53 in float64."""

    @abstractmethod
    def dropout_forward(self, x: Array, p: float, *, stream: Stream) -> Array:
        """x with elements dropped at rate p and the rest scaled, by `random.drop_threshold` and `random.uint16`."""

    @abstractmethod
    def dropout_backward(self, dy: Array, p: float, *, stream: Stream) -> Array:
        """dx: the mask of the forward pass is drawn again, never stored."""

    @abstractmethod
    def permutation(self, stream: Stream, count: int, *, out: Array | None = None) -> Array:
        """`random.permutation` as int32 (count,), count < 2^31: the stable order of the stream's words."""

    # ---- data -------------------------------------------------------------------------------------------------------

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

    # ---- updates ----------------------------------------------------------------------------------------------------

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


__all__ = [
    "ACTIVATIONS",
    "BINARY",
    "FUSED_POOL",
    "UNARY",
    "Activation",
    "Array",
    "Backend",
    "FlatStorage",
    "Gate",
    "Index",
    "Moments",
    "Note",
    "Segments",
    "check_fused_pool",
    "is_float",
]
