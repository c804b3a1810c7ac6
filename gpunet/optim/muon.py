"""Muon: momentum whose matrices are made orthogonal before each step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import sqrt
from typing import Any, ClassVar, Unpack

from gpunet.autograd import Parameter
from gpunet.backends.contract import Array, Backend, Product
from gpunet.geometry import positive_int
from gpunet.modes import mode
from gpunet.optim.adam import adam_columns
from gpunet.optim.checks import NOT_NEGATIVE, check_number
from gpunet.optim.groups import Group, Params, Shared
from gpunet.optim.optimizer import Optimizer

__all__ = ["Muon"]

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Jordan's coefficients a, b, c: five steps bring singular values from about 0.01 to 1 to between
0.7 and 1.2."""
TINY = 1e-14
"""Added to the square of the norm that a matrix is divided by."""


class Muon(Optimizer):
    """Muon (Jordan 2024) for filters and dense weights, AdamW for everything else.

    A matrix (fan in, O), which is (KH KW C, O) for filters, moves along its momentum after a
    Newton-Schulz iteration has brought all singular values of the momentum near 1; the step is
    multiplied by the root of max(1, O / fan in). Its weight decay is decoupled.

    A group's "rule" is ``"muon"``, ``"adamw"`` or ``"sgd"``. A group without one is split:
    parameters that are a `Parameter.matrix` are updated by Muon with the group's "lr", all others
    (transposed convolutions and locally connected layers too) by AdamW with its "adam_lr", which a
    group with a rule does not take. First and last layers often train better with AdamW:

    ```python
    from gpunet import nn, optim

    hidden, head = nn.Linear(64, 64), nn.Linear(64, 10)
    adamw = {"params": head.parameters(), "rule": "adamw", "lr": 1e-3}
    optimizer = optim.Muon([{"params": hidden.parameters()}, adamw], lr=0.02)
    ```

    A group of the rule "sgd" is updated as `SGD` does it, with the group's "momentum", "nesterov"
    and either kind of weight decay.

    Args:
        params: parameters, or groups of them: see `Optimizer`. The attribute `groups` holds those
            after the split.
        lr: learning rate of the matrices.
        momentum: share of the momentum that is kept.
        nesterov: look ahead along the momentum.
        ns_steps: steps of the Newton-Schulz iteration.
        normalize: before each step, scale each matrix to the 2-norm sqrt(O), so that filters have a
            mean square norm of 1 (Jordan 2024, "94% on CIFAR-10", airbench94_muon). It suits layers
            whose scale has no effect, since a norm follows. A step that is skipped scales too.
        adam_lr: learning rate of the parameters that AdamW updates.
        betas, eps: as for `AdamW`, for the same parameters.
        shared: see `Shared`; `l1` must be 0 and `decoupled_weight_decay` True.
    """

    rule = "muon"
    shared_defaults: ClassVar[Shared] = {"decoupled_weight_decay": True}
    added: ClassVar[dict[str, Any]] = {"ns_steps": 5, "normalize": False}
    """Hyper-parameters that the states of version 0.2 lack, with the values that stood for them."""

    def __init__(
        self,
        params: Params,
        lr: float = 0.02,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        normalize: bool = False,
        adam_lr: float = 3e-4,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        **shared: Unpack[Shared],
    ):
        given: Any = params
        if isinstance(given, Iterable):
            given = list(given)
            groups = given if given and isinstance(given[0], dict) else [{"params": given}]
            given = [part for group in groups for part in _split(group, adam_lr)] if given else given
        own = {"momentum": momentum, "nesterov": nesterov, "ns_steps": ns_steps, "normalize": normalize}
        super().__init__(given, shared, lr=lr, rule="muon", betas=betas, eps=eps, **own)

    def check(self, group: Group) -> None:
        """See `Optimizer.check`."""
        super().check(group)
        positive_int("Muon", "ns_steps", group["ns_steps"])
        if group["rule"] not in ("muon", "adamw", "sgd"):
            raise ValueError(f"Muon: rule is {group['rule']!r} but takes 'muon', 'adamw', 'sgd' or None")
        if group["l1"] or not (group["decoupled_weight_decay"] or group["rule"] == "sgd"):
            raise ValueError("Muon: takes only decoupled weight decay, no l1 and no decay added to the gradient")
        shapes = [p.shape for p in group.get("params", ()) if isinstance(p, Parameter) and not p.matrix]
        if group["rule"] == "muon" and shapes:
            raise ValueError(
                f"Muon: a parameter {shapes[0]} is no matrix; give its group the rule 'adamw', 'sgd' or None"
            )

    def own(self, group: Group, step: int) -> tuple[float, ...]:
        """See `Optimizer.own`."""
        if group["rule"] == "adamw":
            return *adam_columns(group, step), 0.0
        return group["momentum"], 0.0, 1.0, 1.0, 1.0, 1.0

    def prepare(self, clip: Array | None) -> None:
        """Write the direction of each parameter without AdamW to the slot "square".

        Matrices that are to be normalised are scaled here.
        """
        arena, backend = self.arena, self.arena.backend
        by = None if clip is None else clip[1:]
        for i, (parameter, group) in enumerate(self._members):
            if group["rule"] == "adamw" or not arena.written[i]:
                continue
            direction = self._ahead(i, group, by)
            if group["rule"] == "muon":
                shape = parameter.size // parameter.shape[-1], parameter.shape[-1]
                if group["normalize"]:
                    w = arena.views[i].reshape(shape)
                    backend.copy(backend.scale(_unit(backend, w), None, sqrt(shape[1])), out=w)
                direction = orthogonal(backend, direction.reshape(shape), group["ns_steps"])
                direction = backend.scale(direction, None, sqrt(max(1.0, shape[1] / shape[0])))
            backend.copy(direction.reshape(parameter.shape), out=arena.slot_view("square", i))

    def _ahead(self, i: int, group: Group, by: Array | None) -> Array:
        """The i-th parameter's momentum of this step or, with Nesterov, one step ahead of it.

        The momentum is momentum' = m before + (1 - m) g, and ahead of it lies m momentum' + (1 - m)
        g. For "sgd" both are divided by 1 - m: then they are the sums of gradients that `SGD` goes
        along.
        """
        arena, backend, m = self.arena, self.arena.backend, group["momentum"]
        kept, fresh = (m * m, 1 - m * m) if group["nesterov"] else (m, 1 - m)
        if group["rule"] == "sgd":
            kept, fresh = kept / (1 - m), fresh / (1 - m)
        parts = [backend.scale(arena.slot_view("mean", i), None, kept)]
        if decay := _added_decay(group):
            parts.append(backend.scale(arena.views[i], None, fresh * decay))
        ahead = backend.scale(arena.grad_views[i], by, fresh)
        for part in parts:
            backend.binary("add", ahead, part, out=ahead)
        return ahead

    def recorded(self) -> list[Any]:
        """See `Optimizer.recorded`."""
        names = "rule", "momentum", "nesterov", "ns_steps", "normalize"
        frozen = ((*(group[name] for name in names), _added_decay(group)) for group in self.groups)
        return [*super().recorded(), *frozen]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Optimizer.load_state_dict`."""
        if isinstance(state, Mapping) and "groups" in state:
            state = {**state, "groups": [{**self.added, **group} for group in state["groups"]]}
        super().load_state_dict(state)


def orthogonal(backend: Backend, x: Array, steps: int) -> Array:
    """About U V^T of x = U S V^T (R, O), by a Newton-Schulz iteration.

    x is divided by its norm; then x = a x + (b A + c A^2) x in each of the steps, with A = x x^T.
    Where R > O, the same result comes from the smaller products x (b A + c A^2) with A = x^T x. The
    products have the precision of the innermost `matrix_precision` context, such as a Trainer's.
    """
    a, b, c = NEWTON_SCHULZ
    rows, columns = x.shape
    x = _unit(backend, x)
    tall, precision = rows > columns, mode.matrix_precision
    for _ in range(steps):
        gram = backend.matmul(x, x, Product(transpose_a=tall, transpose_b=not tall, precision=precision))
        mixed, square = backend.scale(gram, None, b), backend.matmul(gram, gram, Product(precision=precision))
        backend.binary("add", mixed, backend.scale(square, None, c), out=mixed)
        pair = (x, mixed) if tall else (mixed, x)
        x = backend.matmul(*pair, Product(out=backend.scale(x, None, a), add=True, precision=precision))
    return x


def _unit(backend: Backend, x: Array) -> Array:
    """x (R, O) divided by its 2-norm."""
    square = backend.sum(backend.binary("multiply", x, x), (0, 1))
    norm = backend.unary("sqrt", backend.binary("add", square, backend.full((), TINY, x.dtype)))
    return backend.binary("divide", x, norm)


def _added_decay(group: Group) -> float:
    """The factor of the weight that is added to its gradient."""
    return 0.0 if group["decoupled_weight_decay"] else float(group["weight_decay"])


def _split(group: Group, adam_lr: float) -> list[Group]:
    """The group itself if it has a rule, else one of its matrices and one of the rest."""
    group = {**group, "params": list(group["params"])}
    if group.get("rule") is not None:
        if "adam_lr" in group:
            raise ValueError(f"Muon: a group of rule {group['rule']!r} takes no adam_lr; set its lr")
        return [group]
    rest_lr = group.pop("adam_lr", adam_lr)
    check_number("Muon", "adam_lr", rest_lr, NOT_NEGATIVE)
    matrices = [p for p in group["params"] if getattr(p, "matrix", True)]
    rest = [p for p in group["params"] if not getattr(p, "matrix", True)]
    parts = [{**group, "params": matrices, "rule": "muon"}, {**group, "params": rest, "rule": "adamw", "lr": rest_lr}]
    return [part for part in parts if part["params"]]
