import os
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

import gpunet as gp
from gpunet import random
from gpunet.random import Stream

MASK = (1 << 64) - 1


def philox(counter, key):
    """Philox4x64-10 from the paper: ten rounds of two multiplications, the key raised by the Weyl constants."""
    c, k = list(counter), list(key)
    for _ in range(10):
        low, high = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [(high >> 64) ^ c[1] ^ k[0], high & MASK, (low >> 64) ^ c[3] ^ k[1], low & MASK]
        k = [(k[0] + 0x9E3779B97F4A7C15) & MASK, (k[1] + 0xBB67AE8584CAA73B) & MASK]
    return c


def test_the_oracle_gives_the_papers_known_answers():
    # Random123's kat_vectors
    assert philox([0] * 4, [0] * 2) == [
        0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B
    ]  # fmt: skip
    assert philox([MASK] * 4, [MASK] * 2) == [
        0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0
    ]  # fmt: skip


STREAMS = [Stream(0, 0), Stream(MASK, 5, step=3, call=2, epoch=9), Stream(1 << 63, 1, step=MASK, call=MASK, epoch=MASK)]


@pytest.mark.parametrize("stream", STREAMS)
def test_words_are_philoxs(backend, stream):
    expected = [
        word for i in range(1, 6) for word in philox((i, stream.step, stream.call, stream.epoch), (stream.seed, stream.purpose))
    ]  # fmt: skip
    assert [int(w) for w in random.words(stream, 18)] == expected[:18]
    assert [int(w) for w in backend.to_numpy(backend.random_words(stream, 18))] == expected[:18]
    key, counter = np.array(stream.key, np.uint64), np.array(stream.counter, np.uint64)
    numpys = np.random.Philox(key=key, counter=counter).random_raw(18)
    np.testing.assert_array_equal(random.words(stream, 18), numpys)


def test_16_bit_numbers_are_the_words_lowest_first():
    stream = Stream(3, 1)
    (word,) = random.words(stream, 1)
    assert random.uint16(stream, 3).tolist() == [int(word) >> s & 0xFFFF for s in (0, 16, 32)]


def test_uniform_numbers_are_the_upper_bits():
    stream = Stream(4, 1)
    word = int(random.words(stream, 1)[0])
    drawn = random.uniform(stream, 2000)
    assert drawn.dtype == np.float64
    assert drawn[0] == (word >> 11) / 2**53
    assert 0 <= drawn.min() < 0.01
    assert 0.99 < drawn.max() < 1
    assert stats.kstest(drawn, "uniform").pvalue > 1e-3


def test_normal_numbers_have_the_moments_of_the_normal_distribution():
    table = random.normal_table()
    assert len(table) == 65536
    np.testing.assert_array_equal(table, -table[::-1])
    assert np.all(np.diff(table) > 0)
    np.testing.assert_allclose(table, stats.norm.ppf((np.arange(65536) + 0.5) / 65536), rtol=1e-9, atol=1e-12)
    assert abs(table.var() - 1) < 1e-3
    assert abs((table**4).mean() - 3) < 1e-2
    drawn = random.normal(Stream(0, 4), 200_000)
    assert abs(drawn.mean()) < 5 / np.sqrt(drawn.size)
    assert abs(drawn.var() - 1) < 5 * np.sqrt(2 / drawn.size)
    assert stats.kstest(drawn, "norm").pvalue > 1e-3


def test_a_permutation_holds_every_number_once_and_is_fair():
    orders = np.array([random.permutation(Stream(0, 2, call=i), 5) for i in range(6000)])
    assert (np.sort(orders, axis=1) == np.arange(5)).all()
    assert orders.dtype == np.int64
    counts = [np.bincount(orders[:, place], minlength=5) for place in range(5)]
    assert stats.chi2_contingency(counts).pvalue > 1e-3
    words = random.words(Stream(0, 2), 9)
    np.testing.assert_array_equal(random.permutation(Stream(0, 2), 9), np.argsort(words, kind="stable"))


def test_the_seed_decides_parameters_and_dropout():
    def draw():
        model = gp.nn.Sequential(gp.nn.Conv2d(1, 2, 3), gp.nn.Dropout(0.5))
        x = np.ones((1, 9, 9, 1), np.float32)
        return model[0].weight.numpy().copy(), model(x).numpy()

    drawn = []
    for seed in (5, 5, 6):
        gp.seed(seed)
        drawn.append(draw())
    later = draw()
    for one, same, other, after in zip(*drawn, later, strict=True):
        np.testing.assert_array_equal(one, same)
        assert (one != other).any()
        assert (other != after).any()
    assert random.current_seed() == 6


