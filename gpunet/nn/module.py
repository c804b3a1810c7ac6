"""`Module`: what layers and networks are. A plain class whose attributes are parameters, buffers and other modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self, TypeVar

import numpy as np

from gpunet.autograd import Parameter, Tensor, tensor
from gpunet.backends import Backend, get_backend
from gpunet.precision import loaded

Hook = Callable[["Module", tuple[Any, ...], Any], Any]
_T = TypeVar("_T")


class Buffer(Tensor):
    """State that is saved and moved with a module but not trained, such as a running mean."""

    def __init__(self, data: Any, dtype: Any = None):
        made = tensor(data, dtype=dtype)
        super().__init__(made.data, made.backend)

    def move(self, backend: Backend) -> None:
        """Move to another backend in place."""
        moved = self.to(backend)
        self.data, self.backend = moved.data, moved.backend


class Handle:
    """A registered hook; `remove` takes it away again."""

    def __init__(self, hooks: list[Handle], hook: Hook):
        self._hooks, self.hook = hooks, hook

    def remove(self) -> None:
        """Forget the hook; a second time does nothing. The same hook registered again stays where it is."""
        self._hooks[:] = [handle for handle in self._hooks if handle is not self]


class Module:
    """A layer or a network: write `forward`, and keep parameters, `Buffer`s and modules as attributes.

    They are found by walking the attributes, and lists, tuples and dicts in them; ``super().__init__()`` is not needed. One
    that stands in several places, or that refers to a module around it, counts once, under its first name. Names must differ:
    a dict with the keys 1 and "1" raises ValueError, and so do parameters, buffers or modules in a set, which has no order.
    """

    frozen: bool = False
    """Whether the module stays in inference mode whatever `train` says; set by `freeze`."""
    _mode: bool = True
    _stopped: tuple[str, ...] = ()  # the module's own parameters that `freeze` turned off

    @property
    def training(self) -> bool:
        """Whether dropout drops and batch norm follows the batch; set by `train` and `eval`, never while `frozen`."""
        return self._mode and not self.frozen

    @training.setter
    def training(self, mode: bool) -> None:
        self._mode = mode

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """The module's result; subclasses write it."""
        raise NotImplementedError(f"{type(self).__name__}: write forward(self, x)")

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Run forward, then the forward hooks. Raw arrays become tensors of the parameters' dtype, on their backend."""
        if not all(isinstance(x, Tensor) for x in inputs):
            backend, dtype = self._place()
            inputs = tuple(x if isinstance(x, Tensor) else tensor(x, dtype=dtype, backend=backend) for x in inputs)
        try:
            y = self.forward(*inputs, **options)
        except MemoryError as error:
            if getattr(error, "layer", None):
                raise
            raise self._out_of_memory(error) from error
        for handle in list(vars(self).get("_forward_hooks", ())):
            given = handle.hook(self, inputs, y)
            y = y if given is None else given
        return y

    def _out_of_memory(self, error: MemoryError) -> MemoryError:
        """The error with the layer's name. No variable of a frame in its traceback may hold it: the frames' arrays, which are
        what there was no memory for, would then wait for the garbage collector."""
        layer, said = type(self).__name__, "" if "out of memory" in str(error).lower() else "out of memory: "
        named = MemoryError(f"{layer}: {said}{error}")
        named.layer = layer  # type: ignore[attr-defined]
        return named

    # ---- what it holds

    def children(self) -> Iterator[tuple[str, Any]]:
        """(name, value) of every parameter, buffer and module held directly, in the order of the attributes."""
        for name, value in vars(self).items():
            if name != "_forward_hooks":
                yield from _flatten(name, value)

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """(name, module) of this module, named "", and of every one inside it, each once, outer before inner."""
        yield from self._walk(Module, prefix)

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """(name, parameter), each parameter once, in construction order."""
        yield from self._walk(Parameter)

    def named_buffers(self) -> Iterator[tuple[str, Buffer]]:
        """(name, buffer), each buffer once."""
        yield from self._walk(Buffer)

    def parameters(self) -> list[Parameter]:
        """Every parameter once."""
        return [p for _, p in self.named_parameters()]

    def _walk(self, kind: type[_T], prefix: str = "") -> Iterator[tuple[str, _T]]:
        """(name, value) of each of a kind once; ValueError for a second of the same name."""
        names: set[str] = set()
        for name, value in self._named(prefix, kind, set()):
            _check_new(type(self).__name__, name, names)
            yield name, value

    def _named(self, prefix: str, kind: type[_T], seen: set[int]) -> Iterator[tuple[str, _T]]:
        if id(self) in seen:
            return
        seen.add(id(self))
        if isinstance(self, kind):
            yield prefix, self
        for name, value in self.children():
            path = f"{prefix}.{name}" if prefix else name
            if isinstance(value, Module):
                yield from value._named(path, kind, seen)
            elif isinstance(value, kind) and id(value) not in seen:
                seen.add(id(value))
                yield path, value

    def _place(self) -> tuple[Backend, np.dtype | None]:
        """Backend and dtype of the first parameter or buffer; NumPy, and the input's own dtype, if there is none."""
        for values in (self.named_parameters(), self.named_buffers()):
            for _, value in values:
                return value.backend, value.dtype
        return get_backend("numpy"), None

    # ---- modes and places

    def train(self, mode: bool = True) -> Self:
        """Training mode for this module and all inside it but those that are frozen."""
        for _, module in self.named_modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Inference mode: no dropout, batch norm by the running moments."""
        return self.train(False)

    def requires_grad_(self, needed: bool = True) -> Self:
        """Whether the parameters, here and inside, get gradients. Without one they are not updated, nor do they decay.

        It may be called before or after an optimizer holds them. Backward ends where nothing below needs a gradient.
        """
        for parameter in self.parameters():
            parameter.requires_grad = needed
            if not needed:
                parameter.zero_grad()
        return self

    def freeze(self) -> Self:
        """No gradients, and inference mode whatever `train` says: batch norm keeps its running moments, dropout is off."""
        for _, module in self.named_modules():
            own = [(name, value) for name, value in module.children() if isinstance(value, Parameter)]
            module._stopped = tuple(name for name, p in own if p.requires_grad or name in module._stopped)
            module.frozen = True
        return self.requires_grad_(False)

    def unfreeze(self) -> Self:
        """Undo `freeze`, here and inside: what it turned off gets gradients, and the mode is what `train` or `eval` said last.

        Parameters that had no gradients before, by `requires_grad_`, get none.
        """
        for _, module in self.named_modules():
            for name, value in module.children():
                if name in module._stopped:
                    value.requires_grad = True
            module.frozen, module._stopped = False, ()
        return self

    def to(self, backend: str | Backend) -> Self:
        """Move parameters, gradients and buffers, in place; an optimizer's state moves with the parameters it holds."""
        target = get_backend(backend)
        for _, parameter in self.named_parameters():
            parameter.move(target)
        for _, buffer in self.named_buffers():
            buffer.move(target)
        return self

    def astype(self, dtype: Any) -> Self:
        """Convert the parameters and buffers, in place; before an optimizer holds them."""
        for name, value in [*self.named_parameters(), *self.named_buffers()]:
            if isinstance(value, Parameter):
                if value.held:
                    raise ValueError(
                        f"astype: parameter {name} is held by an optimizer already; convert the model before"
                    )
                value.release()
            value.data, value.grad = value.backend.asarray(value.numpy(), dtype), None
        return self

    def zero_grad(self) -> None:
        """Forget every parameter's gradient."""
        for parameter in self.parameters():
            parameter.zero_grad()

    def register_forward_hook(self, hook: Hook) -> Handle:
        """Call ``hook(module, inputs, output)`` after each forward pass of this module, until the handle is removed.

        What it returns, unless None, takes the output's place, for the next hook too. TypeError for what cannot be called.
        """
        if not callable(hook):
            raise TypeError(f"register_forward_hook: hook is {type(hook).__name__} but takes a function")
        hooks = vars(self).setdefault("_forward_hooks", [])
        handle = Handle(hooks, hook)
        hooks.append(handle)
        return handle

    @property
    def hooked(self) -> bool:
        """Whether a forward hook is registered."""
        return bool(vars(self).get("_forward_hooks"))

    # ---- state

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of every parameter and buffer on the host, by name."""
        return {name: value.numpy().copy() for name, value in self._state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy values into the parameters and buffers.

        Args:
            state: arrays of floats by name, as `state_dict` gives them; of another float dtype if every value fits.
        Raises:
            ValueError, TypeError: names every missing, extra and misshapen entry, every one that is no array of floats, and
                every one with a value that the model's dtype cannot hold; nothing is changed then.
        """
        if not isinstance(state, Mapping):
            raise TypeError(
                f"load_state_dict: takes arrays by name, as state_dict gives them, got {type(state).__name__}"
            )
        own = dict(self._state())
        faults: list[Exception] = [ValueError(f"missing {name}") for name in own if name not in state]
        faults += [ValueError(f"unexpected {name}") for name in state if name not in own]
        copies = {}
        for name, value in own.items():
            try:
                if name in state:
                    copies[name] = value.backend.asarray(loaded(name, state[name], value.shape, value.dtype))
            except (ValueError, TypeError) as error:
                faults.append(error)
        if faults:
            kind = TypeError if all(isinstance(fault, TypeError) for fault in faults) else ValueError
            raise kind(f"load_state_dict: {'; '.join(map(str, faults))}")
        for name, value in own.items():
            value.data = copies[name]
            if not (isinstance(value, Parameter) and value.arena is not None):
                value.version += 1

    def _state(self) -> list[tuple[str, Tensor]]:
        state = [*self.named_parameters(), *self.named_buffers()]
        names: set[str] = set()
        for name, _ in state:
            _check_new(type(self).__name__, name, names)
        return state

    # ---- description

    def parameter_formula(self) -> str:
        """How the number of this layer's own parameters comes about, in numbers; empty without parameters."""
        return ""

    def flops(self, x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> int:
        """Floating-point operations of this layer's own forward pass; a multiply-add counts two."""
        return 0

    def __repr__(self) -> str:
        return self._described(set())

    def _described(self, shown: set[int]) -> str:
        """The tree; of what has a tree that is shown already, as of a module around this one, the class alone."""
        inner = [(name, value) for name, value in self.children() if isinstance(value, Module)]
        if inner and id(self) in shown:
            return f"{type(self).__name__}(…)"
        shown.add(id(self))
        entries = [f"({name}): {value._described(shown)}" for name, value in inner]
        lines = "".join(f"\n  {line}" for entry in entries for line in entry.split("\n"))
        return f"{type(self).__name__}({self.extra_repr()}{lines}{chr(10) if inner else ''})"

    def extra_repr(self) -> str:
        """What stands in the parentheses of repr."""
        return ""


@contextmanager
def in_eval_mode(model: Module) -> Iterator[None]:
    """Inside, the model is in inference mode; afterwards each module in the mode that it had."""
    modes = [(module, module._mode) for _, module in model.named_modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _check_new(model: str, name: str, names: set[str]) -> None:
    if name in names:
        raise ValueError(
            f"{model}: two of its parameters, buffers or modules are named {name!r}; attributes, positions and dict keys, as "
            "text, must tell them apart"
        )
    names.add(name)


def _flatten(name: str, value: Any, around: tuple[int, ...] = ()) -> Iterator[tuple[str, Any]]:
    """(name, value) of what an attribute's value is or contains; a container inside itself is not entered again."""
    if isinstance(value, Parameter | Buffer | Module):
        yield name, value
    elif id(value) in around:
        return
    elif isinstance(value, list | tuple):
        for i, entry in enumerate(value):
            yield from _flatten(f"{name}.{i}", entry, (*around, id(value)))
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _flatten(f"{name}.{key}", entry, (*around, id(value)))
    elif isinstance(value, set | frozenset) and any(isinstance(v, Parameter | Buffer | Module) for v in value):
        raise ValueError(f"Module: {name} is a set, which has no order; keep parameters, buffers and modules in a list")
