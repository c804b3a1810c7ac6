"""Views of sliding windows, and of the pixels under one of their taps."""

from numpy.lib.stride_tricks import as_strided

from gpunet.backends.contract import Array
from gpunet.geometry import Geometry, Pair


def view_windows(
    padded: Array, count: Pair, window: Pair, stride: Pair, dilation: Pair = (1, 1), *, writeable: bool = False
) -> Array:
    """View of (rows, columns) many windows of a padded (n, H, W, C): (n, rows, columns, KH, KW, C).

    A view that is written to must have windows that do not overlap.
    """
    n, h, w, c = padded.strides
    (sh, sw), (dh, dw) = stride, dilation
    shape = (len(padded), *count, *window, padded.shape[3])
    return as_strided(padded, shape, (n, h * sh, w * sw, h * dh, w * dw, c), writeable=writeable)


def windows_of(padded: Array, g: Geometry) -> Array:
    """View of every window of a padded (n, H, W, C): (n, OH, OW, KH, KW, C)."""
    return view_windows(padded, g.y_shape[1:3], g.window, g.stride, g.dilation)


def under_tap(g: Geometry, axis: int, tap: int) -> slice:
    """The padded rows (axis 0) or columns (axis 1) that lie under one tap of all windows."""
    first, step = tap * g.dilation[axis], g.stride[axis]
    return slice(first, first + step * (g.y_shape[1 + axis] - 1) + 1, step)
