"""`Tensor`: an array together with its backend, its gradient and the operation that made it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from html import escape
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np

from gpunet import dlpack
from gpunet.backends import get_backend
from gpunet.backends.contract import COUNTS, Array, Backend, is_float, real_array
from gpunet.dlpack import SharedMemory
from gpunet.tables import Table

FROM_PYTORCH = {"view": "reshape", "permute": "transpose", "dim": "ndim", "cuda": 'to("cuda")'}
"""Names of PyTorch's that tensors do not have, and what to write."""


class Creator(Protocol):
    """What a tensor knows of the operation that made it, which is a `gpunet.autograd.Function`."""

    name: ClassVar[str]
    inputs: tuple[Tensor | None, ...]


class Tensor(SharedMemory):
    """An array, the backend it lives on and, if asked for, its gradient.

    Attributes:
        data: the backend's array.
        grad: the sum of the gradients of all calls of `backward`, an array of the same shape; None
            before the first. A later call adds to this array in place, as in PyTorch: copy it to
            keep it.
        requires_grad: whether operations on the tensor are recorded.
        creator: the recorded operation that made the tensor; None for leaves and for results that
            were not recorded.
    """

    __array_ufunc__ = None  # so that numpy_array * tensor calls the tensor's operator
    _storage: ClassVar[tuple[str, ...]] = ()
    """Attributes of a subclass that say where the values lie; copies have their own."""

    def __init__(self, data: Array, backend: Backend, requires_grad: bool = False):
        self.backend = backend
        self.data = data
        self.grad: Array | None = None
        self.requires_grad = requires_grad
        self.creator: Creator | None = None
        self._version = 0
        self._viewed: Tensor | None = None  # the leaf that this tensor is a view of
        # Set by a loss that is a weighted mean: computes the sum of the weights that it divided by.
        self._divisor: Callable[[], Array] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The extents of the axes, such as (N, H, W, C)."""
        return tuple(self.data.shape)

    @property
    def dtype(self) -> np.dtype:
        """The NumPy dtype of the values."""
        return self.data.dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.data.shape)

    @property
    def size(self) -> int:
        """The number of values."""
        return int(self.data.size)

    @property
    def version(self) -> int:
        """Number of changes of the values; a view has the number of the tensor that it views."""
        return self._version if self._viewed is None else self._viewed.version

    @version.setter
    def version(self, value: int) -> None:
        self._version = value

    def numpy(self) -> np.ndarray:
        """The values on the host; on the CPU backends the tensor's own array, not a copy."""
        return self.backend.to_numpy(self.data)

    def item(self) -> float:
        """The value of a tensor of one element, as a Python number; this waits for the device.

        Raises:
            ValueError: the tensor has another number of elements.
        """
        if self.size != 1:
            raise ValueError(f"item: takes a tensor of one element, got shape {self.shape}")
        return self.numpy().item()

    def detach(self) -> Tensor:
        """A tensor on the same array that has no history."""
        result = Tensor(self.data, self.backend)
        result._viewed = self.viewed_leaf()
        return result

    def to(self, backend: str | Backend) -> Tensor:
        """A leaf with a copy of the values on another backend; the tensor itself if it is there.

        Raises:
            RuntimeError: the tensor is the result of a recorded operation, to which a gradient
                could not return.
        """
        target = get_backend(backend)
        if target is self.backend:
            return self
        if self.creator is not None:
            raise RuntimeError("to: gradients of an operation's result do not cross backends; write .detach().to(…)")
        return Tensor(target.asarray(self.numpy(), self.dtype), target, self.requires_grad)

    def zero_grad(self) -> None:
        """Forget the gradient."""
        self.grad = None

    def operand(self, dtype: np.dtype) -> Array:
        """The array that an operation in `dtype` computes with."""
        return self.data

    def viewed_leaf(self) -> Tensor | None:
        """The leaf whose memory this is; None for results, whose memory nothing overwrites."""
        return self._viewed if self._viewed is not None or self.creator is not None else self

    def accumulate_grad(self, grad: Array, *, fresh: bool = False) -> None:
        """Add one contribution to the gradient in place.

        Args:
            grad: an array of the tensor's shape and dtype.
            fresh: whether nothing else holds `grad`, so that the first contribution needs no copy.
        """
        held = self.grad
        if held is None:
            self.grad = grad if fresh else self.backend.copy(grad)
        else:
            self.grad = self.backend.binary("add", held, grad, out=held)

    # ---- copies and pickles of leaves, by way of the values on the host

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """A pickle without the gradient. Values come first: attributes may refer to the tensor."""
        if self.creator is not None:
            raise RuntimeError("copy: the result of an operation cannot be copied; copy .detach() instead")
        remade = {*vars(Tensor(self.data, self.backend)), *self._storage}
        others = {name: value for name, value in vars(self).items() if name not in remade}
        values = self.backend.to_numpy(self.data)
        return _remake, (type(self), values, self.backend, self.requires_grad, self.version), others

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        _, (kind, values, *rest), others = self.__reduce_ex__(4)
        twin = memo[id(self)] = _remake(kind, deepcopy(values, memo), *rest)
        twin.grad = None if self.grad is None else self.backend.copy(self.grad)
        vars(twin).update(deepcopy(others, memo))
        return twin

    def __copy__(self) -> Self:
        """Another tensor on the same memory."""
        twin = type(self).__new__(type(self))
        vars(twin).update(vars(self))
        return twin

    def __getattr__(self, name: str) -> Any:
        instead = f"; write {FROM_PYTORCH[name]}" if name in FROM_PYTORCH else ""
        raise AttributeError(f"a tensor has no {name!r}{instead}", name=name, obj=self)

    # ---- Python's conversions

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
            raise TypeError(f"a tensor of shape {self.shape} is neither true nor false; use .numpy().any() or .all()")
        return bool(self.item())

    def __round__(self, digits: int | None = None) -> float:
        return round(self.item(), digits)

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else repr(self)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len: a tensor without axes has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        values = np.array2string(self.numpy(), precision=4, threshold=20, separator=", ")
        needs = ", requires_grad=True" if self.requires_grad else ""
        return f"tensor({values}, shape={self.shape}, {self.dtype}, {self.backend.name}{needs})"

    def _repr_html_(self) -> str:
        """What a notebook shows: facts in a table, then the values."""
        values = self.numpy()
        facts = {"shape": str(self.shape), "dtype": str(self.dtype), "backend": self.backend.name}
        facts["requires grad"] = str(self.requires_grad)
        if values.size:
            wide = values.astype(np.float64)
            facts |= {"min": f"{wide.min():.4g}", "mean": f"{wide.mean():.4g}", "max": f"{wide.max():.4g}"}
        table = Table(tuple(facts), [tuple(facts.values())], (), [False] * len(facts))
        text = np.array2string(values, precision=4, threshold=200, edgeitems=3)
        return f"{table._repr_html_()}<pre>{escape(text)}</pre>"

    if TYPE_CHECKING:  # gpunet.functional.operators, a module above this one, defines these
        T: Tensor

        def backward(self, grad: Any = None, *, retain_graph: bool = False) -> None: ...
        def __eq__(self, other: object) -> Tensor: ...  # type: ignore[override]
        def __ne__(self, other: object) -> Tensor: ...  # type: ignore[override]
        def __hash__(self) -> int: ...
        def __add__(self, other: Any) -> Tensor: ...
        def __getitem__(self, index: Any) -> Tensor: ...
        def __setitem__(self, index: Any, value: Any) -> None: ...
        def exp(self) -> Tensor: ...
        def reshape(self, *shape: Any) -> Tensor: ...
        def transpose(self, *axes: Any) -> Tensor: ...
        def mean(self, axis: Any = None, keepdims: bool = False) -> Tensor: ...
        def var(self, axis: Any = None, keepdims: bool = False, *, correction: float = 1) -> Tensor: ...
        def clip(self, min: float | None = None, max: float | None = None) -> Tensor: ...
        def squeeze(self, axis: Any = None) -> Tensor: ...
        def unsqueeze(self, axis: int) -> Tensor: ...

        __sub__ = __mul__ = __truediv__ = __pow__ = __matmul__ = __and__ = __or__ = __xor__ = __add__
        __radd__ = __rsub__ = __rmul__ = __rtruediv__ = __rpow__ = __rmatmul__ = __add__
        __rand__ = __ror__ = __rxor__ = __lt__ = __le__ = __gt__ = __ge__ = __add__
        log = sqrt = abs = __neg__ = __pos__ = __abs__ = __invert__ = exp
        sum = max = min = argmax = argmin = mean
        std = var


