"""Ranks with a CUDA device each, on the stand-ins for CUDA and for nccl4py: NCCL's calls, and training."""

import inspect
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import standin
from helpers.ranks import PROGRAMS, launched, needs_mpi, succeeded
from standin.device import DEVICES
from standin.install import why_impossible

from gpunet import cores
from gpunet.distributed import nccl

STANDIN = Path(standin.__file__).parent
NAMES = re.findall(r"^def (\w+)\(\):$", (PROGRAMS / "nccl_calls.py").read_text(encoding="utf-8"), re.MULTILINE)
CASES = (
    "plain",
    "gathered",
    "ignored",
    "ignored-gathered",
    "logits",
    "bfloat16",
    "float16",
    "device",
    "infinite",
    "uneven",
    "together",
    "together-ignored",
    "together-uneven",
    "together-bfloat16",
    "together-float16",
)
"""Trainings that give on two ranks what they give on one."""
GRAPHS = {"gathered": [2, 6], "ignored-gathered": [2, 6], "uneven": [1, 1, 3, 3], "together-uneven": [1, 1, 3, 3]}
"""How many batches each graph has; [1, 3] for the others."""
APART = {"together-bfloat16": 2e-5, "together-float16": 2e-5}
"""How far a number may be from what one rank gets; 1e-6 in the others. The moments of two parts differ in their last digit
from those of the whole, and an activation beside the middle of two numbers of 16 bits is then rounded to the other one."""


def environment(devices=2, **more):
    """What lets a process see so many devices, and nccl4py."""
    seen = standin.environment()
    paths = [str(STANDIN / "nccl4py"), seen["PYTHONPATH"]]
    return {**seen, "PYTHONPATH": os.pathsep.join(paths), DEVICES: str(devices), **more}


@pytest.fixture(autouse=True)
def _skipped_without_standin(request):
    if "launches" in request.fixturenames and (why := why_impossible()):
        pytest.skip(why)


@pytest.fixture(scope="module")
def launches():
    """A mark of the tests that launch ranks on the stand-in."""


def results(folder, case, ranks=2):
    return [dict(np.load(folder / f"{case}-{rank}.npz")) for rank in range(ranks)]


def assert_same(found, expected, case, but=("graphs",)):
    for name, array in expected.items():
        if name not in but:
            np.testing.assert_array_equal(found[name], array, err_msg=f"{case}: {name}")


# ---- the calls


@pytest.fixture(scope="module")
def calls(launches):
    return succeeded(2, "nccl_calls.py", environment=environment())


@needs_mpi
@pytest.mark.parametrize("name", NAMES)
def test_nccl_is_called_as_its_source_wants(calls, launches, name):
    told = re.findall(rf"^(\d) {name}: (.*)", calls, re.MULTILINE)
    assert sorted(told) == [("0", "ok"), ("1", "ok")], calls


class Gathered:
    """Ranks whose answers are given."""

    rank, size, leads = 0, 2, True

    def __init__(self, *answers):
        self.answers = answers

    def gather(self, what, value):
        return list(self.answers)


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ([(None, "", ""), (None, "", "")], None),
        ([(0, "", "a of one"), (1, "", "b of one")], ""),
        ([(0, "", "a of one"), (0, "", "a of other")], ""),
        ([(0, "", "a of one"), (None, "", "")], "rank 1 computes on no GPU"),
        ([(0, "no", "a of one"), (1, "", "b of one")], "rank 0 cannot use NCCL: no"),
        ([(0, "", "a of one"), (1, "", "b"), (0, "", "a of one")], "ranks 0 and 2 share the GPU a of one, which NCCL"),
    ],
)
def test_all_ranks_know_alike_why_nccl_does_not_join_them(answers, why):
    found = nccl.why_unavailable(Gathered(*answers), None)
    assert found == why or (why and found.startswith(why))


def test_without_nccl4py_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "nccl.core", None)
    nccl._why_missing.cache_clear()
    assert "nccl4py cannot be imported" in nccl._why_missing()
    nccl._why_missing.cache_clear()
    with pytest.raises(ImportError, match=re.escape("several GPUs take nccl4py: pip install 'gpunet[nccl13]'")):
        nccl.NcclRanks(Gathered(), 0)


@pytest.mark.parametrize("variable", cores.LOCAL_RANK)
@pytest.mark.parametrize(("given", "expected"), [("0", 0), ("5", 5), ("", 0), ("-1", 0)])
def test_launchers_tell_a_ranks_number_on_its_machine(monkeypatch, variable, given, expected):
    for name in cores.LOCAL_RANK:
        monkeypatch.delenv(name, raising=False)
    assert cores.local_rank() == 0
    monkeypatch.setenv(variable, given)
    assert cores.local_rank() == expected


