"""Parameter groups: an optimizer's parameters with their hyper-parameters, and their checks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from gc import collect
from inspect import signature
from typing import Any, TypedDict

from gpunet.autograd import Parameter
from gpunet.errors import BackendError

Group = dict[str, Any]
"""The parameters of a group, by the key "params", and its hyper-parameters by their names."""
Params = Iterable[Parameter] | Iterable[Group]
"""What an optimizer takes: parameters, or groups of them."""
Member = tuple[Parameter, Group]
"""A parameter and the group that it belongs to."""


class Shared(TypedDict, total=False):
    """What every optimizer takes; all but `clip_norm` may differ from group to group."""

    clip_norm: float | None
    """Scale the gradients down to this global 2-norm before the update; None, the default, for no
    limit."""
    weight_decay: float
    """L2 regularisation: times the weight, added to the gradient; 0 unless the optimizer says
    otherwise."""
    decoupled_weight_decay: bool
    """Have each step shrink the weights by lr weight_decay instead (Loshchilov & Hutter 2019)."""
    l1: float
    """L1 regularisation: times the weight's sign, added to the gradient; 0 by default."""
    max_norm: float | None
    """After each step, scale the weights that come into one unit down to this 2-norm (Srivastava et
    al. 2014, section 5.1); None, the default, for no limit. These are columns of a dense layer's
    weights (I, O) and filters of a convolution's (KH, KW, C, O). Parameters that are no
    `Parameter.matrix` have no limit: biases, norms, transposed convolutions, locally connected
    layers."""


def make_groups(optimizer: type, params: Any, shared: Shared, own: Mapping[str, Any]) -> list[Group]:
    """The groups of an optimizer, each with every hyper-parameter.

    Args:
        optimizer: the class, whose arguments the messages of errors name.
        params: parameters, or groups of them, which override the other arguments.
        shared: see `Shared`.
        own: hyper-parameters of the update rule.
    Raises:
        TypeError: no parameters, or an argument that the optimizer does not have.
        ValueError: an empty list, or a group with a key that the optimizer does not have.
    """
    name = optimizer.__name__
    if unknown := sorted(set(shared) - set(Shared.__annotations__)):
        named = [argument for argument in signature(optimizer).parameters if argument not in ("params", "shared")]
        raise TypeError(f"{name}: got {', '.join(unknown)} but takes {', '.join([*named, *Shared.__annotations__])}")
    if not isinstance(params, Iterable):
        raise TypeError(f"{name}: takes parameters, as model.parameters() returns them, got {type(params).__name__}")
    defaults = {**own, "weight_decay": 0.0, "decoupled_weight_decay": False, "l1": 0.0, "max_norm": None, **shared}
    defaults.pop("clip_norm", None)
    given: list[Any] = list(params)
    if not given:
        raise ValueError(f"{name}: got no parameters")
    groups: list[Group] = []
    for group in given if isinstance(given[0], dict) else [{"params": given}]:
        if unknown := sorted(set(group) - set(defaults) - {"params"}):
            raise ValueError(f"{name}: a group has no {', '.join(unknown)}; it takes {', '.join(defaults)}")
        groups.append({**defaults, **group, "params": list(group["params"])})
    return groups


def members_of(owner: str, groups: Iterable[Group]) -> list[Member]:
    """Each parameter of the groups once, with its group.

    Raises:
        TypeError: something that is no parameter, or parameters of several dtypes.
        ValueError: no parameters, one in two groups, or one that another optimizer holds.
        BackendError: parameters on several backends.
    """
    unique: dict[int, Member] = {}
    for group in groups:
        for parameter in group["params"]:
            if not isinstance(parameter, Parameter):
                raise TypeError(f"{owner}: takes parameters, got {type(parameter).__name__}")
            if unique.setdefault(id(parameter), (parameter, group))[1] is not group:
                raise ValueError(f"{owner}: a parameter of shape {parameter.shape} is in two groups")
    if not unique:
        raise ValueError(f"{owner}: got no parameters")
    members = list(unique.values())
    check_free(owner, members)
    backends, dtypes = {p.backend for p, _ in members}, {p.dtype.name for p, _ in members}
    if len(backends) > 1:
        names = ", ".join(sorted(b.name for b in backends))
        raise BackendError(f"{owner}: parameters are on {names} but must be on one backend; move the model first")
    if len(dtypes) > 1:
        raise TypeError(f"{owner}: parameters are {', '.join(sorted(dtypes))} but must be of one dtype")
    return members


def check_free(owner: str, members: Iterable[Member]) -> None:
    """Raise ValueError where another optimizer holds one of the parameters."""
    held = [parameter for parameter, _ in members if parameter.held]
    if held:
        collect()  # frees an optimizer that only its own averages refer to
    for parameter in held:
        if parameter.held:
            raise ValueError(f"{owner}: another optimizer holds a parameter {parameter.shape}: call its release()")


def with_tuples(group: Mapping[str, Any]) -> Group:
    """Hyper-parameters as they were before JSON made lists of tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in group.items()}
