"""Everything random, from counters: Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").

A stream's key is (seed, purpose) and its counter (block, step, call or sample, epoch), so any number can be drawn again
anywhere, in any order: a dropout mask is never stored and every backend draws the same bits. Word 4 i + j of a stream is
output j of the block of counter (i + 1, step, call, epoch): the words of ``numpy.random.Philox(key=…, counter=…)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from statistics import NormalDist
from typing import Any

import numpy as np

PURPOSES = {"init": 0, "dropout": 1, "shuffle": 2, "augment": 3, "noise": 4, "split": 5, "episode": 6, "sample": 7}
_LIMIT = 1 << 64
_FACTORS = np.array([[0xD2E7470EE14C6C93], [0xCA5A826395121157]], np.uint64)


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream of random words; equal streams give equal words on every backend.

    `clock`, if there is one, is a CUDA backend's array of two uint64 that is read when the numbers are drawn: (step, epoch),
    added to the stream's own, so that a recorded launch draws anew at every replay.
    """

    seed: int
    purpose: int
    step: int = 0
    call: int = 0
    epoch: int = 0
    clock: Any = field(default=None, compare=False, repr=False)

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
        self.clock: Any = None
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


@contextmanager
def clocked(clock: Any) -> Iterator[None]:
    """Inside, the draws of one training step whose place `clock` tells on the device, see `Stream`."""
    before = _state.epoch, _state.step
    begin_step(0, 0)
    _state.clock = clock
    try:
        yield
    finally:
        _state.clock = None
        begin_step(*before)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Inside, draws change nothing that is drawn afterwards."""
    calls = dict(_state.calls)
    try:
        yield
    finally:
        _state.calls = calls


def next_stream(purpose: str) -> Stream:
    """The next stream of one purpose; calls are counted, so two calls never share words."""
    call = _state.calls[purpose]
    _state.calls[purpose] = call + 1
    if purpose == "init":  # drawn in construction order, whatever the training step
        return Stream(_state.seed, PURPOSES[purpose], call=call)
    return Stream(_state.seed, PURPOSES[purpose], step=_state.step, call=call, epoch=_state.epoch, clock=_state.clock)


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
    return normal_table()[uint16(stream, count)]


def sample_words(seed: int, purpose: str, samples: np.ndarray, epoch: int, block: int = 0) -> np.ndarray:
    """Block `block`, four words, of each sample's ``Stream(seed, PURPOSES[purpose], call=sample, epoch=epoch)``.

    Many streams at once: numpy.random.Philox draws from one, and takes long to make.

    Args:
        samples: (N,) integers.
    Returns:
        uint64 (4, N).
    """
    counters = np.empty((4, len(samples)), np.uint64)
    counters[0], counters[1], counters[2], counters[3] = block + 1, 0, samples, epoch
    (even, odd), (k0, k1) = (counters[0::2], counters[1::2]), (seed, PURPOSES[purpose])
    for _ in range(10):
        high, low = _multiply(even, _FACTORS)
        even, odd = high[::-1] ^ odd ^ np.array([[k0], [k1]], np.uint64), low[::-1]
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) % _LIMIT, (k1 + 0xBB67AE8584CAA73B) % _LIMIT
    return np.stack([even, odd], axis=1).reshape(counters.shape)


def _multiply(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Upper and lower 64 bits of the products of uint64 numbers, by products of their 32-bit halves."""
    half, mask = np.uint64(32), np.uint64(0xFFFFFFFF)
    a_high, a_low, b_high, b_low = a >> half, a & mask, b >> half, b & mask
    middle = a_high * b_low + (a_low * b_low >> half)
    carry = a_low * b_high + (middle & mask)
    return a_high * b_high + (middle >> half) + (carry >> half), a * b


def permutation(stream: Stream, count: int) -> np.ndarray:
    """A permutation of range(count), int64: the stable order of `count` words."""
    return np.argsort(words(stream, count), kind="stable")


def drop_threshold(p: float) -> tuple[int, float]:
    """(threshold, scale) of dropout: drop where uint16 < threshold, scale what stays by 1 / (1 - threshold / 65536)."""
    threshold = round(p * 65536)
    return threshold, 0.0 if threshold == 65536 else 65536 / (65536 - threshold)


@cache
def normal_table() -> np.ndarray:
    """float64 (65536,), rising: the inverse of the standard normal distribution at midpoints."""
    inverse = NormalDist().inv_cdf
    upper = np.array([inverse((i + 0.5) / 65536) for i in range(32768, 65536)])
    return np.concatenate([-upper[::-1], upper])
