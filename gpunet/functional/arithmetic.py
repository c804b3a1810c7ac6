"""Arithmetic, reductions and movement; also what stands behind a tensor's operators, bound at the end of this module."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from gpunet.autograd import Function, Tensor
from gpunet.backends.base import Array, Backend, Index


def _unbroadcast(backend: Backend, dy: Array, shape: tuple[int, ...]) -> Array:
    """Sum dy over the axes that broadcasting added or stretched."""
    if tuple(dy.shape) == shape:
        return dy
    new = len(dy.shape) - len(shape)
    stretched = tuple(new + i for i, n in enumerate(shape) if n == 1 and dy.shape[new + i] != 1)
    axes = (*range(new), *stretched)
    return backend.sum(dy, axes).reshape(shape) if axes else dy.reshape(shape)


class _Binary(Function):
    def check(self, a: Array, b: Array) -> None:
        if a is None or b is None:
            raise TypeError(f"{self.name}: takes tensors, arrays or numbers, got None")
        self.shapes = tuple(a.shape), tuple(b.shape)
        try:
            np.broadcast_shapes(*self.shapes)
        except ValueError:
            raise ValueError(f"{self.name}: shapes {self.shapes[0]} and {self.shapes[1]} do not broadcast") from None

    def fit(self, da: Array | None, db: Array | None) -> tuple[Array | None, Array | None]:
        return (
            None if da is None else _unbroadcast(self.backend, da, self.shapes[0]),
            None if db is None else _unbroadcast(self.backend, db, self.shapes[1]),
        )


class _Add(_Binary):
    name = "add"

    def forward(self, a: Array, b: Array) -> Array:
        self.check(a, b)
        return self.backend.binary("add", a, b)

    def backward(self, dy: Array) -> Any:
        return self.fit(dy if self.needs(0) else None, dy if self.needs(1) else None)


class _Subtract(_Binary):
    name = "subtract"

    def forward(self, a: Array, b: Array) -> Array:
        self.check(a, b)
        return self.backend.binary("subtract", a, b)

    def backward(self, dy: Array) -> Any:
        return self.fit(dy if self.needs(0) else None, self.backend.unary("negative", dy) if self.needs(1) else None)


class _Multiply(_Binary):
    name = "multiply"

    def forward(self, a: Array, b: Array) -> Array:
        self.check(a, b)
        self.save(a, b)
        return self.backend.binary("multiply", a, b)

    def backward(self, dy: Array) -> Any:
        a, b = self.saved
        multiply = self.backend.binary
        return self.fit(
            multiply("multiply", dy, b) if self.needs(0) else None,
            multiply("multiply", dy, a) if self.needs(1) else None,
        )


class _Divide(_Binary):
    name = "divide"

    def forward(self, a: Array, b: Array) -> Array:
        self.check(a, b)
        y = self.backend.binary("divide", a, b)
        self.save(b, y)
        return y

    def backward(self, dy: Array) -> Any:
        b, y = self.saved
        da = self.backend.binary("divide", dy, b)
        db = None
        if self.needs(1):
            db = self.backend.unary("negative", self.backend.binary("multiply", da, y))
        return self.fit(da if self.needs(0) else None, db)


class _Power(_Binary):
    name = "power"

    def forward(self, a: Array, b: Array) -> Array:
        self.check(a, b)
        y = self.backend.binary("power", a, b)
        self.save(a, b, y)
        return y

    def backward(self, dy: Array) -> Any:
        a, b, y = self.saved
        apply, da, db = self.backend.binary, None, None
        if self.needs(0):  # b a^(b - 1)
            one = self.backend.full((), 1, dy.dtype)
            da = apply("multiply", dy, apply("multiply", b, apply("power", a, apply("subtract", b, one))))
        if self.needs(1):  # a^b log a
            db = apply("multiply", dy, apply("multiply", y, self.backend.unary("log", a)))
        return self.fit(da, db)


class _Unary(Function):
    name = "unary"

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


class _MatMul(Function):
    name = "matmul"

    def forward(self, a: Array, b: Array) -> Array:
        if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[1] != b.shape[0]:
            raise ValueError(f"matmul: takes (M, K) and (K, P), got a {tuple(a.shape)} and b {tuple(b.shape)}")
        self.save(a, b)
        return self.backend.matmul(a, b)

    def backward(self, dy: Array) -> Any:
        a, b = self.saved
        matmul = self.backend.matmul
        da = matmul(dy, b, transpose_b=True) if self.needs(0) else None
        if not self.needs(1):
            return da, None
        return da, matmul(a, dy, transpose_a=True, out=self.destination(1), accumulate=self.accumulate)


class _Reshape(Function):
    name = "reshape"
    view = True

    def forward(self, x: Array, *, shape: tuple[int, ...]) -> Array:
        self.shape = tuple(x.shape)
        return x.reshape(shape)

    def backward(self, dy: Array) -> Any:
        return dy.reshape(self.shape)


class _Transpose(Function):
    name = "transpose"

    def forward(self, x: Array, *, axes: tuple[int, ...]) -> Array:
        self.axes = axes
        return self.backend.transpose(x, axes)

    def backward(self, dy: Array) -> Any:
        inverse = tuple(self.axes.index(i) for i in range(len(self.axes)))
        return self.backend.transpose(dy, inverse)


class _Concatenate(Function):
    name = "concatenate"

    def forward(self, *arrays: Array, axis: int) -> Array:
        self.axis = axis
        self.sizes = [a.shape[axis] for a in arrays]
        return self.backend.concatenate(arrays, axis)

    def backward(self, dy: Array) -> Any:
        stops = np.cumsum(self.sizes).tolist()
        before: Index = (slice(None),) * self.axis
        return tuple(
            self.backend.get_slice(dy, (*before, slice(stop - size, stop))) if self.needs(i) else None
            for i, (size, stop) in enumerate(zip(self.sizes, stops, strict=True))
        )


class _Slice(Function):
    name = "index"

    def forward(self, x: Array, *, index: Index) -> Array:
        self.index, self.shape = index, tuple(x.shape)
        return self.backend.get_slice(x, index)

    def backward(self, dy: Array) -> Any:
        return self.backend.put_slice(dy, self.index, shape=self.shape)


class _Take(Function):
    name = "index"

    def forward(self, x: Array, *, rows: Array) -> Array:
        self.rows, self.length = rows, x.shape[0]
        return self.backend.take(x, rows)

    def backward(self, dy: Array) -> Any:
        return self.backend.take_backward(dy, self.rows, length=self.length)


class _Sum(Function):
    name = "sum"

    def forward(self, x: Array, *, axes: tuple[int, ...], keepdims: bool) -> Array:
        self.shape, self.kept = tuple(x.shape), _kept_shape(x.shape, axes)
        y = self.backend.sum(x, axes)
        return y.reshape(self.kept) if keepdims else y

    def backward(self, dy: Array) -> Any:
        zeros = self.backend.full(self.shape, 0, dy.dtype)
        return self.backend.binary("add", zeros, dy.reshape(self.kept), out=zeros)


class _Max(Function):
    name = "max"

    def forward(self, x: Array, *, axes: tuple[int, ...], keepdims: bool) -> Array:
        y, self.index = self.backend.max(x, axes)
        self.shape, self.axes = tuple(x.shape), axes
        return y.reshape(_kept_shape(x.shape, axes)) if keepdims else y

    def backward(self, dy: Array) -> Any:
        dy = dy.reshape(self.index.shape)
        return self.backend.max_backward(dy, self.index, shape=self.shape, axes=self.axes)


def _kept_shape(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


def _axes(operation: str, axis: Any, ndim: int) -> tuple[int, ...]:
    """Sorted, non-negative axes of an argument that is None (all), an integer or several."""
    if axis is None:
        return tuple(range(ndim))
    given = (axis,) if isinstance(axis, int | np.integer) else tuple(axis)
    for a in given:
        if not isinstance(a, int | np.integer) or not -ndim <= a < ndim:
            raise ValueError(f"{operation}: axis is {axis} but the tensor has {ndim} axes")
    axes = tuple(sorted({int(a) % ndim for a in given}))
    if len(axes) < len(given):
        raise ValueError(f"{operation}: axis {axis} names an axis twice")
    return axes


def power(a: Tensor, b: Any) -> Tensor:
    """a to the power of b, with broadcasting; squares are multiplied out."""
    if isinstance(b, int | float) and b == 2:
        return a * a
    return _Power.apply(a, b)


def matmul(a: Tensor, b: Any) -> Tensor:
    """Product of matrices a (M, K) and b (K, P) -> (M, P)."""
    return _MatMul.apply(a, b)


def exp(x: Tensor) -> Tensor:
    """e to the power of each element."""
    return _Unary.apply(x, operation="exp")


def log(x: Tensor) -> Tensor:
    """Natural logarithm of each element."""
    return _Unary.apply(x, operation="log")


def sqrt(x: Tensor) -> Tensor:
    """Square root of each element."""
    return _Unary.apply(x, operation="sqrt")


def absolute(x: Tensor) -> Tensor:
    """Absolute value of each element; the gradient at 0 is 0."""
    return _Unary.apply(x, operation="abs")


def reshape(x: Tensor, *shape: Any) -> Tensor:
    """The elements in another shape; one extent may be -1. Takes integers or one tuple of them."""
    extents = list(shape[0]) if len(shape) == 1 and isinstance(shape[0], tuple | list) else list(shape)
    known = prod(n for n in extents if n != -1)
    if extents.count(-1) == 1 and known > 0 and x.size % known == 0:
        extents[extents.index(-1)] = x.size // known
    if prod(extents) != x.size or any(n < 0 for n in extents):
        raise ValueError(f"reshape: {x.size} elements of shape {x.shape} do not fill {tuple(shape)}")
    return _Reshape.apply(x, shape=tuple(extents))


def flatten(x: Tensor) -> Tensor:
    """(N, …) -> (N, the product of the rest), row-major: (h W + w) C + c for an image."""
    if x.ndim < 1:
        raise ValueError("flatten: x has no axes but takes at least one, (N, …)")
    return reshape(x, x.shape[0], prod(x.shape[1:]))


def transpose(x: Tensor, *axes: Any) -> Tensor:
    """Axes in another order, reversed if none are given. Takes integers or one tuple of them."""
    order = tuple(axes[0]) if len(axes) == 1 and isinstance(axes[0], tuple | list) else axes
    order = tuple(a % x.ndim for a in order) if order and x.ndim else tuple(reversed(range(x.ndim)))
    if sorted(order) != list(range(x.ndim)):
        raise ValueError(f"transpose: axes {axes} are no order of the {x.ndim} axes of {x.shape}")
    return _Transpose.apply(x, axes=order)


def concatenate(tensors: Any, axis: int = 0) -> Tensor:
    """Tensors behind one another along `axis`; all other extents equal."""
    tensors = list(tensors)
    if not tensors:
        raise ValueError("concatenate: takes at least one tensor, got none")
    shapes = [tuple(t.shape) for t in tensors]
    (axis,) = _axes("concatenate", axis, len(shapes[0]))
    if len({(*s[:axis], *s[axis + 1 :], len(s)) for s in shapes}) > 1:
        raise ValueError(f"concatenate: shapes {', '.join(map(str, shapes))} differ beside axis {axis}")
    return _Concatenate.apply(*tensors, axis=axis)


def index(x: Tensor, key: Any) -> Tensor:
    """x[key]: integers, slices, None and Ellipsis; or one sequence of integers, which picks along the first axis."""
    if isinstance(key, list | np.ndarray) or x.backend.owns(key):
        rows = np.asarray(x.backend.to_numpy(key) if x.backend.owns(key) else key)
        if rows.ndim != 1 or rows.dtype.kind not in "iu" or x.ndim == 0:
            raise TypeError(f"index: an array must be of integers with one axis, got {rows.dtype} with {rows.ndim}")
        if rows.size and not (-len(x) <= rows.min() and rows.max() < len(x)):
            raise IndexError(f"index: rows {rows.min()} to {rows.max()} do not fit a first axis of {len(x)}")
        return _Take.apply(x, rows=x.backend.asarray(rows % len(x), np.int64))
    parts = key if isinstance(key, tuple) else (key,)
    if not all(
        p is None or p is Ellipsis or (isinstance(p, slice | int | np.integer) and not isinstance(p, bool))
        for p in parts
    ):
        raise TypeError(f"index: takes integers, slices, None, … or one array of integers, got {key!r}")
    taken = len([p for p in parts if p is not None and p is not Ellipsis])
    if taken > x.ndim or parts.count(Ellipsis) > 1:
        raise IndexError(f"index: {key!r} names {taken} axes of a tensor of shape {x.shape}")
    if Ellipsis in parts:
        at = parts.index(Ellipsis)
        parts = (*parts[:at], *(slice(None),) * (x.ndim - taken), *parts[at + 1 :])
    axis = 0
    for part in parts:
        if isinstance(part, int | np.integer) and not -x.shape[axis] <= part < x.shape[axis]:
            raise IndexError(f"index: {part} does not fit axis {axis} of {x.shape}")
        axis += part is not None
    return _Slice.apply(x, index=parts)


def sum(x: Tensor, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Sum over an axis, several, or all."""
    axes = _axes("sum", axis, x.ndim)
    return _Sum.apply(x, axes=axes, keepdims=keepdims) if axes else x


