"""Reverse-mode differentiation: operations are recorded, and `backward` visits them in reverse.

Each operation is a `Function` whose two methods are written by hand: `forward` computes y from x,
and `backward` computes dx = dL/dx from dy = dL/dy by the chain rule, where L is what is
differentiated. While gradients are wanted, a result refers to the function that made it, and the
function refers to its inputs. These references are the graph of the computation, the "tape":

    L = (x * w).sum()        x ─┐
                                ├─ multiply ─ y ─ sum ─ L
                             w ─┘

    L.creator is the sum, whose inputs are (y,); y.creator is the multiplication, whose inputs are
    (x, w); x and w have no creator: they are the leaves.

`backward` starts with dL/dL = 1 and visits the functions in the reverse of the order in which they
ran. A function can use only what ran before it, so all users of y have been visited when the turn
comes to the function that made y, and the sum of their contributions is the whole of dy. What
arrives at a leaf is added to its `grad`.

Gradients are plain arrays, on which nothing is recorded; so there is no double backward.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from types import MappingProxyType
from typing import Any, ClassVar, Self, cast

from gpunet.backends.contract import Array, Backend, Into, real_array
from gpunet.modes import announce, mode, no_grad, noted, watching
from gpunet.operands import argument_name, as_operands, checked_gradient, checked_result
from gpunet.parameters import Parameter, parameter
from gpunet.sharing import SharedLaunch
from gpunet.tensors import LateTensor, PendingOperation, Tensor, expect_tensor, tensor

# ---- one operation

_sequence = count()
"""Numbers the recorded operations in the order in which they run."""


class Function:
    """One differentiable operation: a subclass writes `forward` and `backward` on arrays.

    The cube is an example. Its derivative is 3 x^2, so dx = 3 x^2 dy:

    ```python
    import gpunet as gp
    from gpunet.autograd import Function

    class Cube(Function):
        def forward(self, x):
            self.save(x)
            return x * x * x

        def backward(self, dy):
            (x,) = self.saved
            return 3 * x * x * dy

    y = Cube.apply(gp.tensor([2.0], backend="numpy"))
    ```

    This one takes arrays with operators, NumPy's and CuPy's; the operations of `gpunet.functional`
    call the primitives of ``self.backend``, and so run on every backend. An instance stands for one
    run and may keep anything in attributes from `forward` to `backward`, except arrays that an
    update could overwrite: these are kept with `save`.
    """

    name: ClassVar[str]
    """The operation's name in messages; the class's name unless it is set."""
    view: ClassVar[bool] = False
    """Whether the result shares the memory of the first input."""
    seeds: ClassVar[bool] = False
    """Whether `backward` takes None for a dy of 1, as losses do to save a launch and a product."""
    fresh: bool = False
    """Whether `backward` returns arrays that nothing else holds, so that leaves need no copies."""
    moves: ClassVar[bool] = False
    """Whether the operation only moves elements, so that integers and booleans are not cast."""
    single: ClassVar[tuple[str, ...]] = ()
    """Names of the inputs that stay float32 where the others have 16 bits."""
    arguments: ClassVar[tuple[str, ...]] = ()
    """Names of the inputs, which are the positional parameters of `forward`."""
    backend: Backend
    matrix_precision: str
    """How `forward` and `backward` multiply float32 matrices: as it held where the operation was
    applied, see `gpunet.matrix_precision`."""
    inputs: tuple[Tensor | None, ...]
    saved: tuple[Any, ...] = ()

    def __init_subclass__(
        cls, *, name: str = "", view: bool = False, seeds: bool = False, fresh: bool = False, moves: bool = False
    ) -> None:
        """Take what is said of the operation as class arguments: ``class Cube(Function, name="cube")``."""
        cls.name = name or getattr(cls, "name", cls.__name__)
        cls.view, cls.seeds = view or cls.view, seeds or cls.seeds
        cls.fresh, cls.moves = fresh or cls.fresh, moves or cls.moves
        parameters = list(inspect.signature(cls.forward).parameters.values())[1:]
        cls.arguments = tuple(p.name for p in parameters if p.kind != p.KEYWORD_ONLY)

    def forward(self, *arrays: Any, **options: Any) -> Array:
        """Compute the result from the arrays of the inputs and the options that `apply` got."""
        raise NotImplementedError

    def backward(self, dy: Any) -> tuple[Array | None, ...] | Array | None:
        """Compute one gradient for each input, of the input's shape; None where there is none.

        Other functions may hold dy as well, so it must not be changed; but dy itself, a view of it
        and an array that this function keeps may be returned, for the tape copies what leaves keep.
        """
        raise NotImplementedError

    @classmethod
    def apply(cls, *inputs: Any, **options: Any) -> Tensor:
        """Run `forward`, and record the operation if one of the inputs needs a gradient.

        Args:
            inputs: at least one tensor; and host arrays, numbers and None, which become tensors
                beside it.
            options: passed to `forward` as they are.
        """
        self, operands = cls._made(inputs)
        result = self._recorded(Tensor(self._computed(operands, options), self.backend))
        return result if mode.note is None else noted(cls, self.inputs, options, result)

    @classmethod
    def apply_late(cls, shape: tuple[int, ...], *inputs: Any, **options: Any) -> Tensor:
        """`apply`, whose result of this shape may wait inside of `late_results`; see `LateTensor`."""
        self, operands = cls._made(inputs)

        def run(**more: Any) -> Array:
            announce(self, "forward")
            return self._computed(operands, {**options, **more})

        pending = PendingOperation(self, operands, run)
        result = LateTensor(shape, next(a.dtype for a in operands if a is not None), self.backend, pending)
        if mode.late is None:
            result.compute()
        else:
            mode.late.append(result)
        return self._recorded(result)

    @classmethod
    def _made(cls, inputs: tuple[Any, ...]) -> tuple[Self, tuple[Array | None, ...]]:
        """An operation on these inputs, and the arrays that it computes with."""
        self = cls()
        self.matrix_precision = mode.matrix_precision
        if mode.late:
            for t in inputs:
                if isinstance(t, LateTensor):
                    t.compute()
        announce(self, "forward")
        self.inputs, operands = as_operands(cls.name, cls.arguments, inputs, moves=cls.moves, single=cls.single)
        self.backend = next(t.backend for t in self.inputs if t is not None)
        self._needs = tuple(t is not None and t.requires_grad for t in self.inputs)
        return self, operands

    def _computed(self, operands: tuple[Array | None, ...], options: Mapping[str, Any]) -> Array:
        """The result of `forward`, checked."""
        self._operands = operands
        y = self.forward(*operands, **options)
        del self._operands  # arrays that forward did not save are not kept
        return checked_result(self.name, "forward's result", y, self.backend)

    def _recorded(self, result: Tensor) -> Tensor:
        """The result, which refers to this operation if it is recorded."""
        if self.view:
            first = self.inputs[0]
            result._viewed = None if first is None else first.viewed_leaf()
        if mode.records and any(self._needs):
            result.requires_grad = True
            result.creator = self
            self._number, self._fuses = next(_sequence), mode.fuses
        return result

    # ---- what forward and backward call

    def save(self, *arrays: Any) -> None:
        """Keep arrays for `backward` in ``self.saved``, with the versions of inputs among them."""
        self.saved = arrays
        pairs = zip(self.inputs, self._operands, strict=True)
        self._versions = [(t, t.version) for t, operand in pairs if t is not None and any(operand is a for a in arrays)]

    def needs(self, i: int) -> bool:
        """Whether input i needs a gradient."""
        return self._needs[i]

    def destination(self, i: int) -> Array | None:
        """Where `backward` may write the gradient of input i without a copy; None for a new array.

        It is the parameter's segment of an arena: `backward` adds to what it holds if
        `self.accumulate`, and overwrites it otherwise.
        """
        return self._destinations.get(i)

    def into(self, *, weight: int, bias: int) -> Into:
        """Where `backward` writes the gradients of the inputs number `weight` and `bias`."""
        return Into(self.destination(weight), self.destination(bias), self.needs(bias), self.accumulate)

    def put_off(self, primitive: Callable[[list[Any]], Any], argument: Any, *inputs: int) -> bool:
        """Let calls ``primitive([argument])`` of this backward pass share a launch, if they may.

        The call writes the gradients of these inputs, as far as they need any, where
        `destination` says; `backward` returns these arrays before they are written. If the result
        is False, `backward` makes the call itself.
        """
        written = [i for i in inputs if self.needs(i)]
        if self._shared is None or not all(i in self._destinations for i in written):
            return False
        self._shared.add(self, primitive, argument, (self.inputs[i] for i in written))
        return True

    accumulate = False
    """Whether the destinations hold gradients already, to which `backward` adds."""

    # ---- what the tape calls

    _needs: tuple[bool, ...]
    _operands: tuple[Array | None, ...]
    _number: int
    _versions: list[tuple[Tensor, int]]
    _destinations: Mapping[int, Array] = MappingProxyType({})
    _fuses = True
    _shared: SharedLaunch | None = None  # set where calls of `backward` may share a launch
    _freed = False

    def run_backward(self, dy: Array) -> tuple[Array | None, ...]:
        """Compute the inputs' gradients, unless something has overwritten the saved arrays."""
        if self._freed:
            raise RuntimeError(f"backward: {self.name}'s saved arrays are gone; give the first call retain_graph=True")
        for kept, version in getattr(self, "_versions", ()):
            if kept.version != version:
                raise RuntimeError(
                    f"backward: {self.name} saved a parameter {kept.shape} that an update has overwritten since: "
                    "run backward before the optimizer's step, or the forward pass again"
                )
        announce(self, "backward")
        self._prepare_destinations()
        grads = self.backward(dy)
        return tuple(grads) if isinstance(grads, tuple | list) else (grads,)

    def free(self) -> None:
        """Drop everything that `forward` kept."""
        self.__dict__.clear()
        self._freed = True

    def _prepare_destinations(self) -> None:
        """Choose segments of the arena as destinations, if `accumulate` is the same for all of
        them.

        It is not if two inputs are one parameter, or if some parameters hold a gradient already
        and others do not. The tape then adds up the arrays that `backward` returns.
        """
        held = {
            i: t
            for i, t in enumerate(self.inputs)
            if isinstance(t, Parameter) and self._needs[i] and t.arena is not None
        }
        if not held:
            self._destinations, self.accumulate = {}, False
            return
        written = [t.grad is not None for t in held.values()]
        if len(set(written)) > 1 or len(set(map(id, held.values()))) < len(held):
            held = {}
        self._destinations = {i: t.arena.grad_views[t.segment] for i, t in held.items() if t.arena is not None}
        self.accumulate = bool(held) and all(written)