class PendingOperation(NamedTuple):
    """An operation that has not run."""

    operation: Any
    """The `gpunet.autograd.Function`."""
    operands: tuple[Array | None, ...]
    run: Callable[..., Array]
    """Runs it, with more options of its `forward` than were given -> the result's array."""


class LateTensor(Tensor):
    """A result that is computed when its values are asked for, like any other tensor otherwise.

    An operation that takes it may instead compute both at once: see `pending`.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, backend: Backend, pending: PendingOperation):
        self._shape, self._dtype = shape, dtype
        super().__init__(None, backend)
        self.pending: PendingOperation | None = pending
        """None when the values are there."""

    def compute(self, **options: Any) -> None:
        """Compute the values, unless they are there.

        Args:
            options: for the operation's `forward`, beside its own.
        """
        if self.pending is not None:
            self.data = self.pending.run(**options)

    @property
    def data(self) -> Array:
        self.compute()
        return self._data

    @data.setter
    def data(self, array: Array) -> None:
        self._data, self.pending = array, None

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def dtype(self) -> np.dtype:
        return self._dtype

    @property
    def ndim(self) -> int:
        return len(self._shape)

    @property
    def size(self) -> int:
        return prod(self._shape)


def _remake(kind: Any, values: np.ndarray, backend: Backend, requires_grad: bool, version: int) -> Any:
    """A tensor of a class; on a host backend it shares the memory of `values`."""
    made: Any = object.__new__(kind)
    values = dlpack.writable(values)  # for those of a pickle with buffers outside of it are not
    Tensor.__init__(made, backend.asarray(values, values.dtype), backend, requires_grad)
    made.version = version
    return made


def expect_tensor(operation: str, argument: str, value: Any) -> Tensor:
    """`value` if it is a tensor; else a TypeError that names the operation and the argument."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{operation}: {argument} takes a tensor, got {type(value).__name__}; see gpunet.tensor")
    return value


