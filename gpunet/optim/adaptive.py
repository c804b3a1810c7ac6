"""Optimizers that divide each step by the size of earlier gradients, or take only its sign."""

from __future__ import annotations

from typing import ClassVar, Unpack

from gpunet.optim.groups import Group, Params, Shared
from gpunet.optim.optimizer import Optimizer

__all__ = ["Adagrad", "Lion", "RMSprop"]


class RMSprop(Optimizer):
    """RMSprop (Tieleman & Hinton 2012, lecture 6.5): divides by the root of the mean square.

    Args:
        params: parameters, or groups of them: see `Optimizer`.
        lr: learning rate.
        alpha: decay rate of the mean of the square.
        eps: added to the root of that mean.
        momentum: share of the last step that is kept, from 0 to below 1.
        shared: see `Shared`.
    """

    rule = "rmsprop"

    def __init__(
        self,
        params: Params,
        lr: float = 0.01,
        *,
        alpha: float = 0.99,
        eps: float = 1e-8,
        momentum: float = 0.0,
        **shared: Unpack[Shared],
    ):
        super().__init__(params, shared, lr=lr, alpha=alpha, eps=eps, momentum=momentum)

    def slots(self) -> tuple[str, ...]:
        """The mean of the square, and the momentum if a group has one."""
        square, momentum = super().slots()
        return (square, momentum) if any(group["momentum"] for group in self.groups) else (square,)


class Adagrad(Optimizer):
    """Adagrad (Duchi et al. 2011, equation 1, diagonal): divides by the root of the sum of squares.

    Args:
        params: parameters, or groups of them: see `Optimizer`.
        lr: learning rate.
        eps: added to the root.
        shared: see `Shared`.
    """

    rule = "adagrad"

    def __init__(self, params: Params, lr: float = 0.01, *, eps: float = 1e-10, **shared: Unpack[Shared]):
        super().__init__(params, shared, lr=lr, eps=eps)


class Lion(Optimizer):
    """Lion (Chen et al. 2023, algorithm 2): moves every weight up or down by the learning rate.

    Args:
        params: parameters, or groups of them: see `Optimizer`.
        lr: learning rate; section 5 of the paper advises 3 to 10 times less than AdamW's, with as
            much more weight decay.
        betas: share of the mean in the step, and decay rate of the mean.
        shared: see `Shared`; `decoupled_weight_decay` is True by default.
    """

    rule = "lion"
    shared_defaults: ClassVar[Shared] = {"decoupled_weight_decay": True}

    def __init__(
        self, params: Params, lr: float = 1e-4, *, betas: tuple[float, float] = (0.9, 0.99), **shared: Unpack[Shared]
    ):
        super().__init__(params, shared, lr=lr, betas=betas)

    def own(self, group: Group, step: int) -> tuple[float, ...]:
        """See `Optimizer.own`."""
        return group["betas"]
