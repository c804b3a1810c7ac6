"""A stage reports what its checks return and raise, and goes on."""

import pytest

from gpunet.check.record import read
from gpunet.check.stage import FailedError, NotApplicableError, Options, Stage
from gpunet.errors import BackendError


@pytest.fixture
def stage(tmp_path):
    return Stage(Options("contract", "emulated", str(tmp_path), 10.0))


def results(stage):
    return [(r.what, r.ok, dict(r.numbers), r.error) for r in read(stage._record.path)]


def failing():
    raise FailedError("the bits differ", {"differing": 3})


def absent():
    raise NotApplicableError("no GPU here")


def broken(key):
    return {}[key]


def test_the_value_or_the_error_of_a_check_is_a_result(stage, capsys):
    stage.check("good", lambda: {"ulp": 1})
    stage.check("silent", lambda: None)
    assert not stage.failed
    stage.check("bad", failing)
    stage.check("absent", absent)
    stage.check("broken", broken, "key")
    assert stage.failed
    *found, last = results(stage)
    assert found == [
        ("good", True, {"ulp": 1}, ""),
        ("silent", True, {}, ""),
        ("bad", False, {"differing": 3}, "the bits differ"),
        ("absent", None, {}, "no GPU here"),
    ]
    assert last[:3] == ("broken", False, {})
    assert last[3].startswith("KeyError: 'key' (at test_stage.py:")
    assert capsys.readouterr().out.splitlines() == [
        "  ok      good: ulp 1",
        "  ok      silent",
        "  FAILED  bad: differing 3 the bits differ",
        "  skipped absent: no GPU here",
        f"  FAILED  broken: {last[3]}",
    ]


def test_a_passed_check_may_print_nothing_but_is_recorded(stage, capsys):
    stage.check("good", lambda: {"ulp": 1}, show=False)
    stage.check("bad", failing, show=False)
    assert capsys.readouterr().out == "  FAILED  bad: differing 3 the bits differ\n"
    assert len(results(stage)) == 2


def test_lists_are_recorded_but_not_printed(stage, capsys):
    stage.check("instances", lambda: {"kernels": ["a"] * 50, "count": 50, "share": 0.123456})
    assert capsys.readouterr().out == "  ok      instances: count 50, share 0.1235\n"


def test_a_backend_that_launches_no_kernels_is_refused(tmp_path):
    with pytest.raises(BackendError, match="check: backend is numpy but takes cuda, cuda:1 or emulated"):
        _ = Stage(Options("contract", "numpy", str(tmp_path), 10.0)).backend
