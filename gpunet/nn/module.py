"""`Module`: the base class of layers and networks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self, TypeVar

import numpy as np

from gpunet.autograd import Parameter, Tensor, tensor
from gpunet.backends import Backend, get_backend
from gpunet.dlpack import writable
from gpunet.precision import loaded
from gpunet.tables import Table

__all__ = ["Buffer", "Module"]

Hook = Callable[["Module", tuple[Any, ...], Any], Any]
"""hook(module, inputs, output) -> None, or what takes the output's place."""
_T = TypeVar("_T")


class Buffer(Tensor):
    """State that is saved and moved with a module but not trained, such as a running mean."""

    def __init__(self, data: Any, dtype: Any = None):
        made = tensor(data, dtype=dtype)
        super().__init__(writable(made.data), made.backend)

    def move(self, backend: Backend) -> None:
        """Move to another backend in place."""
        moved = self.to(backend)
        self.data, self.backend = moved.data, moved.backend


class Handle:
    """Stands for one registration of a hook; `remove` ends it."""

    def __init__(self, hooks: list[Handle], hook: Hook):
        self._hooks, self.hook = hooks, hook

    def remove(self) -> None:
        """End this registration of the hook, and no other one; a second call does nothing."""
        self._hooks[:] = [handle for handle in self._hooks if handle is not self]


