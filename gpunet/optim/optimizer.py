"""Optimizers: one update of the whole arena a step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from gc import collect
from inspect import signature
from typing import Any, ClassVar, Protocol, TypedDict
from weakref import ref

import numpy as np

from gpunet.arena import Arena
from gpunet.autograd import Parameter, Tensor
from gpunet.backends.contract.arrays import Array
from gpunet.backends.contract.backend import Backend
from gpunet.backends.contract.update import RULES, Guard, Segments, StepReport
from gpunet.errors import BackendError
from gpunet.optim.checks import NOT_NEGATIVE, POSITIVE, check_counts, check_number, check_numbers, check_scaling
from gpunet.precision import loaded

Group = dict[str, Any]


class Follower(Protocol):
    """What has a part in every update, behind it, on the device."""

    applying: bool
    """Whether the parameters hold something of its own for now, which no step may change."""

    def follow(self, guard: Guard) -> None:
        """Launch it, with the guard of the launches behind an update: see `Guard.behind`."""

    def applied(self, averages: bool = True) -> AbstractContextManager[None]:
        """Inside, the parameters hold what is its own, or, if False, what is theirs."""

    def recorded(self) -> list[Any]:
        """See `Optimizer.recorded`."""


class Shared(TypedDict, total=False):
    """What every optimizer takes; all but `clip_norm` may differ from group to group."""

    clip_norm: float | None
    """Scale the gradients down to this global 2-norm before the update; None, the default, for no limit."""
    weight_decay: float
    """Added to the gradient, times the weight: L2 regularisation; 0 unless the optimizer says otherwise."""
    decoupled: bool
    """Have each step shrink the weights by lr weight_decay instead (Loshchilov & Hutter 2019)."""
    l1: float
    """Added to the gradient, times the weight's sign: L1 regularisation; 0 by default."""
    max_norm: float | None
    """After each step scale the weights that come into one unit, of a dense layer's (I, O) or a convolution's (KH, KW, C, O),
    down to this 2-norm (Srivastava et al. 2014, section 5.1); None, the default, for no limit, which is also what parameters
    get that are no `Parameter.matrix`: biases, norms, transposed convolutions, locally connected layers."""