def test_draws_of_one_purpose_do_not_shift_those_of_another():
    gp.seed(1)
    first = gp.nn.Linear(3, 4).weight.numpy()
    gp.seed(1)
    gp.functional.dropout(gp.tensor(np.ones(100)), 0.5)
    np.testing.assert_array_equal(gp.nn.Linear(3, 4).weight.numpy(), first)


def test_a_step_draws_the_same_however_it_was_reached():
    x = gp.tensor(np.ones(1000, np.float32))
    random.begin_step(2, 7)
    there = gp.functional.dropout(x, 0.5).numpy()
    gp.seed(0)
    for step in range(8):
        random.begin_step(2, step)
        walked = gp.functional.dropout(x, 0.5).numpy()
    np.testing.assert_array_equal(walked, there)


@pytest.mark.parametrize(
    ("value", "kind"), [(-1, ValueError), (1 << 64, ValueError), (1.0, TypeError), ("1", TypeError)]
)
def test_a_bad_seed_is_named(value, kind):
    with pytest.raises(kind, match=r"seed: value must be"):
        gp.seed(value)


@pytest.mark.parametrize("p", [0.0, 0.25, 0.3, 1.0])
def test_dropout_scales_by_the_rate_it_draws_at(p):
    threshold, scale = random.drop_threshold(p)
    assert threshold == round(p * 65536)
    assert scale == (0 if p == 1 else pytest.approx(1 / (1 - threshold / 65536)))


def test_parameters_drawn_in_mid_training_are_those_drawn_before():
    first = gp.nn.Linear(3, 4).weight.numpy().copy()
    gp.seed(0)
    random.begin_step(3, 7)
    np.testing.assert_array_equal(gp.nn.Linear(3, 4).weight.numpy(), first)


TRAIN = """
import hashlib
import gpunet as gp
from gpunet import data, functional as F, models, optim
gp.seed(5)
model = models.cnn((8, 8, 1), dropout=0.3)
optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
loader = data.DataLoader(data.digits(split="train"), 64, shuffle=True, transform=data.Normalize(0.3, 0.4))
for step, (x, y) in zip(range(5), loader):
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
print(hashlib.sha256(b"".join(p.numpy().tobytes() for p in model.parameters())).hexdigest())
"""


def test_one_seed_gives_one_result_in_every_process():
    prints = {
        subprocess.run(
            [sys.executable, "-c", TRAIN],
            env={**os.environ, "GPUNET_NUM_THREADS": "2", "PYTHONHASHSEED": str(i)},
            capture_output=True, text=True, check=True,
        ).stdout
        for i in range(2)
    }  # fmt: skip
    assert len(prints) == 1
    assert len(prints.pop().strip()) == 64


@pytest.mark.parametrize("seed", [0, 7, 2**64 - 1])
@pytest.mark.parametrize(("epoch", "block"), [(0, 0), (5, 3), (2**64 - 1, 0)])
def test_the_words_of_many_samples_are_those_of_each_ones_stream(seed, epoch, block):
    samples = np.array([0, 1, 59_999, 2**40])
    got = random.sample_words(seed, "augment", samples, epoch, block)
    for position, sample in enumerate(samples.tolist()):
        stream = Stream(seed, random.PURPOSES["augment"], call=sample, epoch=epoch)
        assert got[:, position].tolist() == random.words(stream, 4 * block + 4)[-4:].tolist()


def test_a_clocked_step_draws_in_place_zero_of_its_clock_and_leaves_no_trace():
    random.begin_step(3, 5)
    random.next_stream("dropout")
    clock = object()
    with random.clocked(clock):
        streams = [random.next_stream("dropout") for _ in range(2)]
    assert [(s.step, s.epoch, s.call, s.clock) for s in streams] == [(0, 0, 0, clock), (0, 0, 1, clock)]
    after = random.next_stream("dropout")
    assert (after.step, after.epoch, after.clock) == (5, 3, None)


def test_what_is_drawn_aside_changes_nothing_that_follows():
    random.begin_step(2, 5)
    first = random.next_stream("dropout")
    with random.undisturbed():
        assert random.next_stream("dropout").call == first.call + 1
        random.next_stream("init")
    assert random.next_stream("dropout") == Stream(0, random.PURPOSES["dropout"], step=5, call=1, epoch=2)
    assert random.next_stream("init").call == 0
