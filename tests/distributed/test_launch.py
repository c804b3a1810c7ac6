"""Who the ranks are, and how many cores each has."""

import pickle
import sys

import numpy as np
import pytest

from gpunet import cores
from gpunet.distributed import Alone, launch, mpi, world
from gpunet.errors import BackendError


@pytest.fixture
def unlaunched(monkeypatch):
    """No launcher's variables, and a world that has not been asked for."""
    ranks = [rank for rank, _ in launch.LAUNCHERS.values()]
    for name in (*launch.LAUNCHERS, *ranks, *cores.RANKS_HERE, "GPUNET_RANKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MPI4PY_LIBMPI", "none")  # which Open MPI's variable would have set, and left set
    launch.world.cache_clear()
    yield monkeypatch
    launch.world.cache_clear()


def test_a_program_that_nothing_launched_is_alone(unlaunched):
    assert isinstance(world(), Alone)
    array = np.arange(3.0)
    world().add(array)
    assert array.tolist() == [0, 1, 2]
    assert world().gather("what", "value") == ["value"]
    assert world().from_first("value") == "value"
    assert pickle.loads(pickle.dumps(world())).size == 1


@pytest.mark.parametrize("variable", launch.LAUNCHERS)
def test_one_launched_rank_is_alone_without_mpi(unlaunched, variable):
    unlaunched.setenv(variable, "1")
    unlaunched.setitem(sys.modules, "mpi4py", None)
    assert isinstance(world(), Alone)


def test_a_launched_process_may_be_told_to_train_alone(unlaunched):
    unlaunched.setenv("PMI_SIZE", "4")
    unlaunched.setenv("GPUNET_RANKS", "0")
    assert isinstance(world(), Alone)


@pytest.mark.parametrize(("variable", "rank", "command"), [(name, *told) for name, told in launch.LAUNCHERS.items()])
def test_a_rank_knows_its_number_and_its_launcher_before_it_joins(unlaunched, variable, rank, command):
    unlaunched.setitem(sys.modules, "mpi4py", None)
    unlaunched.setenv(variable, "4")
    unlaunched.setenv(rank, "0")
    assert (launch.launched(), launch.follows()) == ((command, 4, 0), False)
    unlaunched.setenv(rank, "3")
    assert (launch.launched(), launch.follows()) == ((command, 4, 3), True)
    unlaunched.setenv("GPUNET_RANKS", "0")
    assert not launch.follows()


@pytest.mark.parametrize(("tasks", "command"), [("2", "srun"), ("4", "mpirun")])
def test_srun_is_named_where_it_speaks_as_mpich_does(unlaunched, tasks, command):
    for name, value in {"PMI_SIZE": "2", "PMI_RANK": "1", "SLURM_STEP_NUM_TASKS": tasks, "SLURM_PROCID": "1"}.items():
        unlaunched.setenv(name, value)
    assert launch.launched() == (command, 2, 1)


@pytest.mark.parametrize(("variable", "command"), [(name, command) for name, (_, command) in launch.LAUNCHERS.items()])
def test_several_ranks_without_mpi4py_say_what_to_install(unlaunched, variable, command):
    unlaunched.setenv(variable, "4")
    unlaunched.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ImportError, match=f"{command} has launched 4 ranks, which take mpi4py: pip install"):
        world()


def test_a_launcher_of_another_mpi_is_named(unlaunched):
    class One:
        size = 1

    module = type(sys)("gpunet.distributed.mpi")
    module.mpi_world = One
    unlaunched.setenv("SLURM_STEP_NUM_TASKS", "4")
    unlaunched.setitem(sys.modules, "gpunet.distributed.mpi", module)
    with pytest.raises(BackendError, match="srun has launched 4 ranks, but MPI finds 1: .* srun --mpi=pmi2"):
        world()


def test_the_end_of_a_program_alone_is_its_status(unlaunched, capsys):
    assert launch.end_world("why", 2) == 2
    assert capsys.readouterr().err == "why\n"


@pytest.mark.parametrize(
    ("given", "expected"), [("1", 8), ("2", 4), ("3", 2), ("100", 1), ("4(x2)", 2), ("2,1", 4), ("none", 8)]
)
@pytest.mark.parametrize("variable", cores.RANKS_HERE)
def test_ranks_on_one_machine_share_its_cores(unlaunched, variable, given, expected):
    unlaunched.setattr(cores, "cores", lambda: 8)
    unlaunched.setattr(cores, "_has_cores_of_its_own", lambda: False)
    unlaunched.delenv("GPUNET_NUM_THREADS", raising=False)
    unlaunched.setenv(variable, given)
    assert cores.wanted_threads("test") == expected


def test_a_rank_that_its_launcher_has_bound_takes_the_cores_that_it_has(unlaunched):
    unlaunched.setenv("MPI_LOCALNRANKS", "4")
    unlaunched.setattr(cores, "cores", lambda: 3)
    unlaunched.setattr(cores, "_has_cores_of_its_own", lambda: True)
    assert cores.own_cores() == 3


def test_mpi_that_does_not_start_is_an_error_of_its_own(unlaunched):
    def mpi_world():
        raise RuntimeError("cannot load MPI library")

    unlaunched.setenv("PMI_SIZE", "2")
    unlaunched.setattr(mpi, "mpi_world", mpi_world)
    with pytest.raises(
        BackendError, match="mpirun has launched 2 ranks, but MPI does not start: cannot load MPI library"
    ):
        world()
