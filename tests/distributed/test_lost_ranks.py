"""A rank that dies, hangs or leaves ends the whole run, which goes on from a whole checkpoint."""

import faults
import pytest
from helpers.ranks import launched, needs_mpi

pytestmark = needs_mpi


@pytest.mark.parametrize(("ranks", "epochs"), [(2, 40), (4, 20)])  # some seconds, of which the faults take most
def test_a_run_that_is_killed_and_stopped_ends_with_the_weights_of_one_that_is_not(tmp_path, ranks, epochs):
    found = faults.campaign(tmp_path, 4, seed=ranks, ranks=ranks, epochs=epochs, stops=0.0, longest=2.0)
    assert len(found) >= 4
    assert max(seconds for _, seconds in found) < 20


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_stopped_is_named_with_the_step_where_it_was_seen(tmp_path, victim):
    done = launched(2, "endings.py", "stopped", tmp_path, 1000, str(victim), timeout=100)
    assert done.returncode != 0
    assert f"gpunet: rank {victim} on " in done.stderr
    assert "last seen at epoch 1, step 4, has not been heard of for" in done.stderr


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_leaves_ends_the_others(tmp_path, victim):
    done = launched(2, "endings.py", "leave", tmp_path, 2, victim, timeout=100)
    assert done.returncode != 0
    assert f"rank {victim} on " in done.stderr
    assert "has ended its program while others wait for it" in done.stderr


def test_a_rank_that_works_too_long_shows_where_it_is(tmp_path):
    done = launched(2, "endings.py", "slow", tmp_path, timeout=100, environment={"GPUNET_RANK_PATIENCE": "2"})
    assert done.returncode != 0
    assert "has let the others wait for" in done.stderr
    assert "time.sleep(100)" in done.stderr


def test_ranks_that_wait_in_different_calls_end(tmp_path):
    done = launched(3, "endings.py", "crossed", tmp_path, timeout=100)
    assert done.returncode != 0
    assert "waits for arrays of rank 0" in done.stderr
    assert done.stderr.count("gpunet: ") == 1


def test_what_a_rank_starts_is_no_rank(tmp_path):
    done = launched(2, "child.py", tmp_path, timeout=100)
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / f"{rank}").read_text() for rank in range(2)] == ["1", "1"]


def test_a_rank_whose_fellows_do_not_start_ends(tmp_path):
    done = launched(2, "endings.py", "late", tmp_path, timeout=100, environment={"GPUNET_RANK_START": "2"})
    assert done.returncode != 0
    assert "_wait_until_all_ranks_have_started" in done.stderr
