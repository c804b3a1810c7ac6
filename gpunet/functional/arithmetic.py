"""Arithmetic with broadcasting, and elementwise functions."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpunet.autograd import Function, Tensor, expect_tensor
from gpunet.backends.contract import Array, Backend

__all__ = ["abs", "add", "cast", "divide", "exp", "log", "multiply", "negative", "power", "sqrt", "subtract"]


def unbroadcast(backend: Backend, dy: Array, shape: tuple[int, ...]) -> Array:
    """Sum dy over the axes that broadcasting added or stretched; 16-bit elements sum to float32."""
    if tuple(dy.shape) == shape:
        return dy
    new = len(dy.shape) - len(shape)
    stretched = tuple(new + i for i, n in enumerate(shape) if n == 1 and dy.shape[new + i] != 1)
    axes = (*range(new), *stretched)
    if not axes:
        return dy.reshape(shape)
    wide = backend.cast(dy, np.float32) if dy.dtype.name in backend.narrow else dy
    return backend.sum(wide, axes).reshape(shape)


class Binary(Function):
    """An operation on two arrays, with broadcasting."""

    def check(self, a: Array, b: Array) -> None:
        """Keep the shapes, and raise unless they broadcast."""
        if a is None or b is None:
            raise TypeError(f"{self.name}: takes tensors, arrays or numbers, got None")
        self.shapes = tuple(a.shape), tuple(b.shape)
        try:
            np.broadcast_shapes(*self.shapes)
        except ValueError:
            raise ValueError(f"{self.name}: shapes {self.shapes[0]} and {self.shapes[1]} do not broadcast") from None

    def fit(self, da: Array | None, db: Array | None) -> tuple[Array | None, Array | None]:
        """Reduce gradients of the broadcast arrays to those of a and b."""
        return (
            None if da is None else unbroadcast(self.backend, da, self.shapes[0]),
            None if db is None else unbroadcast(self.backend, db, self.shapes[1]),
        )


class Elementwise(Binary):
    """The operation of the backend that has the name of this one."""

    def forward(self, a: Array, b: Array) -> Array:
        self.check(a, b)
        return self.backend.binary(self.name, a, b)


class _Add(Elementwise, name="add"):
    def backward(self, dy: Array) -> Any:
        return self.fit(dy if self.needs(0) else None, dy if self.needs(1) else None)


class _Subtract(Elementwise, name="subtract"):
    def backward(self, dy: Array) -> Any:
        return self.fit(dy if self.needs(0) else None, self.backend.unary("negative", dy) if self.needs(1) else None)


class _Multiply(Elementwise, name="multiply"):
    def forward(self, a: Array, b: Array) -> Array:
        self.save(a, b)
        return super().forward(a, b)

    def backward(self, dy: Array) -> Any:
        (a, b), apply = self.saved, self.backend.binary
        da = apply("multiply", dy, b) if self.needs(0) else None
        return self.fit(da, apply("multiply", dy, a) if self.needs(1) else None)


class _Divide(Elementwise, name="divide"):
    def forward(self, a: Array, b: Array) -> Array:
        y = super().forward(a, b)
        self.save(b, y)
        return y

    def backward(self, dy: Array) -> Any:
        (b, y), apply, db = self.saved, self.backend.binary, None
        da = apply("divide", dy, b) if self.needs(0) else None
        if self.needs(1):  # -dy (y / b): this order keeps a = 0 exact, and overflows where PyTorch does
            db = apply("multiply", self.backend.unary("negative", dy), apply("divide", y, b))
        return self.fit(da, db)


class _Power(Binary, name="power"):
    def forward(self, a: Array, b: Array, *, constant: bool) -> Array:
        self.check(a, b)
        y = self.backend.binary("power", a, b)
        self.save(a, b, y)
        self.constant = constant
        return y

    def backward(self, dy: Array) -> Any:
        a, b, y = self.saved
        backend, apply, da, db = self.backend, self.backend.binary, None, None
        zero = backend.full((), 0, dy.dtype)
        if self.needs(0):  # b a^(b - 1), and 0 where b is 0, whatever a is
            one = backend.full((), 1, dy.dtype)
            da = apply("multiply", dy, apply("multiply", b, apply("power", a, apply("subtract", b, one))))
            if not self.constant:
                da = self._masked(backend.compare("equal", b, zero), da)
        if self.needs(1):  # a^b log a; where a is 0, it is 0 for b >= 0
            slope = apply("multiply", y, backend.unary("log", a))
            slope = self._masked(backend.compare("equal", a, zero), slope, backend.compare("greater_equal", b, zero))
            db = apply("multiply", dy, slope)
        return self.fit(da, db)

    def _masked(self, condition: Array, a: Array, also: Array | None = None) -> Array:
        """`a`, but 0 where `condition` and, if it is given, `also` hold."""
        condition = self.backend.broadcast(condition, a.shape)
        kept = self.backend.select(condition, None, a)
        if also is None:
            return kept
        return self.backend.select(self.backend.broadcast(also, a.shape), kept, a)


class _Unary(Function, name="unary"):
    def forward(self, x: Array, *, operation: str) -> Array:
        y = self.backend.unary(operation, x)
        self.operation = operation
        self.save(x, y)
        return y

    def backward(self, dy: Array) -> Any:
        (x, y), apply = self.saved, self.backend.binary
        match self.operation:
            case "negative":
                return self.backend.unary("negative", dy)
            case "exp":
                return apply("multiply", dy, y)
            case "log":
                return apply("divide", dy, x)
            case "sqrt":
                return apply("divide", dy, apply("add", y, y))
            case _:  # abs
                return apply("multiply", dy, self.backend.unary("sign", x))


class _Cast(Function, name="cast"):
    def forward(self, x: Array, *, dtype: np.dtype) -> Array:
        return self.backend.cast(x, dtype)

    def backward(self, dy: Array) -> Any:
        return dy  # the tape casts every gradient to the dtype of its input


def add(a: Any, b: Any) -> Tensor:
    """a + b with broadcasting; at least one is a tensor, the other may be an array or a number."""
    return _Add.apply(a, b)


def subtract(a: Any, b: Any) -> Tensor:
    """a - b, as for `add`."""
    return _Subtract.apply(a, b)


def multiply(a: Any, b: Any) -> Tensor:
    """a b elementwise, as for `add`."""
    return _Multiply.apply(a, b)


def divide(a: Any, b: Any) -> Tensor:
    """a / b, as for `add`."""
    return _Divide.apply(a, b)


def negative(x: Tensor) -> Tensor:
    """-x."""
    return _Unary.apply(x, operation="negative")


def power(a: Any, b: Any) -> Tensor:
    """a to the power of b, as for `add`; exponents 2 and 0.5 become a product and a square root.

    At the edges the gradients are PyTorch's. That of a is 0 for an exponent of 0, whatever the
    base. That of b is 0 for a base of 0 and an exponent of at least 0, -infinity for a base of 0
    and a negative exponent, and NaN for a negative base.
    """
    if isinstance(b, int | float):
        if isinstance(a, Tensor) and b in (2, 0.5):
            return multiply(a, a) if b == 2 else sqrt(a)
        return _Power.apply(a, b, constant=b != 0)
    return _Power.apply(a, b, constant=False)


def cast(x: Tensor, dtype: Any) -> Tensor:
    """x in another float dtype, rounded to the nearest; the gradient is in x's own dtype.

    Args:
        x: any shape and float dtype.
        dtype: one that the backend computes in. On a GPU, cast 16-bit tensors to "float32" for
            operations that take no 16 bits.
    """
    kind, backend = np.dtype(dtype), expect_tensor("cast", "x", x).backend
    if kind.name not in backend.dtypes:
        raise TypeError(f"cast: {kind} is not computed on {backend.name}, which takes {', '.join(backend.dtypes)}")
    return x if kind == x.dtype else _Cast.apply(x, dtype=kind)


def exp(x: Tensor) -> Tensor:
    """e to the power of each element."""
    return _Unary.apply(x, operation="exp")


def log(x: Tensor) -> Tensor:
    """Natural logarithm of each element."""
    return _Unary.apply(x, operation="log")


def sqrt(x: Tensor) -> Tensor:
    """Square root of each element."""
    return _Unary.apply(x, operation="sqrt")


def abs(x: Tensor) -> Tensor:
    """Absolute value of each element; the gradient is 0 at 0, and NaN at NaN (PyTorch's is 0)."""
    return _Unary.apply(x, operation="abs")
