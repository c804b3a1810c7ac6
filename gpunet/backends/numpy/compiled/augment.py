"""Batches of a data set in compiled loops: augment.cpp."""

from __future__ import annotations

from functools import partial
from math import prod
from typing import Any

import numpy as np

from gpunet import random
from gpunet.augmentation import Choices
from gpunet.backends.contract import Array, Samples
from gpunet.backends.host import memory
from gpunet.backends.numpy.augment import NumpyAugment, draws_nothing
from gpunet.backends.numpy.compiled.library import Library, Longs
from gpunet.backends.numpy.compiled.loops import CompiledLoops

DRAWN = 64
"""Elements of work that the words of a sample are."""
NOTHING: tuple[Any, ...] = (None,) * len(Choices._fields)


class CompiledAugment(CompiledLoops, NumpyAugment):
    """Batches of a data set that is normalised to float32."""

    def _gathered(self, samples: Samples, index: Array, *, seed: int, epoch: int, dtype: Any) -> Array:
        (images, _, _, a), index = samples, index.astype(np.int64)
        lies = images.flags.c_contiguous and not ((index < 0) | (index >= len(images))).any()
        if not a.mean or not lies or np.dtype(dtype) != np.float32 or not images.size:
            return super()._gathered(samples, index, seed=seed, epoch=epoch, dtype=dtype)
        scale, shift = (np.ascontiguousarray(f) for f in a.factors(images.shape[3], 255.0))
        loops = self._loops("augment", scale, shift)
        if loops is None:
            return super()._gathered(samples, index, seed=seed, epoch=epoch, dtype=dtype)
        h, w, c = a.output_shape("gather_augment", images.shape[1:])
        chosen: tuple[Any, ...] = NOTHING
        if not draws_nothing(a):
            draw = partial(self._words, loops)
            chosen = a.choices(index, images.shape[1:], seed=seed, epoch=epoch, draw=draw)
        y = memory.empty((len(index), h, w, c), np.float32)
        sizes = Longs(*images.shape[1:], h, w, a.padding, a.cutout, a.border == "reflect", a.cutout_last)
        self._spread(loops, "gather", len(index), prod(y.shape[1:]), images, index, y, sizes, *chosen, scale, shift)
        return y

    def _words(self, loops: Library, seed: int, purpose: str, samples: Array, epoch: int) -> Array:
        """`gpunet.random.sample_words`."""
        words, stream = np.empty((4, len(samples)), np.uint64), Longs(seed, random.PURPOSES[purpose], 0, 0, epoch)
        self._spread(loops, "sample_words", len(samples), DRAWN, samples, words, len(samples), stream)
        return words
