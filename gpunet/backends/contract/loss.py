"""The contract of softmax and of losses."""

from __future__ import annotations

from abc import ABC, abstractmethod

from gpunet.backends.contract.arrays import Array


class LossPrimitives(ABC):
    """Softmax and the losses that need it."""

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
        reduction: str = "mean",
        normalized: bool = False,
    ) -> tuple[Array, Array, Array]:
        """(loss, dlogits, correct) of logits (R, K) and int32 labels (R,).

        With p = softmax(logits) and target t = (1 - smoothing) onehot + smoothing / K, a row's loss is
        -sum over k of weight[k] t[k] log p[k], 0 where the label is `ignore_index`; the loss, shape (), is the sum of the
        rows' over the sum of the labels' weights (0 where those are 0). dlogits (R, K) is its gradient times
        `gain`, which keeps small ones above float16's smallest numbers; correct, int32 shape (), counts the rows whose first
        largest logit is the label's. On CUDA, loss and `weight` are float32 also where the logits are of 16 bits.

        Args:
            reduction: "mean", the above; "sum", the sum of the rows' losses, or "none", the rows' losses (R,): then dlogits is
                the gradient of the sum.
            normalized: whether the logits are log p themselves; then dlogits is -weight[k] t[k] over the weights.
        """

    @abstractmethod
    def label_weight(self, labels: Array, weight: Array | None, *, classes: int, ignore_index: int | None) -> Array:
        """The sum of the weights (K,) of int32 labels (R,), or their number, without those that are `ignore_index`, shape ():
        what `softmax_cross_entropy` divides its mean by. A label that is no class makes it NaN, on the host IndexError."""

    @abstractmethod
    def sigmoid_cross_entropy(self, logits: Array, targets: Array) -> tuple[Array, Array]:
        """(loss, dlogits): mean over all elements of -t log s(z) - (1 - t) log(1 - s(z)), shape (), and its gradient."""