class Optimizer:
    """Gathers parameters into an arena and updates those that got a gradient.

    Args:
        parameters: parameters, or groups ``{"params": […], "lr": …}`` that override the other arguments.
        shared: see `Shared`.
        own: hyper-parameters of the rule, for the groups that do not name them.
    Attributes:
        groups: one dict a group, with "params" and every hyper-parameter; a schedule sets "lr" here.
    """

    rule: ClassVar[str]
    """Of `Backend.update`."""

    def __init__(self, parameters: Iterable[Parameter] | Iterable[Group], shared: Shared, **own: Any):
        self.name = type(self).__name__
        if unnamed := sorted(set(shared) - set(Shared.__annotations__)):
            arguments = [name for name in signature(type(self)).parameters if name not in ("parameters", "shared")]
            raise TypeError(
                f"{self.name}: got {', '.join(unnamed)} but takes {', '.join([*arguments, *Shared.__annotations__])}"
            )
        if not isinstance(parameters, Iterable):
            raise TypeError(
                f"{self.name}: takes parameters, as model.parameters() gives them, got {type(parameters).__name__}"
            )
        clip_norm = shared.get("clip_norm")
        defaults = {**own, "weight_decay": 0.0, "decoupled": False, "l1": 0.0, "max_norm": None, **shared}
        defaults.pop("clip_norm", None)
        given: list[Any] = list(parameters)
        if not given:
            raise ValueError(f"{self.name}: got no parameters")
        if not isinstance(given[0], dict):
            given = [{"params": given}]
        self.groups: list[Group] = []
        for group in given:
            unknown = set(group) - set(defaults) - {"params"}
            if unknown:
                raise ValueError(
                    f"{self.name}: a group has no {', '.join(sorted(unknown))}; it takes {', '.join(defaults)}"
                )
            self.groups.append({**defaults, **group, "params": list(group["params"])})
        for group in self.groups:
            self.check(group)
        if clip_norm is not None:
            check_number(self.name, "clip_norm", clip_norm, POSITIVE)
        self.clip_norm = clip_norm
        self.grad_norm: Array | None = None
        """(norm, scale) of the last step's gradients on the backend, if `clip_norm` is set."""
        self._members = self._checked_members()
        first = self._members[0][0]
        self._gather(first.backend, first.dtype)
        for slot in self.slots():
            self.arena.add_slot(slot)
        self.steps = np.zeros(len(self._members), np.int64)
        """Updates that each parameter has had, those that a scaled loss's overflow skipped among them."""
        self.followers: list[Follower] = []

    def _gather(self, backend: Backend, dtype: Any) -> None:
        """Make the arena, and have the parameters in it."""
        self.arena = Arena(backend, [p.shape for p, _ in self._members], dtype)
        self.arena.owner = ref(self)
        for i, (parameter, _) in enumerate(self._members):
            parameter.adopt(self.arena, i)

    # ---- copies and pickles, see `Parameter`

    def __getstate__(self) -> dict[str, Any]:
        """RuntimeError where the parameters hold averages."""
        self.check_own_values("a copy")
        arena, norm = self.arena, self.grad_norm
        return {
            **vars(self),
            "grad_norm": None if norm is None else arena.backend.to_numpy(norm),
            "arena": (arena.backend, arena.dtype, arena.state()),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        backend, dtype, kept = state["arena"]
        self._check_free(self._members)
        self._gather(backend, dtype)
        self.arena.restore(kept)
        if self.grad_norm is not None:
            self.grad_norm = backend.copy(backend.asarray(self.grad_norm))

    def __copy__(self) -> Any:
        raise TypeError(
            f"{self.name}: copy.copy would share the parameters, which one optimizer holds; take copy.deepcopy"
        )

    def slots(self) -> tuple[str, ...]:
        """Names of what the rule keeps of each parameter in the arena."""
        return RULES[self.rule].slots

    def check(self, group: Group) -> None:
        """Raise ValueError for hyper-parameters out of range, TypeError for those that are no numbers."""
        check_numbers(self.name, group, NOT_NEGATIVE, "lr", "weight_decay", "l1")
        if group["max_norm"] is not None:
            check_numbers(self.name, group, POSITIVE, "max_norm")

    def own(self, group: Group, step: int) -> tuple[float, ...]:
        """The rule's own columns, see `rules.RULES`, for a parameter at its `step`-th update."""
        raise NotImplementedError

    def hyper(self, group: Group, step: int) -> tuple[float, ...]:
        """A row of the update's table of hyper-parameters."""
        decay, decoupled = (0.0, group["weight_decay"]) if group["decoupled"] else (group["weight_decay"], 0.0)
        return group["lr"], decay, group["l1"], decoupled, *self.own(group, step)

    def prepare(self, clip: Array | None) -> None:
        """What must be computed on the device before the update: nothing, for most rules."""

    def release(self) -> None:
        """Let the parameters go, with their values and gradients, so that another optimizer can take them.

        Averages that followed are at an end: from then on they raise where they are used.
        """
        self.check_own_values("release()")
        for parameter, _ in self._members:
            parameter.release()
        self._members, self.groups, self.followers = [], [], []
        self._gather(self.arena.backend, self.arena.dtype)  # of nothing

    def holds(self, parameters: Iterable[Parameter]) -> bool:
        """Whether one of these, at least, is among its own."""
        own = {id(parameter) for parameter, _ in self._members}
        return any(id(parameter) in own for parameter in parameters)

    def own_values(self) -> AbstractContextManager[None]:
        """Inside, the parameters hold their own values, even where averages are applied outside."""
        applying = next((follower for follower in self.followers if follower.applying), None)
        return nullcontext() if applying is None else applying.applied(False)

    def check_own_values(self, what: str) -> None:
        """RuntimeError where the parameters hold averages, beside which `what` cannot be."""
        if any(follower.applying for follower in self.followers):
            raise RuntimeError(f"{self.name}: {what} inside applied(), where averages stand for the parameters")

    def scale_losses(self, scale: float = 2.0**16) -> None:
        """From now on multiply losses in `backward`, so that gradients in float16 do not fall below its smallest numbers.

        The scale and all that changes it stay on the device: a step whose gradients overflowed updates nothing and halves it,
        and 2,000 good ones in a row double it (Micikevicius et al. 2018, section 3.2). bfloat16 needs none.

        Args:
            scale: to begin with; a power of two, so that nothing is rounded.
        Raises:
            BackendError: a backend that does not store 16 bits.
        """
        if "float16" not in self.arena.backend.narrow:
            raise BackendError(
                f"{self.name}: losses are scaled for float16 on CUDA, but the parameters are on {self.arena.backend.name}"
            )
        if not (scale > 0 and np.frexp(scale)[0] == 0.5):
            raise ValueError(f"{self.name}: scale is {scale} but must be a power of two")
        self.arena.scaling = self.arena.backend.asarray(np.array([scale, 0, 0], np.float32))

    def compute_in(self, dtype: str) -> None:
        """Prepare for operations that store `dtype`, of 16 bits: the parameters have a shadow in it, which updates write, and
        losses are scaled for float16."""
        self.arena.keep_shadow(dtype)
        if dtype == "float16" and self.arena.scaling is None:
            self.scale_losses()

    def backward(self, loss: Tensor, weight: float | Array = 1.0) -> None:
        """``loss.backward()``, of the scaled loss if `scale_losses` was called.

        Args:
            weight: what the loss counts for, beside others whose gradients are added up before a step: a number, or an array of
                one element on the backend.
        """
        backend, seed = self.arena.backend, None
        if isinstance(weight, int | float | np.number):
            weight = float(weight)
        if not isinstance(weight, float):
            seed = backend.cast(weight, loss.dtype)
            if self.arena.scaling is not None:
                seed = backend.binary("multiply", seed, self.arena.scaling[:1])
        elif self.arena.scaling is not None:
            seed = backend.scale(self.arena.scaling[:1], None, weight) if weight != 1 else self.arena.scaling[:1]
        elif weight != 1:
            seed = backend.full((1,), weight, loss.dtype)
        loss.backward(None if seed is None else seed.reshape(loss.shape))

    def zero_grad(self) -> None:
        """Forget all gradients; nothing is filled, for the next backward overwrites."""
        self.arena.written = [False] * len(self.arena)

    def step(self) -> None:
        """Update every parameter that has a gradient."""
        bounds, first = self.runs()
        if first:
            self.apply(Segments(bounds, self.table(first)))
            self.count()

    # ---- the parts of a step, which a captured one takes apart: its launches are recorded, the rest runs at each replay

    def runs(self) -> tuple[np.ndarray, list[int]]:
        """What the next update walks over, see `Arena.runs`: a run is of one group and of parameters updated equally often."""
        self.check_own_values("a step")
        keys = [(id(group), int(n)) for (_, group), n in zip(self._members, self.steps, strict=True)]
        return self.arena.runs(keys)

    def table(self, first: Sequence[int]) -> np.ndarray:
        """The next update's hyper-parameters, a row a run: float64 (M, K)."""
        return np.array([self.hyper(self._members[i][1], int(self.steps[i]) + 1) for i in first], np.float64)

    def apply(self, segments: Segments, report: StepReport | None = None) -> None:
        """Launch an update of these segments, and count nothing."""
        clip = None
        if self.clip_norm is not None or self.arena.scaling is not None:
            most = np.inf if self.clip_norm is None else self.clip_norm
            clip = self.arena.backend.gradient_norm(self.arena, segments, max_norm=most)
        self.grad_norm = None if self.clip_norm is None else clip
        self.prepare(clip)
        guard = Guard(clip, report)
        self.arena.backend.update(self.rule, self.arena, segments, guard)
        guard = guard.behind(self.arena)
        self._clip_units(guard)
        for follower in self.followers:
            follower.follow(guard)
        self.arena.count_updates()

    def _clip_units(self, guard: Guard) -> None:
        arena = self.arena
        for i, (parameter, group) in enumerate(self._members):
            if group["max_norm"] is None or not arena.written[i] or not parameter.matrix:
                continue
            shape = -1, parameter.shape[-1]
            shadow = None if arena.shadow is None else arena.shadow_views[i].reshape(shape)
            arena.backend.clip_units(arena.views[i].reshape(shape), group["max_norm"], shadow, guard)

    def recorded(self) -> list[Any]:
        """What a record of an update has frozen beside the arena: where it changes, the step must be recorded again."""
        limits = (group["max_norm"] for group in self.groups)
        return [*self.options().values(), *limits, *(value for f in self.followers for value in f.recorded())]

    def count(self) -> None:
        """StepReport that every parameter with a gradient has had one update more."""
        self.steps = self.steps + np.array(self.arena.written)

    def state_dict(self) -> dict[str, Any]:
        """Hyper-parameters of the groups, and each parameter's number of updates and slots, as host arrays."""
        to_numpy, scaling = self.arena.backend.to_numpy, self.arena.scaling
        return {
            "options": self.options(),
            "groups": [{k: v for k, v in g.items() if k != "params"} for g in self.groups],
            "steps": self.steps.tolist(),
            "slots": {
                name: [to_numpy(self.arena.slot_view(name, i)).copy() for i in range(len(self.arena))]
                for name in self.arena.slots
            },
            **({} if scaling is None else {"scaling": to_numpy(scaling).tolist()}),
        }

    def options(self) -> dict[str, Any]:
        """What is the same for all groups."""
        return {"clip_norm": self.clip_norm}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave; ValueError or TypeError, and no change, if it is another optimizer's or model's.

        The state of loss scaling is taken up where both have one.
        """
        self._check_state(state)
        shapes, dtype = self.arena.shapes, self.arena.dtype
        slots = {
            name: [
                loaded(f"{self.name}: the state's {name} {i}", value, shapes[i], dtype)
                for i, value in enumerate(values)
            ]
            for name, values in state["slots"].items()
        }
        for group, saved in zip(self.groups, state["groups"], strict=True):
            group.update(_tuples(saved))
        self.steps = np.array(state["steps"], np.int64)
        backend = self.arena.backend
        if self.arena.scaling is not None and "scaling" in state:
            backend.copy(backend.asarray(np.array(state["scaling"], np.float32)), out=self.arena.scaling)
        for name, values in slots.items():
            for i, value in enumerate(values):
                backend.copy(backend.asarray(value), out=self.arena.slot_view(name, i))

    def _check_state(self, state: Mapping[str, Any]) -> None:
        if not isinstance(state, Mapping):
            raise TypeError(f"{self.name}: a state is what state_dict gives, got {type(state).__name__}")
        parts = set(self.state_dict()) - {"scaling"}
        if set(state) - {"scaling"} != parts:
            raise ValueError(f"{self.name}: the state holds {sorted(state)} but takes {sorted(parts)}")
        check_counts(self.name, "the state's steps", state["steps"])
        for what, own, given in (
            ("slots", sorted(self.arena.slots), sorted(state["slots"])),
            ("number of groups", len(self.groups), len(state["groups"])),
            ("number of parameters", len(self.arena), len(state["steps"])),
            ("options", self.options(), dict(state["options"])),
        ):
            if given != own:
                raise ValueError(f"{self.name}: the state's {what} {given} differ from {own} here")
        for name, values in state["slots"].items():
            shapes = [np.shape(value) for value in values]
            if shapes != self.arena.shapes:
                raise ValueError(f"{self.name}: the state's {name} has shapes {shapes} but takes {self.arena.shapes}")
        if "scaling" in state:
            check_scaling(self.name, state["scaling"])
        for own, saved in zip(self.groups, state["groups"], strict=True):
            names = sorted(set(own) - {"params"})
            if sorted(saved) != names:
                raise ValueError(f"{self.name}: a group of the state has {sorted(saved)} but takes {names}")
            self.check(_tuples(saved))

    def _check_free(self, members: Iterable[tuple[Parameter, Group]]) -> None:
        """ValueError where another optimizer holds one of the parameters."""
        held = [parameter for parameter, _ in members if parameter.held]
        if held:
            collect()  # an optimizer that only averages refer to, and it to them
        for parameter in held:
            if parameter.held:
                raise ValueError(
                    f"{self.name}: a parameter of shape {parameter.shape} is held by another optimizer; "
                    "call that one's release() first"
                )

    def _checked_members(self) -> list[tuple[Parameter, Group]]:
        members = [(p, g) for g in self.groups for p in g["params"]]
        if not members:
            raise ValueError(f"{self.name}: got no parameters")
        unique: dict[int, tuple[Parameter, Group]] = {}
        for parameter, group in members:
            if not isinstance(parameter, Parameter):
                raise TypeError(f"{self.name}: takes parameters, got {type(parameter).__name__}")
            held = unique.setdefault(id(parameter), (parameter, group))
            if held[1] is not group:
                raise ValueError(f"{self.name}: a parameter of shape {parameter.shape} is in two groups")
        self._check_free(unique.values())
        result = list(unique.values())
        backends, dtypes = {p.backend for p, _ in result}, {p.dtype.name for p, _ in result}
        if len(backends) > 1:
            names = ", ".join(sorted(b.name for b in backends))
            raise BackendError(
                f"{self.name}: parameters are on {names} but must be on one backend; move the model first"
            )
        if len(dtypes) > 1:
            raise TypeError(f"{self.name}: parameters are {', '.join(sorted(dtypes))} but must be of one dtype")
        return result


def check_optimizer(owner: str, optimizer: Any) -> None:
    """TypeError for what is no optimizer."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{owner}: optimizer is {type(optimizer).__name__} but takes an optimizer of gpunet.optim")


def _tuples(group: Mapping[str, Any]) -> Group:
    """Hyper-parameters as they were before JSON made lists of tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in group.items()}
