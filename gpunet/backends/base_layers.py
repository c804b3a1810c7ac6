"""The contract of what layers and losses compute, forward and backward.

The letters of the shapes are those of `base`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from gpunet.backends.values import Activation, Array, Gate, InputActivation, Moments
from gpunet.geometry import Geometry
from gpunet.resampling import Taps


class LayerPrimitives(ABC):
    """What layers and losses compute, forward and backward."""

    # ---- convolution -------------------------------------------------------------------------------------------------

    @abstractmethod
    def conv2d_forward(
        self,
        x: Array,
        w: Array,
        b: Array | None = None,
        *,
        geometry: Geometry,
        activation: Activation | None = None,
        pool: Geometry | None = None,
    ) -> tuple[Array, Array | None]:
        """Convolution of x (N, H, W, C) with w (KH, KW, C // groups, O), bias b (O,), then activation, then max pool
        -> (y (N, OH, OW, O), None), or y and mask of `pool.y_shape`.

        y[n, p, q, o] = f(b[o] + sum over i, j, c of x[n, p s + i d - pad, q s + j d - pad, c] w[i, j, c, o]): the
        cross-correlation that deep learning calls a convolution. Group g joins its C // groups channels to its O // groups
        filters.

        Args:
            pool: 2x2 windows side by side over the convolution's output, `FUSED_POOL`. The mask is as
                `max_pool2d_forward` gives it for the values before bias and activation, which keep their order.
        """

    @abstractmethod
    def conv2d_input_grad(self, dy: Array, w: Array, *, geometry: Geometry, gate: Gate | None = None) -> Array:
        """Gradient of x: the full convolution of dy (N, OH, OW, O), its pixels a stride apart, with the filters rotated by
        180 degrees and their channels exchanged -> dx (N, H, W, C). With a pool in the gate, dy has the pool's shape."""

    @abstractmethod
    def conv2d_weight_grad(
        self,
        dy: Array,
        x: Array,
        *,
        geometry: Geometry,
        gate: Gate | None = None,
        out: Array | None = None,
        bias: bool = True,
        bias_out: Array | None = None,
        accumulate: bool = False,
    ) -> tuple[Array, Array | None]:
        """Gradients of w and b -> (dw (KH, KW, C // groups, O), db (O,)); db is None unless `bias`.

        Args:
            gate: as for `conv2d_input_grad`.
            out, bias_out: where to write dw and db; float32 where dy and x are of 16 bits, as the gradients are then.
            accumulate: add to what `out` and `bias_out` hold.
        """

    # ---- matrix product ----------------------------------------------------------------------------------------------

    @abstractmethod
    def matmul(
        self,
        a: Array,
        b: Array,
        *,
        transpose_a: bool = False,
        transpose_b: bool = False,
        bias: Array | None = None,
        activation: Activation | None = None,
        gate: Gate | None = None,
        out: Array | None = None,
        accumulate: bool = False,
    ) -> Array:
        """y (M, P) = f(op(a) op(b) + bias): a (M, K) or its transpose, b (K, P) or its transpose, bias (P,).

        Args:
            gate: applied to `a`, whose shape gate.y has: the activation's gradient, on load; without a pool.
            accumulate: add to what `out` holds; not with bias or activation.
        """

    @abstractmethod
    def batched_matmul(self, a: Array, b: Array, *, transpose_a: bool = False, transpose_b: bool = False) -> Array:
        """The product of each pair of matrices: a (B, M, K) and b (B, K, P) -> (B, M, P), transposed as for `matmul`."""

    # ---- pooling -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def max_pool2d_forward(self, x: Array, *, geometry: Geometry) -> tuple[Array, Array]:
        """(y, mask), both (N, OH, OW, C). The mask is the winner's position KW i + j in its window: the first of equals, NaN
        before all; uint8 for windows of up to 256 positions, else uint16 or int32. Padded taps are counted and never win."""

    @abstractmethod
    def max_pool2d_backward(self, dy: Array, mask: Array, *, geometry: Geometry) -> Array:
        """dx (N, H, W, C): the sum of dy over the windows that each pixel won."""

    @abstractmethod
    def avg_pool2d_forward(self, x: Array, *, geometry: Geometry, count_padding: bool) -> Array:
        """y (N, OH, OW, C): the mean over each window's pixels inside the image, and with `count_padding` over those in
        `Geometry.counted_padding` too."""

    @abstractmethod
    def avg_pool2d_backward(self, dy: Array, *, geometry: Geometry, count_padding: bool) -> Array:
        """dx (N, H, W, C)."""

    # ---- resampling, filters of each place --------------------------------------------------------------------------

    @abstractmethod
    def resample2d(self, x: Array, rows: Taps, columns: Taps) -> Array:
        """y (N, OH, OW, C) of x (N, H, W, C): y[n, p, q, c] = sum over the taps i of `rows` at p and j of `columns` at q of
        their weights' product and x[n, i, j, c]; 0 where there are none. Its gradient is itself, by the transposed tables."""

    @abstractmethod
    def local_conv2d_forward(self, x: Array, w: Array, b: Array | None = None, *, geometry: Geometry) -> Array:
        """y (N, OH, OW, O): a convolution whose filters are each output pixel's own, w (OH, OW, KH, KW, C, O), b (OH, OW, O).

        y[n, p, q, o] = b[p, q, o] + sum over i, j, c of x[n, p s + i d - pad, q s + j d - pad, c] w[p, q, i, j, c, o].
        """

    @abstractmethod
    def local_conv2d_input_grad(self, dy: Array, w: Array, *, geometry: Geometry) -> Array:
        """dx (N, H, W, C) of dy (N, OH, OW, O)."""

    @abstractmethod
    def local_conv2d_weight_grad(
        self,
        dy: Array,
        x: Array,
        *,
        geometry: Geometry,
        out: Array | None = None,
        bias: bool = True,
        bias_out: Array | None = None,
        accumulate: bool = False,
    ) -> tuple[Array, Array | None]:
        """Gradients of w and b, of their shapes; the rest as for `conv2d_weight_grad`."""

    # ---- normalisation -----------------------------------------------------------------------------------------------

    @abstractmethod
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
        """(y, saved): y = f(gamma (x - mean) / sqrt(variance + eps) + beta + residual), by channel (Ioffe & Szegedy 2015).

        x, residual and y are (…, C), the parameters and statistics (C,); gamma None is 1, beta None 0. With `training` the
        moments are those of the n elements that share a channel, the variance biased, and the running ones are
        updated in place, on the device: running = (1 - momentum) running + momentum batch, where the batch's variance is the
        unbiased one, over n - 1. Without, the running ones normalise and are saved themselves. Statistics are float32 or wider.
        """

    @abstractmethod
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
        """(dx, dgamma, dbeta, dresidual), of the shapes of what they are the gradients of.

        With g = f'(y) dy, h = (x - mean) / sqrt(variance + eps) and sums by channel:
        dbeta = sum of g; dgamma = sum of g h; dresidual = g, None unless `residual` (dy itself without an activation);
        dx = gamma / sqrt(variance + eps) (g - (dbeta + h dgamma) / n), without the last term unless `training`: running
        moments do not depend on x.

        Args:
            y: the output; read only with an activation.
            gamma_out, beta_out: where to write dgamma and dbeta.
            accumulate: add to what `gamma_out` and `beta_out` hold.
        """

    @abstractmethod
    def group_norm_forward(
        self, x: Array, gamma: Array | None, beta: Array | None, *, groups: int, eps: float
    ) -> tuple[Array, Moments]:
        """(y, saved): y = gamma (x - mean) / sqrt(variance + eps) + beta of x (N, …, C) (Wu & He 2018, equation 1).

        The moments, (N, groups) and float32 or wider, are of a sample's positions and the C // groups neighbouring channels of
        a group; gamma and beta are (C,), None for 1 and 0.
        """

    @abstractmethod
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
        """(dx, dgamma, dbeta).

        With h = (x - mean) / sqrt(variance + eps) and d = gamma dy: dbeta and dgamma are the sums of dy and of dy h by channel;
        dx = (d - mean of d - h mean of d h) / sqrt(variance + eps), with means over a group of a sample.

        Args:
            gamma_out, beta_out, accumulate: as for `batch_norm_backward`.
        """

    # ---- activations, softmax, losses --------------------------------------------------------------------------------

    @abstractmethod
    def activation_forward(self, x: Array, activation: Activation) -> Array:
        """y of x's shape. ReLU, leaky ReLU and ELU (Clevert et al. 2016) take 0 as negative; NaN stays NaN."""

    @abstractmethod
    def activation_backward(self, dy: Array, y: Array, activation: Activation) -> Array:
        """dx from dy and the output y."""

    @abstractmethod
    def input_activation_forward(self, x: Array, activation: InputActivation) -> Array:
        """y of x's shape. gelu: x Phi(x), with the standard normal distribution function Phi (Hendrycks & Gimpel 2016);
        silu: x s(x), with the logistic s(x) = 1 / (1 + exp(-x)) (Ramachandran et al. 2017); softplus:
        log(1 + exp(beta x)) / beta, without overflow; hard_swish: x min(max(x + 3, 0), 6) / 6 (Howard et al. 2019); the
        others as `activation_forward`. An infinite x gives the limit."""

    @abstractmethod
    def input_activation_backward(self, dy: Array, x: Array, activation: InputActivation) -> Array:
        """dx from dy and the input x. gelu: dy (Phi(x) + x phi(x)), phi the density; silu: dy s(x) (1 + x s(-x));
        softplus: dy s(beta x); hard_swish: 0 up to -3, dy from 3 on, dy (x + 3/2) / 3 between; sigmoid: dy s(x) s(-x); tanh:
        dy / cosh(x)^2; elu: dy above 0, beta exp(x) dy elsewhere."""

    @abstractmethod
    def softmax_forward(self, x: Array, *, log: bool = False) -> Array:
        """exp(x) / sum(exp(x)) over the last axis, or its logarithm."""

    @abstractmethod
    def softmax_backward(self, dy: Array, y: Array, *, log: bool = False) -> Array:
        """dx from dy and the output y."""

    @abstractmethod
    def softmax_cross_entropy(
        self,
        logits: Array,
        labels: Array,
        *,
        weight: Array | None,
        smoothing: float,
        ignore_index: int | None,
        gain: float = 1.0,
        reduction: str = "mean",
        normalized: bool = False,
    ) -> tuple[Array, Array, Array]:
        """(loss, dlogits, correct) of logits (R, K) and int32 labels (R,).

        With p = softmax(logits) and target t = (1 - smoothing) onehot + smoothing / K, a row's loss is
        -sum over k of weight[k] t[k] log p[k], 0 where the label is `ignore_index`; the loss, shape (), is the sum of the
        rows' over the sum of the labels' weights (0 where those are 0). dlogits (R, K) is its gradient times
        `gain`, which keeps small ones above float16's smallest numbers; correct, int32 shape (), counts the rows whose first
        largest logit is the label's. On CUDA, loss and `weight` are float32 also where the logits are of 16 bits.

        Args:
            reduction: "mean", the above; "sum", the sum of the rows' losses, or "none", the rows' losses (R,): then dlogits is
                the gradient of the sum.
            normalized: whether the logits are log p themselves; then dlogits is -weight[k] t[k] over the weights.
        """

    @abstractmethod
    def label_weight(self, labels: Array, weight: Array | None, *, classes: int, ignore_index: int | None) -> Array:
        """The sum of the weights (K,) of int32 labels (R,), or their number, without those that are `ignore_index`, shape ():
        what `softmax_cross_entropy` divides its mean by. A label that is no class makes it NaN, on the host IndexError."""

    @abstractmethod
    def sigmoid_cross_entropy(self, logits: Array, targets: Array) -> tuple[Array, Array]:
        """(loss, dlogits): mean over all elements of -t log s(z) - (1 - t) log(1 - s(z)), shape (), and its gradient."""
