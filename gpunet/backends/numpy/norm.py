"""The normalisations of `NumpyBackend`."""

from __future__ import annotations

from abc import ABC

from gpunet.backends.contract.activation import Activation
from gpunet.backends.contract.arrays import Array
from gpunet.backends.contract.norm import Moments
from gpunet.backends.host import memory
from gpunet.backends.host.arrays import deliver
from gpunet.backends.numpy import batch_norm, group_norm
from gpunet.backends.numpy.output_activation import activate, open_activation
from gpunet.backends.numpy.threads import NumpyThreads


class NumpyNorm(NumpyThreads, ABC):
    """Batch and group normalisation."""

    def batch_norm_forward(
        self,
        x: Array,
        gamma: Array | None,
        beta: Array | None,
        running_mean: Array,
        running_var: Array,
        *,
        momentum: float,
        eps: float,
        training: bool,
        activation: Activation | None = None,
        residual: Array | None = None,
    ) -> tuple[Array, Moments]:
        saved = Moments(running_mean, running_var)
        if training:
            saved, n = batch_norm.moments(x, self._parallel)
            running_mean += momentum * (saved.mean - running_mean)
            running_var += momentum * (saved.variance * (n / (n - 1)) - running_var)
        apply = None if activation is None else lambda block: activate(block, activation, out=block)
        return batch_norm.normalize(x, gamma, beta, saved, eps, residual, apply, self._parallel), saved

    def batch_norm_backward(
        self,
        dy: Array,
        x: Array,
        y: Array | None,
        gamma: Array | None,
        saved: Moments,
        *,
        eps: float,
        training: bool,
        activation: Activation | None = None,
        residual: bool = False,
        gamma_out: Array | None = None,
        beta_out: Array | None = None,
        accumulate: bool = False,
    ) -> tuple[Array, Array, Array, Array | None]:
        g, fill = dy, None
        if activation is not None:  # opened once, by the sums, for both passes
            g = memory.empty(dy.shape, dy.dtype)
            rows, upstream, output = (batch_norm.as_rows(a) for a in (g, dy, y))

            def fill(i: int, j: int) -> None:
                rows[i:j] = open_activation(upstream[i:j], output[i:j], activation)

        sums = batch_norm.gradient_sums(g, x, saved, eps, fill, self._parallel)
        dx = memory.empty(x.shape, x.dtype) if residual or g is dy else g
        batch_norm.input_gradient(g, x, gamma, saved, eps, sums if training else None, dx, self._parallel)
        dgamma, dbeta = (total.astype(x.dtype) for total in sums)
        dgamma, dbeta = deliver(dgamma, gamma_out, accumulate), deliver(dbeta, beta_out, accumulate)
        return dx, dgamma, dbeta, g if residual else None

    def group_norm_forward(
        self, x: Array, gamma: Array | None, beta: Array | None, *, groups: int, eps: float
    ) -> tuple[Array, Moments]:
        return group_norm.forward(x, gamma, beta, groups, eps, self._parallel)

    def group_norm_backward(
        self,
        dy: Array,
        x: Array,
        gamma: Array | None,
        saved: Moments,
        *,
        groups: int,
        eps: float,
        gamma_out: Array | None = None,
        beta_out: Array | None = None,
        accumulate: bool = False,
    ) -> tuple[Array, Array, Array]:
        dx, *sums = group_norm.backward(dy, x, gamma, saved, groups, eps, self._parallel)
        dgamma, dbeta = (total.astype(x.dtype) for total in sums)
        return dx, deliver(dgamma, gamma_out, accumulate), deliver(dbeta, beta_out, accumulate)
