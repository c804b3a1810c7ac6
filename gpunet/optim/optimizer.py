"""`Optimizer`: one update of a whole arena for each step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Protocol
from weakref import ref

import numpy as np

from gpunet.arena import Arena
from gpunet.autograd import Parameter, Tensor, backward
from gpunet.backends.contract import RULES, Array, Backend, Guard, Segments, StepReport
from gpunet.errors import BackendError
from gpunet.optim.checks import NOT_NEGATIVE, POSITIVE, SHARE, check_betas, check_counts, check_number, check_scaling
from gpunet.optim.groups import Group, Params, Shared, check_free, make_groups, members_of, with_tuples
from gpunet.precision import loaded

__all__ = ["Optimizer"]


RANGES = {
    "lr": NOT_NEGATIVE, "weight_decay": NOT_NEGATIVE, "l1": NOT_NEGATIVE,
    "max_norm": POSITIVE, "eps": POSITIVE, "alpha": SHARE, "momentum": SHARE,
}  # fmt: skip
"""What each hyper-parameter must be, whichever optimizer has it."""


class Follower(Protocol):
    """Something that every update launches behind itself on the device, such as averages."""

    applying: bool
    """Whether the parameters hold the follower's values at present; then no step may change
    them."""

    def follow(self, guard: Guard) -> None:
        """Launch its part of a step, with the guard of the launches behind the update."""

    def applied(self, averages: bool = True) -> AbstractContextManager[None]:
        """Inside, the parameters hold the follower's values, or their own ones if False."""

    def recorded(self) -> list[Any]:
        """See `Optimizer.recorded`."""

    def arrays(self) -> list[Array]:
        """What it keeps, on the backend of the parameters."""


