"""The cases: calls of primitives that together launch every kernel instance. `gpunet check` and the
tests run them.

A case is a call of a primitive on small random inputs, whose extents leave remainders in every tile
dimension. There is one for each dtype that the kernels store, and it runs with each variant of the
kernels that a backend can choose.
"""

from __future__ import annotations

from collections.abc import Iterator

from gpunet.check.cases import arguments, arrays, convolutions, depthwise, layers, training
from gpunet.check.cases.case import VARIANTS, Case, variant
from gpunet.cuda.naming import ELEMENTS

TOPICS = (arguments.cases, arrays.cases, convolutions.cases, depthwise.cases, layers.cases, training.cases)


def all_cases() -> Iterator[Case]:
    """Every case, each made only when it is asked for."""
    for topic in TOPICS:
        for dtype in ELEMENTS:
            yield from topic(dtype)


__all__ = ["VARIANTS", "Case", "all_cases", "variant"]
