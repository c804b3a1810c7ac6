"""`ReferenceBackend`: each primitive in the plainest array code, where a reader meets the derivation and a test its oracle."""

from __future__ import annotations

from math import erfc, pi, prod, sqrt

import numpy as np

from gpunet.backends.base import Activation, Array, Gate, InputActivation, Moments
from gpunet.backends.host import deliver
from gpunet.backends.reference_spatial import ReferenceSpatial
from gpunet.backends.reference_windows import add_windows, pad_images, view_windows, windows_of
from gpunet.geometry import Geometry

FAR = 2000
"""Beyond it, tails of activations are 0 in float64, and their products with x too."""


class ReferenceBackend(ReferenceSpatial):
    """Any float dtype; memory and time are no object."""

    name = "reference"
    dtypes = ("float16", "bfloat16", "float32", "float64")

    # ---- convolution

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
        g = geometry.groups
        images = pad_images(x.astype(np.float64), geometry)  # in which no sum loses digits
        windows = _by_group(windows_of(images, geometry), g)  # (N, OH, OW, KH, KW, groups, C // groups)
        filters = _by_group(w, g)
        y = np.einsum("nyxijgc,ijcgo->nyxgo", windows, filters).reshape(geometry.y_shape).astype(x.dtype)
        y, mask = (y, None) if pool is None else self.max_pool2d_forward(y, geometry=pool)
        if b is not None:
            y = y + b
        return y if activation is None else self.activation_forward(y, activation), mask

    def conv2d_input_grad(self, dy: Array, w: Array, *, geometry: Geometry, gate: Gate | None = None) -> Array:
        n, h, width, c = geometry.x_shape
        (top, bottom), (left, right) = geometry.padding
        g, (eh, ew) = geometry.groups, geometry.effective_window
        spread = _undo_stride(self._open(dy, gate).astype(np.float64), geometry)
        # every pixel of x meets every tap: pad by the window less one, and step by one
        full = np.pad(spread, ((0, 0), (eh - 1, eh - 1), (ew - 1, ew - 1), (0, 0)))
        reached = spread.shape[1] + eh - 1, spread.shape[2] + ew - 1
        windows = view_windows(full, reached, geometry.window, (1, 1), geometry.dilation)
        windows = _by_group(windows, g)
        rotated = _by_group(w[::-1, ::-1], g)  # turned by 180 degrees; einsum exchanges the channels
        padded = np.zeros((n, top + h + bottom, left + width + right, c))
        padded[:, : reached[0], : reached[1]] = np.einsum("nyxijgo,ijcgo->nyxgc", windows, rotated).reshape(
            n, *reached, c
        )
        return padded[:, top : top + h, left : left + width].astype(dy.dtype)

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
        g = geometry.groups
        dy = self._open(dy, gate)
        windows = _by_group(windows_of(pad_images(x.astype(np.float64), geometry), geometry), g)  # the sums are long
        grouped = _by_group(dy, g)
        dw = np.einsum("nyxijgc,nyxgo->ijcgo", windows, grouped).reshape(geometry.w_shape).astype(x.dtype)
        dw = deliver(dw, out, accumulate)
        return dw, deliver(self.sum(dy, (0, 1, 2)), bias_out, accumulate) if bias else None

    # ---- matrix product

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
        a = self._open(a, gate)
        y = (a.T if transpose_a else a).astype(np.float64) @ (b.T if transpose_b else b).astype(np.float64)
        if bias is not None:
            y = y + bias
        y = y.astype(a.dtype)
        if activation is not None:
            y = self.activation_forward(y, activation)
        return deliver(y, out, accumulate)

    # ---- pooling

    def max_pool2d_forward(self, x: Array, *, geometry: Geometry) -> tuple[Array, Array]:
        inside = np.ones(x.shape, bool)
        values = _taps(windows_of(pad_images(x, geometry, -np.inf), geometry))  # (N, OH, OW, C, KH KW)
        valid = _taps(windows_of(pad_images(inside, geometry, False), geometry))
        winner = values.argmax(axis=-1)  # the first of equals, NaN before all
        lost = ~np.take_along_axis(valid, winner[..., None], axis=-1)[..., 0]  # padding ties with a window of -inf
        winner = np.where(lost, valid.argmax(axis=-1), winner)
        y = np.take_along_axis(values, winner[..., None], axis=-1)[..., 0]
        return y, winner.astype(geometry.mask_dtype)

    def max_pool2d_backward(self, dy: Array, mask: Array, *, geometry: Geometry) -> Array:
        positions = np.arange(geometry.window[0] * geometry.window[1])
        return add_windows(np.where(mask[..., None] == positions, dy[..., None], 0), geometry)

    def avg_pool2d_forward(self, x: Array, *, geometry: Geometry, count_padding: bool) -> Array:
        sums = windows_of(pad_images(x, geometry), geometry).sum(axis=(3, 4), dtype=np.float64)
        return (sums / _counts(geometry, count_padding)).astype(x.dtype)

    def avg_pool2d_backward(self, dy: Array, *, geometry: Geometry, count_padding: bool) -> Array:
        share = (dy / _counts(geometry, count_padding)).astype(dy.dtype)
        return add_windows(np.repeat(share[..., None], geometry.window[0] * geometry.window[1], axis=-1), geometry)

    # ---- normalisation

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
            wide = np.promote_types(x.dtype, np.float32)
            axes, n = _all_but_channels(x)
            moments = x.mean(axis=axes, dtype=np.float64), x.var(axis=axes, dtype=np.float64)
            saved = Moments(*(a.astype(wide) for a in moments))
            running_mean[...] = (1 - momentum) * running_mean + momentum * saved.mean
            running_var[...] = (1 - momentum) * running_var + momentum * saved.variance * n / (n - 1)
        y = (x - saved.mean) / np.sqrt(saved.variance + eps)
        if gamma is not None:
            y = y * gamma
        if beta is not None:
            y = y + beta
        if residual is not None:
            y = y + residual
        y = y.astype(x.dtype)
        return y if activation is None else self.activation_forward(y, activation), saved

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
        g = dy if activation is None else self.activation_backward(dy, y, activation)
        axes, n = _all_but_channels(x)
        deviation = np.sqrt(saved.variance + eps)
        h = (x - saved.mean) / deviation
        dbeta, dgamma = (a.sum(axis=axes, dtype=np.float64).astype(h.dtype) for a in (g, g * h))
        dx = (g - (dbeta + h * dgamma) / n if training else g) / deviation
        if gamma is not None:
            dx = dx * gamma
        dgamma = deliver(dgamma.astype(x.dtype), gamma_out, accumulate)
        dbeta = deliver(dbeta.astype(x.dtype), beta_out, accumulate)
        return dx.astype(x.dtype), dgamma, dbeta, g if residual else None

    def group_norm_forward(
        self, x: Array, gamma: Array | None, beta: Array | None, *, groups: int, eps: float
    ) -> tuple[Array, Moments]:
        parts, wide = _groups(x, groups), np.promote_types(x.dtype, np.float32)
        moments = parts.mean(axis=(1, 3), dtype=np.float64), parts.var(axis=(1, 3), dtype=np.float64)
        saved = Moments(*(a.astype(wide) for a in moments))
        y = _standardized(x, saved, groups, eps)[0]
        if gamma is not None:
            y = y * gamma
        if beta is not None:
            y = y + beta
        return y.astype(x.dtype), saved

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
        h, deviation = _standardized(x, saved, groups, eps)
        axes, _ = _all_but_channels(x)
        dbeta, dgamma = (a.sum(axis=axes, dtype=np.float64) for a in (dy, dy * h))
        d, h = _groups(dy if gamma is None else dy * gamma, groups), _groups(h, groups)
        offset, slope = (a.mean(axis=(1, 3), keepdims=True, dtype=np.float64).astype(h.dtype) for a in (d, d * h))
        dx = ((d - offset - h * slope) / deviation).astype(x.dtype).reshape(x.shape)
        dgamma = deliver(dgamma.astype(x.dtype), gamma_out, accumulate)
        return dx, dgamma, deliver(dbeta.astype(x.dtype), beta_out, accumulate)

    # ---- activations

    def activation_forward(self, x: Array, activation: Activation) -> Array:
        with np.errstate(over="ignore"):
            match activation.name:
                case "relu":
                    return np.where(x <= 0, 0, x).astype(x.dtype)
                case "leaky_relu":
                    return np.where(x <= 0, activation.slope * x, x).astype(x.dtype)
                case "sigmoid":
                    return (1 / (1 + np.exp(-x))).astype(x.dtype)
                case "tanh":
                    return np.tanh(x)
                case "elu":
                    return np.where(x <= 0, activation.alpha * np.expm1(x), x).astype(x.dtype)
                case _:
                    slope, shift, low, high = activation.line
                    return np.clip(slope * (x + shift), low, high).astype(x.dtype)

    def activation_backward(self, dy: Array, y: Array, activation: Activation) -> Array:
        match activation.name:
            case "relu":
                return np.where(y <= 0, 0, dy).astype(dy.dtype)
            case "leaky_relu":
                return np.where(y <= 0, activation.slope * dy, dy).astype(dy.dtype)
            case "sigmoid":
                return dy * y * (1 - y)
            case "tanh":
                return dy * (1 - y * y)
            case "elu":
                return np.where(y <= 0, dy * (y + activation.alpha), dy).astype(dy.dtype)
            case _:
                slope, _, low, high = activation.line
                return np.where((y <= low) | (y >= high), 0, slope * dy).astype(dy.dtype)

    def input_activation_forward(self, x: Array, activation: InputActivation) -> Array:
        x64 = x.astype(np.float64)
        far = np.maximum(x64, -FAR).astype(np.longdouble)  # infinity times 0 is not the limit
        with np.errstate(all="ignore"):
            match activation.name:
                case "gelu":
                    y = far * _normal_cdf(far)
                case "silu":
                    y = far / (1 + np.exp(-far))
                case "softplus":
                    y = np.logaddexp(0, activation.beta * x64.astype(np.longdouble)) / activation.beta
                case "hard_swish":
                    y = np.where(x <= -3, 0, np.where(x >= 3, x, x * (x + 3) / 6))
                case _:
                    return self.activation_forward(x, Activation(activation.name, alpha=activation.beta))
            return y.astype(np.float64).astype(x.dtype)

    def input_activation_backward(self, dy: Array, x: Array, activation: InputActivation) -> Array:
        x64 = x.astype(np.float64)
        far = np.clip(x64, -FAR, FAR).astype(np.longdouble)
        with np.errstate(all="ignore"):
            match activation.name:
                case "gelu":
                    slope = _normal_cdf(far) + far * (np.exp(-far * far / 2) / sqrt(2 * pi))
                case "silu":
                    slope = (1 + far / (1 + np.exp(far))) / (1 + np.exp(-far))
                case "softplus":
                    slope = 1 / (1 + np.exp(-activation.beta * x64.astype(np.longdouble)))
                case "hard_swish":
                    slope = np.where(x <= -3, 0, np.where(x >= 3, 1, (x + 1.5) / 3))
                case "sigmoid":
                    slope = 1 / ((1 + np.exp(-far)) * (1 + np.exp(far)))
                case "tanh":
                    slope = np.cosh(far) ** -2
                case _:
                    slope = np.where(x > 0, 1, activation.beta * np.exp(np.minimum(far, 0)))
            return (dy * slope.astype(np.float64)).astype(dy.dtype)

    def _open(self, dy: Array, gate: Gate | None) -> Array:
        if gate is not None and gate.activation is not None:
            dy = self.activation_backward(dy, gate.y, gate.activation)
        if gate is not None and gate.mask is not None and gate.pool is not None:
            dy = self.max_pool2d_backward(dy, gate.mask, geometry=gate.pool)
        return dy


