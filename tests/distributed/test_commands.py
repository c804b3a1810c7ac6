"""Commands of the command line under mpirun: which ranks run them, what is printed, and what must agree."""

import os
import subprocess
from argparse import Namespace

import numpy as np
import pytest
from helpers.ranks import MPIRUN, launched, needs_mpi

from gpunet.cli import main
from gpunet.distributed import Alone, commands
from gpunet.errors import BackendError


@pytest.fixture(params=[0, 1])
def rank(request, monkeypatch):
    """The number of this process, which has been launched as one of two."""
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setenv("PMI_RANK", str(request.param))
    monkeypatch.setenv("GPUNET_RANKS", "")
    return request.param


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["summary", "lenet"], "parameters"),
        (["bench", "step", "--nets", "lenet", "--batch", "1", "--rounds", "1", "--repeats", "1"], "lenet 1: gpunet "),
    ],
)
def test_rank_0_alone_runs_a_command_that_ranks_do_not_share(rank, arguments, said, capsys):
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert (said in out) == (rank == 0)
    assert rank == 0 or (out, err) == (
        "",
        "gpunet: rank 0 alone runs this command; with GPUNET_RANKS=0 each rank does\n",
    )
    assert os.environ["GPUNET_RANKS"] == ("" if rank else "0")  # what rank 0 starts waits for nobody


@pytest.mark.parametrize("given", ["", "0"])
def test_a_process_that_is_told_to_be_alone_runs_all_commands(rank, given, monkeypatch, capsys):
    monkeypatch.setenv("GPUNET_RANKS", given)
    main(["summary", "lenet"])
    assert bool(capsys.readouterr().out) == (rank == 0 or given == "0")


@pytest.mark.parametrize("arguments", [["train", "--lr", "abc"], ["train", "--epocs", "2"], ["bench", "ranks", "--b"]])
def test_a_usage_error_ends_all_ranks(rank, arguments, capsys, monkeypatch):
    class Two(Alone):
        size = 2

        def abort(self, reason, status=1):
            told.append((reason, status))
            raise SystemExit(status)

    told = []
    monkeypatch.setattr(commands, "world", Two)
    with pytest.raises(SystemExit):
        main(arguments)
    (reason, status), *others = told
    assert (reason.count("usage: "), status, others) == (1, 2, [])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("why", [ImportError("no mpi4py"), BackendError("MPI finds 1")])
def test_a_usage_error_is_shown_where_ranks_cannot_be_joined(rank, why, capsys, monkeypatch):
    def world():
        raise why

    monkeypatch.setattr(commands, "world", world)
    with pytest.raises(SystemExit) as caught:
        main(["train", "--lr", "abc"])
    assert caught.value.code == 2
    assert "gpunet train: error: argument --lr: " in capsys.readouterr().err


def test_rank_0_alone_prints_help(rank, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["train", "--help"])
    assert caught.value.code == 0
    assert bool(capsys.readouterr().out) == (rank == 0)


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ({}, None),
        ({"quiet": True, "data_root": "/there", "backend": "cuda:1"}, None),
        ({"seed": 2}, "the option seed: 2 on rank 1 "),
        ({"label_smoothing": None}, "the option label-smoothing: None on rank 1 "),
        ({"backend": "numpy"}, "the option backend: numpy on rank 1 .*, but cuda on rank 0"),
    ],
)
def test_the_options_of_all_ranks_must_agree(theirs, said, monkeypatch):
    own = {"seed": 1, "label_smoothing": 0.1, "quiet": False, "data_root": None, "backend": "cuda:0"}

    class Two(Alone):
        size = 2

        def gather(self, what, value):
            self.told.append(value)
            return [self.first.pop(0), value] if self.first else [value]

    ranks = Two()
    ranks.told, ranks.first = [], []
    monkeypatch.setattr(commands, "world", lambda: ranks)
    commands.expect_same_options(Namespace(**own))
    ranks.first = ranks.told
    if said is None:
        commands.expect_same_options(Namespace(**{**own, **theirs}))
        return
    with pytest.raises(ValueError, match=said):
        commands.expect_same_options(Namespace(**{**own, **theirs}))


@needs_mpi
def test_shards_are_written_once(tmp_path):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    for name in "ab":
        (tmp_path / "images" / name).mkdir(parents=True)
        image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "images" / name / "0.png")
    command = [MPIRUN, "-n", "2", "gpunet", "shards", tmp_path / "images", tmp_path / "shards"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 images of 2 classes") == 1


@needs_mpi
@pytest.mark.parametrize("wrong", ["--lr abc", "--lr abc$PMI_RANK", "--lr ${PMI_RANK#0}"])
def test_a_usage_error_is_printed_once(wrong):
    """On both ranks, in their own words, or on rank 0 alone."""
    command = [MPIRUN, "-n", "2", "sh", "-c", f"exec gpunet train {wrong}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0  # 2, or 9 where mpirun kills the rank before it has ended by itself
    assert done.stderr.count("gpunet train: error: argument --lr: ") == 1


@needs_mpi
def test_ranks_that_are_given_other_options_do_not_begin():
    command = [MPIRUN, "-n", "2", "sh", "-c", "exec gpunet train --seed $PMI_RANK"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert done.stderr.count("gpunet train: the option seed: 1 on rank 1 (") == 1
    assert ", but 0 on rank 0: all ranks must be given the same options" in done.stderr
    assert "backend:" not in done.stdout


@needs_mpi
def test_after_ctrl_c_the_command_that_goes_on_has_its_launcher(tmp_path):
    done = launched(2, "pressed.py", "--batch-size", 256, "--epochs", 2, "--output", tmp_path, timeout=60)
    assert done.returncode == 130
    assert done.stderr.count(f"to go on: mpirun -n 2 gpunet train --resume {tmp_path}\n") == 1
