"""`gpunet train --resume`: a run goes on, whatever moment it was stopped at, and nothing is overwritten by mistake."""

import csv
import json
import os
import shutil
import signal
import sys

import numpy as np
import pytest

import gpunet
from gpunet.cli import main
from gpunet.interop import load_weights, read_metadata
from gpunet.models import cnn
from gpunet.train import recipes
from gpunet.train.writing import BackgroundWriter

OPTIONS = ("--epochs", "3", "--batch-size", "256", "--backend", "numpy", "--quiet")  # 6 steps an epoch


def run(capsys, *arguments):
    """(exit status, stdout, stderr)"""
    status = main([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run without a break."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert main(["train", *OPTIONS, "--output", str(folder)]) == 0
    return folder


@pytest.fixture
def press(monkeypatch):
    """Has Ctrl-C pressed in a step of an epoch, both counted from 0."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    begin = gpunet.random.begin_step
    places = []

    def pressing(epoch, step):
        begin(epoch, step)
        if (epoch, step) in places:
            places.remove((epoch, step))
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(gpunet.random, "begin_step", pressing)
    yield lambda *place: places.append(place)
    signal.signal(signal.SIGINT, before)


def kept(folder):
    """What a run leaves, without its times: weights of both checkpoints, history, configuration, lines of the table."""
    found = {}
    for name in ("last", "best"):
        model = cnn((8, 8, 1), 10, dropout=0.25)
        metadata = load_weights(folder / f"{name}.safetensors", model)
        found |= {f"{name}.{key}": value for key, value in model.state_dict().items()}
        training = metadata["training"]
        found[f"{name}.epoch"] = training["epoch"], training["running"]
        found[f"{name}.history"] = without_times(training["history"])
    with open(folder / "history.csv", newline="") as file:
        found["table"] = without_times(csv.DictReader(file))
    found["config"] = json.loads((folder / "config.json").read_text())
    return found


def without_times(rows):
    return [{key: value for key, value in row.items() if key not in ("seconds", "images_per_second")} for row in rows]


def assert_same(one, other):
    left, right = kept(one), kept(other)
    assert left.keys() == right.keys()
    for name, value in left.items():
        np.testing.assert_equal(value, right[name], err_msg=name)


@pytest.mark.parametrize("places", [[(0, 0)], [(0, 3)], [(1, 0), (1, 1), (2, 5)]])
def test_an_interrupted_run_goes_on_and_ends_like_one_without_a_break(capsys, whole, tmp_path, press, places):
    folder = tmp_path / "run"
    for place in places:
        press(*place)
    status, _, err = run(capsys, "train", *OPTIONS, "--output", folder)
    for _ in places[1:]:
        assert (status, err) == (130, f"to go on: gpunet train --resume {folder}\n")
        status, _, err = run(capsys, "train", "--resume", folder, "--quiet")
    assert status == 130
    status, out, err = run(capsys, "train", "--resume", folder, "--quiet")
    assert (status, err) == (0, "")
    assert out.startswith("test accuracy: ")
    assert_same(whole, folder)


def test_a_run_without_a_checkpoint_begins_anew(capsys, whole, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_bytes((whole / "config.json").read_bytes())
    (folder / "history.csv").write_text("epoch,loss\n1,0.5\n")  # written before the checkpoint that never was
    status, out, _ = run(capsys, "train", "--resume", folder)
    assert status == 0
    assert "no checkpoint yet: training begins anew" in out
    assert_same(whole, folder)


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(capsys, whole, tmp_path, press):
    folder = tmp_path / "run"
    press(2, 1)
    run(capsys, "train", *OPTIONS, "--output", folder)
    last = folder / "last.safetensors"
    last.write_bytes(last.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="its bytes do not match its SHA-256; going on from the checkpoint before it"):
        status, out, _ = run(capsys, "train", "--resume", folder)
    assert status == 0
    assert f"going on from {folder / 'last-1.safetensors'}, with " in out
    assert_same(whole, folder)


def test_a_finished_run_prints_its_accuracy_again(capsys, whole):
    before = {each.name: each.read_bytes() for each in whole.iterdir()}
    status, out, _ = run(capsys, "train", "--resume", whole)
    assert status == 0
    assert f"going on from {whole / 'last.safetensors'}, with 3 of 3 epochs finished" in out
    assert "test accuracy: " in out
    assert {each.name: each.read_bytes() for each in whole.iterdir()} == before


def test_a_longer_run_is_asked_for_by_epochs(capsys, whole, tmp_path, press):
    folder = tmp_path / "run"
    press(1, 2)
    run(capsys, "train", *OPTIONS, "--output", folder)
    press(3, 1)
    assert run(capsys, "train", "--resume", folder, "--epochs", 5, "--quiet")[0] == 130
    assert json.loads((folder / "config.json").read_text())["recipe"]["epochs"] == 5
    status, _, err = run(capsys, "train", "--resume", folder, "--quiet")
    assert (status, err) == (0, "")
    metadata = read_metadata(folder / "last.safetensors")
    assert metadata["training"]["epoch"] == metadata["recipe"]["epochs"] == 5
    rates = [row["lr"] for row in metadata["training"]["history"]]
    assert rates[-1] == pytest.approx(0.05 / 25 / 400, rel=0.3)  # the end of the longer schedule


def test_an_existing_folder_is_refused_unless_it_is_to_be_overwritten(capsys, whole, tmp_path):
    folder = tmp_path / "run"
    run(capsys, "train", *OPTIONS, "--seed", 4, "--output", folder)
    before = {each.name: each.read_bytes() for each in folder.iterdir()}
    status, out, err = run(capsys, "train", *OPTIONS, "--output", folder)
    assert (status, out) == (2, "")
    assert f"{folder} exists: --resume {folder} goes on with its run, --overwrite begins a new one in it" in err
    assert {each.name: each.read_bytes() for each in folder.iterdir()} == before
    (folder / "notes.txt").write_text("mine")
    assert run(capsys, "train", *OPTIONS, "--output", folder, "--overwrite")[0] == 0
    assert_same(whole, folder)
    assert (folder / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("place", ["is a file", "allows no new files"])
def test_a_folder_that_cannot_be_written_is_refused_before_data_are_loaded(capsys, tmp_path, monkeypatch, place):
    parent = tmp_path / "parent"
    parent.touch() if place == "is a file" else parent.mkdir()
    # by its answer, not by the folder's mode, since tests may be run by root, who writes anywhere
    monkeypatch.setattr(os, "access", lambda path, _: path != parent)
    monkeypatch.setattr(recipes, "load_splits", None)
    status, out, err = run(capsys, "train", *OPTIONS, "--output", parent / "new" / "run")
    assert (status, out) == (2, "")
    assert f"{parent / 'new' / 'run'} cannot be " in err
    assert err.endswith(f": {parent} {place}\n")


def test_a_failed_beginning_leaves_an_earlier_run_as_it_was(capsys, whole, tmp_path):
    before = {each.name: each.read_bytes() for each in whole.iterdir()}
    status, _, err = run(capsys, "train", "--dataset", "nonsense", "--output", whole, "--overwrite")
    assert status == 2
    assert "data set 'nonsense'" in err
    assert {each.name: each.read_bytes() for each in whole.iterdir()} == before


def test_an_empty_folder_and_what_a_killed_write_left_are_no_run(capsys, tmp_path):
    (tmp_path / ".config.json.0123456789abcdef").write_text("{")
    status, _, _ = run(capsys, "train", *OPTIONS, "--output", tmp_path)
    assert status == 0
    assert not [each.name for each in tmp_path.iterdir() if each.name.startswith(".")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--epochs", 2), "--epochs is 2, but the run has 3 and can only get longer"),
        (("--lr", 0.1), "--resume goes on with the options of the run, without --lr"),
        (("--seed", 1, "--dataset", "mnist"), "without --dataset, --seed"),
        (("--no-flip",), "without --flip"),
        (("--model", "lenet"), "the run's model is cnn, not lenet"),
        (("--output", "other"), "--resume goes on in its own folder, without --output and --overwrite"),
        (("--overwrite",), "--resume goes on in its own folder, without --output and --overwrite"),
    ],
)
def test_options_that_would_change_the_run_are_refused(capsys, whole, arguments, message):
    before = {each.name: each.read_bytes() for each in whole.iterdir()}
    status, _, err = run(capsys, "train", "--resume", whole, *arguments)
    assert status == 2
    assert message in err
    assert {each.name: each.read_bytes() for each in whole.iterdir()} == before


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "there is no run in "),
        ("{", "config.json does not say how to go on: "),
        ('{"seed": 0}', "config.json does not say how to go on: it lacks "),
    ],
)
def test_a_folder_without_a_run_is_refused(capsys, tmp_path, config, message):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    status, _, err = run(capsys, "train", "--resume", tmp_path)
    assert status == 2
    assert message in err


def test_checkpoints_come_as_often_as_asked_also_where_the_run_goes_on(capsys, tmp_path, press, monkeypatch):
    folder, seen = tmp_path / "run", []
    submit = BackgroundWriter.submit
    monkeypatch.setattr(BackgroundWriter, "submit", lambda *a: (seen.append(a[1:]), submit(*a)))
    press(1, 0)
    run(capsys, "train", *OPTIONS, "--output", folder, "--checkpoint-steps", 2, "--keep", 4)
    times = [keep for path, _, keep in seen if path.name == "last.safetensors"]
    assert times == [4, 4, 4, 4, 4]  # after 2, 4 and 6 steps, at the epoch's end, and where Ctrl-C came
    config = json.loads((folder / "config.json").read_text())
    assert (config["checkpoint_steps"], config["checkpoint_minutes"], config["keep"]) == (2, 10.0, 4)


OWN = """
from gpunet import nn

def make(input_shape, num_classes):
    h, w, c = input_shape
    return nn.Sequential(nn.Flatten(), nn.Linear(h * w * c, num_classes))

def convolved(input_shape, num_classes):
    h, w, c = input_shape
    return nn.Sequential(
        nn.Conv2d(c, 4, 3, padding="same", activation="relu"), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.2),
        nn.Linear(h * w, num_classes),
    )

number = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The working folder, with a module of the user's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "mine", None)  # so that what is imported is forgotten afterwards
    monkeypatch.delitem(sys.modules, "mine")
    (tmp_path / "mine.py").write_text(OWN)
    return tmp_path


def test_a_model_of_the_users_own_trains_goes_on_and_is_evaluated(capsys, own, press):
    press(1, 2)
    status, _, _ = run(capsys, "train", *OPTIONS, "--model", "mine:make", "--output", "run")
    assert status == 130
    status, _, err = run(capsys, "train", "--resume", "run", "--quiet")
    assert status == 2
    assert "the run's model is your own, mine:make: give it by --model mine:make" in err
    status, out, _ = run(capsys, "train", "--resume", "run", "--model", "mine:make", "--quiet")
    assert status == 0
    status, shown, _ = run(capsys, "eval", "run/best.safetensors", "--model", "mine:make", "--backend", "numpy")
    assert status == 0
    assert f"{float(shown.split('accuracy: ')[1].split('%')[0]):.1f}%" in out
    status, _, err = run(capsys, "eval", "run/best.safetensors")
    assert status == 2
    assert "the model is your own, mine:make: give it by --model mine:make" in err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none_such:make", "--model none_such:make: there is no module none_such in "),
        ("mine:none_such", "--model mine:none_such: mine has no function none_such"),
        ("mine:number", "--model mine:number: mine has no function number"),
        ("broken:make", "--model broken:make: broken imports none_such, which is not installed"),
        (":make", "--model is ':make' but takes MODULE:FUNCTION"),
        ("vgg", "recipe: model is 'vgg' but takes lenet, cnn, alexnet"),
    ],
)
def test_a_model_that_there_is_not_is_named(capsys, own, name, message):
    (own / "broken.py").write_text("import none_such")
    status, _, err = run(capsys, "train", *OPTIONS, "--model", name)
    assert status == 2
    assert message in err