# ---- from the result back to the leaves

Rule = Callable[[Function, Array], tuple[Array | None, ...]]


def backward(
    root: Tensor,
    grad: Any = None,
    *,
    retain_graph: bool = False,
    rule: Rule = Function.run_backward, filled: Callable[[Tensor], None] | None = None,
) -> None:  # fmt: skip
    """Add d(root)/d(leaf), times `grad`, to the `grad` of every leaf that needs a gradient.

    ``root.backward()`` does the same. A leaf's gradient shares no memory with any other array,
    unless it is a segment of an optimizer's arena. A second call adds to it in place: copy a
    gradient to keep it.

    Args:
        root: the tensor to differentiate, such as a loss.
        grad: upstream gradient of the root's shape; 1 if None, where the root has one element.
        retain_graph: whether the functions keep what they saved, so that `backward` can run again.
        rule: computes the gradients of a function's inputs from the whole gradient of its result;
            for those who watch what goes back, or change it.
        filled: called with each leaf of the graph as soon as its gradient is complete.
    Raises:
        RuntimeError: the root needs no gradient, the graph has been freed by an earlier call, or an
            update has overwritten a parameter that a function saved.
        ValueError: the upstream gradient has another shape.
    """
    if not root.requires_grad:
        raise RuntimeError("backward: the tensor needs no gradient; was it made under no_grad or by frozen parameters?")
    last = _creator(root)
    dy = _upstream(root, grad, seeds=last is not None and last.seeds)
    if last is None:
        root.accumulate_grad(dy, fresh=grad is None)
        return
    pending: dict[Function, Array] = {last: dy}  # the gradient of each function's result, so far
    shared = SharedLaunch(announce)
    uses = None if filled is None else _uses(last)
    try:
        for function in _reversed_order(last):
            leaves = [] if uses is None else list(_leaves(function))
            if function in pending:  # otherwise none of its users passed a gradient down
                shared.launch_before(function.inputs)
                function._shared = shared if rule is Function.run_backward and function._fuses else None
                _pass_down(function, pending, rule)
                if not retain_graph:
                    function.free()
            if uses is not None and filled is not None:
                uses.subtract(map(id, leaves))
                for leaf in dict.fromkeys(leaves):
                    if not uses[id(leaf)]:
                        shared.launch()
                        filled(leaf)
    finally:
        shared.launch()


