"""``gpunet check`` as a whole, on the emulated device: what it says, what it keeps, and what it finds."""

import os
import random
import signal
import time

import pytest
from checking import Checks
from helpers import needs_emulator

from gpunet.check.record import BEGIN, END, last_run, read
from gpunet.cli import main

pytestmark = needs_emulator

QUICK = ["environment", "contract"]


def by_stage(results, stage):
    return [result for result in results if result.stage == stage]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A check of all stages: (exit status, what was printed, results, folder)."""
    checks = Checks(tmp_path_factory.mktemp("whole"))
    return (*checks.run("--minutes", 5), checks.folder)


def test_all_stages_that_apply_are_green(whole):
    status, printed, results, _ = whole
    assert [r for r in results if r.ok is False] == []
    assert status == 0
    ends = [r for r in results if r.what == END]
    assert [r.stage for r in ends] == ["environment", "compile", "contract", "agreement", "determinism", "training"]
    assert sum(r.seconds for r in ends) < 300
    assert "agreement    " in printed


def test_the_record_says_what_was_asked_and_what_was_found(whole):
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
    assert training["captured"]["loss"] == training["eagerly: the same history and weights"]["loss"]
    assert {"in ieee", "in bfloat16", "in float16"} <= set(training)


def test_the_report_is_made_from_the_record(whole):
    report = (whole[3] / "report.md").read_text()
    assert "| contract | 17 | 0 | 0 |" in report
    assert "| conv2d_forward_tiled<bfloat16> | " in report
    assert "## Failed" not in report


FAULTS = {
    "headers:environment": ("environment", "device", "lie outside this Python environment"),
    "syntax:compile": ("compile", "take.cu", "seeded"),
    "leak:contract": ("contract", "20 recorders", "the device's memory is not given back"),
    "constant:agreement": ("agreement", "cast to float16 [float32]", "the results differ by more than rounding"),
    "barrier:determinism": ("determinism", "a step of cnn", "the step leaves other bits"),
    "order:training": ("training", "batches made by kernels", "the history is another"),
    "raises:training": ("training", "the stage itself", "RuntimeError: seeded"),
    "crash:environment": ("environment", END, "ended by SIGABRT, while it looked at: machine"),
    "hang:environment": ("environment", END, ", while it looked at: machine"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_reported_by_its_stage_and_the_others_still_run(checks, fault):
    stage, what, error = FAULTS[fault]
    others = {"environment", "determinism"} - {stage}
    minutes = 0.4 if "hang" in fault else 4
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
"""Moments of the test below."""


@pytest.mark.parametrize("seed", range(KILLS))
def test_a_check_that_is_killed_has_kept_all_that_it_did(checks, seed):
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


def test_without_a_gpu_the_emulated_device_is_checked_and_why_is_said(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("gpunet.check.command.why_unavailable", lambda name: "no driver here" if name == "cuda" else "")
    monkeypatch.setattr("gpunet.check.conductor.run", lambda stages, options, minutes: True)
    assert main(["check", "--output", str(tmp_path)]) == 0
    assert "No GPU is checked: no driver here\nThe emulated device" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend", "numpy"], "check: --backend is numpy but takes cuda, cuda:1 or emulated"),
        (["--minutes", "0"], "check: --minutes is 0.0 but must be more than 0"),
        (["--reference", "absent.npz"], "check: --reference absent.npz is not a file"),
        (["--backend", "emulated", "--stages", "speed"], "check: --stages speed does not apply to emulated"),
    ],
)
def test_what_cannot_be_asked_is_said_in_a_line(capsys, tmp_path, arguments, message):
    assert main(["check", "--output", str(tmp_path), *arguments]) == 2
    assert capsys.readouterr().err == f"gpunet check: {message}\n"
