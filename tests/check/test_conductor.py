"""The conductor explains how a stage's process ended, and goes on."""

import os
import sys
import time
from pathlib import Path

import pytest

from gpunet.check import conductor
from gpunet.check.conductor import SHARES, stages_for
from gpunet.check.record import END, Record, Result, read
from gpunet.check.stage import Options, running_file

pytestmark = pytest.mark.skipif(not hasattr(os, "killpg"), reason="there are no process groups here")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run Python code as the process of a stage -> how it ended."""

    def run(code, seconds=20.0):
        monkeypatch.setattr(conductor, "command", lambda options: [sys.executable, "-c", code])
        return conductor.run_stage(Options("contract", "emulated", str(tmp_path), seconds))

    return run


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("", ""),
        ("raise SystemExit(3)", "something in it failed"),
        ("raise RuntimeError", "its process ended with status 1"),
        ("import os; os.abort()", "its process was ended by SIGABRT"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "its process was ended by SIGSEGV"),
    ],
)
def test_the_end_of_a_stage_is_explained(run, code, error):
    result = run(code)
    assert (result.stage, result.what, result.ok, result.error) == ("contract", END, not error, error)


def test_a_process_that_hangs_is_ended_with_all_that_it_has_started(run, tmp_path):
    started = (
        "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    )
    note = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(p.pid)); time.sleep(60)"
    running_file(tmp_path, "contract").write_text("replays of a graph")
    begin = time.monotonic()
    result = run(started + note, seconds=1.5)
    assert time.monotonic() - begin < 10
    assert result.error == "it did not end within 2 s, while it looked at: replays of a graph"
    child = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 10
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(child)
    assert not running_file(tmp_path, "contract").exists()


def _runs(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_process_that_cannot_be_killed_does_not_block_the_check(run, monkeypatch):
    monkeypatch.setattr(conductor, "PATIENCE", 0.2)
    monkeypatch.setattr(conductor.os, "killpg", lambda group, sign: None)  # as one that waits for a driver
    begin = time.monotonic()
    result = run("import time; time.sleep(3)", seconds=0.5)
    assert time.monotonic() - begin < 2
    assert result.error.endswith("; its process could not be ended, and may hold the device")


def test_a_half_written_line_of_a_killed_stage_is_cut_off(monkeypatch, tmp_path):
    def run_stage(options):
        with Record(tmp_path).path.open("a") as file:
            file.write('{"stage": "contract", "what": "ha')
        return Result(options.stage, END, False, error="it did not end within 1 s")

    monkeypatch.setattr(conductor, "run_stage", run_stage)
    conductor.run(["contract", "training"], Options("", "cuda", str(tmp_path), 0), minutes=1)
    assert [r.stage for r in read(Record(tmp_path).path)] == ["contract", "training"]
    assert "it did not end within 1 s" in (tmp_path / "report.md").read_text()  # which is there after each stage


def test_every_stage_runs_whether_or_not_the_one_before_failed(monkeypatch, tmp_path):
    called = []

    def run_stage(options):
        called.append((options.stage, options.seconds))
        ok = options.stage != "compile"
        return Result(options.stage, END, ok, {}, 0, "" if ok else "seeded")

    monkeypatch.setattr(conductor, "run_stage", run_stage)
    names = ["environment", "compile", "contract"]
    assert not conductor.run(names, Options("", "cuda", str(tmp_path), 0), minutes=1)
    assert [name for name, _ in called] == names
    assert [r.ok for r in read(Record(tmp_path).path)] == [True, False, True]
    whole = sum(SHARES[name] for name in names)
    assert called[0][1] == pytest.approx(60 * SHARES["environment"] / whole, abs=0.5)
    assert called[-1][1] == pytest.approx(60, abs=0.5)  # what the others have left


def test_time_that_a_stage_has_used_is_not_given_again(monkeypatch, tmp_path):
    now, limits = [0.0], []
    monkeypatch.setattr(conductor, "monotonic", lambda: now[0])

    def run_stage(options):
        limits.append(options.seconds)
        now[0] += options.seconds  # each takes all that it may
        return Result(options.stage, END, True)

    monkeypatch.setattr(conductor, "run_stage", run_stage)
    assert conductor.run(list(SHARES), Options("", "cuda", str(tmp_path), 0), minutes=5)
    assert sum(limits) == pytest.approx(300)
    assert min(limits) > 5


def test_stages_keep_their_order_and_speed_is_for_gpus():
    assert stages_for("cuda") == list(SHARES)
    assert stages_for("emulated") == [name for name in SHARES if name != "speed"]
    assert stages_for("cuda:1", ["speed", "compile"]) == ["compile", "speed"]