def _pass_down(function: Function, pending: dict[Function, Array], rule: Rule) -> None:
    """Compute the gradients of a function's inputs, and add them to `pending` or to leaves."""
    fresh = function.fresh and rule is Function.run_backward
    for i, t, dx in _input_gradients(function, rule(function, pending.pop(function))):
        if (creator := _creator(t)) is not None:
            arrived = pending.get(creator)
            pending[creator] = dx if arrived is None else t.backend.binary("add", arrived, dx)
        elif dx is function.destination(i):
            t.grad = dx  # it stands in the parameter's segment already, or will before the pass ends
        else:
            t.accumulate_grad(dx, fresh=fresh)


def _leaves(function: Function) -> Iterator[Tensor]:
    """The inputs of a function that need a gradient and that no operation has made."""
    return (t for t in function.inputs if t is not None and t.requires_grad and t.creator is None)


def _uses(last: Function) -> Counter[int]:
    """How often functions take each leaf, by its identity."""
    return Counter(id(leaf) for function in _reversed_order(last) for leaf in _leaves(function))


def _creator(t: Tensor) -> Function | None:
    """The recorded operation that made a tensor, which is always a Function."""
    return cast("Function | None", t.creator)


def _upstream(root: Tensor, grad: Any, *, seeds: bool) -> Array:
    """The gradient to start with: `grad` as an array, or 1, for which some functions take None."""
    if grad is None:
        if root.size != 1:
            raise ValueError(f"backward: a tensor of shape {root.shape} takes an upstream gradient of that shape")
        return None if seeds else root.backend.full(root.shape, 1, root.dtype)
    given = real_array("backward: grad", grad.data if isinstance(grad, Tensor) else grad)
    dy = root.backend.asarray(given, root.dtype)
    if tuple(dy.shape) != root.shape:
        raise ValueError(f"backward: grad has shape {tuple(dy.shape)} but the tensor {root.shape}")
    return dy


