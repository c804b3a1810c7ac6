"""Which algorithm computes a convolution: the whole choice stands here."""

from gpunet.backends.numpy.conv.algorithm import ConvAlgorithm
from gpunet.backends.numpy.conv.columns import Columns
from gpunet.backends.numpy.conv.depthwise import Depthwise
from gpunet.backends.numpy.conv.planes import Planes
from gpunet.backends.numpy.conv.subpixel import subpixel_geometry
from gpunet.backends.numpy.conv.winograd import Winograd, is_worth
from gpunet.geometry import Geometry

FEWEST_IMAGES = 16
"""Images from which on `Planes` is faster than `Columns`, where channels are few."""


def choose(g: Geometry) -> type[ConvAlgorithm]:
    """The algorithm of a convolution of this geometry, and of its weight gradient."""
    channels, filters = g.x_shape[3], g.filters
    if is_depthwise(g):
        return Depthwise
    if is_worth(g):
        return Winograd
    few = channels // g.groups < 16 and filters // g.groups < 32
    return Planes if few and not g.pointwise and g.x_shape[0] >= FEWEST_IMAGES else Columns


def is_depthwise(g: Geometry) -> bool:
    """Whether each channel has one filter of its own."""
    return g.groups == g.x_shape[3] == g.filters > 1


def choose_input_grad(g: Geometry) -> tuple[type[ConvAlgorithm], Geometry | None]:
    """The algorithm of an input gradient, and the geometry of the convolution that computes it.

    The geometry is None where the algorithm's own `input_grad` is faster than such a convolution.
    """
    algorithm = choose(g)
    return algorithm, subpixel_geometry(g) if issubclass(algorithm, Columns) else None
