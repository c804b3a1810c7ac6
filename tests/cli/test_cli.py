import csv
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import gpunet
from gpunet.backends import get_backend
from gpunet.cli import main, reports, train
from gpunet.interop import load_weights, read_metadata, save_weights
from gpunet.models import cnn
from gpunet.train import recipes


def run(capsys, *arguments):
    """(exit status, stdout, stderr)"""
    status = main([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


QUICK = ("--epochs", 1, "--batch-size", 256, "--backend", "numpy")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder."""
    folder = tmp_path_factory.mktemp("run")
    assert main([str(a) for a in ("train", "--epochs", 2, "--backend", "numpy", "--quiet", "--output", folder)]) == 0
    return folder


@pytest.fixture
def pictures(tmp_path):
    """Two classes of dark and bright images, 8x8, in one folder each."""
    image_module = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for name, low in (("bright", 200), ("dark", 0)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(15):
            pixels = rng.integers(low, low + 55, (8, 9, 3), dtype=np.uint8)
            image_module.fromarray(pixels).save(tmp_path / "pictures" / name / f"{i}.png")
    return tmp_path / "pictures"


# ---- train


def test_train_prints_backend_model_epochs_and_last_the_test_accuracy(capsys):
    status, out, err = run(capsys, "train", *QUICK)
    lines = out.splitlines()
    assert (status, err) == (0, "")
    assert lines[0].startswith("backend: numpy (")
    assert lines[1] == "data set: digits, 1,438 images to train, 359 to test"
    assert lines[2].startswith("model: cnn, 99,178 parameters, ")
    assert lines[3].startswith("epoch 1/1  loss ")
    assert lines[4].startswith("test accuracy: ")
    assert lines[4].endswith("%")
    assert len(lines) == 5


def test_quiet_train_prints_only_the_accuracy(capsys):
    _, out, _ = run(capsys, "train", *QUICK, "--quiet")
    assert out.startswith("test accuracy: ")
    assert out.count("\n") == 1


def test_the_seed_decides_the_result(capsys, tmp_path):
    runs = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(capsys, "train", *QUICK, "--seed", seed, "--output", tmp_path / name)
        runs.append((tmp_path / name / "history.csv").read_text().split(",")[8:12])  # what precedes the times
    assert runs[0] == runs[1] != runs[2]


def test_the_run_folder_holds_checkpoint_history_and_configuration(trained):
    config = json.loads((trained / "config.json").read_text())
    assert config["recipe"]["epochs"] == 2
    assert config["input_shape"] == [8, 8, 1]
    assert config["classes"] == list("0123456789")
    with open(trained / "history.csv", newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]
    metadata = read_metadata(trained / "best.safetensors")
    assert metadata["training"]["epoch"] == 2
    assert metadata["recipe"] == config["recipe"]


def test_with_held_out_images_the_best_epoch_on_them_is_kept_and_tested(capsys, tmp_path, monkeypatch):
    loaded = []
    monkeypatch.setattr(train, "load_weights", lambda path, model: loaded.append(path))
    # without learning all epochs are equally good, and the first of them is the best
    options = ("--epochs", 3, "--batch-size", 256, "--lr", 0, "--schedule", "constant", "--backend", "numpy")
    _, out, _ = run(capsys, "train", *options, "--valid", 0.2, "--output", tmp_path)
    assert "1,150 images to train" in out
    assert read_metadata(tmp_path / "best.safetensors")["training"]["epoch"] == 1
    assert loaded == [tmp_path / "best.safetensors"]


@pytest.fixture
def pressed(monkeypatch):
    """Has Ctrl-C pressed in a step of an epoch, both counted from 0."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def press(epoch, step):
        begin = gpunet.random.begin_step

        def pressing(at_epoch, at_step):
            begin(at_epoch, at_step)
            if (at_epoch, at_step) == (epoch, step):
                monkeypatch.setattr(gpunet.random, "begin_step", begin)
                signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(gpunet.random, "begin_step", pressing)

    yield press
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_in_the_first_epoch_keeps_the_weights_whose_accuracy_is_printed(capsys, tmp_path, pressed):
    pressed(0, 2)
    status, out, err = run(capsys, "train", "--epochs", 2, "--backend", "numpy", "--output", tmp_path)
    path = tmp_path / "last.safetensors"
    assert status == 130
    assert f"to go on: gpunet train --resume {tmp_path}" in err
    assert sorted(each.name for each in tmp_path.iterdir()) == ["config.json", path.name]
    assert read_metadata(path)["training"]["epoch"] == 0
    accuracy = out.splitlines()[-1].removeprefix("test accuracy: ")
    status, out, _ = run(capsys, "eval", path, "--backend", "numpy")
    assert status == 0
    assert f"{float(out.split('accuracy: ')[1].split('%')[0]):.1f}%" == accuracy


def test_ctrl_c_in_a_later_epoch_keeps_the_finished_ones(capsys, tmp_path, pressed):
    pressed(1, 1)
    status, out, _ = run(capsys, "train", "--epochs", 3, "--backend", "numpy", "--output", tmp_path)
    assert status == 130
    assert "interrupted after 1 finished epochs" in out
    names = ["best.safetensors", "config.json", "history.csv", "last-1.safetensors", "last.safetensors"]
    assert sorted(each.name for each in tmp_path.iterdir()) == names
    training = read_metadata(tmp_path / "best.safetensors")["training"]
    with open(tmp_path / "history.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == training["epoch"] == len(training["history"]) == 1


@pytest.mark.parametrize(
    "options",
    [
        ("--optimizer", "sgd", "--schedule", "cosine", "--weight-decay", 0.001),
        ("--optimizer", "adam", "--schedule", "constant", "--flip", "--shift", 2),
        ("--optimizer", "adamw", "--dropout", 0.5, "--label-smoothing", 0.2, "--no-flip", "--lr", 0.01),
    ],
)
def test_train_takes_every_optimizer_and_schedule(capsys, tmp_path, options):
    status, _, err = run(capsys, "train", *QUICK, *options, "--output", tmp_path)
    assert (status, err) == (0, "")
    recipe = json.loads((tmp_path / "config.json").read_text())["recipe"]
    assert recipe["optimizer"] == options[1]
    assert recipe["flip"] == ("--flip" in options)


@pytest.mark.parametrize("where", ["host", "device", "folder"])
def test_train_uploads_public_data_sets_to_a_device(capsys, monkeypatch, pictures, cuda_name, cuda_backend, where):
    """A folder of images may be larger than the device."""

    def stop(*sets, backend):
        raise ValueError(f"{len(sets)} arguments, made on {backend and backend.name}")

    monkeypatch.setattr(recipes, "make_loaders", stop)
    options = ("--dataset", pictures) if where == "folder" else ()
    status, _, err = run(capsys, "train", *options, "--backend", "numpy" if where == "host" else cuda_name)
    assert status != 0
    assert f"4 arguments, made on {cuda_backend.name if where == 'device' else None}" in err


@pytest.mark.parametrize(("split", "size"), [(False, "8x8"), (True, "8")])
def test_train_eval_and_predict_on_a_folder_of_images(capsys, pictures, tmp_path, split, size):
    if split:
        for part in ("train", "test"):
            (pictures / part).mkdir()
        for name in ("bright", "dark"):
            (pictures / "test" / name).mkdir()
            for i in range(5):
                (pictures / name / f"{i}.png").rename(pictures / "test" / name / f"{i}.png")
            (pictures / name).rename(pictures / "train" / name)
    options = ("--dataset", pictures, "--epochs", 8, "--batch-size", 8, "--seed", 3, "--backend", "numpy")
    status, out, err = run(capsys, "train", *options, "--image-size", size, "--output", tmp_path / "run")
    assert (status, err) == (0, "")
    assert out.endswith("test accuracy: 100.0%\n")
    checkpoint = tmp_path / "run" / "best.safetensors"
    _, out, _ = run(capsys, "eval", checkpoint, "--backend", "numpy")
    which = "10 test images" if split else "6 test images of 30, since the folder has no split test/"
    assert f"data set: {pictures}, {which}\naccuracy: 100.00%" in out
    status, out, _ = run(capsys, "predict", checkpoint, pictures, "--backend", "numpy")
    assert status == 0
    for line in out.splitlines():
        path, guess, probability = line.rsplit("  ", 2)
        assert f"/{guess}/" in path
        assert 50 < float(probability.rstrip("%")) <= 100


def test_the_test_images_of_a_folder_are_the_same_whatever_the_seed(pictures):
    chosen = []
    for seed in (1, 2):
        gpunet.seed(seed)
        chosen.append(recipes.load_dataset(str(pictures))[1].indices.tolist())
    assert chosen[0] == chosen[1]


def test_images_of_public_data_sets_are_not_scaled(capsys):
    status, _, err = run(capsys, "train", "--dataset", "digits", "--image-size", "16")
    assert status == 2
    assert "--image-size scales the images of a folder, not digits's" in err


# ---- eval and predict


def test_eval_gives_accuracy_loss_and_confusion_matrix(capsys, trained):
    status, out, _ = run(capsys, "eval", trained / "best.safetensors", "--backend", "numpy")
    assert status == 0
    lines = out.splitlines()
    matrix = np.array([[int(cell) for cell in line.split()[2:]] for line in lines[5:]])
    assert matrix.shape == (10, 10)
    assert matrix.sum() == 359
    assert lines[1] == f"accuracy: {np.trace(matrix) / 359:.2%}"
    last = (trained / "history.csv").read_text().splitlines()[-1].split(",")
    assert lines[1] == f"accuracy: {float(last[4]):.2%}"
    assert lines[2].startswith("loss: ")


def test_predict_reads_grey_images_of_any_size(capsys, trained, tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    image_module.fromarray(np.full((30, 20, 3), 128, np.uint8)).save(tmp_path / "a.png")
    status, out, _ = run(capsys, "predict", trained / "best.safetensors", tmp_path / "a.png", "--backend", "numpy")
    assert status == 0
    assert out.startswith(str(tmp_path / "a.png"))


def test_predict_agrees_with_the_model(capsys, trained, tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    _, test = recipes.load_dataset("digits")
    images, _ = test[:20]
    for i, image in enumerate(images):
        image_module.fromarray(image[..., 0]).save(tmp_path / f"{i:02}.png")
    _, out, _ = run(capsys, "predict", trained / "best.safetensors", tmp_path, "--backend", "numpy")
    model = cnn((8, 8, 1), 10, dropout=0.25).eval()
    load_weights(trained / "best.safetensors", model)
    x = (images / 255 - 0.305) / 0.377
    guesses = model(x.astype(np.float32)).numpy().argmax(-1)
    assert [line.rsplit("  ", 2)[1] for line in out.splitlines()] == [str(guess) for guess in guesses]


# ---- summary, info, kernels, bench


def test_summary_prints_the_table(capsys):
    _, out, _ = run(capsys, "summary", "lenet", "--input", "28x28x1")
    assert "61,706" in out
    assert "(5·5·1+1)·6" in out


def test_summary_prints_the_plan_of_a_step(capsys, cuda_name, cuda_backend):
    plan = ("summary", "lenet", "--plan", "--backend", cuda_name, "--batch-size", 2)
    status, out, _ = run(capsys, *plan)
    assert status == 0
    assert "update    SGD" in out
    assert f"a step of 2 inputs 28x28x1 on {cuda_backend.name}" in out
    assert "backward" not in run(capsys, *plan, "--inference")[1]


def test_info_names_versions_backends_and_why_there_is_no_gpu(capsys, monkeypatch):
    monkeypatch.setattr(reports, "why_unavailable", lambda name: "no GPU here" if name == "cuda" else "")
    monkeypatch.setenv("GPUNET_BACKEND", "reference")
    status, out, _ = run(capsys, "info")
    assert status == 0
    assert f"numpy {np.__version__}" in out
    assert "auto is reference" in out
    assert "cuda: not available: no GPU here" in out


def test_info_goes_on_behind_a_backend_that_refuses_its_table_of_tiles(capsys, monkeypatch):
    def refusing(name):
        if name == "reference":
            raise ValueError("GPUNET_TILES: h200.json has device 'A' but this device has 'B'")
        return get_backend(name)

    monkeypatch.setattr(reports, "get_backend", refusing)
    status, out, _ = run(capsys, "info")
    assert status == 0
    assert "reference: not available: GPUNET_TILES: h200.json has device 'A' but this device has 'B'\n" in out
    assert "\nnumpy: device " in out


def test_kernels_gives_the_status_of_the_gate(capsys, monkeypatch):
    gate = pytest.importorskip("gpunet.cuda.gate")
    asked = []
    monkeypatch.setattr(gate, "print_table", lambda architectures: asked.append(architectures) or 1)
    assert run(capsys, "kernels", "--arch", "sm_90", "--arch", "sm_75")[0] == 1
    run(capsys, "kernels")
    assert asked == [["sm_90", "sm_75"], gate.ARCHITECTURES]


def test_bench_passes_its_arguments_on(capsys, monkeypatch):
    from types import ModuleType

    module = ModuleType("gpunet.bench.cli")
    module.main = lambda argv: print(argv) or 0
    monkeypatch.setitem(sys.modules, "gpunet.bench", ModuleType("gpunet.bench"))
    monkeypatch.setitem(sys.modules, "gpunet.bench.cli", module)
    assert run(capsys, "bench", "--help", "train", "--size=3") == (0, "['--help', 'train', '--size=3']\n", "")


# ---- errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--dataset", "nowhere"), "data set 'nowhere' is neither digits, mnist, fashion_mnist, cifar10 nor"),
        (("train", "--epochs", 0), "epochs is 0 but must be at least 1"),
        (("train", "--lr", -1), "SGD: lr is -1.0 but must be finite and not negative"),
        (("train", "--valid", 1), "--valid is 1.0 but must be at least 0 and below 1"),
        (("train", "--backend", "tpu"), "get_backend: name is 'tpu' but takes"),
        (("train", "--model", "lenet"), "lenet: images are 8x8 but must be at least 12x12"),
        (("train", "--seed", -1), "seed: value must be from 0 to 2^64 - 1, got -1"),
        (("eval", "nowhere.safetensors"), "No such file or directory: 'nowhere.safetensors'"),
        (("summary", "lenet", "--plan", "--backend", "numpy"), "plan: backend is numpy, which launches no kernels"),
        (("summary", "lenet", "--input", "8x8x1"), "lenet: images are 8x8 but must be at least 12x12"),
    ],
)
def test_errors_are_one_line_and_status_2(capsys, arguments, message):
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith(f"gpunet {arguments[0]}: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_loss_that_is_not_finite_is_one_line(capsys):
    status, _, err = run(capsys, "train", *QUICK, "--lr", 1e20, "--epochs", 3, "--schedule", "constant", "--quiet")
    assert status == 2
    assert err.startswith("gpunet train: Trainer: the loss is ")


def test_checkpoints_of_other_programs_or_nothing_say_so(capsys, tmp_path):
    save_weights(tmp_path / "a.safetensors", cnn((8, 8, 1)))
    status, _, err = run(capsys, "eval", tmp_path / "a.safetensors")
    assert status == 2
    assert "was not written by gpunet train: it does not say which network it is of" in err
    (tmp_path / "b.safetensors").write_bytes(b"nonsense")
    status, _, err = run(capsys, "predict", tmp_path / "b.safetensors", tmp_path)
    assert status == 2
    assert "b.safetensors is damaged or not a safetensors file" in err


def test_eval_on_images_of_another_shape_says_so(capsys, trained, pictures):
    for old, new in (("bright", "8"), ("dark", "1")):
        (pictures / old).rename(pictures / new)
    status, _, err = run(capsys, "eval", trained / "best.safetensors", "--dataset", pictures, "--backend", "numpy")
    assert status == 2
    assert "has images (8, 8, 3) but" in err
    assert "takes (8, 8, 1)" in err


def test_predict_names_files_that_it_cannot_read(capsys, trained, tmp_path):
    pytest.importorskip("PIL")
    (tmp_path / "x.png").write_bytes(b"no image")
    for given, message in ((tmp_path / "x.png", "cannot read"), (tmp_path / "y.png", "y.png"), (trained, "no images")):
        status, _, err = run(capsys, "predict", trained / "best.safetensors", given, "--backend", "numpy")
        assert status == 2
        assert message in err
        assert err.count("\n") == 1


def test_traceback_shows_where_an_error_comes_from():
    with pytest.raises(ValueError, match="epochs is 0"):
        main(["train", "--epochs", "0", "--traceback"])


@pytest.mark.parametrize("arguments", [[], ["fly"], ["train", "--nonsense"], ["summary", "lenet", "--input", "8x8"]])
def test_unknown_arguments_end_with_status_2(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


@pytest.mark.parametrize("buffered", ["", "1"])
def test_a_reader_that_closes_the_pipe_ends_a_command_quietly(buffered):
    read, write = os.pipe()
    os.close(read)
    environment = {**os.environ, "PYTHONUNBUFFERED": buffered}
    result = subprocess.run(
        [sys.executable, "-m", "gpunet", "summary", "lenet"], stdout=write, stderr=subprocess.PIPE, env=environment
    )
    os.close(write)
    assert (result.returncode, result.stderr) == (1, b"")


def test_python_m_gpunet_is_the_same_command():
    result = subprocess.run([sys.executable, "-m", "gpunet", "--help"], capture_output=True, text=True, check=True)
    for command in ("train", "eval", "predict", "summary", "info", "kernels", "bench"):
        assert command in result.stdout