class Optimizer:
    """Gathers parameters into an arena, and updates those that have a gradient by its `rule`.

    Args:
        params: parameters, or groups ``{"params": […], "lr": …}`` that override the other
            arguments.
        shared: see `Shared`.
        own: hyper-parameters of the rule, for the groups that do not name them.
    Attributes:
        groups: one dict for each group, with "params" and every hyper-parameter; a schedule sets
            "lr" here.
        grad_norm: (norm, scale) of the last step's gradients on the backend, if `clip_norm` is set.
        steps: how many updates each parameter has had, with those that an overflow of a scaled loss
            skipped.
    Raises:
        ValueError: a hyper-parameter out of range, no parameters, one that is in two groups, or one
            that another optimizer holds.
        TypeError: an argument that the optimizer does not have, or what is no parameter or number.
        BackendError: parameters on several backends.
    """

    rule: ClassVar[str]
    """One of `contract.update.RULES`; `UpdatePrimitives.update` states its formula."""
    shared_defaults: ClassVar[Shared] = {}
    """What this optimizer takes instead of the defaults of `Shared`."""

    def __init__(self, params: Params, shared: Shared, **own: Any):
        self.name = type(self).__name__
        shared = self.shared_defaults | shared
        self.groups = make_groups(type(self), params, shared, own)
        for group in self.groups:
            self.check(group)
        self.clip_norm = shared.get("clip_norm")
        if self.clip_norm is not None:
            check_number(self.name, "clip_norm", self.clip_norm, POSITIVE)
        self.grad_norm: Array | None = None
        self._members = members_of(self.name, self.groups)
        first = self._members[0][0]
        self._gather(first.backend, first.dtype)
        for slot in self.slots():
            self.arena.add_slot(slot)
        self.steps = np.zeros(len(self._members), np.int64)
        self.followers: list[Follower] = []

    def _gather(self, backend: Backend, dtype: Any) -> None:
        """Make the arena, and move the parameters into it."""
        self.arena = Arena(backend, [p.shape for p, _ in self._members], dtype)
        self.arena.owner = ref(self)
        for i, (parameter, _) in enumerate(self._members):
            parameter.adopt(self.arena, i)

    # ---- copies and pickles, see `Parameter`

    def __getstate__(self) -> dict[str, Any]:
        """The state for a copy or a pickle; RuntimeError where the parameters hold averages."""
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
        check_free(self.name, self._members)
        self._gather(backend, dtype)
        self.arena.restore(kept)
        if self.grad_norm is not None:
            self.grad_norm = backend.copy(backend.asarray(self.grad_norm))

    def __copy__(self) -> Any:
        raise TypeError(f"{self.name}: only one optimizer may hold the parameters; use copy.deepcopy, not copy.copy")

    def slots(self) -> tuple[str, ...]:
        """Names of the arrays that the rule keeps in the arena beside the parameters."""
        return RULES[self.rule].slots

    def check(self, group: Group) -> None:
        """Raise ValueError for a hyper-parameter out of range, TypeError unless it is a number."""
        for name, within in RANGES.items():
            if name in group and not (name == "max_norm" and group[name] is None):
                check_number(self.name, name, group[name], within)
        if "betas" in group:
            check_betas(self.name, group["betas"])

    def own(self, group: Group, step: int) -> tuple[float, ...]:
        """The columns `Rule.own` of the rule, for a parameter at its `step`-th update."""
        return tuple(group[name] for name in RULES[self.rule].own)

    def hyper(self, group: Group, step: int) -> tuple[float, ...]:
        """A row of the update's table of hyper-parameters."""
        decays = group["weight_decay"], 0.0
        decay, decoupled = decays[::-1] if group["decoupled_weight_decay"] else decays
        return group["lr"], decay, group["l1"], decoupled, *self.own(group, step)

    def prepare(self, clip: Array | None) -> None:
        """Launch what must be computed before the update: nothing, for most rules."""

    def release(self) -> None:
        """Give up the parameters, with values and gradients, for another optimizer to take.

        Averages that followed this optimizer end here: they raise wherever they are used
        afterwards.
        """
        self.check_own_values("release()")
        for parameter, _ in self._members:
            parameter.release()
        self._members, self.groups, self.followers = [], [], []
        self._gather(self.arena.backend, self.arena.dtype)  # of nothing

    def holds(self, parameters: Iterable[Parameter]) -> bool:
        """Whether at least one of these is a parameter of this optimizer."""
        own = {id(parameter) for parameter, _ in self._members}
        return any(id(parameter) in own for parameter in parameters)

    def own_values(self) -> AbstractContextManager[None]:
        """Inside, the parameters hold their own values, even where averages are applied outside."""
        applying = next((follower for follower in self.followers if follower.applying), None)
        return nullcontext() if applying is None else applying.applied(False)

    def check_own_values(self, what: str) -> None:
        """Raise RuntimeError where the parameters hold averages, which make `what` impossible."""
        if any(follower.applying for follower in self.followers):
            raise RuntimeError(f"{self.name}: {what} inside applied(), where averages stand for the parameters")

    def scale_losses(self, scale: float = 2.0**16) -> None:
        """Multiply losses in `backward` from now on, so that float16 gradients do not round to 0.

        The scale stays on the device, and changes there: see `FlatStorage.scaling`. bfloat16 needs
        none.

        Args:
            scale: the first one; a power of two, so that nothing is rounded.
        Raises:
            BackendError: a backend that does not store 16 bits.
        """
        if "float16" not in self.arena.backend.narrow:
            raise BackendError(f"{self.name}: scaled losses take a CUDA backend, got {self.arena.backend.name}")
        if not (scale > 0 and np.frexp(scale)[0] == 0.5):
            raise ValueError(f"{self.name}: scale is {scale} but must be a power of two")
        self.arena.scaling = self.arena.backend.asarray(np.array([scale, 0, 0], np.float32))

    def compute_in(self, dtype: str) -> None:
        """Prepare for 16-bit operations: shadow the parameters, and scale losses for float16."""
        self.arena.keep_shadow(dtype)
        if dtype == "float16" and self.arena.scaling is None:
            self.scale_losses()

    def backward(
        self, loss: Tensor, weight: float | Array = 1.0, filled: Callable[[Tensor], None] | None = None
    ) -> None:
        """Call ``loss.backward()``, for the scaled loss if `scale_losses` was called.

        Args:
            weight: factor of the loss beside others whose gradients are added up before a step: a
                number, or an array of one element on the backend.
            filled: as for `autograd.backward`.
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
        backward(loss, None if seed is None else seed.reshape(loss.shape), filled=filled)

    def zero_grad(self) -> None:
        """Forget all gradients; no array is filled, for the next backward overwrites them."""
        self.arena.written = [False] * len(self.arena)

    def step(self) -> None:
        """Update every parameter that has a gradient."""
        bounds, first = self.runs()
        if first:
            self.apply(Segments(bounds, self.table(first)))
            self.count()

    # ---- the parts of a step: a captured step records `apply`, and runs the rest at each replay

    def runs(self) -> tuple[np.ndarray, list[int]]:
        """`Arena.runs` of the next update, each of one group and of equally many updates."""
        self.check_own_values("a step")
        keys = [(id(group), int(n)) for (_, group), n in zip(self._members, self.steps, strict=True)]
        return self.arena.runs(keys)

    def table(self, first: Sequence[int]) -> np.ndarray:
        """The next update's hyper-parameters, one row for each run: float64 (M, K)."""
        return np.array([self.hyper(self._members[i][1], int(self.steps[i]) + 1) for i in first], np.float64)

    def apply(self, segments: Segments, report: StepReport | None = None) -> None:
        """Launch an update of these segments, and what follows it, without counting it."""
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
        """The values that a recorded update has frozen; if one changes, record it again."""
        limits = (group["max_norm"] for group in self.groups)
        return [*self.options().values(), *limits, *(value for f in self.followers for value in f.recorded())]

    def count(self) -> None:
        """Count one more update of every parameter that has a gradient."""
        self.steps = self.steps + np.array(self.arena.written)

    def state_dict(self) -> dict[str, Any]:
        """The groups' hyper-parameters, and each parameter's updates and slots, on the host."""
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
        """Hyper-parameters that are the same for all groups."""
        return {"clip_norm": self.clip_norm}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned; the state of loss scaling only where both have one.

        Raises:
            TypeError, ValueError: the state is of another optimizer or model; then nothing is
                changed.
        """
        self._check_state(state)
        shapes, dtype = self.arena.shapes, self.arena.dtype
        slots: dict[str, list[np.ndarray]] = {}
        for name, values in state["slots"].items():
            what = f"{self.name}: the state's {name}"
            slots[name] = [loaded(f"{what} {i}", value, shapes[i], dtype) for i, value in enumerate(values)]
        for group, saved in zip(self.groups, state["groups"], strict=True):
            group.update(with_tuples(saved))
        self.steps = np.array(state["steps"], np.int64)
        backend = self.arena.backend
        if self.arena.scaling is not None and "scaling" in state:
            backend.copy(backend.asarray(np.array(state["scaling"], np.float32)), out=self.arena.scaling)
        for name, values in slots.items():
            for i, value in enumerate(values):
                backend.copy(backend.asarray(value), out=self.arena.slot_view(name, i))

    def _check_state(self, state: Mapping[str, Any]) -> None:
        if not isinstance(state, Mapping):
            raise TypeError(f"{self.name}: a state is what state_dict returns, got {type(state).__name__}")
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
            self.check(with_tuples(saved))


def check_optimizer(owner: str, optimizer: Any) -> None:
    """Raise TypeError unless it is an optimizer."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{owner}: optimizer is {type(optimizer).__name__} but takes an optimizer of gpunet.optim")