def tensor(
    data: Any, *, dtype: Any = None, backend: str | Backend | None = None, requires_grad: bool = False
) -> Tensor:
    """A tensor made of an array of the host or of a device, of nested lists or of a number.

    Args:
        data: the values: nested lists, a number, or an array of NumPy, CuPy, PyTorch, JAX or any
            other library that exports DLPack or an array interface. Float dtypes are kept; lists,
            integers and booleans become float32.
        dtype: the dtype to convert to: a float dtype that the backend computes in; or "bool",
            "int32" or "int64" for masks and labels, which have no gradient. Such tensors are moved,
            compared and used as an index as they are; arithmetic converts them to floats.
        backend: the backend to move to; if None, NumPy, or for an array on a GPU that GPU.
        requires_grad: whether to record operations on the tensor, which takes a float dtype.
    Returns:
        A tensor that shares memory with `data` where no conversion is needed: where `data` has the
        dtype, is C-contiguous and lies where the backend computes. Memory that may only be read is
        shared on the host, where writing to the tensor raises, and copied on a GPU.
    Raises:
        TypeError: `data` is no array of real numbers: it is masked or sparse, or holds complex
            numbers, text, dates or objects; or its library refuses to share it.
    """
    if isinstance(data, Tensor):
        backend = data.backend if backend is None else backend
        data = data.data
    if data is None or isinstance(data, str):
        raise TypeError(f"tensor: takes an array, nested lists or a number, got {data!r}")
    is_array = hasattr(data, "dtype") or dlpack.exports_array(data)
    data = real_array("tensor: data", data)
    if backend is None:
        kind, number = dlpack.device_of(data)
        backend = f"cuda:{number}" if kind == dlpack.CUDA and number else "cuda" if kind == dlpack.CUDA else "numpy"
    target = get_backend(backend)
    if dtype is None:
        dtype = data.dtype if is_array and is_float(data.dtype) else np.float32
    dtype = np.dtype(dtype).newbyteorder("=")
    if dtype.name not in (*target.dtypes, *COUNTS):
        raise TypeError(f"tensor: {dtype} is not computed on {target.name}, which takes {', '.join(target.dtypes)}")
    if requires_grad and dtype.name in COUNTS:
        raise TypeError(f"tensor: requires_grad takes a float dtype, got {dtype}")
    return Tensor(target.asarray(data, dtype), target, requires_grad)