def test_a_refused_beginning_leaves_alone_what_another_process_writes(capsys, whole):
    written = whole / ".last.safetensors.0123456789abcdef"
    written.write_bytes(b"half")
    try:
        assert run(capsys, "train", *OPTIONS, "--output", whole)[0] == 2
        assert written.exists()
    finally:
        written.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": {"lr": 0.01}}, "of a run with other lr: the data set or config.json has changed since then"),
        ({"valid": 0.2}, "of a run with other valid"),
        ({"seed": 5}, "of a run with other seed"),
        ({"background": [0, 0, 0]}, "of a run with other background"),
    ],
)
def test_a_configuration_that_contradicts_the_checkpoint_is_refused(capsys, whole, tmp_path, change, message):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    config = json.loads((folder / "config.json").read_text())
    config["recipe"] |= change.pop("recipe", {})
    (folder / "config.json").write_text(json.dumps(config | change))
    status, _, err = run(capsys, "train", "--resume", folder)
    assert status == 2
    assert message in err


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_run_in_16_bits_goes_on_on_a_backend_without_them(capsys, own, cuda_name, precision):
    model = ("--model", "mine:convolved", "--quiet")
    options = ("--epochs", 1, "--batch-size", 256, "--backend", cuda_name, "--precision", precision)
    assert run(capsys, "train", *options, *model, "--output", "run")[0] == 0
    changes = ("--backend", "numpy", "--precision", "float32", "--epochs", 2)
    status, _, err = run(capsys, "train", "--resume", "run", *changes, *model)
    assert (status, err) == (0, "")
    assert read_metadata(own / "run" / "last.safetensors")["training"]["epoch"] == 2


def test_options_of_checkpoints_take_a_folder(capsys):
    status, _, err = run(capsys, "train", "--overwrite", "--keep", 3)
    assert status == 2
    assert "--overwrite, --keep and --checkpoint-… take a folder: give --output" in err


def test_a_run_whose_best_checkpoint_is_gone_says_so(capsys, whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    (folder / "best.safetensors").unlink()
    with pytest.warns(UserWarning, match="best.safetensors is not there: the accuracy is that of the last weights"):
        assert run(capsys, "train", "--resume", folder, "--quiet")[0] == 0
