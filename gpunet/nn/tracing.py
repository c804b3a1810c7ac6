"""What a model computes: the operations of one forward pass, and the modules that they ran in.

`report.drawing` draws such a trace, and `interop.onnx` exports it. It is taken of one run, so it
holds what this run did: a `forward` that asks for values of its input, to branch or to loop, is
traced along one way.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpunet.autograd import Tensor, no_grad, tensor
from gpunet.modes import noting
from gpunet.nn.module import Module, in_eval_mode

PASSED_ON = "identity"
"""The operation that stands for a module which returns an input as it is."""


@dataclass(eq=False)
class Call:
    """One run of a module."""

    name: str
    """As in `named_modules`; "" for the model itself."""
    module: Module
    outer: Call | None
    """The run of the module around it; None for the model itself."""
    inner: list[Call] = field(default_factory=list)
    """The runs of modules inside it, in their order."""
    output: Any = None
    """What it returned."""

    @property
    def leaf(self) -> bool:
        """Whether no other module ran inside."""
        return not self.inner


@dataclass(eq=False)
class Operation:
    """One run of an operation."""

    name: str
    """An operation of `gpunet.functional` by its name; any other as "MODULE.CLASS"."""
    inputs: tuple[Tensor | None, ...]
    options: Mapping[str, Any]
    result: Tensor
    call: Call
    """The innermost module that ran."""


@dataclass(eq=False)
class Trace:
    """One forward pass in inference mode; its tensors hold the values of that run."""

    inputs: tuple[Tensor, ...]
    output: Any
    """What the model returned."""
    operations: list[Operation]
    call: Call
    """The run of the model itself, with all others inside."""


Extents = tuple[int, ...]


def input_shapes(operation: str, input_shape: object) -> list[Extents]:
    """The shapes of a model's inputs without the batch axis, of an argument that holds one or several.

    Raises:
        TypeError: neither extents, such as (28, 28, 1), nor a list of such tuples.
    """
    given = input_shape if isinstance(input_shape, tuple | list) else (None,)
    several = bool(given) and all(isinstance(shape, tuple | list) for shape in given)
    shapes: Sequence[Any] = given if several else [given]
    if not all(isinstance(n, int | np.integer) for shape in shapes for n in shape):
        takes = "extents without the batch, (28, 28, 1), or a list of such tuples for several inputs"
        raise TypeError(f"{operation}: input_shape is {input_shape!r} but takes {takes}")
    for shape in shapes:
        if any(n < 1 for n in shape):
            raise ValueError(f"{operation}: input_shape {shape} has an extent below 1")
    return [tuple(int(n) for n in shape) for shape in shapes]


def tensors_of(operation: str, output: Any) -> dict[str, Tensor]:
    """The tensors that a model returned, by name: "y", or "y0", "y1" … for several, or a dict's keys.

    Raises:
        TypeError: something else than a tensor, several in a tuple or list, or a dict of them.
    """
    if isinstance(output, Mapping):
        found = {str(key): t for key, t in output.items()}
    elif isinstance(output, tuple | list):
        found = {f"y{i}": t for i, t in enumerate(output)}
    else:
        found = {"y": output}
    wrong = [type(t).__name__ for t in found.values() if not isinstance(t, Tensor)]
    if wrong or not found:
        raise TypeError(f"{operation}: the model returns {', '.join(wrong) or 'nothing'} but must return tensors")
    return found


def trace(model: Module, shapes: Sequence[Extents], batch_size: int, seed: int = 0) -> Trace:
    """Run a model in inference mode on normal numbers, layer by layer, and note its operations.

    Layers that a `Sequential` would fuse run one by one. The model stays as it is.

    Args:
        model: the model.
        shapes: the shapes of its inputs without the batch axis.
        batch_size: the number of samples in each input.
        seed: of the inputs.
    """
    backend, dtype = model._place()
    rng = np.random.default_rng(seed)
    made = [rng.normal(size=(batch_size, *shape)) for shape in shapes]
    inputs = tuple(tensor(values, dtype=dtype or np.float32, backend=backend) for values in made)
    tracer = _Tracer(model)
    with in_eval_mode(model), no_grad(), tracer.installed(), noting(tracer.note):
        output = model(*inputs)
    assert tracer.outermost is not None
    return Trace(inputs, output, tracer.operations, tracer.outermost)


class _Tracer:
    """Notes operations, and the modules that run meanwhile.

    The `forward` of each module is replaced by one that says when the module runs, and each module
    has a forward hook, without effect, for hooks keep neighbours from being fused.
    """

    def __init__(self, model: Module):
        self.operations: list[Operation] = []
        self.outermost: Call | None = None
        self._running: list[Call] = []  # outermost first
        self._names = [(name, module) for name, module in model.named_modules()]

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Have the modules say when they run."""
        handles, own = [], []
        try:
            for name, module in self._names:
                handles.append(module.register_forward_hook(lambda *_: None))
                own.append((module, vars(module).get("forward")))
                vars(module)["forward"] = self._announced(name, module, module.forward)
            yield
        finally:
            for module, forward in own:
                if forward is None:
                    del vars(module)["forward"]
                else:
                    vars(module)["forward"] = forward
            for handle in handles:
                handle.remove()

    def note(self, operation: Any, inputs: Any, options: Any, result: Any) -> None:
        """Note an operation that has run."""
        name = operation if isinstance(operation, str) else _name_of(operation)
        call = self._running[-1] if self._running else self.outermost  # a hook of the model runs after it
        assert call is not None
        self.operations.append(Operation(name, tuple(inputs), dict(options), result, call))

    def _announced(self, name: str, module: Module, forward: Any) -> Any:
        """`forward`, with a new `Call` on `_running` meanwhile."""

        def announced(*inputs: Any, **options: Any) -> Any:
            outer = self._running[-1] if self._running else None
            call = Call(name, module, outer)
            if outer is None:
                self.outermost = call
            else:
                outer.inner.append(call)
            self._running.append(call)
            try:
                y = forward(*inputs, **options)
                call.output = self._passed_on(y) if any(y is x for x in inputs) else y
                return call.output
            finally:
                self._running.pop()

        return announced

    def _passed_on(self, x: Tensor) -> Tensor:
        """Another tensor on the same values, so that those who take it are told from those of x."""
        y = copy.copy(x)
        self.note(PASSED_ON, (x,), {}, y)
        return y


def _name_of(operation: Any) -> str:
    """The name of a `Function`'s class: of gpunet's own, what it is called in messages."""
    if operation.__module__.startswith("gpunet.functional."):
        return str(operation.name)
    return f"{operation.__module__}.{operation.__qualname__}"