def test_the_stand_in_has_the_signatures_of_nccl4py(monkeypatch):
    real = pytest.importorskip("nccl.core", reason="nccl4py is not installed")
    if STANDIN in Path(real.__file__).parents:
        pytest.skip("the stand-in is in the place of nccl4py")
    source = (STANDIN / "nccl4py" / "nccl" / "core" / "__init__.py").read_text(encoding="utf-8")
    ours = {"__name__": "stand_in"}
    exec(compile(source, "stand_in", "exec"), ours)
    functions = ["get_version", "get_unique_id", "group_start", "group_end", "group", "UniqueId.from_bytes"]
    methods = ["init", "initialize", "allreduce", "reduce", "broadcast", "get_async_error"]
    methods += ["_check_valid", "_validate_buffer_device"]
    for name in (*functions, *(f"Communicator.{method}" for method in methods)):
        owner, _, method = name.rpartition(".")
        found = [
            inspect.signature(getattr(side[owner] if owner else side[method], method) if owner else side[method])
            for side in (ours, vars(real))
        ]
        ours_, theirs = ([(p.name, p.kind, p.default) for p in one.parameters.values()] for one in found)
        assert ours_ == theirs, name


# ---- training


@pytest.fixture(scope="module")
def alone(launches, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    succeeded(1, "on_gpus.py", folder, False, *CASES, environment=environment())
    return {case: results(folder, case, 1)[0] for case in CASES}


@pytest.fixture(scope="module")
def eager(launches, tmp_path_factory):
    folder = tmp_path_factory.mktemp("eager")
    told = launched(2, "on_gpus.py", folder, False, *CASES, "normalised", "touched", environment=environment())
    assert (told.returncode, told.stderr) == (0, "")
    return folder


@needs_mpi
def test_two_gpus_train_what_one_trains(alone, eager, launches):
    for case in CASES:
        apart = APART.get(case, 1e-6)
        for found in results(eager, case):
            assert found["by_nccl"]
            for name, expected in alone[case].items():
                if name in ("error", "graphs", "by_nccl"):
                    continue
                np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=apart, err_msg=f"{case}: {name}")


@needs_mpi
def test_captured_steps_are_the_eager_ones_bit_for_bit_on_every_rank(eager, launches, tmp_path):
    cases = [*CASES, "normalised", "touched"]
    succeeded(2, "on_gpus.py", tmp_path, True, *cases, environment=environment())
    for case in cases:
        expected = results(eager, case)[0]
        for found in (*results(eager, case), *results(tmp_path, case)):
            assert_same(found, expected, case)
        assert results(tmp_path, case)[1]["graphs"].tolist() == GRAPHS.get(case, [1, 3])


@needs_mpi
def test_a_loss_that_is_not_finite_on_one_rank_is_skipped_by_all(eager, launches):
    for found in results(eager, "infinite"):
        assert "step 10" in str(found["error"])


@needs_mpi
def test_what_cannot_be_captured_on_one_rank_runs_eagerly_on_all_with_one_warning(eager, launches, tmp_path):
    done = launched(2, "on_gpus.py", tmp_path, "auto", "short of memory", environment=environment())
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the memory of this rank; it runs eagerly") == 1
    for found in results(tmp_path, "short of memory"):
        assert_same(found, results(eager, "plain")[0], "short of memory")


@needs_mpi
def test_a_rank_that_leaves_ends_those_whose_gpus_wait_for_it(launches, tmp_path):
    done = launched(2, "on_gpus.py", tmp_path, True, "left", environment=environment(), timeout=60)
    assert done.returncode != 0
    assert re.search("rank 1 on .*, last seen at epoch 1, step 4, has ended its program while others wait", done.stderr)


@needs_mpi
def test_a_link_between_gpus_that_fails_ends_all_ranks(launches, tmp_path):
    done = launched(2, "on_gpus.py", tmp_path, False, "link down", environment=environment(), timeout=60)
    assert done.returncode != 0
    assert re.search("at epoch 1, step 4, NCCL reports: RemoteError .reported by rank 1 of 2 on ", done.stderr)


@needs_mpi
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {"GPUNET_TEST_NCCL_MISSING": "1"},
            "rank 0 cannot use NCCL: the library libnccl.so.2 is not found: pip install",
        ),
        ({"devices": 1}, "ranks 0 and 1 share the GPU 0000:00:00.0 of"),
    ],
)
def test_without_nccl_sums_go_by_way_of_the_host_and_one_warning_says_why(alone, launches, tmp_path, changes, why):
    done = launched(2, "on_gpus.py", tmp_path, "auto", "plain", "together", environment=environment(**changes))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("by way of the host's memory") == done.stderr.count(why) == 1
    for case in ("plain", "together"):
        for found in results(tmp_path, case):
            assert not found["by_nccl"]
            assert found["graphs"].size == 0
            np.testing.assert_allclose(found["parameters"], alone[case]["parameters"], rtol=1e-5, atol=1e-6)


@needs_mpi
def test_capture_is_refused_where_nccl_does_not_join_the_ranks(launches, tmp_path):
    done = launched(2, "on_gpus.py", tmp_path, True, "plain", environment=environment(1))
    assert done.returncode != 0
    assert "capture=True on 2 ranks takes GPUs that NCCL joins, got cuda" in done.stderr
