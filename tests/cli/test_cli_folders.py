"""train, eval and predict on a user's folders: layouts, classes by name, unreadable and transparent images."""

import json
import subprocess
import sys

import numpy as np
import pytest

from gpunet.cli import main
from gpunet.interop import read_metadata
from gpunet.train import recipes

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

LEVELS = {"bright": 200, "dark": 0, "middle": 100}


def run(capsys, *arguments):
    """(exit status, stdout, stderr)"""
    status = main([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


def make(root, counts, levels=LEVELS):
    """Images 8x8 of each class: {class: how many}."""
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(levels[name], levels[name] + 40, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def train(capsys, folder, *options):
    quick = ("--epochs", 10, "--batch-size", 8, "--seed", 3, "--backend", "numpy")
    return run(capsys, "train", "--dataset", folder, *quick, *options)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A net that tells three classes apart."""
    root = tmp_path_factory.mktemp("three")
    make(root / "images", dict.fromkeys(LEVELS, 20))
    options = (
        "--epochs",
        10,
        "--batch-size",
        8,
        "--seed",
        3,
        "--backend",
        "numpy",
        "--quiet",
        "--output",
        root / "run",
    )
    assert main([str(a) for a in ("train", "--dataset", root / "images", *options)]) == 0
    return root / "run" / "best.safetensors"


def test_eval_matches_the_classes_of_another_folder_by_name(capsys, checkpoint, tmp_path):
    """Two of three classes: by their positions, middle would be taken for dark."""
    folder = make(tmp_path / "two", {"middle": 12, "dark": 12})
    status, out, _ = run(capsys, "eval", checkpoint, "--dataset", folder, "--backend", "numpy")
    assert status == 0
    assert "accuracy: 100.00%" in out
    matrix = np.array([line.split()[2:] for line in out.splitlines()[-3:]], int)
    assert (np.diag(matrix) > 0).tolist() == [False, True, True]
    status, out, _ = run(capsys, "predict", checkpoint, folder, "--backend", "numpy")
    assert all(f"/{line.rsplit('  ', 2)[1]}/" in line for line in out.splitlines())


def test_eval_uses_the_test_split_of_a_folder_of_splits(capsys, checkpoint, tmp_path):
    make(tmp_path / "Test", {"middle": 3, "bright": 2})
    _, out, _ = run(capsys, "eval", checkpoint, "--dataset", tmp_path, "--backend", "numpy")
    assert f"data set: {tmp_path}, 5 test images\naccuracy: 100.00%" in out


@pytest.mark.parametrize("names", [("bright", "dark", "night"), ("Bright", "dark")])
def test_eval_refuses_classes_that_the_checkpoint_does_not_have(capsys, checkpoint, tmp_path, names):
    make(tmp_path, dict.fromkeys(names, 3), dict.fromkeys(names, 0))
    status, out, err = run(capsys, "eval", checkpoint, "--dataset", tmp_path, "--backend", "numpy")
    assert (status, out) == (2, "")
    wrong = "night" if "night" in names else "Bright"
    assert f"has classes '{wrong}' that are not among the 3 known ones (bright, dark, middle)" in err
    assert ("is written 'bright' there" in err) == (wrong == "Bright")


def test_eval_refuses_a_public_data_set_of_other_classes(capsys, checkpoint):
    status, out, err = run(capsys, "eval", checkpoint, "--dataset", "digits", "--backend", "numpy")
    assert (status, out) == (2, "")
    assert "data set digits has classes '0', '1', '2' and 7 more that are not among the 3 known ones" in err


def test_labels_of_a_public_data_set_follow_the_names_of_the_checkpoint():
    plain, turned = recipes.load_dataset("digits")[1], recipes.load_test("digits", [*"9876543210"])
    assert turned.classes == tuple("9876543210")
    np.testing.assert_array_equal(turned.arrays[1], 9 - plain.arrays[1])


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"train": 10, "val": 5}, "16 images to train, 10 to validate, 4 to test"),
        ({"Train": 10, "Test": 5}, "20 images to train, 10 to test"),
        ({"train": 10, "valid": 4, "test": 3}, "20 images to train, 8 to validate, 6 to test"),
    ],
)
def test_train_takes_the_splits_that_a_folder_has(capsys, tmp_path, parts, expected):
    for part, count in parts.items():
        make(tmp_path / "set" / part, {"bright": count, "dark": count})
    status, out, err = train(capsys, tmp_path / "set", "--output", tmp_path / "run")
    assert (status, err) == (0, "")
    numbers = [int(word) for word in out.splitlines()[1].split(", ", 1)[1].split() if word.isdigit()]
    wanted = [int(word) for word in expected.split() if word.isdigit()]
    assert sum(numbers) == sum(wanted)
    assert len(numbers) == len(wanted)
    assert max(abs(a - b) for a, b in zip(numbers, wanted, strict=True)) <= (2 if "val" in parts else 0)
    assert out.endswith("test accuracy: 100.0%\n")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["classes"] == ["bright", "dark"]
    assert "valid_accuracy" in (tmp_path / "run" / "history.csv").read_text()


def test_classes_of_the_splits_are_matched_by_name(tmp_path):
    make(tmp_path / "train", dict.fromkeys(LEVELS, 3))
    make(tmp_path / "val", {"middle": 2})
    make(tmp_path / "test", {"dark": 1, "middle": 1})
    splits = recipes.load_splits(str(tmp_path))
    assert [part.classes for part in (splits.train, splits.valid, splits.test)] == [("bright", "dark", "middle")] * 3
    assert (splits.valid.labels.tolist(), splits.test.labels.tolist()) == ([2, 2], [1, 2])
    (tmp_path / "val" / "middle").rename(tmp_path / "val" / "night")
    with pytest.raises(ValueError, match="val has classes 'night' that are not among the 3 known ones"):
        recipes.load_splits(str(tmp_path))


@pytest.mark.parametrize(
    ("counts", "options", "message"),
    [
        ({"train/bright": 2, "cats": 2}, (), "holds cats/, train/, of which only train/ holds folders as a split does"),
        ({"val/bright": 2, "val/dark": 2}, (), "has no split train/ to train on but valid"),
        ({"bright": 4}, (), "holds one class, bright, but training takes at least two"),
        ({"bright": 1, "dark": 1}, (), "no class has two images, so none can be held out to test"),
        ({"bright": 3, "dark": 0}, (), "holds no images"),
        ({"train/a": 3, "train/b": 3, "val/a": 2}, ("--valid", 0.2), "has a split val/, so that --valid has nothing"),
    ],
)
def test_folders_that_cannot_be_trained_on_are_one_line(capsys, tmp_path, counts, options, message):
    make(tmp_path, counts, dict.fromkeys(counts, 9))
    status, out, err = train(capsys, tmp_path, *options)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_splits_of_different_sizes_raise_before_training(tmp_path):
    for part, size in (("train", (8, 8)), ("test", (9, 8))):
        for name in "ab":
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", size).save(tmp_path / part / name / "1.png")
    with pytest.raises(ValueError, match=r"need images of one size .*train \(8, 8, 3\), test \(8, 9, 3\)"):
        recipes.load_splits(str(tmp_path))


@pytest.mark.parametrize("command", ["train", "eval"])
@pytest.mark.parametrize(
    ("name", "message"), [("", "data set '' is neither digits"), ("x.zip", "x.zip' is a file, not a fol")]
)
def test_a_data_set_that_is_no_folder_says_so(capsys, checkpoint, tmp_path, monkeypatch, command, name, message):
    monkeypatch.chdir(make(tmp_path, {"bright": 3, "dark": 3}))
    (tmp_path / "x.zip").write_bytes(b"")
    given = [checkpoint] if command == "eval" else []
    status, _, err = run(capsys, command, *given, "--dataset", name, "--backend", "numpy")
    assert status == 2
    assert message in err


@pytest.fixture
def damaged(tmp_path):
    folder = make(tmp_path / "damaged", {"bright": 8, "dark": 8})
    (folder / "bright" / "x.png").write_bytes(b"")
    (folder / "dark" / "y.png").write_bytes((folder / "dark" / "1.png").read_bytes()[:60])
    (folder / "dark" / "._1.png").write_bytes(b"hidden")
    (folder / "dark" / ".ipynb_checkpoints").mkdir()
    (folder / "dark" / ".ipynb_checkpoints" / "1.png").write_bytes(b"hidden")
    (folder / "dark" / "folder.png").mkdir()
    return folder


def commands(checkpoint, folder):
    quick = ("--backend", "numpy")
    yield "train", "--dataset", folder, "--epochs", 1, *quick
    yield "eval", checkpoint, "--dataset", folder, *quick
    yield "predict", checkpoint, folder, *quick


def test_unreadable_images_are_left_out_by_every_command_with_one_warning(capsys, checkpoint, damaged):
    for arguments in commands(checkpoint, damaged):
        with pytest.warns(
            UserWarning, match=r"2 of 18 images cannot be read and are left out: .*x\.png.*y\.png"
        ) as caught:
            status, out, _ = run(capsys, *arguments)
        assert status == 0
        assert len(caught) == 1
        if arguments[0] == "predict":
            assert len(out.splitlines()) == 16
        status, out, err = run(capsys, *arguments, "--strict")
        assert (status, out) == (2, "")
        assert "2 of 18 images cannot be read: " in err


def test_a_warning_is_one_line_without_a_line_of_code(checkpoint, damaged):
    command = [sys.executable, "-m", "gpunet", "predict", checkpoint, damaged, "--backend", "numpy"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert said.startswith("gpunet: warning: predict: 2 of 18 images cannot be read and are left out: ")
    assert said.count("\n") == 1
    traced = subprocess.run([*command, "--traceback"], capture_output=True, text=True, check=True).stderr
    assert "UserWarning: predict: 2 of 18" in traced


def test_images_of_several_sizes_are_refused_by_the_name_of_the_option(capsys, tmp_path):
    make(tmp_path, {"bright": 6, "dark": 6})
    Image.new("RGB", (9, 8)).save(tmp_path / "dark" / "other.png")
    status, _, err = train(capsys, tmp_path)
    assert status == 2
    assert err.startswith("gpunet train: ImageFolder: images must be of one size unless --image-size is given, got ")


def test_predict_goes_on_past_an_image_that_it_cannot_read_but_not_past_a_wrong_name(capsys, checkpoint, damaged):
    with pytest.warns(UserWarning, match="1 of 2 images cannot be read"):
        _, out, _ = run(
            capsys, "predict", checkpoint, damaged / "bright/x.png", damaged / "bright/1.png", "--backend", "numpy"
        )
    assert out.split()[1] == "bright"
    status, out, err = run(
        capsys, "predict", checkpoint, damaged / "bright/1.png", damaged / "z.png", "--backend", "numpy"
    )
    assert (status, out) == (2, "")
    assert "there is no image" in err


def test_the_background_of_training_is_that_of_eval_and_predict(capsys, tmp_path):
    """Both classes are black where they are opaque: their opacity tells them apart, on white as on green."""
    for name, opacity in (("faint", 30), ("solid", 220)):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(12):
            Image.new("RGBA", (8, 8), (0, 0, 0, opacity + i)).save(tmp_path / "set" / name / f"{i}.png")
    _, out, _ = train(capsys, tmp_path / "set", "--background", "0,255,0", "--output", tmp_path / "run")
    assert out.endswith("test accuracy: 100.0%\n")
    saved = tmp_path / "run" / "best.safetensors"
    assert read_metadata(saved)["background"] == [0, 255, 0]
    _, out, _ = run(capsys, "eval", saved, "--backend", "numpy")
    assert "accuracy: 100.00%" in out
    _, out, _ = run(capsys, "predict", saved, tmp_path / "set", "--backend", "numpy")
    assert all(f"/{line.rsplit('  ', 2)[1]}/" in line for line in out.splitlines())


def test_a_background_that_is_no_colour_is_an_error(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--background", "300"])
    assert "--background" in capsys.readouterr().err
