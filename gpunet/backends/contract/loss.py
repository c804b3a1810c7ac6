"""The contract of softmax and of losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from gpunet.backends.contract.arrays import Array

__all__ = ["UNWEIGHTED", "CrossEntropy", "LossParts"]


class CrossEntropy(NamedTuple):
    """What a softmax cross entropy is asked for beside its logits and labels."""

    weight: Array | None = None
    """(K,), the weight of each class; None for weights of 1. On CUDA it is float32 also where the
    logits are of 16 bits."""
    smoothing: float = 0.0
    """The share of the target that is spread over all classes, from 0 to 1."""
    ignore_index: int | None = None
    """A label whose rows are left out."""
    reduction: str = "mean"
    """"mean" over the rows, weighted by the labels' weights; "sum"; or "none" for the loss of each
    row."""
    normalized: bool = False
    """Whether the logits are logarithms of probabilities already, so that no softmax is taken."""
    gain: float = 1.0
    """What dlogits is multiplied by, to keep small gradients above float16's smallest numbers; for
    a mean or a sum."""


LossParts = tuple[Array, Array, Array]
"""(loss, dlogits, correct) of `softmax_cross_entropy`."""
UNWEIGHTED = CrossEntropy()
"""The mean over all rows."""


class LossPrimitives(ABC):
    """Softmax and the losses that need it."""

    @abstractmethod
    def softmax_forward(self, x: Array, *, log: bool = False) -> Array:
        """Softmax over the last axis, p[k] = exp(x[k]) / sum of exp(x[j]) over j, or log p[k]."""

    @abstractmethod
    def softmax_backward(self, dy: Array, y: Array, *, log: bool = False) -> Array:
        """Gradient of x from dy and the output y.

        dx[k] = y[k] (dy[k] - sum over j of dy[j] y[j])
        dx[k] = dy[k] - exp(y[k]) sum over j of dy[j], for the logarithm
        """

    @abstractmethod
    def softmax_cross_entropy(self, logits: Array, labels: Array, options: CrossEntropy = UNWEIGHTED) -> LossParts:
        """Cross entropy of logits (R, K) with int32 labels (R,) -> (loss, dlogits, correct).

        With p = softmax(logits) and the target t = (1 - smoothing) onehot(label) + smoothing / K, a
        row has

            loss = -sum over k of weight[k] t[k] log p[k]
            dlogits[k] = p[k] sum over j of weight[j] t[j] - weight[k] t[k]

        and both are 0 where the label is `ignore_index`. Logits that are `normalized` are log p
        themselves: then dlogits[k] = -weight[k] t[k]. The loss of all, shape (), is the sum over
        the rows divided by the sum of the labels' weights, or 0 where those sum to 0, and dlogits
        is divided likewise and multiplied by `gain`. A reduction of "sum" divides by nothing;
        "none" gives the losses of the rows, (R,), and dlogits of their sum. On CUDA the loss is
        float32 also where the logits are of 16 bits.

        Returns:
            correct: int32 (), the number of rows whose first largest logit is that of the label.
        """

    @abstractmethod
    def label_weight(self, labels: Array, classes: int, options: CrossEntropy = UNWEIGHTED) -> Array:
        """The sum of the weights of int32 labels (R,), shape ().

        `softmax_cross_entropy` divides its mean by it. Labels that are `ignore_index` count
        nothing. A label that is no class makes the sum NaN; on the host it raises IndexError.
        """

    @abstractmethod
    def sigmoid_cross_entropy(self, logits: Array, target: Array) -> tuple[Array, Array]:
        """Binary cross entropy and its gradient -> (loss, dlogits).

        The loss, shape (), is the mean over all elements of -t log s(z) - (1 - t) log(1 - s(z)),
        where s is the logistic function; dlogits is (s(z) - t) over the number of elements.
        """
