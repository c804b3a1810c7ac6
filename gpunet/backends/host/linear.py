"""Weight gradients of dense layers on the CPU: those of 1x1 convolutions, one layer after another."""

from collections.abc import Sequence

from gpunet.backends.contract import Grads, LinearGrad
from gpunet.backends.host.arrays import HostArrays


class HostLinear(HostArrays):
    """Each CPU backend computes them with its own `conv2d_weight_grad`."""

    def linear_weight_grads(self, layers: Sequence[LinearGrad]) -> list[Grads]:
        return [layer.deliver(*self.conv2d_weight_grad(*layer.as_conv())) for layer in layers]
