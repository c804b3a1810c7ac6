"""The tape: `Function`, `backward`, `no_grad`; and, from `gpunet.tensors`, what they work on.

Each operation is a `Function` whose backward formula is written by hand, once. Applying it to tensors that need a gradient
leaves it on the result; `backward` walks these functions in the reverse of the order they were applied in. Gradients are
plain arrays, so there is no double backward.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from gpunet.backends.contract.arrays import Array, is_float
from gpunet.backends.contract.backend import Backend
from gpunet.backends.contract.into import Into
from gpunet.backends.contract.real import is_masked, real_array
from gpunet.decorators import decorated
from gpunet.errors import BackendError
from gpunet.tensors import Parameter, Tensor, expect_tensor, parameter, tensor


class _Mode(threading.local):
    grad = True
    watch: Callable[[Function, str], None] | None = None


_mode = _Mode()
_sequence = count()


class _Modes(threading.local):
    def __init__(self) -> None:
        self.before: list[bool] = []  # a stack, for what is entered may be entered again inside


class no_grad:  # noqa: N801 - a context manager, named as users know it
    """Inside, operations of this thread record nothing: ``with no_grad(): …``, ``@no_grad()`` or ``@no_grad``.

    Of a decorated generator, coroutine or asynchronous generator, only its own code records nothing: who iterates over it does.
    """

    def __new__(cls, function: Any = None) -> Any:
        """A context manager; of a function, that function decorated."""
        made = super().__new__(cls)
        made._modes = _Modes()
        return made if function is None else made(function)

    _modes: _Modes

    def __enter__(self) -> None:
        self._modes.before.append(_mode.grad)
        _mode.grad = False

    def __exit__(self, *exception: object) -> None:
        if not self._modes.before:
            raise RuntimeError("no_grad: left in a thread that has not entered it")
        _mode.grad = self._modes.before.pop()

    def __reduce__(self) -> Any:
        """A copy, or what is read from a pickle, has not been entered."""
        return type(self), ()

    def __call__(self, function: Any) -> Any:
        """The function, decorated; each of its calls remembers its own thread's mode."""
        return decorated("no_grad", type(self), function)


@contextmanager
def watching(watch: Callable[[Function, str], None]) -> Iterator[None]:
    """Inside, ``watch(function, "forward")`` is called before an operation runs, ``"backward"`` before its gradients do."""
    before, _mode.watch = _mode.watch, watch
    try:
        yield
    finally:
        _mode.watch = before


