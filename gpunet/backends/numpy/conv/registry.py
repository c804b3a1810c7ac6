"""Which form computes a convolution."""

from __future__ import annotations

from gpunet.backends.numpy.conv.columns import Columns
from gpunet.backends.numpy.conv.depthwise import Depthwise
from gpunet.backends.numpy.conv.form import Form
from gpunet.backends.numpy.conv.planes import Planes
from gpunet.geometry import Geometry


def form_of(g: Geometry) -> type[Form]:
    """How a convolution of this geometry is computed."""
    return next((form for form in (Depthwise, Planes) if form.suits(g)), Columns)