def _by_group(a: Array, groups: int) -> Array:
    """(…, C) as (…, groups, C // groups)."""
    return a.reshape(*a.shape[:-1], groups, a.shape[-1] // groups)


def _normal_cdf(x: Array) -> Array:
    """Phi(x) of x in long doubles."""
    z = -np.clip(x, -FAR, FAR) * np.sqrt(np.longdouble(0.5))
    near = z.astype(np.float64)  # what it lacks is made up for by the slope
    return 0.5 * np.vectorize(erfc, otypes=[np.float64])(near) - np.exp(-z * z) * (z - near) / sqrt(pi)


def _all_but_channels(x: Array) -> tuple[tuple[int, ...], int]:
    """The axes of (…, C) but the last, and how many elements share a channel."""
    return tuple(range(x.ndim - 1)), x.size // x.shape[-1]


def _standardized(x: Array, saved: Moments, groups: int, eps: float) -> tuple[Array, Array]:
    """(h of x's shape, deviations (N, 1, groups, 1)) of group norm."""
    mean, variance = (a[:, None, :, None] for a in saved)
    deviation = np.sqrt(variance + eps)
    return ((_groups(x, groups) - mean) / deviation).reshape(x.shape), deviation


def _groups(x: Array, groups: int) -> Array:
    """(N, …, C) as (N, positions, groups, channels of a group)."""
    return x.reshape(len(x), prod(x.shape[1:-1]), groups, x.shape[-1] // groups)


def _taps(windows: Array) -> Array:
    """(N, OH, OW, KH, KW, C) -> (N, OH, OW, C, KH KW)."""
    n, oh, ow, kh, kw, c = windows.shape
    return windows.transpose(0, 1, 2, 5, 3, 4).reshape(n, oh, ow, c, kh * kw)


def _undo_stride(dy: Array, geometry: Geometry) -> Array:
    """dy with zeros between its rows and columns, where the stride skipped pixels of x."""
    n, oh, ow, o = dy.shape
    sh, sw = geometry.stride
    spread = np.zeros((n, (oh - 1) * sh + 1, (ow - 1) * sw + 1, o), dy.dtype)
    spread[:, ::sh, ::sw] = dy
    return spread


def _counts(geometry: Geometry, count_padding: bool) -> Array:
    """What each window's sum is divided by: (OH, OW, 1)."""
    (top, bottom), (left, right) = geometry.counted_padding
    inside = np.ones((1, *geometry.x_shape[1:3], 1))
    counted = np.pad(inside, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=count_padding)
    counted = np.pad(counted, ((0, 0), (0, geometry.beyond[0]), (0, geometry.beyond[1]), (0, 0)))
    return windows_of(counted, geometry).sum(axis=(0, 3, 4))