class Function:
    """One differentiable operation: subclasses write `forward` on arrays and `backward` on arrays.

    ``forward(self, *arrays, **options)`` returns an array; ``backward(self, dy)`` returns one gradient an input, of the
    input's shape, None where there is none. Between the two an instance may keep anything as attributes; arrays that an update
    could overwrite are kept with `save`. `backward` never changes dy, which others may hold, and may return dy itself, a view
    of it or an array that it keeps: the tape copies what becomes a leaf's gradient.
    """

    name: ClassVar[str]
    """What messages call it; the class's name unless it is set."""
    view: ClassVar[bool] = False
    """Whether the result shares the first input's memory."""
    seeds: ClassVar[bool] = False
    """Whether backward takes None for an upstream gradient of 1, as a loss does: no 1 is written, nothing multiplied by it."""
    fresh: bool = False
    """Whether backward returns new arrays alone, held by nobody else, so that a leaf keeps its gradient without a copy."""
    moves: ClassVar[bool] = False
    """Whether it only moves elements, so that integers and booleans stay what they are; others compute with them as floats."""
    single: ClassVar[tuple[str, ...]] = ()
    """Arguments that stay float32 beside others of 16 bits."""
    arguments: ClassVar[tuple[str, ...]] = ()
    backend: Backend
    inputs: tuple[Tensor | None, ...]
    saved: tuple[Any, ...] = ()

    def __init_subclass__(cls) -> None:
        cls.name = getattr(cls, "name", cls.__name__)
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
        result = Tensor(_own_array(cls.name, "forward's result", y, self.backend), self.backend)
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

    def into(self, *, weight: int, bias: int) -> Into:
        """Where backward writes the gradients of the inputs with these numbers: a layer's weight and its bias."""
        return Into(self.destination(weight), self.destination(bias), self.needs(bias), self.accumulate)

    # ---- for the tape

    _needs: tuple[bool, ...]
    _operands: tuple[Array | None, ...]
    _number: int
    _versions: list[tuple[Tensor, int]]
    _destinations: Mapping[int, Array] = MappingProxyType({})  # a rule may run no backward, and then there are none
    _freed = False
    accumulate = False

    def run_backward(self, dy: Array) -> tuple[Array | None, ...]:
        """Gradients of the inputs, with the destinations prepared and the versions checked."""
        if self._freed:
            raise RuntimeError(
                f"backward: {self.name}'s saved arrays are gone; pass retain_graph=True to the first call"
            )
        for kept, version in getattr(self, "_versions", ()):
            if kept.version != version:
                raise RuntimeError(
                    f"backward: {self.name} saved a parameter {kept.shape} that an update has overwritten since: "
                    "run backward before the optimizer's step, or the forward pass again"
                )
        if _mode.watch is not None:
            _mode.watch(self, "backward")
        self._prepare_destinations()
        grads = self.backward(dy)
        return tuple(grads) if isinstance(grads, tuple | list) else (grads,)

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
        """The inputs as tensors, and as the arrays that forward takes, all of one dtype: that of the first tensor of floats, of
        one that is no parameter if there is any, for parameters are rounded to the others' dtype. Integers and booleans are
        cast to it. Without floats it is float32; where elements are only moved it is theirs, or int64 if they differ."""
        given = [t for t in inputs if isinstance(t, Tensor)]
        if not given:
            raise TypeError(f"{cls.name}: takes at least one tensor; make one with gpunet.tensor(data)")
        floats = [t for t in given if is_float(t.dtype)]
        first = next((t for t in floats if not isinstance(t, Parameter)), (floats or given)[0])
        backend, dtype = first.backend, first.dtype
        if not floats and not cls.moves:
            dtype = np.dtype(np.float32)
        elif not floats and any(t.dtype != dtype for t in given):
            dtype = np.dtype(np.int64)
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
                    f"{cls._argument([t is first for t in inputs].index(True))} on {backend.name}; move one with .to(…)"
                )
            single = dtype.name in backend.narrow and cls._argument(i) in cls.single
            takes = np.dtype(np.float32) if single else dtype
            operand = t.operand(takes)
            if not is_float(operand.dtype) and operand.dtype != takes:
                operand = backend.cast(operand, takes)
            operands.append(operand)
            if operand.dtype != takes:
                raise TypeError(f"{cls.name}: {cls._argument(i)} is {t.dtype} but the first tensor is {dtype}")
        if dtype.name not in backend.dtypes and is_float(dtype):
            raise TypeError(
                f"{cls.name}: {dtype} is not computed on {backend.name}, which takes {', '.join(backend.dtypes)}"
            )
        return tensors, tuple(operands)

    @classmethod
    def _argument(cls, i: int) -> str:
        return cls.arguments[i] if i < len(cls.arguments) else f"argument {i}"


def _constant(value: Any, backend: Backend, dtype: np.dtype, argument: str) -> Tensor:
    if isinstance(value, int | float):
        return Tensor(backend.full((), as_float(value, argument), dtype), backend)
    if not (isinstance(value, np.ndarray | np.generic | list | tuple) or backend.owns(value)):
        raise TypeError(f"{argument} takes a tensor, an array or a number, got {type(value).__name__}")
    array = real_array(argument, value)
    if not is_float(dtype) and not np.can_cast(array.dtype, dtype):
        raise TypeError(f"{argument} is {array.dtype} but the first tensor is {dtype}")
    return Tensor(backend.asarray(array, dtype), backend)


def as_float(value: float, argument: str) -> float:
    """The number as a float, or a ValueError that names the argument."""
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{argument} is an integer beyond what a float holds") from None