class Module:
    """A layer or a network: a subclass writes `forward`, and keeps its parts as attributes.

    Parts are parameters, `Buffer`s and other modules. They are found by going through the
    attributes, and through lists, tuples and dicts in them; ``super().__init__()`` need not be
    called. What stands in several places counts once, under the first name, and so does a module
    that refers to a module around it. Two different parts must have different names: a dict with
    the keys 1 and "1" raises a ValueError. So does a set of parts, for sets have no order.
    """

    frozen: bool = False
    """Whether the module stays in inference mode whatever `train` says; set by `freeze`."""
    _mode: bool = True
    _stopped: tuple[str, ...] = ()  # names of own parameters whose gradients `freeze` turned off

    @property
    def training(self) -> bool:
        """Whether dropout drops and batch norm uses the batch's moments; never while `frozen`."""
        return self._mode and not self.frozen

    @training.setter
    def training(self, mode: bool) -> None:
        self._mode = mode

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """The module's result, which a subclass computes."""
        raise NotImplementedError(f"{type(self).__name__}: write forward(self, x)")

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Run `forward`, then the forward hooks.

        Args:
            inputs: tensors; or arrays, which become tensors of the parameters' dtype on their
                backend.
            options: passed to `forward` as they are.
        """
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
            replacement = handle.hook(self, inputs, y)
            y = y if replacement is None else replacement
        return y

    def _out_of_memory(self, error: MemoryError) -> MemoryError:
        """The error with the layer's name.

        It is made here and not in `__call__`, for a local variable that holds it would make a
        reference cycle with its traceback. The large arrays of the traceback's frames would then
        stay in memory until the garbage collector runs.
        """
        layer, prefix = type(self).__name__, "" if "out of memory" in str(error).lower() else "out of memory: "
        named = MemoryError(f"{layer}: {prefix}{error}")
        named.layer = layer  # type: ignore[attr-defined]
        return named

    # ---- the parts

    def named_parts(self) -> Iterator[tuple[str, Any]]:
        """(name, part) of every part that is held directly, in the order of the attributes."""
        for name, value in vars(self).items():
            if name != "_forward_hooks":
                yield from _parts(name, value)

    def named_modules(self) -> Iterator[tuple[str, Module]]:
        """(name, module) of this module, named "", and of all inside it, outer before inner."""
        yield from self._walk(Module)

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """(name, parameter) of every parameter, in construction order."""
        yield from self._walk(Parameter)

    def named_buffers(self) -> Iterator[tuple[str, Buffer]]:
        """(name, buffer) of every buffer, in construction order."""
        yield from self._walk(Buffer)

    def parameters(self) -> list[Parameter]:
        """Every parameter, in construction order."""
        return [p for _, p in self.named_parameters()]

    def _walk(self, kind: type[_T]) -> Iterator[tuple[str, _T]]:
        """(name, value) of each part of a kind, once; a ValueError if two have one name."""
        return self._distinct(self._named("", kind, set()))

    def _named(self, prefix: str, kind: type[_T], seen: set[int]) -> Iterator[tuple[str, _T]]:
        """(name, value) of each part of a kind whose id is not in `seen`."""
        if id(self) in seen:
            return
        seen.add(id(self))
        if isinstance(self, kind):
            yield prefix, self
        for name, value in self.named_parts():
            path = f"{prefix}.{name}" if prefix else name
            if isinstance(value, Module):
                yield from value._named(path, kind, seen)
            elif isinstance(value, kind) and id(value) not in seen:
                seen.add(id(value))
                yield path, value

    def _distinct(self, parts: Iterable[tuple[str, _T]]) -> Iterator[tuple[str, _T]]:
        """The parts as they are; a ValueError if two have one name."""
        names: set[str] = set()
        for name, value in parts:
            if name in names:
                raise ValueError(f"{type(self).__name__}: two of its parameters, buffers or modules are named {name!r}")
            names.add(name)
            yield name, value

    def _place(self) -> tuple[Backend, np.dtype | None]:
        """Backend and dtype of the first parameter or else buffer; (NumPy, None) without any."""
        for values in (self.named_parameters(), self.named_buffers()):
            for _, value in values:
                return value.backend, value.dtype
        return get_backend("numpy"), None

    # ---- modes, gradients and places

    def train(self, mode: bool = True) -> Self:
        """Put this module and all inside it, except frozen ones, into training mode."""
        for _, module in self.named_modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Put this module and all inside it into inference mode: the opposite of `train`."""
        return self.train(False)

    def requires_grad_(self, needed: bool = True) -> Self:
        """Set whether the parameters, here and inside, get gradients.

        Parameters without a gradient are not updated and do not decay, and `backward` ends where
        nothing below needs one. An optimizer may hold the parameters already.
        """
        for parameter in self.parameters():
            parameter.requires_grad = needed
            if not needed:
                parameter.zero_grad()
        return self

    def freeze(self) -> Self:
        """Turn gradients off, and stay in inference mode whatever `train` says, here and inside."""
        for _, module in self.named_modules():
            own = [(name, value) for name, value in module.named_parts() if isinstance(value, Parameter)]
            module._stopped = tuple(name for name, p in own if p.requires_grad or name in module._stopped)
            module.frozen = True
        return self.requires_grad_(False)

    def unfreeze(self) -> Self:
        """Undo `freeze`, here and inside.

        Parameters that had gradients before get them again, those that `requires_grad_` had turned
        off do not. The mode is what `train` or `eval` said last.
        """
        for _, module in self.named_modules():
            for name, value in module.named_parts():
                if name in module._stopped:
                    value.requires_grad = True
            module.frozen, module._stopped = False, ()
        return self

    def to(self, backend: str | Backend) -> Self:
        """Move parameters, gradients and buffers in place, and optimizers of the parameters too."""
        target = get_backend(backend)
        for _, parameter in self.named_parameters():
            parameter.move(target)
        for _, buffer in self.named_buffers():
            buffer.move(target)
        return self

    def astype(self, dtype: Any) -> Self:
        """Convert the parameters and buffers to another dtype in place.

        Raises:
            ValueError: an optimizer holds a parameter already.
        """
        for name, value in self._state().items():
            if isinstance(value, Parameter):
                if value.held:
                    raise ValueError(f"astype: parameter {name} is held by an optimizer already; convert before")
                value.release()
            value.data, value.grad = value.backend.asarray(value.numpy(), dtype), None
        return self

    def zero_grad(self) -> None:
        """Forget the gradient of every parameter."""
        for parameter in self.parameters():
            parameter.zero_grad()

    def register_forward_hook(self, hook: Hook) -> Handle:
        """Call ``hook(module, inputs, output)`` after each forward pass of this module.

        The handle ends that. What the hook returns, unless it is None, takes the output's place,
        for the next hook too.

        Raises:
            TypeError: the hook cannot be called.
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
        return {name: value.numpy().copy() for name, value in self._state().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy values into the parameters and buffers.

        Args:
            state: arrays of floats by name, as `state_dict` gives them. Another float dtype than
                the model's is converted if the model's can hold every value.
        Raises:
            ValueError, TypeError: an entry is missing, unexpected, of another shape, no array of
                floats, or holds a value that the model's dtype cannot. The message names all such
                entries, and nothing has been changed.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"load_state_dict: takes arrays by name, as of state_dict, got {type(state).__name__}")
        own = self._state()
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

    def _state(self) -> dict[str, Tensor]:
        """Every parameter and buffer by name; a ValueError if two have one name."""
        return dict(self._distinct([*self.named_parameters(), *self.named_buffers()]))

    # ---- description

    def parameter_formula(self) -> str:
        """How the number of this layer's own parameters comes about: "(5·5·3+1)·10", or ""."""
        return ""

    def flops(self, x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> int:
        """FLOPs of this layer's own forward pass from x to y; a multiply-add counts as two."""
        return 0

    def __repr__(self) -> str:
        return self._tree(set())

    def _tree(self, shown: set[int]) -> str:
        """Lines for this module and those inside; the class alone if its id is in `shown`."""
        inner = [(name, value) for name, value in self.named_parts() if isinstance(value, Module)]
        if inner and id(self) in shown:
            return f"{type(self).__name__}(…)"
        shown.add(id(self))
        entries = [f"({name}): {value._tree(shown)}" for name, value in inner]
        lines = "".join(f"\n  {line}" for entry in entries for line in entry.split("\n"))
        return f"{type(self).__name__}({self.extra_repr()}{lines}{chr(10) if inner else ''})"

    def _repr_html_(self) -> str:
        """What a notebook shows: a row for each module inside, with the number of its own parameters."""
        rows, counted = [], set[int]()
        for name, module in self.named_modules():
            own = [p for _, p in module.named_parts() if isinstance(p, Parameter) and id(p) not in counted]
            counted.update(map(id, own))
            count = sum(p.size for p in own)
            rows.append((name, f"{type(module).__name__}({module.extra_repr()})", f"{count:,}" if own else ""))
        total = sum(p.size for p in self.parameters())
        return Table(
            ("name", "layer", "parameters"), rows, ("total", "", f"{total:,}"), (False, False, True)
        )._repr_html_()

    def extra_repr(self) -> str:
        """The layer's settings, which `repr` shows in the parentheses."""
        return ""


@contextmanager
def in_eval_mode(model: Module) -> Iterator[None]:
    """Put the model into inference mode, and each of its modules back into its mode afterwards."""
    modes = [(module, module._mode) for _, module in model.named_modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _parts(name: str, value: Any, around: tuple[int, ...] = ()) -> Iterator[tuple[str, Any]]:
    """(name, part) of each parameter, buffer and module that an attribute's value is or contains.

    Args:
        name: the attribute's name, with the positions and keys that led to `value`.
        around: ids of the containers that `value` stands in, which are not entered again.
    """
    if isinstance(value, Parameter | Buffer | Module):
        yield name, value
    elif id(value) in around:
        return
    elif isinstance(value, list | tuple | Mapping):
        for key, entry in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _parts(f"{name}.{key}", entry, (*around, id(value)))
    elif isinstance(value, set | frozenset) and any(isinstance(v, Parameter | Buffer | Module) for v in value):
        raise ValueError(f"Module: {name} is a set, which has no order; keep parameters, buffers and modules in a list")
