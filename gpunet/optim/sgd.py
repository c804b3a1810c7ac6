"""Stochastic gradient descent."""

from __future__ import annotations

from typing import Unpack

from gpunet.optim.groups import Group, Params, Shared
from gpunet.optim.optimizer import Optimizer

__all__ = ["SGD"]


class SGD(Optimizer):
    """Stochastic gradient descent with momentum.

    Args:
        params: parameters, or groups of them: see `Optimizer`.
        lr: learning rate.
        momentum: share of the last velocity that is kept (Polyak 1964), from 0 to below 1.
        nesterov: look ahead along the velocity (Sutskever et al. 2013, section 2).
        shared: see `Shared`.
    """

    rule = "sgd"

    def __init__(
        self, params: Params, lr: float, *, momentum: float = 0.0, nesterov: bool = False, **shared: Unpack[Shared]
    ):
        super().__init__(params, shared, lr=lr, momentum=momentum, nesterov=nesterov)

    def slots(self) -> tuple[str, ...]:
        """The momentum, if a group has one."""
        return super().slots() if any(group["momentum"] for group in self.groups) else ()

    def check(self, group: Group) -> None:
        """See `Optimizer.check`."""
        super().check(group)
        if group["nesterov"] and not group["momentum"]:
            raise ValueError("SGD: nesterov needs a momentum above 0")
