"""The examples run as a user runs them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name, *arguments):
    return execute(EXAMPLES / name, *arguments)


def execute(*arguments):
    command = [sys.executable, "-W", "error", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


def test_train_classifier_prints_the_test_accuracy_that_the_command_line_reaches():
    arguments = ("--dataset", "digits", "--epochs", 3, "--seed", 1, "--backend", "numpy")
    last = run("train_classifier.py", *arguments).splitlines()[-1]
    assert last.startswith("test accuracy: ")
    assert float(last.split()[-1].rstrip("%")) > 80
    assert last == execute("-m", "gpunet", "train", *arguments).splitlines()[-1]


def test_compare_backends_prints_both_curves_and_their_difference(tmp_path):
    plot = []
    if _has_matplotlib():
        plot = ["--plot", tmp_path / "curves.png"]
    lines = run("compare_backends.py", "--steps", 10, *plot).splitlines()
    assert lines[0].split() == ["step", "numpy", "reference", "difference"]
    first, last = (line.split() for line in (lines[1], lines[10]))
    assert float(last[1]) < float(first[1])
    assert float(lines[-1].removeprefix("largest relative difference: ")) < 1e-5
    assert not plot or plot[1].stat().st_size > 1000


def test_every_example_names_its_options():
    for path in sorted(EXAMPLES.glob("*.py")):
        assert "usage: " in run(path.name, "--help")


def _has_matplotlib():
    try:
        pytest.importorskip("matplotlib")
    except pytest.skip.Exception:
        return False
    return True
