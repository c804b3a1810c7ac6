"""Random numbers from counters, by Philox4x64-10.

Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3". The key of a stream is (seed,
purpose), and its counter (block, step, call or sample, epoch). So any number can be drawn again
anywhere, in any order: a dropout mask is never stored, and every backend draws the same bits. Word
4 i + j of a stream is output j of the block with the counter (i + 1, step, call, epoch): the words
of ``numpy.random.Philox(key=…, counter=…)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from math import prod
from statistics import NormalDist
from typing import Any

import numpy as np

PURPOSES = {"init": 0, "dropout": 1, "shuffle": 2, "augment": 3, "noise": 4, "split": 5, "episode": 6, "sample": 7}
"""The second half of a key, by what the numbers are drawn for."""
NUMBERS = 16
"""How many 16-bit numbers a block of four words holds."""
_LIMIT = 1 << 64
_FACTORS = np.array([[0xD2E7470EE14C6C93], [0xCA5A826395121157]], np.uint64)


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream of random words; equal streams give equal words on every backend.

    `first` is the place, among the stream's 16-bit numbers, of the first one that is drawn: where
    ranks share a batch, each draws the numbers of its own rows, see `rows_of_batch`.

    `clock`, if there is one, is an array of two uint64 numbers on a CUDA backend, (step, epoch). It
    is read when the numbers are drawn and added to the step and the epoch of the stream, so that a
    recorded launch draws new numbers at each replay.
    """

    seed: int
    purpose: int
    step: int = 0
    call: int = 0
    epoch: int = 0
    first: int = 0
    clock: Any = field(default=None, compare=False, repr=False)

    @property
    def key(self) -> tuple[int, int]:
        return self.seed, self.purpose

    @property
    def counter(self) -> tuple[int, int, int, int]:
        return 0, self.step, self.call, self.epoch


class _State:
    """The state that `seed` sets and every draw advances."""

    def __init__(self) -> None:
        self.reset(0)

    def reset(self, seed: int) -> None:
        self.seed, self.epoch, self.step = seed, 0, 0
        self.clock: Any = None
        self.rows: tuple[int, int] | None = None
        self.calls = dict.fromkeys(PURPOSES, 0)


_state = _State()


def seed(value: int) -> None:
    """Decide everything drawn afterwards: initial parameters, shuffles, dropout, augmentation.

    Args:
        value: from 0 to 2^64 - 1; a new process starts as after ``seed(0)``.
    Raises:
        TypeError, ValueError: any other value.
    """
    _state.reset(checked_seed("seed: value", value))


def checked_seed(what: str, value: Any) -> int:
    """A seed as a Python integer; the errors of `seed`, which begin with `what`, for any other value."""
    if not isinstance(value, int | np.integer):
        raise TypeError(f"{what} must be an integer, got {value!r}")
    if not 0 <= value < _LIMIT:
        raise ValueError(f"{what} must be from 0 to 2^64 - 1, got {value}")
    return int(value)


def current_seed() -> int:
    """The value that `seed` last set."""
    return _state.seed


def drawn() -> dict[str, int]:
    """How many streams of each purpose have been drawn from, which `resume` takes up."""
    return dict(_state.calls)


def resume(seed: int, drawn: dict[str, int]) -> None:
    """Go on drawing where another process stopped, with its seed and what `drawn` returned there."""
    _state.reset(checked_seed("resume: seed", seed))
    _state.calls.update(drawn)


def begin_step(epoch: int, step: int) -> None:
    """Set the place of the draws of a training step, so that step k draws the same at any time."""
    _state.epoch, _state.step = epoch, step
    _state.calls["dropout"] = _state.calls["noise"] = 0


@contextmanager
def clocked(clock: Any) -> Iterator[None]:
    """A context in which `clock` on the device gives the place of the draws; see `Stream`."""
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
    """A context in which draws do not change what is drawn afterwards."""
    calls = dict(_state.calls)
    try:
        yield
    finally:
        _state.calls = calls


@contextmanager
def rows_of_batch(first: int, rows: int) -> Iterator[None]:
    """A context in which tensors hold `rows` rows of a batch, of which `first` rows lie before them.

    So a rank that has a part of a batch draws for each sample what one that has all of it draws.
    """
    before, _state.rows = _state.rows, (first, rows)
    try:
        yield
    finally:
        _state.rows = before


