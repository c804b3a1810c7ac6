"""The tape: `Tensor`, `Function`, `backward`, `no_grad`.

Each operation is a `Function` whose backward formula is written by hand, once. Applying it to tensors that need a gradient
leaves it on the result; `backward` walks these functions in the reverse of the order they were applied in. Gradients are
plain arrays, so there is no double backward.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import ContextDecorator, contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from gpunet.arena import Arena
from gpunet.backends import get_backend
from gpunet.backends.base import Array, Backend
from gpunet.errors import BackendError


class _Mode(threading.local):
    grad = True
    watch: Callable[[Function, str], None] | None = None


_mode = _Mode()
_sequence = count()


class no_grad(ContextDecorator):  # noqa: N801 - a context manager, named as users know it
    """Inside, operations record nothing: ``with no_grad(): …`` or ``@no_grad()``."""

    def __init__(self) -> None:
        self._before: list[bool] = []  # a stack, for a decorated function may call itself

    def __enter__(self) -> None:
        self._before.append(_mode.grad)
        _mode.grad = False

    def __exit__(self, *exception: object) -> None:
        _mode.grad = self._before.pop()


@contextmanager
def watching(watch: Callable[[Function, str], None]) -> Iterator[None]:
    """Inside, ``watch(function, "forward")`` is called before an operation runs, ``"backward"`` before its gradients do."""
    before, _mode.watch = _mode.watch, watch
    try:
        yield
    finally:
        _mode.watch = before


class Tensor:
    """An array, the backend it lives on and, if asked for, its gradient.

    Attributes:
        data: the backend's array.
        grad: gradient of the last `backward`, an array of the same shape; None before.
        requires_grad: whether operations on it are recorded.
    """

    __array_ufunc__ = None  # numpy_array * tensor is the tensor's to compute

    def __init__(self, data: Array, backend: Backend, requires_grad: bool = False):
        self.data = data
        self.backend = backend
        self.grad: Array | None = None
        self.requires_grad = requires_grad
        self._version = 0
        self._viewed: Tensor | None = None  # whose memory this tensor shares, if it is a view
        self._function: Function | None = None

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
        """The value of a tensor of one element; waits for the device."""
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

    def backward(self, grad: Any = None, *, retain_graph: bool = False) -> None:
        """Add d(self)/d(leaf), times `grad`, to the `grad` of every leaf that needs one.

        Args:
            grad: upstream gradient of this tensor's shape; 1 if None, which takes a tensor of one element.
            retain_graph: keep what the functions saved, so that backward can run again.
        """
        backward(self, grad, retain_graph=retain_graph)

    def operand(self, dtype: np.dtype) -> Array:
        """The array that an operation of `dtype` takes."""
        return self.data

    def _owner(self) -> Tensor | None:
        """The leaf whose memory this is; None for results of operations, which nothing overwrites."""
        return self._viewed if self._viewed is not None or self._function is not None else self

    def accumulate_grad(self, grad: Array) -> None:
        """Add one contribution to the gradient."""
        self.grad = grad if self.grad is None else self.backend.binary("add", self.grad, grad)

    def __float__(self) -> float:
        return float(self.item())

    def __bool__(self) -> bool:
        raise TypeError("a tensor is neither true nor false; compare its values on the host, tensor.numpy()")

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


class Parameter(Tensor):
    """A tensor that an optimizer updates. Once it has one, its data and gradient are views of the optimizer's arena.

    Beside tensors of 16 bits, on a backend that only stores these, a float32 parameter is taken rounded to their dtype; it and
    its gradient stay float32.
    """

    def __init__(self, data: Array, backend: Backend, requires_grad: bool = True):
        self.arena: Arena | None = None
        self.segment = -1
        super().__init__(data, backend, requires_grad)

    @property
    def data(self) -> Array:
        return self._data if self.arena is None else self.arena.views[self.segment]

    @data.setter
    def data(self, array: Array) -> None:
        if self.arena is None:
            self._data = array
        else:
            self._check_shape("data", array)
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

    def move(self, backend: Backend) -> None:
        """Move to another backend in place; in an arena, together with the whole arena."""
        if self.arena is not None:
            self.arena.to(backend)
        elif backend is not self._backend:
            before, self._backend = self._backend, backend
            self._data = _moved(self._data, before, backend)
            self._grad = None if self._grad is None else _moved(self._grad, before, backend)


def _moved(array: Array, before: Backend, after: Backend) -> Array:
    host = before.to_numpy(array)
    return after.asarray(host.copy() if host is array else host)


class Function:
    """One differentiable operation: subclasses write `forward` on arrays and `backward` on arrays.

    ``forward(self, *arrays, **options)`` returns an array; ``backward(self, dy)`` returns one gradient an input, None where
    there is none. Between the two an instance may keep anything as attributes; arrays that an update could overwrite are
    kept with `save`.
    """

    name: ClassVar[str]
    view: ClassVar[bool] = False
    """Whether the result shares the first input's memory."""
    seeds: ClassVar[bool] = False
    """Whether backward takes None for an upstream gradient of 1, as a loss does: no 1 is written, nothing multiplied by it."""
    single: ClassVar[tuple[str, ...]] = ()
    """Arguments that stay float32 beside others of 16 bits."""
    arguments: ClassVar[tuple[str, ...]] = ()
    backend: Backend
    inputs: tuple[Tensor | None, ...]
    saved: tuple[Any, ...] = ()

    def __init_subclass__(cls) -> None:
        cls.arguments = tuple(
            p.name for p in list(inspect.signature(cls.forward).parameters.values())[1:] if p.kind != p.KEYWORD_ONLY
        )

    def forward(self, *arrays: Any, **options: Any) -> Array:
        """The operation's result."""
        raise NotImplementedError

    def backward(self, dy: Any) -> tuple[Array | None, ...] | Array | None:
        """Gradients of the inputs, of an upstream gradient that is an array."""
        raise NotImplementedError

    @classmethod
    def apply(cls, *inputs: Any, **options: Any) -> Tensor:
        """Run forward on tensors, or on what can become one beside a tensor: host arrays, numbers, None."""
        self = cls()
        if _mode.watch is not None:
            _mode.watch(self, "forward")
        self.inputs, operands = cls._as_tensors(inputs)
        self.backend = next(t.backend for t in self.inputs if t is not None)
        self._needs = tuple(t is not None and t.requires_grad for t in self.inputs)
        self._operands = operands
        y = self.forward(*operands, **options)
        del self._operands  # what forward did not save is not kept
        result = Tensor(y, self.backend)
        if cls.view:
            first = self.inputs[0]
            result._viewed = None if first is None else first._owner()
        if _mode.grad and any(self._needs):
            result.requires_grad = True
            result._function = self
            self._number = next(_sequence)
        return result

    def save(self, *arrays: Any) -> None:
        """Keep arrays for backward, as `self.saved`, and note the version of those that are inputs."""
        self.saved = arrays
        self._versions = [
            (t, t.version)
            for t, given in zip(self.inputs, self._operands, strict=True)
            if t is not None and any(given is array for array in arrays)
        ]

    def needs(self, i: int) -> bool:
        """Whether input i needs a gradient."""
        return self._needs[i]

    def destination(self, i: int) -> Array | None:
        """Where backward may write the gradient of input i, so that no copy is made; None to return a new array.

        It is the segment of a parameter in an arena: to be added to if `self.accumulate`, else to be overwritten.
        """
        return self._destinations.get(i)

    # ---- for the tape

    _needs: tuple[bool, ...]
    _operands: tuple[Array | None, ...]
    _number: int
    _versions: list[tuple[Tensor, int]]
    _destinations: dict[int, Array]
    _freed = False
    accumulate = False

    def run_backward(self, dy: Array) -> tuple[Array | None, ...]:
        """Gradients of the inputs, with the destinations prepared and the versions checked."""
        if self._freed:
            raise RuntimeError(
                f"backward: {self.name}'s saved arrays are gone; pass retain_graph=True to the first call"
            )
        for tensor, version in getattr(self, "_versions", ()):
            if tensor.version != version:
                raise RuntimeError(
                    f"backward: {self.name} saved a parameter {tensor.shape} that an update has overwritten since: "
                    "run backward before the optimizer's step, or the forward pass again"
                )
        if _mode.watch is not None:
            _mode.watch(self, "backward")
        self._prepare_destinations()
        grads = self.backward(dy)
        return grads if isinstance(grads, tuple) else (grads,)

    def free(self) -> None:
        """Drop everything that forward kept."""
        self.__dict__.clear()
        self._freed = True

    def _prepare_destinations(self) -> None:
        held = {
            i: t
            for i, t in enumerate(self.inputs)
            if isinstance(t, Parameter) and t.arena is not None and self._needs[i]
        }
        written = [t.grad is not None for t in held.values()]
        alike = not held or all(written) or not any(written)
        if not alike or len(set(map(id, held.values()))) < len(held):
            held = {}  # some to write, some to add to: the tape adds them up itself
        self._destinations = {i: t.arena.grad_views[t.segment] for i, t in held.items() if t.arena is not None}
        self.accumulate = bool(held) and all(written)

    @classmethod
    def _as_tensors(cls, inputs: tuple[Any, ...]) -> tuple[tuple[Tensor | None, ...], tuple[Array | None, ...]]:
        """The inputs as tensors, and as the arrays that forward takes, all of one dtype: that of the first tensor, of one that
        is no parameter if there is any, for parameters are rounded to the others' dtype."""
        given = [t for t in inputs if isinstance(t, Tensor)]
        if not given:
            raise TypeError(f"{cls.name}: takes at least one tensor; make one with gpunet.tensor(data)")
        first = next((t for t in given if not isinstance(t, Parameter)), given[0])
        backend, dtype = first.backend, first.dtype
        tensors = tuple(
            t if isinstance(t, Tensor) or t is None else _constant(t, backend, dtype, f"{cls.name}: {cls._argument(i)}")
            for i, t in enumerate(inputs)
        )
        operands: list[Array | None] = []
        for i, t in enumerate(tensors):
            if t is None:
                operands.append(None)
                continue
            if t.backend is not backend:
                raise BackendError(
                    f"{cls.name}: {cls._argument(i)} is on {t.backend.name} but "
                    f"{cls._argument(inputs.index(first))} on {backend.name}; move one with .to(…)"
                )
            single = dtype.name in backend.narrow and cls._argument(i) in cls.single
            takes = np.dtype(np.float32) if single else dtype
            operand = t.operand(takes)
            operands.append(operand)
            if operand.dtype != takes:
                raise TypeError(f"{cls.name}: {cls._argument(i)} is {t.dtype} but the first tensor is {dtype}")
        if dtype.name not in backend.dtypes:
            raise TypeError(
                f"{cls.name}: {dtype} is not computed on {backend.name}, which takes {', '.join(backend.dtypes)}"
            )
        return tensors, tuple(operands)

    @classmethod
    def _argument(cls, i: int) -> str:
        return cls.arguments[i] if i < len(cls.arguments) else f"argument {i}"


