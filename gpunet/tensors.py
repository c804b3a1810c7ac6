"""`Tensor`: an array, its backend, its gradient and the operation that made it; `Parameter`: one that is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from gpunet.arena import Arena
from gpunet.backends import get_backend
from gpunet.backends.contract.arrays import COUNTS, Array, is_float
from gpunet.backends.contract.backend import Backend
from gpunet.backends.contract.real import is_masked, real_array
from gpunet.precision import loaded

if TYPE_CHECKING:
    from gpunet.autograd import Function

_PLACE = ("_data", "_grad", "_backend", "arena", "segment")
"""Attributes that say where a parameter's values lie, which a copy has anew."""


class Tensor:
    """An array, the backend it lives on and, if asked for, its gradient.

    Attributes:
        data: the backend's array.
        grad: the sum of the gradients of each `backward`, an array of the same shape; None before. A later `backward` adds to
            this array in place, as PyTorch does: copy it to keep it.
        requires_grad: whether operations on it are recorded.
    """

    __array_ufunc__ = None  # numpy_array * tensor is the tensor's to compute

    def __init__(self, data: Array, backend: Backend, requires_grad: bool = False):
        self.backend = backend
        self.data = data
        self.grad: Array | None = None
        self.requires_grad = requires_grad
        self._version = 0
        self._viewed: Tensor | None = None  # whose memory this tensor shares, if it is a view
        self._function: Function | None = None
        self._divisor: Callable[[], Array] | None = (
            None  # of a loss that is a mean weighted by labels: gives their weight
        )

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.data.shape)

    @property
    def dtype(self) -> np.dtype:
        return self.data.dtype

    @property
    def ndim(self) -> int:
        return len(self.data.shape)

    @property
    def size(self) -> int:
        return int(self.data.size)

    @property
    def version(self) -> int:
        """Counts the changes of the values, of a view those of the tensor that it views."""
        return self._version if self._viewed is None else self._viewed.version

    @version.setter
    def version(self, value: int) -> None:
        self._version = value

    def numpy(self) -> np.ndarray:
        """The values on the host; on the host backends the tensor's own array, without a copy."""
        return self.backend.to_numpy(self.data)

    def item(self) -> float:
        """The value of a tensor of one element, a float, an integer or a boolean of Python's; waits for the device.

        Raises:
            ValueError: more elements than one, or none.
        """
        if self.size != 1:
            raise ValueError(f"item: takes a tensor of one element, got shape {self.shape}")
        return self.numpy().item()

    def detach(self) -> Tensor:
        """The same array without its history."""
        result = Tensor(self.data, self.backend)
        result._viewed = self._owner()
        return result

    def to(self, backend: str | Backend) -> Tensor:
        """A copy of the values on another backend, without history; itself where it is there already."""
        target = get_backend(backend)
        if target is self.backend:
            return self
        if self._function is not None:
            raise RuntimeError(
                "to: the tensor is the result of an operation, whose tape ends here; write .detach().to(…)"
            )
        return Tensor(target.asarray(self.numpy(), self.dtype), target, self.requires_grad)

    @property
    def creator(self) -> Function | None:
        """The operation on the tape that made it; None for leaves and for what was not recorded."""
        return self._function

    def zero_grad(self) -> None:
        """Forget the gradient."""
        self.grad = None

    def operand(self, dtype: np.dtype) -> Array:
        """The array that an operation of `dtype` takes."""
        return self.data

    def _owner(self) -> Tensor | None:
        """The leaf whose memory this is; None for results of operations, which nothing overwrites."""
        return self._viewed if self._viewed is not None or self._function is not None else self

    def accumulate_grad(self, grad: Array, *, fresh: bool = False) -> None:
        """Add one contribution to the gradient, in place; the first is copied, unless it is `fresh`: held by nobody else."""
        held = self.grad
        if held is not None:
            self.grad = self.backend.binary("add", held, grad, out=held)
        else:  # a parameter in an arena copies what it is given
            self.grad = grad if fresh or getattr(self, "arena", None) is not None else self.backend.copy(grad)

    # ---- copies and pickles: of a leaf, with its values on the host; of a result of an operation there are none

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Without the gradient. The values come first: what the user's attributes refer to may refer to the tensor."""
        if self._function is not None:
            raise RuntimeError(
                "copy: the tensor is the result of an operation, and its tape cannot be copied; write .detach() before"
            )
        made = {*vars(Tensor(self.data, self.backend)), *_PLACE}
        own = {name: value for name, value in vars(self).items() if name not in made}
        values = self.backend.to_numpy(self.data)
        return _remade, (type(self), values, self.backend, self.requires_grad, self.version), own

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        _, (kind, values, *place), own = self.__reduce_ex__(4)
        twin = memo[id(self)] = _remade(kind, deepcopy(values, memo), *place)
        twin.grad = None if self.grad is None else self.backend.copy(self.grad)
        vars(twin).update(deepcopy(own, memo))
        return twin

    def __copy__(self) -> Self:
        """Another tensor on the same memory."""
        twin = type(self).__new__(type(self))
        vars(twin).update(vars(self))
        return twin

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if self.dtype.name not in COUNTS:
            raise TypeError(f"an index takes an integer, got a tensor of {self.dtype}")
        return int(self.item())

    def __bool__(self) -> bool:
        if self.size != 1:
            raise TypeError(
                f"a tensor of shape {self.shape} is neither true nor false: one of a single element is; or ask .numpy().any()"
            )
        return bool(self.item())

    def __round__(self, digits: int | None = None) -> float:
        return round(self.item(), digits)

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else repr(self)

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("a tensor does not become a NumPy array by itself; write tensor.numpy()")

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len: a tensor of no axes has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        values = np.array2string(self.numpy(), precision=4, threshold=20, separator=", ")
        needs = ", requires_grad=True" if self.requires_grad else ""
        return f"tensor({values}, shape={self.shape}, {self.dtype}, {self.backend.name}{needs})"

    if TYPE_CHECKING:  # functional/operators.py, which stands above this module, binds these
        T: Tensor

        def backward(self, grad: Any = None, *, retain_graph: bool = False) -> None: ...
        def __eq__(self, other: object) -> Tensor: ...  # type: ignore[override]
        def __ne__(self, other: object) -> Tensor: ...  # type: ignore[override]
        def __hash__(self) -> int: ...
        def __lt__(self, other: Any) -> Tensor: ...
        def __le__(self, other: Any) -> Tensor: ...
        def __gt__(self, other: Any) -> Tensor: ...
        def __ge__(self, other: Any) -> Tensor: ...
        def __and__(self, other: Any) -> Tensor: ...
        def __or__(self, other: Any) -> Tensor: ...
        def __xor__(self, other: Any) -> Tensor: ...
        def __invert__(self) -> Tensor: ...
        def __abs__(self) -> Tensor: ...
        def __rpow__(self, other: Any) -> Tensor: ...
        def __rmatmul__(self, other: Any) -> Tensor: ...
        def __setitem__(self, index: Any, value: Any) -> None: ...
        def __add__(self, other: Any) -> Tensor: ...
        def __radd__(self, other: Any) -> Tensor: ...
        def __sub__(self, other: Any) -> Tensor: ...
        def __rsub__(self, other: Any) -> Tensor: ...
        def __mul__(self, other: Any) -> Tensor: ...
        def __rmul__(self, other: Any) -> Tensor: ...
        def __truediv__(self, other: Any) -> Tensor: ...
        def __rtruediv__(self, other: Any) -> Tensor: ...
        def __pow__(self, other: Any) -> Tensor: ...
        def __neg__(self) -> Tensor: ...
        def __matmul__(self, other: Any) -> Tensor: ...
        def __getitem__(self, index: Any) -> Tensor: ...
        def exp(self) -> Tensor: ...
        def log(self) -> Tensor: ...
        def sqrt(self) -> Tensor: ...
        def abs(self) -> Tensor: ...
        def reshape(self, *shape: Any) -> Tensor: ...
        def transpose(self, *axes: Any) -> Tensor: ...
        def sum(self, axis: Any = None, keepdims: bool = False) -> Tensor: ...
        def mean(self, axis: Any = None, keepdims: bool = False) -> Tensor: ...
        def max(self, axis: Any = None, keepdims: bool = False) -> Tensor: ...
        def min(self, axis: Any = None, keepdims: bool = False) -> Tensor: ...
        def argmax(self, axis: Any = None, keepdims: bool = False) -> Tensor: ...
        def argmin(self, axis: Any = None, keepdims: bool = False) -> Tensor: ...
        def var(self, axis: Any = None, keepdims: bool = False, *, correction: float = 1) -> Tensor: ...
        def std(self, axis: Any = None, keepdims: bool = False, *, correction: float = 1) -> Tensor: ...
        def clip(self, min: float | None = None, max: float | None = None) -> Tensor: ...
        def squeeze(self, axis: Any = None) -> Tensor: ...
        def unsqueeze(self, axis: int) -> Tensor: ...


