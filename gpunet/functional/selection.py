"""Choices between two values for each element: by a condition, by size, or by limits."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np

from gpunet.autograd import Function, Tensor, expect_tensor
from gpunet.backends.contract import Array, real_array
from gpunet.errors import BackendError
from gpunet.functional.arithmetic import Binary, Elementwise
from gpunet.operands import as_float

__all__ = ["clip", "maximum", "minimum", "where"]


class _Where(Binary, name="where"):
    def forward(self, a: Array, b: Array, *, condition: Array) -> Array:
        self.check(a, b)
        try:
            shape = np.broadcast_shapes(*self.shapes, tuple(condition.shape))
        except ValueError:
            shapes = f"{tuple(condition.shape)}, {self.shapes[0]} and {self.shapes[1]}"
            raise ValueError(f"where: shapes of condition, a and b {shapes} do not broadcast") from None
        self.condition, a, b = (self.backend.broadcast(part, shape) for part in (condition, a, b))
        return self.backend.select(self.condition, a, b)

    def backward(self, dy: Array) -> Any:
        da = self.backend.select(self.condition, dy, None) if self.needs(0) else None
        return self.fit(da, self.backend.select(self.condition, None, dy) if self.needs(1) else None)


class _Maximum(Elementwise, name="maximum"):
    loses = "less", "greater"
    """How a compares with b where a is not chosen, and how where b is not chosen."""

    def forward(self, a: Array, b: Array) -> Array:
        self.save(a, b)
        return super().forward(a, b)

    def backward(self, dy: Array) -> Any:
        (a, b), backend = self.saved, self.backend
        shared = backend.select(backend.compare("equal", a, b), backend.scale(dy, None, 0.5), dy)
        da, db = (
            backend.select(backend.compare(lost, a, b), None, shared) if self.needs(i) else None
            for i, lost in enumerate(self.loses)
        )
        return self.fit(da, db)


class _Minimum(_Maximum, name="minimum"):
    loses = "greater", "less"


class _Clip(Function, name="clip"):
    def forward(self, x: Array, *, low: float | None, high: float | None) -> Array:
        self.save(x)
        self.limits = [
            (extreme, inside, self.backend.full((), float(limit), x.dtype))
            for extreme, inside, limit in (("maximum", "greater_equal", low), ("minimum", "less_equal", high))
            if limit is not None
        ]
        for extreme, _, limit in self.limits:
            x = self.backend.binary(extreme, x, limit)
        return x

    def backward(self, dy: Array) -> Any:
        (x,) = self.saved
        for _, inside, limit in self.limits:
            dy = self.backend.select(self.backend.compare(inside, x, limit), dy, None)
        return dy


def where(condition: Any, a: Any, b: Any) -> Tensor:
    """a where the condition holds, else b, with broadcasting; the chosen element gets the gradient.

    Args:
        condition: booleans: a tensor, such as comparisons return, an array or lists.
        a, b: tensors, arrays or numbers. At least one of the three arguments is a tensor.
    """
    given = next((t for t in (a, b, condition) if isinstance(t, Tensor)), None)
    if given is None:
        raise TypeError("where: takes at least one tensor; make one with gpunet.tensor(data)")
    backend = given.backend
    if isinstance(condition, Tensor) and condition.backend is not backend:
        raise BackendError(f"where: condition is on {condition.backend.name} but a or b on {backend.name}; use .to(…)")
    mask = condition.data if isinstance(condition, Tensor) else real_array("where: condition", condition)
    if mask.dtype != np.bool_:
        raise TypeError(f"where: condition is {mask.dtype} but takes booleans, such as x > 0 returns")
    if given is condition and not isinstance(a, Tensor | type(None)):
        a = Tensor(backend.asarray(real_array("where: a", a), np.float32), backend)
    return _Where.apply(a, b, condition=backend.asarray(mask, np.bool_))


def maximum(a: Any, b: Any) -> Tensor:
    """The larger of a and b, elementwise with broadcasting, as for `add`; NaN wins.

    The gradient goes to the larger element. Equal elements get half of it each, and where one is
    NaN both get all of it, as in PyTorch.
    """
    return _Maximum.apply(a, b)


def minimum(a: Any, b: Any) -> Tensor:
    """The smaller of a and b, as for `maximum`."""
    return _Minimum.apply(a, b)


def clip(x: Tensor, min: float | None = None, max: float | None = None) -> Tensor:
    """Limit x to values from `min` to `max`; NaN stays NaN.

    The gradient is 1 from `min` to `max`, both included, and 0 beyond them and at NaN, as in
    PyTorch.

    Args:
        x: any shape and float dtype.
        min, max: numbers; one of them may be None. Use `maximum` and `minimum` for limits that are
            tensors.
    """
    expect_tensor("clip", "x", x)
    for name, limit in (("min", min), ("max", max)):
        if limit is not None and not isinstance(limit, Real):
            raise TypeError(f"clip: {name} takes a number or None, got {type(limit).__name__}; see maximum and minimum")
        if isinstance(limit, int):
            as_float(limit, f"clip: {name}")
    if min is None and max is None:
        raise ValueError("clip: takes min, max or both, got neither")
    return _Clip.apply(x, low=min, high=max)
