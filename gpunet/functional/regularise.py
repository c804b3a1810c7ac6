"""Dropout (Srivastava et al. 2014), scaled while training so that inference needs nothing."""

from __future__ import annotations

from typing import Any

from gpunet import random
from gpunet.autograd import Function, Tensor
from gpunet.backends.base import Array
from gpunet.random import Stream


class _Dropout(Function):
    name = "dropout"

    def forward(self, x: Array, *, p: float, stream: Stream) -> Array:
        self.p, self.stream = p, stream
        return self.backend.dropout_forward(x, p, stream=stream)

    def backward(self, dy: Array) -> Any:
        return self.backend.dropout_backward(dy, self.p, stream=self.stream)


def dropout(x: Tensor, p: float = 0.5, *, training: bool = True) -> Tensor:
    """Each element 0 with probability p, else x / (1 - p); x itself unless `training`.

    Args:
        x: any shape and float dtype.
        p: from 0 to 1; rounded to a 65,536th.
        training: whether to drop at all.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"dropout: p is {p} but must be from 0 to 1")
    if not training or p == 0:
        return x
    return _Dropout.apply(x, p=p, stream=random.next_stream("dropout"))
