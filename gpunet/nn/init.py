"""Initial values of filters.

They are random, with a variance that keeps activations or gradients of one size from layer to
layer. Each function takes the shape of a filter, (KH, KW, C, O) or (I, O), and draws float32 on the
host from the seed, in the order in which layers are made. With the receptive field R = KH KW (1 for
a dense layer), fan_in = R C and fan_out = R O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from math import prod, sqrt

import numpy as np

from gpunet import random

Initializer = Callable[[Sequence[int]], np.ndarray]
"""Gives initial values for a shape."""
_left: ContextVar[list[int] | None] = ContextVar("left", default=None)
"""How many weights `draw` may still make; None for any number."""


def fans(shape: Sequence[int]) -> tuple[int, int]:
    """(fan_in, fan_out) of a filter of a shape."""
    if len(shape) < 2:
        raise ValueError(f"init: a filter has at least 2 axes (…, C, O), got shape {tuple(shape)}")
    receptive = prod(shape[:-2])
    return receptive * shape[-2], receptive * shape[-1]


def uniform(shape: Sequence[int], bound: float) -> np.ndarray:
    """Uniform numbers in [-bound, bound)."""
    drawn = random.uniform(random.next_stream("init"), prod(shape))
    return ((2 * drawn - 1) * bound).astype(np.float32).reshape(shape)


def normal(shape: Sequence[int], std: float) -> np.ndarray:
    """Normal numbers of mean 0 and standard deviation `std`."""
    drawn = random.normal(random.next_stream("init"), prod(shape))
    return (drawn * std).astype(np.float32).reshape(shape)


def zeros(shape: Sequence[int]) -> np.ndarray:
    """Zeros, with which biases start."""
    return np.zeros(shape, np.float32)


def kaiming_uniform(shape: Sequence[int], gain: float = sqrt(2)) -> np.ndarray:
    """Uniform with variance gain^2 / fan_in (He et al. 2015, section 2.2); sqrt(2) suits ReLU."""
    return uniform(shape, gain * sqrt(3 / fans(shape)[0]))


def kaiming_normal(shape: Sequence[int], gain: float = sqrt(2)) -> np.ndarray:
    """Normal with variance gain^2 / fan_in (He et al. 2015, section 2.2); sqrt(2) suits ReLU."""
    return normal(shape, gain / sqrt(fans(shape)[0]))


def xavier_uniform(shape: Sequence[int], gain: float = 1.0) -> np.ndarray:
    """Uniform with variance 2 gain^2 / (fan_in + fan_out) (Glorot & Bengio 2010, equation 16)."""
    return uniform(shape, gain * sqrt(6 / sum(fans(shape))))


def xavier_normal(shape: Sequence[int], gain: float = 1.0) -> np.ndarray:
    """Normal with variance 2 gain^2 / (fan_in + fan_out) (Glorot & Bengio 2010, equation 12)."""
    return normal(shape, gain * sqrt(2 / sum(fans(shape))))


def lecun_uniform(shape: Sequence[int]) -> np.ndarray:
    """Uniform with variance 1 / fan_in (LeCun et al. 1998, "Efficient BackProp", section 4.6)."""
    return kaiming_uniform(shape, gain=1)


def lecun_normal(shape: Sequence[int]) -> np.ndarray:
    """Normal with variance 1 / fan_in (LeCun et al. 1998, "Efficient BackProp", section 4.6)."""
    return kaiming_normal(shape, gain=1)


_NAMED = (kaiming_uniform, kaiming_normal, xavier_uniform, xavier_normal, lecun_uniform, lecun_normal, zeros)
BY_NAME: dict[str, Initializer] = {initializer.__name__: initializer for initializer in _NAMED}


def draw(init: str | Initializer, shape: Sequence[int]) -> np.ndarray:
    """Initial values of a shape, from an initialiser or the name of one.

    Raises:
        ValueError: an unknown name, values of another shape, or more than `at_most` allows.
    """
    if (left := _left.get()) is not None:
        left[0] -= prod(shape)
        if left[0] < 0:
            raise ValueError("init: the layers take more weights than are allowed here")
    if isinstance(init, str) and init not in BY_NAME:
        raise ValueError(f"init: {init!r} is none of {', '.join(BY_NAME)}")
    values = np.asarray((BY_NAME[init] if isinstance(init, str) else init)(shape), np.float32)
    if values.shape != tuple(shape):
        raise ValueError(f"init: {init!r} gave shape {values.shape} for {tuple(shape)}")
    return values


@contextmanager
def at_most(weights: int) -> Iterator[None]:
    """Inside, layers raise a ValueError before they make more weights than this together.

    Biases and norms are not counted. It is for models that a file describes, which might ask for
    more memory than there is.
    """
    token = _left.set([weights])
    try:
        yield
    finally:
        _left.reset(token)