class Parameter(Tensor):
    """A tensor that an optimizer updates. Once it has one, its data and gradient are views of the optimizer's arena.

    Beside tensors of 16 bits, on a backend that only stores these, a float32 parameter is taken rounded to their dtype; it and
    its gradient stay float32.

    A copy or a pickle of a parameter is free: it has values of its own, and no optimizer holds it. A copied or unpickled
    optimizer gathers the copies of its parameters into an arena of its own; so a model and its optimizer, copied together,
    belong together, and each alone is whole. As in PyTorch, the pickle of a parameter leaves the gradient out; that of an
    optimizer brings its parameters' gradients.

    Attributes:
        matrix: whether it is one of (fan in, units), once all axes but the last are joined: dense weights (I, O), filters
            (KH, KW, C, O). Max-norm and `optim.Muon` go by it; optimizers are made after it is set. Unless given, what
            has 2 or 4 axes is a matrix, and all else is none.
    """

    arena: Arena | None = None
    segment = -1

    def __init__(self, data: Array, backend: Backend, requires_grad: bool = True, matrix: bool | None = None):
        self.matrix = len(data.shape) in (2, 4) if matrix is None else matrix
        super().__init__(data, backend, requires_grad)

    @property
    def held(self) -> bool:
        """Whether an optimizer holds it; one that is gone holds nothing."""
        return self.arena is not None and self.arena.owner is not None and self.arena.owner() is not None

    @property
    def data(self) -> Array:
        return self._data if self.arena is None else self.arena.views[self.segment]

    @data.setter
    def data(self, array: Array) -> None:
        """An array of floats, of the backend or of NumPy; in an arena, of the parameter's shape and with values that fit."""
        self._check_floats(array)
        if self.arena is None:
            self._data = self.backend.asarray(array) if isinstance(array, np.ndarray) else array
        else:
            self._check_shape("data", array)
            if isinstance(array, np.ndarray):
                array = self.backend.asarray(loaded("parameter: data", array, self.shape, self.dtype))
            self.arena.backend.copy(array, out=self.arena.views[self.segment])
            self.arena.version += 1

    @property
    def grad(self) -> Array | None:
        if self.arena is None:
            return self._grad
        return self.arena.grad_views[self.segment] if self.arena.written[self.segment] else None

    @grad.setter
    def grad(self, array: Array | None) -> None:
        if self.arena is None:
            self._grad = array
        else:
            if array is not None and array is not self.arena.grad_views[self.segment]:
                self._check_shape("grad", array)
                self.arena.backend.copy(array, out=self.arena.grad_views[self.segment])
            self.arena.written[self.segment] = array is not None

    @property
    def backend(self) -> Backend:
        return self._backend if self.arena is None else self.arena.backend

    @backend.setter
    def backend(self, backend: Backend) -> None:
        self._backend = backend

    @property
    def version(self) -> int:
        """Counts the changes of the values: the arena's, once there is one."""
        return self._version if self.arena is None else self.arena.version

    @version.setter
    def version(self, value: int) -> None:
        self._version = value

    def operand(self, dtype: np.dtype) -> Array:
        """The array that an operation of `dtype` takes: rounded, where that is of 16 bits and sums are float32."""
        if dtype == self.dtype or dtype.name not in self.backend.narrow:
            return self.data
        return self.backend.cast(self._data, dtype) if self.arena is None else self.arena.rounded(self.segment, dtype)

    def _check_floats(self, array: Array) -> None:
        known = self.backend.owns(array) or isinstance(array, np.ndarray)
        if not known or is_masked(array):
            raise TypeError(f"parameter: data takes an array of {self.backend.name}, got {type(array).__name__}")
        if not is_float(array.dtype):
            raise TypeError(f"parameter: data is {array.dtype} but takes floats")

    def _check_shape(self, what: str, array: Array) -> None:
        if tuple(array.shape) != self.shape:
            raise ValueError(f"parameter: {what} has shape {tuple(array.shape)} but takes {self.shape}")

    def adopt(self, arena: Arena, segment: int) -> None:
        """Move the values and the gradient into a segment of an arena."""
        self.release()
        data, grad = self._data, self._grad
        self.arena, self.segment = arena, segment
        arena.backend.copy(data, out=arena.views[segment])
        arena.version = max(arena.version, self._version)  # moved, not changed: an earlier forward pass stays good
        self.grad = grad
        self._data = self._grad = None

    def release(self) -> None:
        """Copy the values and the gradient out of the arena, if there is one, and leave it."""
        if self.arena is None:
            return
        backend, version, grad = self.arena.backend, self.arena.version, self.grad
        self._data = backend.copy(self.arena.views[self.segment])
        self._grad = None if grad is None else backend.copy(grad)
        self._backend, self._version = backend, version
        self.arena, self.segment = None, -1

    def __copy__(self) -> Self:
        """A free parameter on the same memory."""
        twin = super().__copy__()
        if self.arena is not None:
            twin.arena, twin.segment = None, -1
            twin.backend, twin.data, twin.grad, twin.version = self.backend, self.data, self.grad, self.version
        return twin

    def move(self, backend: Backend) -> None:
        """Move to another backend in place; in an arena, together with the whole arena."""
        if self.arena is not None:
            self.arena.to(backend)
        elif backend is not self._backend:
            before, self._backend = self._backend, backend
            self._data = _moved(self._data, before, backend)
            self._grad = None if self._grad is None else _moved(self._grad, before, backend)