def next_stream(purpose: str, shape: tuple[int, ...] = ()) -> Stream:
    """The next stream of one purpose; calls are counted, so that no two calls share words.

    Args:
        purpose: one of `PURPOSES`.
        shape: of a tensor for whose elements numbers are drawn. Inside `rows_of_batch`, a first
            axis that is as long as its rows, or a multiple of that, is taken for the rows.
    """
    call = _state.calls[purpose]
    _state.calls[purpose] = call + 1
    if purpose == "init":  # parameters are drawn in the order in which layers are made
        return Stream(_state.seed, PURPOSES[purpose], call=call)
    first, rows = _state.rows or (0, 1)
    belongs = shape and rows and shape[0] % rows == 0
    return Stream(
        _state.seed, PURPOSES[purpose], step=_state.step, call=call, epoch=_state.epoch,
        first=prod(shape) // rows * first if belongs else 0, clock=_state.clock,
    )  # fmt: skip


def words(stream: Stream, count: int) -> np.ndarray:
    """The first `count` uint64 words of a stream, on the host, whatever its `first`."""
    return _words_from(0, stream, count)


def _words_from(block: int, stream: Stream, count: int) -> np.ndarray:
    """`count` words of a stream, from the beginning of a block of four on."""
    # NumPy would read a tuple with a number of 2^63 or more as floating point, so pass arrays
    counter = np.array((block, *stream.counter[1:]), np.uint64)
    return np.random.Philox(key=np.array(stream.key, np.uint64), counter=counter).random_raw(count)


def uint16(stream: Stream, count: int) -> np.ndarray:
    """`count` uint16 numbers of a stream, from its `first` on.

    Each word holds four, the lowest bits first.
    """
    block, start = divmod(stream.first, NUMBERS)
    drawn = _words_from(block, stream, -(-(start + count) // 4))
    return drawn.astype("<u8", copy=False).view("<u2")[start : start + count]


def uniform(stream: Stream, count: int) -> np.ndarray:
    """`count` float64 numbers in [0, 1), each from the upper 53 bits of a word."""
    return (words(stream, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal(stream: Stream, count: int) -> np.ndarray:
    """`count` standard normal float64 numbers, entries of `normal_table`: none lies beyond 4.33."""
    return normal_table()[uint16(stream, count)]


def sample_words(seed: int, purpose: str, samples: np.ndarray, epoch: int, block: int = 0) -> np.ndarray:
    """One block, four words, of a stream for each sample.

    The streams are ``Stream(seed, PURPOSES[purpose], call=sample, epoch=epoch)``. It draws from
    many streams at once; numpy.random.Philox draws from one, and takes long to construct.

    Args:
        seed, purpose, epoch: those of the streams.
        samples: (N,) integers.
        block: the number of the block, from 0.
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
    """The upper and the lower 64 bits of products of uint64 numbers."""
    half, mask = np.uint64(32), np.uint64(0xFFFFFFFF)
    a_high, a_low, b_high, b_low = a >> half, a & mask, b >> half, b & mask
    middle = a_high * b_low + (a_low * b_low >> half)
    carry = a_low * b_high + (middle & mask)
    return a_high * b_high + (middle >> half) + (carry >> half), a * b


def permutation(stream: Stream, count: int) -> np.ndarray:
    """A permutation of range(count), int64: the stable order of the first `count` words."""
    return np.argsort(words(stream, count), kind="stable")


def drop_threshold(p: float) -> tuple[int, float]:
    """(threshold, scale) of dropout with probability p.

    An element is dropped where its uint16 number is below the threshold; the others are multiplied
    by the scale, 1 / (1 - threshold / 65536), which is 0 where all are dropped.
    """
    threshold = round(p * 65536)
    return threshold, 0.0 if threshold == 65536 else 65536 / (65536 - threshold)


@cache
def normal_table() -> np.ndarray:
    """The inverse normal distribution at the midpoints of 65,536 equal parts of (0, 1), float64."""
    inverse = NormalDist().inv_cdf
    upper = np.array([inverse((i + 0.5) / 65536) for i in range(32768, 65536)])
    return np.concatenate([-upper[::-1], upper])
