"""One table of calls that, together, launch every kernel instance: `gpunet check` and the tests run it.

A case is a call of a primitive on small random inputs with remainders in every tile dimension, in each dtype that its kernels
store, and in each variant of kernels that a backend can choose.
"""

from __future__ import annotations

from collections.abc import Iterator

from gpunet.check.cases import arguments, arrays, convolutions, layers, training
from gpunet.check.cases.case import VARIANTS, Case, variant
from gpunet.cuda.instantiations import ELEMENTS

TOPICS = (arguments.cases, arrays.cases, convolutions.cases, layers.cases, training.cases)


def all_cases() -> Iterator[Case]:
    """Every case, made when it is asked for."""
    for topic in TOPICS:
        for dtype in ELEMENTS:
            yield from topic(dtype)


__all__ = ["VARIANTS", "Case", "all_cases", "variant"]