def _reversed_order(last: Function) -> list[Function]:
    """The last function and all that it depends on, from the latest to the earliest."""
    found: set[Function] = {last}
    waiting = [last]
    while waiting:
        function = waiting.pop()
        if function._freed:
            function.run_backward(None)  # raises the error that says what to do
        for t in function.inputs:
            creator = None if t is None else _creator(t)
            if creator is not None and creator not in found:
                found.add(creator)
                waiting.append(creator)
    return sorted(found, key=lambda f: f._number, reverse=True)


def _input_gradients(function: Function, grads: tuple[Any, ...]) -> Iterator[tuple[int, Tensor, Array]]:
    """(i, input, gradient) of each input that needs a gradient and got one, checked."""
    if len(grads) != len(function.inputs):
        raise ValueError(f"{function.name}: backward gave {len(grads)} gradients for {len(function.inputs)} inputs")
    for i, (t, dx) in enumerate(zip(function.inputs, grads, strict=True)):
        if t is None or dx is None or not function.needs(i):
            continue
        if dx is not function.destination(i):
            dx = checked_gradient(function.name, argument_name(function.arguments, i), t, dx)
        yield i, t, dx


# What the author of an operation imports from here, the tensors too.
__all__ = ["Function", "Parameter", "Tensor", "backward", "expect_tensor", "no_grad", "parameter", "tensor", "watching"]
