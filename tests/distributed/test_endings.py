"""How a training on several ranks ends: with all of them, by errors, by signals, and where it goes on."""

import json
import subprocess
import sys

import numpy as np
import pytest
from helpers.ranks import MPIRUN, launched, needs_mpi, succeeded

from gpunet import nn, optim
from gpunet.distributed import Alone, Share
from gpunet.train import StopTraining
from gpunet.train.interrupt import Interrupt
from gpunet.train.joining import joined
from gpunet.train.metrics import make_metrics
from gpunet.train.ranks import check_alike
from gpunet.train.step import StepResult

pytestmark = needs_mpi


def ended(ranks, way, folder, *arguments):
    """Run `endings.py`, which must end well -> what each rank reports."""
    folder.mkdir(exist_ok=True)
    succeeded(ranks, "endings.py", way, folder, *arguments)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]


def test_an_error_of_one_rank_ends_all_and_says_which(tmp_path):
    done = launched(3, "endings.py", "error", tmp_path, timeout=100)
    assert done.returncode != 0
    assert "gpunet: rank 2 of 3 on " in done.stderr
    assert "RuntimeError: this rank alone" in done.stderr
    assert done.stderr.count("Traceback") == 1


def test_a_loss_that_is_not_finite_on_one_rank_is_an_error_on_all(tmp_path):
    found = ended(3, "infinity", tmp_path)
    assert found == [{"error": "Trainer: the loss is nan in epoch 1, step 4; nothing was updated"}] * 3


def test_ranks_that_drift_apart_are_found(tmp_path):
    done = launched(3, "endings.py", "drift", tmp_path, timeout=100)
    assert done.returncode != 0
    assert "Trainer: the checksum of the parameters after epoch 1, step 5: " in done.stderr
    assert " on rank 2 (" in done.stderr
    assert done.stderr.count("Traceback") == 1  # all ranks raise it, and rank 0 reports it


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("metric", "ValueError: Trainer: metric is 'guess' but takes"),
        ("rows", "RuntimeError: Trainer: the checksum of the first batch of a list: "),
        ("layers", "all ranks must train, evaluate, predict and load alike, and compute the same layers"),
    ],
)
def test_what_ranks_cannot_do_is_reported_once(way, message):
    done = launched(2, "refused.py", way, timeout=100)
    assert done.returncode != 0
    assert done.stderr.count(message) == 1, done.stderr
    assert done.stderr.count("gpunet: ") == 1


