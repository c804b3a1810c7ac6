"""Permutations, against NumPy's stable sort of the words."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpunet import random
from gpunet.random import Stream


@settings(max_examples=25)
@given(count=st.integers(0, 3000), seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 2**64 - 1))
def test_a_permutation_is_the_stable_order_of_the_words(backend, count, seed, epoch):
    stream = Stream(seed, 2, epoch=epoch)
    got = backend.to_numpy(backend.permutation(stream, count))
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, np.argsort(random.words(stream, count), kind="stable"))


@pytest.mark.parametrize("count", [1, 2, 4, 5, 8, 9, 4095, 4096, 4097, 60_000])
def test_every_number_of_buckets_sorts(backend, count):
    out = backend.full((count,), -1, np.int32)
    assert backend.permutation(Stream(1, 2), count, out=out) is out
    np.testing.assert_array_equal(backend.to_numpy(out), random.permutation(Stream(1, 2), count))


def test_equal_words_keep_their_order(backend, monkeypatch, rng):
    """Also where the words are not spread evenly, and where they are the largest."""
    for words in (np.full(70, 2**64 - 1, np.uint64), rng.integers(0, 5, 300).astype(np.uint64) << np.uint64(62)):
        monkeypatch.setattr(random, "words", lambda stream, count, words=words: words)
        monkeypatch.setattr(backend, "random_words", lambda stream, count, words=words: backend.asarray(words))
        got = backend.to_numpy(backend.permutation(Stream(0, 2), len(words)))
        np.testing.assert_array_equal(got, np.argsort(words, kind="stable"))
