"""``gpunet export``: a run or a file of weights becomes an ONNX file."""

import json
import sys

import pytest
from helpers.onnx_files import TOLERANCE, error_of, session

import gpunet as gp
from gpunet import models, nn
from gpunet.cli import main
from gpunet.interop import save_weights
from gpunet.train.saved import load_saved

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

OWN = """
from gpunet import nn

def make(input_shape=(8, 8, 1), classes=10):
    return nn.Sequential(nn.Conv2d(input_shape[2], 4, 3), nn.Flatten(), nn.Linear(144, classes))
"""


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run of an epoch on the digits."""
    folder = tmp_path_factory.mktemp("run") / "digits"
    options = ["--dataset", "digits", "--epochs", "1", "--backend", "numpy"]
    assert main(["train", *options, "--quiet", "--output", str(folder)]) == 0
    return folder


def export(capsys, *options):
    status = main(["export", *map(str, options)])
    out, err = capsys.readouterr()
    return status, out, err


def said_by(path):
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def test_a_run_is_exported_with_its_classes_and_the_scaling_of_its_images(capsys, tmp_path, run_folder):
    status, out, _ = export(capsys, run_folder, "--onnx", tmp_path / "digits.onnx")
    assert (status, out.endswith("opset 17, of images (N, 1, 8, 8)\n")) == (0, True)
    model = load_saved(run_folder / "best.safetensors").model.eval()
    assert error_of(tmp_path / "digits.onnx", model, (8, 8, 1)) < TOLERANCE
    said = said_by(tmp_path / "digits.onnx")
    assert json.loads(said["classes"]) == list("0123456789")
    assert (json.loads(said["mean"]), json.loads(said["std"])) == ([0.305], [0.377])


def test_the_options_of_a_file_are_those_that_are_given(capsys, tmp_path, run_folder):
    path = tmp_path / "digits.onnx"
    given = "--opset", 21, "--layout", "NHWC", "--batch-size", 3, "--fold-batch-norm"
    status, out, _ = export(capsys, run_folder / "best.safetensors", "--onnx", path, *given)
    assert (status, out.endswith("opset 21, of images (3, 8, 8, 1)\n")) == (0, True)
    assert session(path).get_inputs()[0].shape == [3, 8, 8, 1]


def test_a_file_of_weights_says_which_images_its_model_takes(capsys, tmp_path):
    model = models.lenet((12, 14, 2), 3)
    save_weights(tmp_path / "lenet.safetensors", model)
    status, _, _ = export(capsys, tmp_path / "lenet.safetensors", "--onnx", tmp_path / "lenet.onnx")
    assert status == 0
    assert error_of(tmp_path / "lenet.onnx", model, (12, 14, 2)) < TOLERANCE


def test_a_model_that_compares_images_takes_two(capsys, tmp_path):
    model = models.Siamese(models.conv4((16, 16, 1), (4,)), 256)
    save_weights(tmp_path / "pair.safetensors", model)
    status, _, _ = export(capsys, tmp_path / "pair.safetensors", "--onnx", tmp_path / "pair.onnx")
    assert status == 0
    assert error_of(tmp_path / "pair.onnx", model.eval(), [(16, 16, 1)] * 2) < TOLERANCE


def test_a_file_that_says_no_shape_takes_one_on_the_command_line(capsys, tmp_path):
    model = models.UNet(1, 2, base_channels=2, depth=1)
    save_weights(tmp_path / "unet.safetensors", model)
    arguments = tmp_path / "unet.safetensors", "--onnx", tmp_path / "unet.onnx"
    status, _, err = export(capsys, *arguments)
    assert (status, "give their shape by --input HxWxC" in err) == (2, True)
    assert export(capsys, *arguments, "--input", "8x6x1")[0] == 0
    assert error_of(tmp_path / "unet.onnx", model, (8, 6, 1)) < TOLERANCE


def test_a_model_of_the_users_own_is_made_by_its_function(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_exported_net.py").write_text(OWN)
    gp.seed(1)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10))
    save_weights("own.safetensors", model)
    options = "own.safetensors", "--onnx", "own.onnx", "--input", "8x8x1"
    status, _, err = export(capsys, *options)
    assert (status, "of no network of gpunet.models: give --model MODULE:FUNCTION" in err) == (2, True)
    assert export(capsys, *options, "--model", "my_exported_net:make")[0] == 0
    assert error_of("own.onnx", model, (8, 8, 1)) < TOLERANCE


def test_an_empty_folder_is_refused(capsys, tmp_path):
    status, _, err = export(capsys, tmp_path, "--onnx", tmp_path / "model.onnx")
    assert (status, "holds no best.safetensors and no last.safetensors" in err) == (2, True)


def test_a_missing_package_is_named_with_its_installation(capsys, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("gpunet.interop.onnx")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    status, _, err = export(capsys, tmp_path, "--onnx", tmp_path / "model.onnx")
    assert (status, 'pip install "gpunet[onnx]"' in err) == (2, True)