def mean(x: Tensor, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Mean over an axis, several, or all."""
    axes = _axes("mean", axis, x.ndim)
    if prod(x.shape[a] for a in axes) == 0:
        raise ValueError(f"mean: axes {axes} of shape {x.shape} hold no elements")
    return sum(x, axes, keepdims) * (1 / prod(x.shape[a] for a in axes))


def max(x: Tensor, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Maximum over an axis, several, or all; the gradient goes to the first of equals."""
    axes = _axes("max", axis, x.ndim)
    return _Max.apply(x, axes=axes, keepdims=keepdims) if axes else x


def _bind_operators() -> None:
    """Give `Tensor`, which stands below this module, its operators and methods."""
    operators: dict[str, Any] = {
        "__add__": lambda a, b: _Add.apply(a, b),
        "__radd__": lambda a, b: _Add.apply(b, a),
        "__sub__": lambda a, b: _Subtract.apply(a, b),
        "__rsub__": lambda a, b: _Subtract.apply(b, a),
        "__mul__": lambda a, b: _Multiply.apply(a, b),
        "__rmul__": lambda a, b: _Multiply.apply(b, a),
        "__truediv__": lambda a, b: _Divide.apply(a, b),
        "__rtruediv__": lambda a, b: _Divide.apply(b, a),
        "__pow__": power,
        "__neg__": lambda a: _Unary.apply(a, operation="negative"),
        "__matmul__": matmul,
        "__getitem__": index,
        "T": property(transpose),
        "abs": absolute,
    }
    for function in (exp, log, sqrt, reshape, transpose, sum, mean, max):
        operators[function.__name__] = function
    for name, function in operators.items():
        setattr(Tensor, name, function)


_bind_operators()
