"""The examples run as a user runs them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
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


def test_image_filters_writes_every_filter_of_a_users_photograph(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    image.fromarray(pixels).save(tmp_path / "photo.png")
    out = tmp_path / "filtered.png"
    line = run("image_filters.py", tmp_path / "photo.png", "--output", out, "--extent", 80)
    assert line == f"12 pictures of 60x80 pixels in {out}\n"
    assert out.stat().st_size > 10_000


def test_image_filters_takes_a_photograph_of_scikit_image_without_one(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    assert run("image_filters.py", "--output", tmp_path / "all.png").startswith("12 pictures of 400x400 pixels")


def test_inspect_network_writes_every_picture(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    weights = tmp_path / "net.safetensors"
    arguments = ("--dataset", "digits", "--epochs", 1, "--output", tmp_path / "out", "--weights", weights)
    lines = run("inspect_network.py", *arguments, "--backend", "numpy").splitlines()
    written = [Path(line.removeprefix("wrote ")) for line in lines if line.startswith("wrote ")]
    names = "first_layer_filters feature_maps receptive_fields top_patches_and_deconvnet saliency_gradcam_occlusion "
    assert [path.stem for path in written] == (names + "translation_features translation_scores").split()
    assert all(path.stat().st_size > 5_000 for path in written)
    assert run("inspect_network.py", *arguments, "--backend", "numpy").splitlines()[0] == lines[0]  # loaded this time


def test_every_example_names_its_options():
    for path in sorted(EXAMPLES.glob("*.py")):
        assert "usage: " in run(path.name, "--help")


def _has_matplotlib():
    try:
        pytest.importorskip("matplotlib")
    except pytest.skip.Exception:
        return False
    return True
