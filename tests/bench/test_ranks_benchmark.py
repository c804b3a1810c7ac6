"""``gpunet bench ranks`` under mpirun."""

import json
import subprocess
import sys

import pytest
from helpers.ranks import MPIRUN, needs_mpi

from gpunet.bench.cli import main
from gpunet.bench.commands.ranks import Unadded
from gpunet.distributed import Alone


def test_it_takes_several_ranks():
    with pytest.raises(ValueError, match="takes several ranks, such as mpirun -n 2"):
        main(["ranks"])


def test_ranks_that_keep_their_gradients_do_not_compare_their_parameters():
    assert Unadded(Alone()).gather("the checksum", 3) == [3]
    assert Unadded(Alone()).size == 1


@needs_mpi
def test_rank_0_writes_what_the_ranks_cost_each_other(tmp_path):
    own = [sys.executable, "-m", "gpunet", "bench", "ranks", "--nets", "lenet", "--batch", "6", "--rounds", "2"]
    command = [MPIRUN, "-n", "2", *own, "--repeats", "2", "--output", str(tmp_path / "ranks.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "ranks.json").read_text())
    assert found["command"].startswith("mpirun -n 2 gpunet bench ranks --nets lenet --batch 6 ")
    (row,) = found["rows"]
    assert row["case"] == {"net": "lenet", "batch": 6, "ranks": 2}
    assert list(row["times"]) == ["overlapped", "blocking", "not added up", "each alone"]
    assert all(times["median_ms"] > 0 for times in row["times"].values())
    assert done.stdout.count("lenet 6 2:") == 1
    assert "; time blocking / overlapped: " in done.stdout
