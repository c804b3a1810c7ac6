"""Optimizers that scale each step by the gradients before it, or take its sign alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Unpack

from gpunet.autograd import Parameter
from gpunet.optim.checks import POSITIVE, SHARE, check_betas, check_numbers
from gpunet.optim.optimizer import Group, Optimizer, Shared


class RMSprop(Optimizer):
    """RMSprop (Tieleman & Hinton 2012, lecture 6.5): the gradient over the root of its square's mean, with momentum.

    Args:
        parameters: as for `Optimizer`.
        lr: learning rate.
        alpha: decay rate of the square's mean.
        eps: added to its root.
        momentum: share of the last step that is kept, 0 to 1.
        shared: see `Shared`.
    """

    rule = "rmsprop"

    def __init__(
        self,
        parameters: Iterable[Parameter] | Iterable[Group],
        lr: float = 0.01,
        *,
        alpha: float = 0.99,
        eps: float = 1e-8,
        momentum: float = 0.0,
        **shared: Unpack[Shared],
    ):
        super().__init__(parameters, shared, lr=lr, alpha=alpha, eps=eps, momentum=momentum)

    def slots(self) -> tuple[str, ...]:
        """The square's mean; the momentum, if a group has one."""
        square, momentum = super().slots()
        return (square, momentum) if any(group["momentum"] for group in self.groups) else (square,)

    def check(self, group: Group) -> None:
        """See `Optimizer.check`."""
        super().check(group)
        check_numbers(self.name, group, SHARE, "alpha", "momentum")
        check_numbers(self.name, group, POSITIVE, "eps")

    def own(self, group: Group, step: int) -> tuple[float, ...]:
        """See `Optimizer.own`."""
        return group["alpha"], group["eps"], group["momentum"]


class Adagrad(Optimizer):
    """Adagrad (Duchi, Hazan & Singer 2011, equation 1, with a diagonal matrix): the gradient over the root of the sum of all
    its squares.

    Args:
        parameters: as for `Optimizer`.
        lr: learning rate.
        eps: added to the root.
        shared: see `Shared`.
    """

    rule = "adagrad"

    def __init__(
        self,
        parameters: Iterable[Parameter] | Iterable[Group],
        lr: float = 0.01,
        *,
        eps: float = 1e-10,
        **shared: Unpack[Shared],
    ):
        super().__init__(parameters, shared, lr=lr, eps=eps)

    def check(self, group: Group) -> None:
        """See `Optimizer.check`."""
        super().check(group)
        check_numbers(self.name, group, POSITIVE, "eps")

    def own(self, group: Group, step: int) -> tuple[float, ...]:
        """See `Optimizer.own`."""
        return (group["eps"],)


class Lion(Optimizer):
    """Lion (Chen et al. 2023, algorithm 2): every weight moves by the learning rate, up or down, with decoupled weight decay.

    Args:
        parameters: as for `Optimizer`.
        lr: learning rate; 3 to 10 times smaller than AdamW's (section 5 there), its decay as much larger.
        betas: share of the mean in the step, and decay rate of the mean.
        shared: see `Shared`; the decay is decoupled unless told otherwise.
    """

    rule = "lion"

    def __init__(
        self,
        parameters: Iterable[Parameter] | Iterable[Group],
        lr: float = 1e-4,
        *,
        betas: tuple[float, float] = (0.9, 0.99),
        **shared: Unpack[Shared],
    ):
        super().__init__(parameters, {"decoupled": True, **shared}, lr=lr, betas=betas)

    def check(self, group: Group) -> None:
        """See `Optimizer.check`."""
        super().check(group)
        check_betas(self.name, group["betas"])

    def own(self, group: Group, step: int) -> tuple[float, ...]:
        """See `Optimizer.own`."""
        return group["betas"]