def test_a_rank_that_mpi_cannot_end_ends_itself():
    program = """
import os
import resource
from threading import Event
from gpunet.distributed import mpi

class World:
    def Abort(self, status):
        Event().wait()  # as where the launcher's machine is cut off

mpi.ENDING, ranks = 0.2, object.__new__(mpi.MpiRanks)
ranks._world, ranks._watch, ranks._nowhere = World(), None, os.open(os.devnull, os.O_WRONLY)
resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4))  # as where an error is that too many files are open
ranks._abort_now("the reason", 1)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr, done.stdout) == (1, "the reason\n", "")


def test_a_hook_that_stops_one_rank_alone_is_found(tmp_path):
    done = launched(2, "endings.py", "alone", tmp_path, timeout=100)
    assert done.returncode != 0
    assert "gathers" in done.stderr
    assert "has a hook stopped one of them alone?" in done.stderr


def test_a_signal_to_one_rank_stops_all_of_them_behind_the_same_step(tmp_path):
    stopped = ended(2, "interrupted", tmp_path)
    assert [(found["epoch"], found["interrupted"]) for found in stopped] == [(0, True), (0, True)]
    assert stopped[0]["sum"] == stopped[1]["sum"]


def test_ranks_that_make_other_calls_all_know_it():
    succeeded(3, "totals.py", timeout=60)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_terminated_ends_all_when_the_first_has_written_its_files(tmp_path, victim):
    done = launched(2, "endings.py", "terminated", tmp_path, 2, victim, timeout=100)
    assert done.returncode != 0
    assert (tmp_path / "end").read_text() == "0 3"
    assert "has died" not in done.stderr
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".json"]  # the program went no further


def test_a_rank_that_a_second_signal_ends_at_once_waits_for_nobody(tmp_path):
    environment = {"GPUNET_RANK_PATIENCE": "0"}  # so that no watch ends the others
    done = launched(2, "endings.py", "hurried", tmp_path, timeout=60, environment=environment)
    assert done.returncode != 0


@pytest.mark.parametrize(("before", "after"), [(2, 2), (4, 2), (2, 3), (1, 4)])
def test_a_run_goes_on_with_any_number_of_ranks(tmp_path, before, after):
    """Stopped within an epoch, it sees the samples that it would have seen."""
    whole = ended(2, "resumed", tmp_path / "whole", 3)[0]
    stopped = ended(before, "interrupted", tmp_path / "stopped", 3)[0]
    assert (stopped["epoch"], stopped["interrupted"]) == (0, True)
    found = ended(after, "resumed", tmp_path / "stopped", 3)
    assert {(each["epoch"], each["sum"]) for each in found} == {(3, found[0]["sum"])}
    np.testing.assert_allclose(found[0]["losses"], whole["losses"], rtol=1e-5)
    if before == after == 2:
        assert found[0]["sum"] == whole["sum"]


def test_only_the_first_rank_writes_and_prints(tmp_path):
    folder = tmp_path / "run"
    command = [MPIRUN, "-n", "2", "gpunet", "train", "--epochs", "2", "--output", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["backend:", "data", "model:", "epoch", "epoch", "test"]
    assert lines[0].endswith(", 2 ranks)")
    names = {path.name for path in folder.iterdir()}
    assert names == {"best.safetensors", "config.json", "history.csv", "last.safetensors", "last-1.safetensors"}


@pytest.mark.parametrize(("told", "warnings"), [("", 1), ("default", 2)])
def test_the_first_rank_alone_prints_and_warns(told, warnings):
    done = launched(2, "warning.py", timeout=60, environment={"PYTHONWARNINGS": told})
    assert done.returncode == 0, done.stderr
    assert done.stdout == "result\n"
    assert done.stderr.count("UserWarning: all ranks meet this") == warnings
    assert done.stderr.count("was here") == 2


def test_the_command_line_reports_what_all_ranks_meet_once(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "file").touch()
    command = [MPIRUN, "-n", "2", "gpunet", "train", "--output", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode != 0
    assert done.stderr.count("gpunet train: ") == 1


def test_ranks_that_see_different_checkpoints_say_so(tmp_path):
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
    ended(1, "resumed", tmp_path / "0", 1)
    done = launched(2, "endings.py", "apart", tmp_path, timeout=100)
    assert done.returncode != 0
    assert "checkpoints: [] on rank 1 (" in done.stderr
    assert "all ranks must see the same folder" in done.stderr


class Logits:
    """A metric that takes them."""

    name, value = "logits", 0.0

    def reset(self):
        pass

    def update(self, logits, labels):
        pass


def test_batches_must_be_those_of_all_ranks():
    class Two(Alone):
        size = 2

        def total(self, what, numbers):
            return numbers + np.array([8, 64, *numbers[2:]])

        def gather(self, what, value):
            return [value, [8]]

    share = Share((np.zeros((12, 1)),), 0, 12, 24)
    with pytest.raises(
        ValueError, match=r"a batch has \[24, 8\] rows on the ranks: each must be given the whole batch"
    ):
        joined(Two(), [share], [StepResult(1.0, 12)], [])


@pytest.mark.parametrize(("metrics", "sent"), [(["accuracy", "f1"], False), (["accuracy", Logits()], True)])
def test_logits_are_sent_only_where_a_metric_takes_them(metrics, sent):
    told = []

    class Two(Alone):
        size = 2

        def total(self, what, numbers):
            return 2 * numbers

        def gather(self, what, value):
            told.append(what)
            return [value, value]

    share = Share((np.zeros((12, 1)),), 0, 12, 24)
    own = StepResult(1.0, 12, logits=np.eye(12, 3), labels=np.zeros(12, int))
    (result,) = joined(Two(), [share], [own], make_metrics(metrics))
    assert told == ["logits"] * sent
    assert (result.logits is None) != sent
    assert [each.tolist() for each in result.measured[:1]] == ([] if sent else [[20, 24]])


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        (0, None),
        (1, "the parameters"),
        (2, "the optimizer's arrays"),
        (3, "the moments of batch norm"),
        (4, "the averages"),
    ],
)
def test_parameters_moments_slots_and_averages_must_be_alike(changed, what):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm2d(4))
    optimizer = optim.Adam(model.parameters())
    average = optim.ExponentialMovingAverage(model, optimizer)
    places = [optimizer.arena.data, list(optimizer.arena.slots.values())[-1], model[1].running_var.data]
    places.append(average.statistics.data)

    class Two(Alone):
        size = 2
        told = ()

        def gather(self, what, value):
            self.told = [*self.told, value]
            return [value, given.pop(0)] if given else [value, value]

    given, first = [], Two()
    check_alike(first, optimizer, "step 5", model)
    given = first.told
    if what is None:
        check_alike(Two(), optimizer, "step 5", model)
        return
    places[changed - 1][-1] += 1e-3
    with pytest.raises(RuntimeError, match=f"Trainer: the checksum of {what} after step 5: "):
        check_alike(Two(), optimizer, "step 5", model)


def test_a_signal_that_comes_while_ranks_agree_is_of_the_next_check():
    interrupt = Interrupt()

    class Two(Alone):
        size = 2

        def total(self, what, numbers):
            sums = 2 * np.array(numbers, float)
            interrupt.count, interrupt.terminated = 1, True  # as the handler does
            return sums

    interrupt._ranks = Two()
    interrupt.check()
    assert (interrupt.count, interrupt.terminated) == (1, True)
    with pytest.raises(StopTraining):
        interrupt.check()
