"""Adds up and gathers on three ranks, in the same calls and in different ones; raises where one goes wrong."""

import numpy as np
import pytest

from gpunet.distributed import world

ranks = world()


def total(count):
    """The sum of so many numbers, which differ between ranks."""
    found = ranks.total("numbers", np.arange(count) + 10.0 * ranks.rank)
    np.testing.assert_array_equal(found, 3 * np.arange(count) + 30.0)


def refused(call):
    """The error of calls that differ; all ranks must get one, and go on."""
    with pytest.raises(RuntimeError, match="all ranks must train, evaluate, predict and load alike") as error:
        call()
    return str(error.value)


for count in (0, 1, 123, 124, 125, 128, 1000):
    total(count)
assert ranks.gather("names", f"rank {ranks.rank}") == ["rank 0", "rank 1", "rank 2"]
for counts in ((4, 5, 6), (400, 408, 416), (5, 5, 6), (0, 1, 0)):
    told = refused(lambda counts=counts: total(counts[ranks.rank]))
    assert f"gathers numbers ({counts[ranks.rank]} numbers)" in told
    total(3)
calls = (lambda: total(2), lambda: ranks.gather("names", None), lambda: ranks.total("others", [1.0, 2.0]))
assert ["gathers numbers (2 ", "gathers names (0 ", "gathers others (2 "][ranks.rank] in refused(calls[ranks.rank])
total(3)
