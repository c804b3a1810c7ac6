"""`Call`: what the functions of `gpunet.arrays` have in common, around one call of a primitive.

Extents, windows and options come to few values in a program, and checking them takes longer than a
small convolution, so that what follows from them is cached.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, wraps
from marshal import dumps
from numbers import Integral
from typing import Any, Literal, TypeVar, cast

import numpy as np

from gpunet.backends import Backend, get_backend
from gpunet.backends.contract import Array, Conv, is_masked
from gpunet.functional.conv import transposed_geometry
from gpunet.geometry import Geometry, Shape4, positive_int

Layout = Literal["NHWC", "NCHW"]
Outs = tuple[Array | None, ...]
NHWC, NCHW = (0, 2, 3, 1), (0, 3, 1, 2)
"""The axes of (N, C, H, W) in the order of (N, H, W, C), and back."""
HWIO, OIHW = (2, 3, 1, 0), (3, 2, 0, 1)
"""The axes of (O, I, KH, KW) in the order of (KH, KW, I, O), and back."""
T = TypeVar("T")


class Call:
    """The backend of one call, and how arrays come to it and go from it.

    Args:
        operation: the function's name, for messages.
        layout: "NHWC" or "NCHW", of images; filters are then (KH, KW, I, O) or (O, I, KH, KW).
        names: of the arrays, for messages.
        arrays: the arrays that must be of one kind, device and float dtype; None for those that are
            not given. The first is given.
    Raises:
        TypeError: an array of another kind or dtype, or a dtype that is not computed.
        ValueError: another layout.
        BackendError: CuPy's arrays without a GPU that answers.
    """

    __slots__ = ("backend", "dtype", "first", "nchw", "operation")

    def __init__(self, operation: str, layout: str, names: tuple[str, ...], *arrays: Array | None):
        self.operation, self.first = operation, names[0]
        self.nchw = layout != "NHWC"
        if self.nchw and layout != "NCHW":
            raise ValueError(f"{operation}: layout is {layout!r} but takes NHWC or NCHW")
        one: Any = arrays[0]
        self.backend = host_backend() if type(one) is np.ndarray else self._backend_of(one)
        self.dtype = one.dtype
        for array in arrays:  # of NumPy's usual dtypes there is one object each, so that this is all for most calls
            if array is not None and (type(array) is not np.ndarray or array.dtype is not self.dtype):
                self._check_others(names, arrays)
        if self.dtype not in _dtypes(self.backend.dtypes):
            takes = f"{self.backend.name}, which takes {', '.join(self.backend.dtypes)}"
            raise TypeError(f"{operation}: {self.first} is {self.dtype}, which is not computed on {takes}")

    def _backend_of(self, array: Any) -> Backend:
        """The backend of an array that is not exactly NumPy's: a subclass, or CuPy's."""
        if isinstance(array, np.ndarray) and _is_plain(array):
            return host_backend()
        if type(array).__module__.partition(".")[0] != "cupy":
            raise TypeError(
                f"{self.operation}: {self.first} takes numpy.ndarray or cupy.ndarray, got {_type_name(array)}"
            )
        number = array.device.id
        return get_backend(f"cuda:{number}" if number else "cuda")

    def _check_others(self, names: tuple[str, ...], arrays: Sequence[Array | None]) -> None:
        """Raise TypeError unless the other arrays are of the first one's kind, device and dtype."""
        for name, array in zip(names[1:], arrays[1:], strict=True):
            if array is not None:
                self.check_kind(name, array)
                if array.dtype != self.dtype:
                    raise TypeError(f"{self.operation}: {name} is {array.dtype} but {self.first} is {self.dtype}")

    def check_kind(self, name: str, array: Any) -> None:
        """Raise TypeError unless the array is of the first one's kind and device."""
        if not self.backend.owns(array) or not _is_plain(array):
            got = _type_name(array)
            raise TypeError(f"{self.operation}: {name} is {got} but {self.first} is an array of {self.backend.name}")

    # ---- in

    def plain(self, array: Array | None) -> Array:
        """The array, copied if it is not C-contiguous."""
        return array if array is None or array.flags.c_contiguous else self.backend.asarray(array)

    def images(self, array: Array) -> Array:
        """Images of the call's layout as (N, H, W, C), C-contiguous."""
        if not self.nchw:
            return array if array.flags.c_contiguous else self.backend.asarray(array)
        return _turned(self.backend, array, NHWC)

    def filters(self, array: Array) -> Array:
        """Filters of the call's layout as (KH, KW, I, O), C-contiguous."""
        if not self.nchw:
            return array if array.flags.c_contiguous else self.backend.asarray(array)
        return _turned(self.backend, array, HWIO)

    def small(self, name: str, array: Array | None, shape: Sequence[int]) -> Array | None:
        """An array that is float32 where the backend only stores 16 bits, of a shape, C-contiguous."""
        if array is None:
            return None
        self.check_kind(name, array)
        if array.dtype != self.wide:
            raise TypeError(f"{self.operation}: {name} is {array.dtype} but takes {self.wide} with {self.dtype}")
        self.check_shape(name, array, shape)
        return self.plain(array)

    def check_shape(self, name: str, array: Array | None, shape: Sequence[int]) -> None:
        """Raise ValueError unless the array is None or has the shape."""
        if array is not None and array.shape != tuple(shape):
            raise ValueError(f"{self.operation}: {name} has shape {array.shape} but takes {tuple(shape)}")

    def image_shape(self, name: str, shape: Sequence[int]) -> Shape4:
        """A shape of images in the call's layout, as (N, H, W, C)."""
        return self._ordered(name, shape, NHWC, "(N, C, H, W)" if self.nchw else "(N, H, W, C)")

    def given_shape(self, name: str, shape: Sequence[int]) -> Shape4:
        """A shape of images that the caller wrote, as (N, H, W, C)."""
        if not isinstance(shape, tuple | list) or not all(isinstance(n, Integral) for n in shape):
            raise TypeError(f"{self.operation}: {name} takes a tuple of 4 integers, got {shape!r}")
        return self.image_shape(name, [int(n) for n in shape])

    def divided(self, name: str, channels: int, groups: Any) -> int:
        """The channels of each of a number of groups; Geometry raises if it does not divide them."""
        return max(channels // positive_int(self.operation, name, groups), 1)

    @property
    def wide(self) -> np.dtype:
        """The dtype of gradients of parameters: float32 where the backend only stores 16 bits."""
        return np.dtype(np.float32) if self.dtype.name in self.backend.narrow else self.dtype

    def filter_shape(self, shape: Sequence[int]) -> Shape4:
        """A shape of filters in the call's layout, as (KH, KW, I, O)."""
        return self._ordered("weight", shape, HWIO, "(O, I, KH, KW)" if self.nchw else "(KH, KW, I, O)")

    def _ordered(self, name: str, shape: Sequence[int], axes: Sequence[int], letters: str) -> Shape4:
        if len(shape) != 4:
            raise ValueError(f"{self.operation}: {name} has shape {tuple(shape)} but takes 4 axes {letters}")
        return cast(Shape4, tuple([shape[i] for i in axes]) if self.nchw else tuple(shape))

    def outer_shape(self, shape: Sequence[int], axes: Sequence[int] = NCHW) -> tuple[int, ...]:
        """A shape (N, H, W, C), or of filters, in the call's layout."""
        return tuple([shape[i] for i in axes]) if self.nchw and len(shape) == 4 else tuple(shape)

    # ---- out

    def check_out(self, out: Array | None, shape: Sequence[int], *, name: str = "out", dtype: Any = None) -> None:
        """Raise an error unless `out` is None or can take a result of the shape and dtype."""
        if out is None:
            return
        self.check_kind(name, out)
        self.check_shape(name, out, shape)
        if out.dtype != (self.dtype if dtype is None else dtype):
            raise TypeError(f"{self.operation}: {name} is {out.dtype} but the result {dtype or self.dtype}")
        if isinstance(out, np.ndarray) and not out.flags.writeable:
            raise ValueError(f"{self.operation}: {name} is read-only, and the result would be written to it")

    def outs(self, out: Any, count: int) -> Outs:
        """The destinations of a function that has several results."""
        if out is None:
            return (None,) * count
        if not isinstance(out, tuple | list) or len(out) != count:
            raise TypeError(f"{self.operation}: out takes {count} arrays, some of which may be None, got {out!r:.60}")
        return tuple(out)

    def deliver(self, y: Array, out: Array | None, axes: Sequence[int] = NCHW) -> Array:
        """The result y in the call's layout, written to `out` if there is one.

        Args:
            y: images (N, H, W, C); with the axes `OIHW`, filters; anything that has not 4 axes keeps
                its layout.
        """
        if out is None and not self.nchw:
            return y
        turns = self.nchw and y.ndim == 4
        if out is None:
            return self.backend.transpose(y, tuple(axes)) if turns else y
        out[...] = y.transpose(axes) if turns else y
        return out


def _turned(backend: Backend, array: Array, axes: Sequence[int]) -> Array:
    """An array with its axes in another order, copied unless it is C-contiguous then."""
    view = array.transpose(axes)
    if view.flags.c_contiguous:
        return view
    return backend.transpose(array, tuple(axes)) if array.flags.c_contiguous else backend.asarray(view)


FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


def are_usual(first: Any, *others: Any) -> bool:
    """Whether arrays are NumPy's own, C-contiguous and of one dtype that is computed.

    There is nothing to check and to convert then, nor for those that are None. Of these dtypes NumPy
    has one object each, as a rule; another object only sends the call the longer way.
    """
    if type(first) is not np.ndarray or not first.flags.c_contiguous:
        return False
    dtype = first.dtype
    if dtype is not FLOAT32 and dtype is not FLOAT64:
        return False
    for array in others:
        if array is not None and (
            type(array) is not np.ndarray or array.dtype is not dtype or not array.flags.c_contiguous
        ):
            return False
    return True


def _is_plain(array: Any) -> bool:
    """Whether operators mean to the array what they mean to NumPy's own and CuPy's."""
    return not is_masked(array) and not isinstance(array, np.matrix)


def _type_name(array: Any) -> str:
    """The array's type with its library, for messages: several libraries have a `Tensor`."""
    return f"{type(array).__module__.removesuffix('builtins')}.{type(array).__name__}".lstrip(".")


@cache
def host_backend() -> Backend:
    """The backend of NumPy's arrays."""
    return get_backend("numpy")


@cache
def _dtypes(names: tuple[str, ...]) -> frozenset[np.dtype]:
    return frozenset(np.dtype(name) for name in names)


# ---- what is cached


MOST_KEPT = 4096
"""Results that a cache keeps; when there are more, all are forgotten."""


def _cached(function: Callable[..., T]) -> Callable[..., T]:
    """A function of (operation, nchw, shapes and options …) with a cache.

    Its keys are the bytes of the arguments, which tell 1 from 1.0 and True and cost less than a
    check of the arguments. Calls with other arguments than Python's own integers and names are not
    kept, for two of these may have the same bytes. An error says so where its shapes are not those
    that were given.
    """
    kept: dict[bytes, T] = {}

    @wraps(function)
    def wrapper(*args: Any) -> T:
        try:
            key = dumps(args, 2)  # later versions of the format depend on who else holds an argument
        except ValueError:
            key = b""
        found = kept.get(key)
        if found is not None:
            return found
        try:
            found = function(*args)
        except (TypeError, ValueError) as error:
            if args[1]:
                raise type(error)(f"{error}; shapes are written as for NHWC") from None
            raise
        if key and _is_exact(args):
            if len(kept) >= MOST_KEPT:
                kept.clear()
            kept[key] = found
        return found

    return wrapper


def _is_exact(value: Any) -> bool:
    """Whether a value is of Python's own integers and names, also in tuples and lists."""
    return type(value) in (int, str, bool, type(None)) or (
        type(value) in (tuple, list) and all(_is_exact(part) for part in value)
    )


@_cached
def conv_of(
    operation: str, nchw: bool, x_shape: Shape4, w_shape: Shape4, stride: Any, padding: Any, dilation: Any, groups: Any,
    precision: str,
) -> Conv:  # fmt: skip
    """A convolution of x (N, H, W, C) with filters (KH, KW, C // groups, O)."""
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return Conv(Geometry.conv(x_shape, w_shape, **options, operation=operation), precision=precision)


@_cached
def transposed_conv_of(
    operation: str, nchw: bool, x_shape: Shape4, w_shape: Shape4, stride: Any, padding: Any, output_padding: Any,
    dilation: Any, groups: Any, precision: str,
) -> Conv:  # fmt: skip
    """The convolution whose input gradient a transposed convolution of x (N, H, W, I) is."""
    geometry = transposed_geometry(
        operation, x_shape, w_shape, stride=stride, padding=padding, output_padding=output_padding, dilation=dilation,
        groups=groups,
    )  # fmt: skip
    return Conv(geometry, precision=precision)


@_cached
def pool_of(
    operation: str, nchw: bool, x_shape: Shape4, kernel_size: Any, stride: Any, padding: Any, ceil_mode: Any
) -> Geometry:
    """The windows of a pool over x (N, H, W, C)."""
    options = {"stride": stride, "padding": padding, "ceil_mode": ceil_mode}
    return Geometry.pool(x_shape, kernel_size, **options, operation=operation)
