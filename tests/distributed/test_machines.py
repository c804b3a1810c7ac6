"""Ranks on two machines: they need not know each other's names, and both end where the link between them is cut."""

import importlib.util
import subprocess
import sys
import time
from contextlib import ExitStack

import numpy as np
import pytest
from faults import SLOWEST, is_rank
from helpers.machines import TwoMachines
from helpers.ranks import PROGRAMS, needs_mpi

from gpunet.interop.checkpoints import open_checkpoint

pytestmark = [needs_mpi, pytest.mark.slow]


@pytest.fixture
def machines(tmp_path):
    with ExitStack() as stack:
        try:
            made = stack.enter_context(TwoMachines(tmp_path))
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"this user may make no machines: {error}")
        yield made


def test_weights_are_those_of_one_rank(machines, tmp_path):
    running = machines.launch(4, sys.executable, PROGRAMS / "training.py", tmp_path, "float64", 2, "plain")
    assert running.wait(100) == 0, machines.log.read_text()
    specification = importlib.util.spec_from_file_location("training_program", PROGRAMS / "training.py")
    program = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(program)
    for name, expected in program.trained("plain").items():
        for rank in range(4):
            found = np.load(tmp_path / f"plain-{rank}.npz")[name]
            np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10, err_msg=name)


def test_the_ranks_of_both_machines_end_where_the_link_is_cut(machines, tmp_path):
    running = machines.launch(4, sys.executable, PROGRAMS / "endings.py", "resumed", tmp_path, 100_000)
    checkpoint = tmp_path / "last.safetensors"
    wait_until(checkpoint.exists, 60)
    assert ranks_of(machines) == [2, 2]
    machines.cut()
    wait_until(lambda: ranks_of(machines) == [0, 0], 2 * SLOWEST)  # some 24 s, where nothing else is busy
    wait_until(lambda: "-2, last seen at " in machines.log.read_text(), 30)
    assert "has not been heard of for" in machines.log.read_text()
    running.kill()  # for mpirun waits for the other machine longer than that
    open_checkpoint(checkpoint)


def ranks_of(machines):
    """How many ranks there are on each machine."""
    return [sum(map(is_rank, machines.processes(machine))) for machine in (1, 2)]


def wait_until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)
