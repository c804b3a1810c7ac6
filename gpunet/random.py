"""Everything random, from counters: Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").

A stream's key is (seed, purpose) and its counter (block, step, call or sample, epoch), so any number can be drawn again
anywhere, in any order: a dropout mask is never stored and every backend draws the same bits. Word 4 i + j of a stream is
output j of the block of counter (i + 1, step, call, epoch): the words of ``numpy.random.Philox(key=…, counter=…)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np

PURPOSES = {"init": 0, "dropout": 1, "shuffle": 2, "augment": 3, "noise": 4, "split": 5}
_LIMIT = 1 << 64


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream of random words; equal streams give equal words on every backend."""

    seed: int
    purpose: int
    step: int = 0
    call: int = 0
    epoch: int = 0

    @property
    def key(self) -> tuple[int, int]:
        return self.seed, self.purpose

    @property
    def counter(self) -> tuple[int, int, int, int]:
        return 0, self.step, self.call, self.epoch


class _State:
    """What `seed` sets and every draw advances."""

    def __init__(self) -> None:
        self.reset(0)

    def reset(self, seed: int) -> None:
        self.seed, self.epoch, self.step = seed, 0, 0
        self.calls = dict.fromkeys(PURPOSES, 0)


_state = _State()


def seed(value: int) -> None:
    """Decide everything drawn afterwards: initial parameters, shuffles, dropout, augmentation.

    Args:
        value: 0 to 2^64 - 1; a fresh process starts as after ``seed(0)``.
    """
    if not isinstance(value, int | np.integer):
        raise TypeError(f"seed: value must be an integer, got {value!r}")
    if not 0 <= value < _LIMIT:
        raise ValueError(f"seed: value must be from 0 to 2^64 - 1, got {value}")
    _state.reset(int(value))


def current_seed() -> int:
    """The value that `seed` last set."""
    return _state.seed


def begin_step(epoch: int, step: int) -> None:
    """Place the draws of one training step: the Trainer calls it, so that step k draws the same however it was reached."""
    _state.epoch, _state.step = epoch, step
    _state.calls["dropout"] = _state.calls["noise"] = 0


def next_stream(purpose: str) -> Stream:
    """The next stream of one purpose; calls are counted, so two calls never share words."""
    call = _state.calls[purpose]
    _state.calls[purpose] = call + 1
    if purpose == "init":  # drawn in construction order, whatever the training step
        return Stream(_state.seed, PURPOSES[purpose], call=call)
    return Stream(_state.seed, PURPOSES[purpose], step=_state.step, call=call, epoch=_state.epoch)


def words(stream: Stream, count: int) -> np.ndarray:
    """`count` uint64 words of a stream, on the host."""
    # as arrays: NumPy would read a tuple with a number from 2^63 on as floating point
    bits = np.random.Philox(key=np.array(stream.key, np.uint64), counter=np.array(stream.counter, np.uint64))
    return bits.random_raw(count)


def uint16(stream: Stream, count: int) -> np.ndarray:
    """`count` uint16 numbers, four a word, the lowest bits first."""
    return words(stream, -(-count // 4)).astype("<u8", copy=False).view("<u2")[:count]


def uniform(stream: Stream, count: int) -> np.ndarray:
    """`count` float64 numbers in [0, 1), the upper 53 bits of a word each."""
    return (words(stream, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal(stream: Stream, count: int) -> np.ndarray:
    """`count` standard normal float64 numbers: the inverse distribution at 65,536 midpoints, so none beyond 4.33."""
    return _normal_table()[uint16(stream, count)]


def permutation(stream: Stream, count: int) -> np.ndarray:
    """A permutation of range(count), int64: the stable order of `count` words."""
    return np.argsort(words(stream, count), kind="stable")


def drop_threshold(p: float) -> tuple[int, float]:
    """(threshold, scale) of dropout: drop where uint16 < threshold, scale what stays by 1 / (1 - threshold / 65536)."""
    threshold = round(p * 65536)
    return threshold, 0.0 if threshold == 65536 else 65536 / (65536 - threshold)


@cache
def _normal_table() -> np.ndarray:
    inverse = NormalDist().inv_cdf
    upper = np.array([inverse((i + 0.5) / 65536) for i in range(32768, 65536)])
    return np.concatenate([-upper[::-1], upper])
