"""``gpunet check`` as a whole on the emulated device: what it prints, records and finds."""

import os
import random
import signal
import time

import pytest
from checking import Checks
from helpers import needs_emulator

from gpunet.check.record import BEGIN, END, Record, Result, last_run, read
from gpunet.cli import main

pytestmark = needs_emulator

QUICK = ["environment", "contract"]


def by_stage(results, stage):
    return [result for result in results if result.stage == stage]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A check of all stages, with a sixth of the cases: (exit status, what was printed, results, folder)."""
    checks = Checks(tmp_path_factory.mktemp("whole"))
    return (*checks.run("--minutes", 12, fault="a_sixth:agreement"), checks.folder)


def test_all_stages_that_apply_are_green(whole):
    status, printed, results, _ = whole
    assert [r for r in results if r.ok is False] == []
    assert status == 0
    ends = [r for r in results if r.what == END]
    assert [r.stage for r in ends] == ["environment", "compile", "contract", "agreement", "determinism", "training"]
    assert "agreement    " in printed


def test_the_record_holds_the_command_and_the_results(whole):
    begin, *results = whole[2]
    assert begin.stage == BEGIN
    assert "check --backend emulated" in begin.numbers["command"]
    (device,) = [r for r in by_stage(results, "environment") if r.what == "device"]
    assert device.numbers["device"].startswith("CUDA emulated")
    registers = [r.numbers["registers"] for r in by_stage(results, "compile") if r.what != END]
    assert sum(map(len, registers)) > 300
    assert all(count > 0 for module in registers for count in module.values())
    assert all(r.numbers["same bits"] for r in by_stage(results, "agreement") if "kernels" in r.numbers)
    training = {r.what: r.numbers for r in by_stage(results, "training") if r.what != END}
    assert (
        training["with a captured step"]["loss"]
        == training["step by step, the same history and weights as captured"]["loss"]
    )
    assert {"precision float32", "precision bfloat16", "precision float16"} <= set(training)


def test_the_report_is_made_from_the_record(whole):
    report = (whole[3] / "report.md").read_text()
    assert "| contract | 17 | 0 | 0 |" in report
    assert "\n\nNo GPU was checked. All is well on the emulated device: 6 of 6 stages passed.\n\n" in report
    assert "| conv2d_forward_tiled<bfloat16> | " in report
    assert "## Failed" not in report


FAULTS = {
    "headers:environment": ("environment", "device", "lie outside this Python environment"),
    "syntax:compile": ("compile", "take.cu", "seeded"),
    "leak:contract": ("contract", "20 recorders", "the device's memory is not given back"),
    "constant:agreement casts:agreement": (
        "agreement",
        "cast to float16 [float32]",
        "the results differ by more than rounding",
    ),
    "barrier:determinism": ("determinism", "a step of cnn", "the step leaves other bits"),
    "order:training": ("training", "with batches that kernels make", "the history is another"),
    "raises:training": ("training", "the stage itself", "RuntimeError: seeded"),
    "crash:environment": ("environment", END, "ended by SIGABRT, while it looked at: machine"),
    "hang:environment": ("environment", END, ", while it looked at: machine"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_reported_by_its_stage_and_the_others_still_run(checks, fault):
    stage, what, error = FAULTS[fault]
    others = {"environment", "determinism"} - {stage}
    minutes = 0.8 if "hang" in fault else 12
    status, printed, results = checks.run("--minutes", minutes, "--stages", stage, *others, fault=fault)
    assert status == 1
    failed = [r for r in by_stage(results, stage) if r.ok is False and r.what.startswith(what)]
    assert any(error in r.error for r in failed), [r for r in results if r.ok is False]
    assert error in printed
    assert error in (checks.folder / "report.md").read_text()
    for other in others:
        assert {r.ok for r in by_stage(results, other)} <= {True, None}
        assert by_stage(results, other)[-1].what == END


KILLS = int(os.environ.get("GPUNET_TEST_KILLS", "4"))
"""How many checks the test below kills, each at another moment."""


@pytest.mark.parametrize("seed", range(KILLS))
def test_a_check_that_is_killed_has_recorded_all_its_results(checks, seed):
    process = checks.start("--stages", "environment", "contract", "agreement")
    time.sleep(random.Random(seed).uniform(0.5, 8))
    process.send_signal(signal.SIGKILL)
    printed, _ = process.communicate(timeout=20)  # ends only when the stage's process, which prints too, has gone
    path = checks.folder / "record.jsonl"
    if not path.exists():  # killed before it began
        assert "ok  " not in printed
        return
    kept = {r.what for r in read(path)}
    said = [line.strip().removeprefix("ok").strip() for line in printed.splitlines() if line.startswith("  ok")]
    assert all(any(line.startswith(what) for what in kept) for line in said)
    size = path.stat().st_size
    time.sleep(0.3)
    assert path.stat().st_size == size  # nothing runs on


def test_a_second_check_in_the_same_folder_keeps_the_first_ones_record(checks):
    checks.run("--stages", "environment")
    _, _, results = checks.run("--stages", "environment")
    assert [r.stage for r in results].count(BEGIN) == 2
    assert len(last_run(results)) * 2 == len(results)


def test_without_a_gpu_the_emulated_device_is_checked_and_the_reason_is_given(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("gpunet.check.command.why_unavailable", lambda name: "no driver here" if name == "cuda" else "")
    monkeypatch.setattr("gpunet.check.conductor.run_stage", lambda options: Result(options.stage, END, True))
    assert main(["check", "--output", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("No GPU can be checked: no driver here.\nInstead, the emulated device is checked")
    assert "No GPU could be checked: no driver here." in (tmp_path / "report.md").read_text()


def test_where_nothing_can_be_checked_both_reasons_are_given(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("gpunet.check.command.why_unavailable", lambda name: f"no {name} here")
    assert main(["check", "--output", str(tmp_path / "new")]) == 2
    expected = "there is nothing to check. For a GPU: no cuda here. For the emulated device: no emulated here"
    assert capsys.readouterr().err == f"gpunet check: {expected}\n"
    assert not (tmp_path / "new").exists()


def test_only_one_check_at_a_time_may_use_a_folder(capsys, tmp_path):
    with Record(tmp_path).claimed():
        assert main(["check", "--backend", "emulated", "--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"gpunet check: --output {tmp_path} is in use by another gpunet check\n"


def test_checks_that_begin_in_the_same_second_have_folders_of_their_own(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gpunet.check.conductor.run_stage", lambda options: Result(options.stage, END, True))
    for _ in range(3):
        assert main(["check", "--backend", "emulated"]) == 0
    assert len(list((tmp_path / "runs").iterdir())) == 3


@pytest.mark.skipif(not hasattr(signal, "SIGINT"), reason="there is no interrupt here")
def test_an_interrupted_check_says_so_and_leaves_its_report(checks):
    process = checks.start("--stages", "contract", "agreement")
    for line in process.stdout:
        if "ok " in line:
            process.send_signal(signal.SIGINT)
            break
    printed = process.stdout.read()
    assert process.wait(timeout=20) == 130
    process.stdout.close()
    assert "The check was not finished" in printed
    assert "Traceback" not in printed
    assert by_stage(read(checks.folder / "record.jsonl"), "contract")[-1].error == "it was interrupted"
    assert "| it was interrupted |" in (checks.folder / "report.md").read_text()
    assert not list(checks.folder.glob("*.running"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend", "numpy"], "--backend is numpy but takes cuda, cuda:1 or emulated"),
        (["--backend", "emulated:1"], "--backend is emulated:1 but takes cuda, cuda:1 or emulated"),
        (["--minutes", "0"], "--minutes is 0.0 but must be at least 0.1"),
        (["--minutes", "inf"], "--minutes is inf but must be at least 0.1"),
        (
            ["--reference", "absent.npz"],
            "absent.npz was not written by gpunet check --write-reference, or not to its end",
        ),
        (
            ["--backend", "emulated", "--stages", "speed"],
            "--stages names speed alone, which is measured on a GPU only",
        ),
    ],
)
def test_bad_options_are_reported_in_one_line(capsys, tmp_path, arguments, message):
    assert main(["check", "--output", str(tmp_path), *arguments]) == 2
    assert capsys.readouterr().err == f"gpunet check: {message}\n"


def test_training_learns_without_scikit_learn_too(checks):
    status, printed, _ = checks.run("--stages", "training", fault="no_digits:training")
    assert status == 0, printed
    assert "skipped digits: scikit-learn, which holds them, is not installed" in printed