def _constant(value: Any, backend: Backend, dtype: np.dtype, argument: str) -> Tensor:
    if isinstance(value, int | float | np.number):
        return Tensor(backend.full((), float(value), dtype), backend)
    if isinstance(value, np.ndarray | list | tuple) or backend.owns(value):
        return Tensor(backend.asarray(value, dtype), backend)
    raise TypeError(f"{argument} takes a tensor, an array or a number, got {type(value).__name__}")


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
        dtype: to convert to.
        backend: where to; NumPy if None, or the GPU for CuPy's arrays.
        requires_grad: record operations on it.
    Returns:
        A tensor that shares memory with `data` where no conversion is needed.
    """
    if isinstance(data, Tensor):
        backend = data.backend if backend is None else backend
        data = data.data
    if data is None or isinstance(data, str):
        raise TypeError(f"tensor: takes an array, nested lists or a number, got {data!r}")
    if backend is None:
        backend = "cuda" if type(data).__module__.split(".")[0] == "cupy" else "numpy"
    target = get_backend(backend)
    if dtype is None:
        given = getattr(data, "dtype", None)
        dtype = given if given is not None and np.dtype(given).kind not in "iub" else np.float32
    dtype = np.dtype(dtype).newbyteorder("=")
    if np.dtype(dtype).name not in target.dtypes:
        raise TypeError(
            f"tensor: {np.dtype(dtype)} is not computed on {target.name}, which takes {', '.join(target.dtypes)}"
        )
    return Tensor(target.asarray(data, dtype), target, requires_grad)


def parameter(data: Any, *, dtype: Any = None) -> Parameter:
    """A parameter on the host, where models are made; `data` as for `tensor`."""
    made = tensor(data, dtype=dtype)
    return Parameter(made.data, made.backend)


def backward(
    root: Tensor,
    grad: Any = None,
    *,
    retain_graph: bool = False,
    rule: Callable[[Function, Array], tuple[Array | None, ...]] = Function.run_backward,
) -> None:
    """See `Tensor.backward`.

    Args:
        rule: gives the gradients of a function's inputs from that of its output, complete by then; to watch or to change
            what goes back.
    """
    if not root.requires_grad:
        raise RuntimeError("backward: the tensor needs no gradient; was it computed under no_grad, or from data alone?")
    if grad is None:
        if root.size != 1:
            raise ValueError(f"backward: a tensor of shape {root.shape} takes an upstream gradient of that shape")
        seeds = root._function is not None and root._function.seeds
        dy = None if seeds else root.backend.full(root.shape, 1, root.dtype)
    else:
        dy = root.backend.asarray(grad.data if isinstance(grad, Tensor) else grad, root.dtype)
        if tuple(dy.shape) != root.shape:
            raise ValueError(f"backward: grad has shape {tuple(dy.shape)} but the tensor {root.shape}")
    if root._function is None:
        root.accumulate_grad(dy)
        return
    pending = {root._function: dy}
    for function in _reversed_order(root._function):
        if function not in pending:  # nothing that depends on it passed a gradient down
            continue
        dy = pending.pop(function)
        for i, (t, dx) in enumerate(zip(function.inputs, rule(function, dy), strict=True)):
            if t is None or dx is None or not function.needs(i):
                continue
            if dx.dtype != t.dtype:  # a sum is float32 where 16 bits are stored
                dx = t.backend.cast(dx, t.dtype)
            creator = t._function
            if creator is not None:
                before = pending.get(creator)
                pending[creator] = dx if before is None else t.backend.binary("add", before, dx)
            elif isinstance(t, Parameter) and dx is function.destination(i):
                t.grad = dx  # written in place
            else:
                t.accumulate_grad(dx)
        if not retain_graph:
            function.free()


def _reversed_order(root: Function) -> list[Function]:
    """Every function that the root depends on, last applied first: an order in which users come before their inputs."""
    found: set[Function] = {root}
    waiting = [root]
    while waiting:
        function = waiting.pop()
        if function._freed:
            function.run_backward(None)  # raises
        for t in function.inputs:
            if t is not None and t._function is not None and t._function not in found:
                found.add(t._function)
                waiting.append(t._function)
    return sorted(found, key=lambda f: f._number, reverse=True)


__all__ = ["Function", "Parameter", "Tensor", "backward", "expect_tensor", "no_grad", "parameter", "tensor", "watching"]