def _remade(kind: Any, values: np.ndarray, backend: Backend, requires_grad: bool, version: int) -> Any:
    """A tensor of that class, on the memory of `values` where the backend's is the host's."""
    made: Any = object.__new__(kind)
    if not values.flags.writeable:  # a buffer that stayed outside the pickle
        values = values.copy()
    Tensor.__init__(made, backend.asarray(values, values.dtype), backend, requires_grad)
    made.version = version
    return made


def _moved(array: Array, before: Backend, after: Backend) -> Array:
    host = before.to_numpy(array)
    return after.asarray(host.copy() if host is array else host)


def expect_tensor(operation: str, argument: str, value: Any) -> Tensor:
    """`value`, or a TypeError that says what to do."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{operation}: {argument} takes a tensor, got {type(value).__name__}; see gpunet.tensor")
    return value


def tensor(
    data: Any, *, dtype: Any = None, backend: str | Backend | None = None, requires_grad: bool = False
) -> Tensor:
    """A tensor of host or device arrays, lists or numbers.

    Args:
        data: float dtypes are kept; lists, integers and booleans become float32.
        dtype: to convert to: a float dtype that the backend computes in; or "bool", "int32" or "int64" for masks and labels,
            which have no gradient. These are moved, compared and used as an index as they are; arithmetic makes them floats.
        backend: where to; NumPy if None, or the GPU for CuPy's arrays.
        requires_grad: record operations on it; it takes a float dtype.
    Returns:
        A tensor that shares memory with `data` where no conversion is needed.
    Raises:
        TypeError: what is no array of real numbers: masked or sparse arrays, complex numbers, text, dates, objects.
    """
    if isinstance(data, Tensor):
        backend = data.backend if backend is None else backend
        data = data.data
    if data is None or isinstance(data, str):
        raise TypeError(f"tensor: takes an array, nested lists or a number, got {data!r}")
    is_array = hasattr(data, "dtype")
    data = real_array("tensor: data", data)
    if backend is None:
        backend = "cuda" if type(data).__module__.split(".")[0] == "cupy" else "numpy"
    target = get_backend(backend)
    if dtype is None:
        dtype = data.dtype if is_array and is_float(data.dtype) else np.float32
    dtype = np.dtype(dtype).newbyteorder("=")
    if dtype.name not in (*target.dtypes, *COUNTS):
        raise TypeError(f"tensor: {dtype} is not computed on {target.name}, which takes {', '.join(target.dtypes)}")
    if requires_grad and dtype.name in COUNTS:
        raise TypeError(f"tensor: requires_grad takes a float dtype, got {dtype}")
    return Tensor(target.asarray(data, dtype), target, requires_grad)


def parameter(data: Any, *, dtype: Any = None, matrix: bool | None = None) -> Parameter:
    """A parameter on the host, where models are made; `data` as for `tensor`, `matrix` as for `Parameter`."""
    made = tensor(data, dtype=dtype, requires_grad=True)
    return Parameter(made.data, made.backend, matrix=matrix)
