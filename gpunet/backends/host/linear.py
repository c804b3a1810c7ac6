"""Dense layers on the CPU: products, and weight gradients as those of 1x1 convolutions."""

from collections.abc import Sequence

from gpunet.backends.contract import (
    UNWEIGHTED,
    Activation,
    Array,
    CrossEntropy,
    Grads,
    LinearGrad,
    LossParts,
    Product,
)  # fmt: skip
from gpunet.backends.host.arrays import HostArrays


class HostLinear(HostArrays):
    """Each CPU backend computes them with its own products, losses and convolutions."""

    def linear_forward(
        self, x: Array, w: Array, b: Array | None, activation: Activation | None = None, *, precision: str = "float32"
    ) -> Array:
        return self.matmul(x, w, Product(bias=b, activation=activation, precision=precision))

    def linear_cross_entropy(
        self, x: Array, w: Array, b: Array | None, labels: Array, options: CrossEntropy = UNWEIGHTED, *,
        needs_dx: bool = True, precision: str = "float32",
    ) -> tuple[Array, LossParts, Array | None]:  # fmt: skip
        logits = self.linear_forward(x, w, b, precision=precision)
        parts = self.softmax_cross_entropy(logits, labels, options)
        product = Product(transpose_b=True, precision=precision)
        return logits, parts, self.matmul(parts[1], w, product) if needs_dx else None

    def linear_weight_grads(self, layers: Sequence[LinearGrad]) -> list[Grads]:
        return [layer.deliver(*self.conv2d_weight_grad(*layer.as_conv())) for layer in layers]
