"""What stands behind a tensor's operators and methods: `Tensor`, which stands below the operations, gets them here."""

from __future__ import annotations

from typing import Any

from gpunet.autograd import Tensor, backward
from gpunet.functional.arithmetic import (
    absolute,
    add,
    divide,
    exp,
    log,
    matmul,
    multiply,
    negative,
    power,
    sqrt,
    subtract,
)
from gpunet.functional.movement import index, reshape, transpose
from gpunet.functional.reduction import max, mean, sum


def bind_operators() -> None:
    """Give `Tensor` its operators and methods."""
    methods: dict[str, Any] = {
        "backward": backward,
        "__add__": add,
        "__radd__": lambda a, b: add(b, a),
        "__sub__": subtract,
        "__rsub__": lambda a, b: subtract(b, a),
        "__mul__": multiply,
        "__rmul__": lambda a, b: multiply(b, a),
        "__truediv__": divide,
        "__rtruediv__": lambda a, b: divide(b, a),
        "__pow__": power,
        "__neg__": negative,
        "__matmul__": matmul,
        "__getitem__": index,
        "T": property(transpose),
        "abs": absolute,
        **{f.__name__: f for f in (exp, log, sqrt, reshape, transpose, sum, mean, max)},
    }
    for name, function in methods.items():
        setattr(Tensor, name, function)
