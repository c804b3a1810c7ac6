"""Adam and AdamW."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Unpack

from gpunet.autograd import Parameter
from gpunet.optim.checks import POSITIVE, check_betas, check_numbers
from gpunet.optim.optimizer import Group, Optimizer, Shared


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015).

    Args:
        parameters: as for `Optimizer`.
        lr: learning rate.
        betas: decay rates of the gradient's mean and of its square's.
        eps: added to the root of the square's mean.
        shared: see `Shared`.
    """

    rule = "adam"

    def __init__(
        self,
        parameters: Iterable[Parameter] | Iterable[Group],
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        **shared: Unpack[Shared],
    ):
        super().__init__(parameters, shared, lr=lr, betas=betas, eps=eps)

    def check(self, group: Group) -> None:
        """See `Optimizer.check`."""
        super().check(group)
        check_betas(self.name, group["betas"])
        check_numbers(self.name, group, POSITIVE, "eps")

    def own(self, group: Group, step: int) -> tuple[float, ...]:
        """See `Optimizer.own`."""
        return adam_columns(group, step)


def adam_columns(group: Group, step: int) -> tuple[float, ...]:
    """Adam's own columns of `rules.RULES`."""
    beta1, beta2 = group["betas"]
    return beta1, beta2, group["eps"], 1 - beta1 ** max(step, 1), 1 - beta2 ** max(step, 1)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), of 0.01 by default."""

    def __init__(
        self,
        parameters: Iterable[Parameter] | Iterable[Group],
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        **shared: Unpack[Shared],
    ):
        decay: Shared = {"weight_decay": 0.01, "decoupled": True}
        super().__init__(parameters, lr, betas=betas, eps=eps, **(decay | shared))
