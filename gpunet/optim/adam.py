"""Adam and AdamW."""

from __future__ import annotations

from typing import ClassVar, Unpack

from gpunet.optim.groups import Group, Params, Shared
from gpunet.optim.optimizer import Optimizer

__all__ = ["Adam", "AdamW"]


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015): scales each step by running means of the gradient and of its square.

    Args:
        params: parameters, or groups of them: see `Optimizer`.
        lr: learning rate.
        betas: decay rates of the mean of the gradient, and of the mean of its square.
        eps: added to the root of the mean of the square.
        shared: see `Shared`.
    """

    rule = "adam"

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        **shared: Unpack[Shared],
    ):
        super().__init__(params, shared, lr=lr, betas=betas, eps=eps)

    def own(self, group: Group, step: int) -> tuple[float, ...]:
        """See `Optimizer.own`."""
        return adam_columns(group, step)


def adam_columns(group: Group, step: int) -> tuple[float, ...]:
    """Adam's own columns of `contract.update.RULES`, for a parameter at its `step`-th update."""
    beta1, beta2 = group["betas"]
    return beta1, beta2, group["eps"], 1 - beta1 ** max(step, 1), 1 - beta2 ** max(step, 1)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), which is 0.01 by default.

    Each step shrinks the weights by lr weight_decay, as PyTorch's does; in the paper's algorithm 2
    the decay is multiplied by the schedule alone. Arguments are those of `Adam`.
    """

    shared_defaults: ClassVar[Shared] = {"weight_decay": 0.01, "decoupled_weight_decay": True}
