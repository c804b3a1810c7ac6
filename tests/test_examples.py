"""The examples run as a user runs them."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.backends import GPUS
from helpers.examples import EXAMPLES, execute, first_line, run
from helpers.ranks import launched, needs_mpi


@pytest.fixture(params=["numpy", *GPUS])
def on(request):
    """The backend that a user names: the emulated device takes too long for whole examples."""
    return request.param


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="Windows has no such signal")
def test_a_table_whose_reader_has_gone_ends_quietly():
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, EXAMPLES / "compare_backends.py", "--steps", "1"]
    path = os.pathsep.join(filter(None, [str(EXAMPLES.parent), os.environ.get("PYTHONPATH")]))
    result = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path})
    os.close(write)
    assert (result.returncode, result.stderr) == (-signal.SIGPIPE, b"")


def test_train_classifier_prints_the_test_accuracy_that_the_command_line_reaches(on):
    arguments = ("--dataset", "digits", "--epochs", 3, "--seed", 1, "--backend", on)
    last = run("train_classifier.py", *arguments).splitlines()[-1]
    assert last.startswith("test accuracy: ")
    assert float(last.split()[-1].rstrip("%")) > 80
    assert last == execute("-m", "gpunet", "train", *arguments).splitlines()[-1]


@pytest.mark.parametrize("second", ["reference", *GPUS])
def test_compare_backends_prints_both_curves_and_their_difference(tmp_path, second):
    plot = []
    if _has_matplotlib():
        plot = ["--plot", tmp_path / "curves.png"]
    lines = run("compare_backends.py", "--steps", 10, "--backends", "numpy", second, *plot).splitlines()
    assert lines[0].split() == ["step", "numpy", second, "difference"]
    first, last = (line.split() for line in (lines[1], lines[10]))
    assert float(last[1]) < float(first[1])
    assert float(lines[-1].removeprefix("largest relative difference: ")) < 1e-5
    assert not plot or plot[1].stat().st_size > 1000


def test_image_filters_writes_every_filter_of_a_users_photograph(on, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    image.fromarray(pixels).save(tmp_path / "photo.png")
    out = tmp_path / "filtered.png"
    line = run("image_filters.py", tmp_path / "photo.png", "--output", out, "--extent", 80, "--backend", on)
    assert line == f"12 pictures of 60x80 pixels in {out}\n"
    assert out.stat().st_size > 10_000


def test_image_filters_takes_a_photograph_of_scikit_image_without_one(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    assert run("image_filters.py", "--output", tmp_path / "all.png").startswith("12 pictures of 400x400 pixels")


def test_inspect_network_writes_every_picture(on, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    weights = tmp_path / "net.safetensors"
    arguments = ("--dataset", "digits", "--epochs", 1, "--output", tmp_path / "out", "--weights", weights)
    lines = run("inspect_network.py", *arguments, "--backend", on).splitlines()
    written = [Path(line.removeprefix("wrote ")) for line in lines if line.startswith("wrote ")]
    names = "first_layer_filters feature_maps receptive_fields top_patches_and_deconvnet saliency_gradcam_occlusion "
    assert [path.stem for path in written] == (names + "translation_features translation_scores").split()
    assert all(path.stat().st_size > 5_000 for path in written)
    assert first_line("inspect_network.py", *arguments, "--backend", on) == lines[0]  # loaded this time


def test_fcn_nuclei_prints_both_figures_and_draws_what_it_found(on, tmp_path, rng):
    image_module = pytest.importorskip("PIL.Image")
    pytest.importorskip("matplotlib")
    rows, columns = np.mgrid[:32, :32]
    for i in range(10):
        folder = tmp_path / f"dsb2018/stage1_train/{i}"
        y, x = rng.integers(8, 24, 2)
        disc = (rows - y) ** 2 + (columns - x) ** 2 < 40
        pixels = np.repeat((60 * disc + rng.integers(0, 30, (32, 32)))[..., None], 3, axis=2)
        for part, values in (("images", pixels), ("masks", 255 * disc)):
            (folder / part).mkdir(parents=True)
            image_module.fromarray(values.astype(np.uint8)).save(folder / part / "0.png")
    options = (
        "--root",
        tmp_path,
        "--output",
        tmp_path / "out",
        "--crop",
        16,
        "--width",
        4,
        "--depth",
        3,
        "--epochs",
        60,
    )
    figures, informed = run("fcn_nuclei.py", *options, "--backend", on).splitlines()[-2:]
    otsu, net = re.fullmatch(r"foreground IoU: Otsu (0\.\d+|1\.000), U-Net (0\.\d+|1\.000)", figures).groups()
    assert float(otsu) > 0.7
    assert float(net) > 0.5
    assert float(informed.removeprefix("with the best threshold of each image, looked up in its mask: ")) >= float(net)
    assert (tmp_path / "out/nuclei.png").stat().st_size > 1000


def test_yolo_bccd_prints_the_precision_of_each_class_and_writes_the_boxes(on, tmp_path, rng):
    image_module = pytest.importorskip("PIL.Image")
    pytest.importorskip("matplotlib")
    pytest.importorskip("pycocotools")
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / "BCCD" / part).mkdir(parents=True)
    colours = {"RBC": (200, 60, 60), "WBC": (60, 60, 200), "Platelets": (60, 200, 60)}
    for i in range(15):
        pixels, objects = np.full((48, 64, 3), 220, np.uint8), ""
        for name, extent in zip(colours, (14, 18, 10), strict=True):
            x, y = rng.integers(0, 64 - extent), rng.integers(0, 48 - extent)
            pixels[y : y + extent, x : x + extent] = colours[name]
            edges = {"xmin": x, "ymin": y, "xmax": x + extent, "ymax": y + extent}
            objects += f"<object><name>{name}</name><bndbox>"
            objects += "".join(f"<{k}>{v}</{k}>" for k, v in edges.items()) + "</bndbox></object>"
        image_module.fromarray(pixels).save(tmp_path / f"BCCD/JPEGImages/{i}.jpg")
        (tmp_path / f"BCCD/Annotations/{i}.xml").write_text(
            f"<annotation><size><width>64</width><height>48</height></size>{objects}</annotation>"
        )
    (tmp_path / "BCCD/ImageSets/Main/trainval.txt").write_text("\n".join(map(str, range(10))))
    (tmp_path / "BCCD/ImageSets/Main/test.txt").write_text("\n".join(map(str, range(10, 15))))
    options = ("--root", tmp_path, "--output", tmp_path / "out", "--size", 32, 48, "--width", 4, "--epochs", 2)
    last = run("yolo_bccd.py", *options, "--anchors", 2, "--backend", on).splitlines()[-1]
    names = ["mAP", "mAP@0.5", *(f"AP@0.5 {name}" for name in colours)]
    assert re.fullmatch(", ".join(rf"{name}: [01]\.\d{{3}}" for name in names), last)
    assert (tmp_path / "out/cells.png").stat().st_size > 1000
    written = json.loads((tmp_path / "out/test.json").read_text())
    assert (len(written["images"]), len(written["annotations"])) == (5, 15)


@pytest.mark.parametrize("loss", ["all_pairs", "triplet", "contrastive"])
def test_siamese_omniglot_prints_the_one_shot_accuracy_and_draws_trials(on, tmp_path, rng, loss):
    image_module = pytest.importorskip("PIL.Image")
    pytest.importorskip("matplotlib")
    for split, alphabet in (("background", "Latin"), ("evaluation", "Greek")):
        for k in range(20):
            folder = tmp_path / f"omniglot/images_{split}/{alphabet}/character{k:02}"
            folder.mkdir(parents=True)
            character = rng.uniform(size=(8, 8)) < 0.3
            for d in range(4):
                ink = np.kron(character ^ (rng.uniform(size=(8, 8)) < 0.02), np.ones((4, 4), bool))
                image_module.fromarray(np.where(ink, 0, 255).astype(np.uint8)).convert("1").save(folder / f"{d}.png")
    options = (
        "--root",
        tmp_path,
        "--output",
        tmp_path / "out",
        "--size",
        16,
        "--steps",
        5,
        "--epochs",
        2,
        "--views",
        2,
    )
    last = run("siamese_omniglot.py", *options, "--loss", loss, "--backend", on).splitlines()[-1]
    accuracy = re.fullmatch(r"one-shot accuracy, 20-way within alphabets: (\d+\.\d)%", last)
    assert float(accuracy[1]) > 25  # chance is 5
    assert (tmp_path / "out/trials.png").stat().st_size > 1000


def test_compare_regularisers_prints_a_table_and_draws_the_curves(on, tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("sklearn")
    out, names = tmp_path / "curves.png", ["max-norm", "mixup", "early stopping", "weight average"]
    options = ("--images", 60, "--epochs", 2, "--only", *names, "--output", out, "--backend", on)
    lines = run("compare_regularisers.py", *options).splitlines()
    rows = [
        re.fullmatch(r"(.+?) +(\d\.\d{4}) +(\d+\.\d)% +(\d\.\d{4}) +(\d+\.\d)% +(\d\.\d{4})", line) for line in lines
    ]
    assert [row[1] for row in rows if row] == ["none", *names]
    assert out.stat().st_size > 10_000


@needs_mpi
@pytest.mark.parametrize(
    ("command", "header"),
    [
        ("compare_regularisers.py --images 20 --epochs 1 --only L2 --output", "regulariser"),
        ("compare_backends.py --steps 1 --plot", "step"),
    ],
)
def test_rank_0_alone_prints_and_draws(tmp_path, command, header):
    pytest.importorskip("matplotlib")
    name, *options = command.split()
    drawn = [sys.executable, EXAMPLES / name, *options, tmp_path]
    done = launched(2, "each.py", *drawn, environment={"PYTHONPATH": str(EXAMPLES.parent)})
    assert done.returncode == 0, done.stderr
    assert sum(header in line.split() for line in done.stdout.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["rank0.png"]


def test_every_example_names_its_options():
    for path in sorted(EXAMPLES.glob("*.py")):
        assert "usage: " in run(path.name, "--help")


def _has_matplotlib():
    try:
        pytest.importorskip("matplotlib")
    except pytest.skip.Exception:
        return False
    return True