def _own_array(operation: str, what: str, array: Any, backend: Backend) -> Array:
    """What a function returned, if it is an array of the backend: NumPy's numbers, which its sums give, as one of no axes."""
    if isinstance(array, np.generic):
        array = np.asarray(array)
    if not backend.owns(array) or is_masked(array):
        raise TypeError(f"{operation}: {what} is {type(array).__name__} but must be an array of {backend.name}")
    return array


def _contributions(function: Function, grads: tuple[Any, ...]) -> Iterator[tuple[int, Tensor, Array]]:
    """(i, input, gradient) of each input that needs one and got one: of the input's shape and dtype, C-contiguous."""
    if len(grads) != len(function.inputs):
        raise ValueError(
            f"{function.name}: backward returned {len(grads)} gradients but has {len(function.inputs)} inputs"
        )
    for i, (t, dx) in enumerate(zip(function.inputs, grads, strict=True)):
        if t is None or dx is None or not function.needs(i):
            continue
        yield i, t, dx if dx is function.destination(i) else _checked(function, i, t, dx)


def _checked(function: Function, i: int, t: Tensor, dx: Any) -> Array:
    """A gradient of input i that suits it."""
    what = f"backward's gradient of {function._argument(i)}"
    dx = _own_array(function.name, what, dx, t.backend)
    if tuple(dx.shape) != t.shape:
        raise ValueError(f"{function.name}: {what} has shape {tuple(dx.shape)} but must have {t.shape}")
    if dx.dtype != t.dtype:  # a sum is float32 where 16 bits are stored
        if not is_float(dx.dtype):
            raise TypeError(f"{function.name}: {what} is {dx.dtype} but must be a float dtype")
        return t.backend.cast(dx, t.dtype)
    return dx if dx.flags.c_contiguous else t.backend.asarray(dx)


def backward(
    root: Tensor,
    grad: Any = None,
    *,
    retain_graph: bool = False,
    rule: Callable[[Function, Array], tuple[Array | None, ...]] = Function.run_backward,
) -> None:
    """Add d(root)/d(leaf), times `grad`, to the `grad` of every leaf that needs one; also a method, ``root.backward()``.

    A leaf's gradient shares no memory with any other array, unless it is the segment of an optimizer's arena. A second
    backward adds to it in place, so that what ``g = leaf.grad`` holds changes as well: copy it to keep it.

    Args:
        grad: upstream gradient of the root's shape; 1 if None, which takes a tensor of one element.
        retain_graph: keep what the functions saved, so that backward can run again.
        rule: gives the gradients of a function's inputs from that of its output, complete by then; to watch or to change
            what goes back.
    """
    if not root.requires_grad:
        raise RuntimeError(
            "backward: the tensor needs no gradient; was it computed under no_grad, from data alone, or by frozen parameters?"
        )
    if grad is None:
        if root.size != 1:
            raise ValueError(f"backward: a tensor of shape {root.shape} takes an upstream gradient of that shape")
        seeds = root._function is not None and root._function.seeds
        dy = None if seeds else root.backend.full(root.shape, 1, root.dtype)
    else:
        given = real_array("backward: grad", grad.data if isinstance(grad, Tensor) else grad)
        dy = root.backend.asarray(given, root.dtype)
        if tuple(dy.shape) != root.shape:
            raise ValueError(f"backward: grad has shape {tuple(dy.shape)} but the tensor {root.shape}")
    if root._function is None:
        root.accumulate_grad(dy, fresh=grad is None)
        return
    pending = {root._function: dy}
    for function in _reversed_order(root._function):
        if function not in pending:  # nothing that depends on it passed a gradient down
            continue
        dy = pending.pop(function)
        fresh = function.fresh and rule is Function.run_backward
        for i, t, dx in _contributions(function, rule(function, dy)):
            creator = t._function
            if creator is not None:
                before = pending.get(creator)
                pending[creator] = dx if before is None else t.backend.binary("add", before, dx)
            elif isinstance(t, Parameter) and dx is function.destination(i):
                t.grad = dx  # written in place
            else:
                t.accumulate_grad(dx, fresh=fresh)
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
