"""Gives `Tensor` its operators and methods: the operations that compute them stand above it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from gpunet.autograd import Tensor, backward
from gpunet.backends.contract import COMPARISONS
from gpunet.functional.arithmetic import abs, add, divide, exp, log, multiply, negative, power, sqrt, subtract
from gpunet.functional.comparison import compare, is_comparable, logic, negate
from gpunet.functional.indexing import index, refuse_assignment
from gpunet.functional.movement import reshape, squeeze, transpose, unsqueeze
from gpunet.functional.product import matmul
from gpunet.functional.reduction import argmax, argmin, max, mean, min, std, sum, var
from gpunet.functional.selection import clip


def _method(function: Callable[..., Tensor], *, reflected: bool = False) -> Callable[[Tensor, Any], Tensor]:
    return (lambda a, b: function(b, a)) if reflected else (lambda a, b: function(a, b))


def _comparison(name: str) -> Callable[[Tensor, Any], Any]:
    """A method that compares; with other kinds of values Python's == is identity, < an error."""
    return lambda a, b: compare(name, a, b) if is_comparable(b) else NotImplemented


def bind_operators() -> None:
    """Give `Tensor` its operators and methods."""
    methods: dict[str, Any] = {
        "backward": backward,
        "__neg__": negative,
        "__pos__": lambda x: x,
        "__abs__": abs,
        "__invert__": negate,
        "__getitem__": index,
        "__setitem__": refuse_assignment,
        "__contains__": lambda x, value: bool(compare("equal", x, value).numpy().any()),
        "T": property(transpose),
        "abs": abs,
    }
    named: tuple[Any, ...] = (
        exp, log, sqrt, reshape, transpose, squeeze, unsqueeze, sum, mean, max, min, argmax, argmin, var, std, clip,
    )  # fmt: skip
    methods |= {operation.__name__: operation for operation in named}
    both: dict[str, Any] = {
        "add": add, "sub": subtract, "mul": multiply, "truediv": divide, "pow": power, "matmul": matmul,
    }  # fmt: skip
    for name, function in (*both.items(), *((name, partial(logic, name)) for name in ("and", "or", "xor"))):
        methods[f"__{name}__"] = _method(function)
        methods[f"__r{name}__"] = _method(function, reflected=True)
    for name, comparison in zip(("eq", "ne", "lt", "le", "gt", "ge"), COMPARISONS, strict=True):
        methods[f"__{name}__"] = _comparison(comparison)
    for name, function in methods.items():
        setattr(Tensor, name, function)
