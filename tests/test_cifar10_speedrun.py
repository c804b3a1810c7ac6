"""The CIFAR-10 speedrun: the published updates, the six views, and the script on a few images."""

import json
import re
import runpy
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.backends import GPUS
from helpers.examples import EXAMPLES, run

import gpunet as gp
from gpunet import data
from gpunet.models import fast_cifar

NAME = "cifar10_speedrun.py"
RUN = r"seed {}: accuracy (\d+\.\d\d)%, with six views (\d+\.\d\d)%, in (\d+\.\d\d) s; 94% not reached"


@pytest.fixture(scope="module")
def example():
    return SimpleNamespace(**runpy.run_path(str(EXAMPLES / NAME)))


def published(w, grads, rates, *, momentum, decay):
    """PyTorch's SGD with Nesterov momentum, for the sum of a batch's losses."""
    v = np.zeros_like(w)
    for g, lr in zip(grads, rates, strict=True):
        g = g + decay * w
        v = momentum * v + g
        w = w - lr * (g + momentum * v)
    return w


def published_muon(w, grads, rates):
    """Jordan's Muon with normalised weights, on filters (KH, KW, C, O)."""
    v, outputs = np.zeros_like(w), w.shape[-1]
    for g, lr in zip(grads, rates, strict=True):
        v = 0.6 * v + g
        w = w * np.sqrt(outputs) / np.linalg.norm(w)
        x = (g + 0.6 * v).reshape(-1, outputs).T
        x = x / np.linalg.norm(x)
        for _ in range(3):
            a = x @ x.T
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        w = w - lr * x.T.reshape(w.shape)
    return w


def test_the_optimizer_makes_the_published_updates(example, rng, monkeypatch):
    monkeypatch.setattr(fast_cifar, "GROUPS", (4, 8, 8))
    model, batch = fast_cifar.speedrun((9, 9, 3)), 50
    optimizer = example.make_optimizer(model, batch)
    schedule = example.LinearDecay(optimizer, [8, 3, 8, 8])
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    start = {name: p.numpy().astype(np.float64) for name, p in learning.items()}
    grads = {name: [rng.normal(size=p.shape) for _ in range(8)] for name, p in learning.items()}
    for step in range(8):
        optimizer.zero_grad()
        for name, p in learning.items():
            p.grad = (grads[name][step] / batch).astype(np.float32)  # of the mean of the losses
        optimizer.step()
        schedule.step()
    line = 1 - np.arange(8) / 8
    for name, p in learning.items():
        if p.ndim == 4:
            expected = published_muon(start[name], grads[name], 0.24 * line)
        else:
            first = 0.67 if p.ndim == 2 else 0.053
            rates = first * (np.maximum(1 - np.arange(8) / 3, 0) if name == "0.bias" else line)
            expected = published(start[name], grads[name], rates, momentum=0.85, decay=2e-6 * batch / first)
        error = np.linalg.norm(p.numpy() - expected) / np.linalg.norm(expected)
        assert error < 1e-5, name


def test_the_six_views_are_weighted_as_published(example, backend, rng):
    images = rng.integers(0, 256, (5, 7, 6, 3), dtype=np.uint8)
    loader = data.DeviceLoader(
        data.ArrayDataset(images, np.zeros(5, int)), 3, transform=example.NORMALIZE, backend=backend
    )
    filters = rng.normal(size=(7 * 6 * 3, 4)).astype(np.float32)

    def logits(x):
        return np.tanh(x.reshape(len(x), -1) @ filters)

    def mirrored(x):
        return 0.5 * logits(x) + 0.5 * logits(x[:, :, ::-1])

    x = np.concatenate([batch.numpy() for batch, _ in loader])
    around = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    expected = 0.5 * mirrored(x) + 0.25 * mirrored(around[:, :7, :6]) + 0.25 * mirrored(around[:, 2:, 2:])
    trainer = SimpleNamespace(predict=lambda batches: np.concatenate([logits(x.numpy()) for (x,) in batches]))
    np.testing.assert_allclose(example.logits_of_views(trainer, loader), expected, atol=1e-5)


def test_the_whitening_biases_learn_for_three_epochs(example):
    bias = gp.Parameter(np.zeros(3))
    learns = []
    for epoch in range(5):
        example.FreezeWhitening(bias).before_epoch(SimpleNamespace(epoch=epoch))
        learns.append(bias.requires_grad)
    assert learns == [True, True, True, False, False]


@pytest.fixture
def root(tmp_path, rng):
    """A folder with CIFAR-10's files, of which the first 12 images of each are not black."""
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        records = rng.integers(0, 256, (12, 1 + 3 * 32 * 32), dtype=np.uint8)
        records[:, 0] = np.arange(12) % 10
        with (folder / name).open("wb") as file:
            file.write(records.tobytes())
            file.truncate(10_000 * records.shape[1])
    return tmp_path


@pytest.mark.parametrize("on", ["numpy", *GPUS])
def test_the_script_prints_and_records_each_run_and_goes_on_from_its_checkpoints(root, on):
    options = ("--root", root, "--limit", 10, "--runs", 2, "--seed", 3, "--backend", on, "--output", root / "out")
    epoch, warm_up, *lines = run(NAME, *options, "--epochs", 2, "--warm-up").splitlines()
    assert epoch.startswith("epoch 1/1")
    assert re.match(r"warm-up with one batch: \d+\.\d\d s", warm_up)
    assert [line.split()[:2] for line in lines if line.startswith("epoch")] == [["epoch", "1/2"], ["epoch", "2/2"]] * 2
    runs = [re.fullmatch(RUN.format(seed), lines[place]) for seed, place in ((3, 2), (4, 5))]
    assert all(runs)
    for seed, found in zip((3, 4), runs, strict=True):
        record = json.loads((root / f"out/seed{seed}.json").read_text())
        assert (record["seed"], record["epochs"], record["images"], record["seconds_to_94"]) == (seed, 2, 10, None)
        measured = 100 * record["accuracy"], 100 * record["accuracy_with_six_views"], record["seconds"]
        assert [float(number) for number in found.groups()] == pytest.approx(measured, abs=0.006)
        assert record["history"][-1]["valid_accuracy"] == record["accuracy"]
        assert record["seconds"] > sum(row["seconds"] for row in record["history"])
    mean = np.mean([float(found[1]) for found in runs])
    assert re.search(rf"^accuracy: mean {mean:.2f} %, standard deviation \d+\.\d\d %$", "\n".join(lines), re.MULTILINE)
    options = (*options, "--epochs", 2, "--no-warm-up")
    again = [line for line in run(NAME, *options).splitlines() if not line.startswith("going on")]
    assert not any(line.startswith("epoch") for line in again)  # both runs have ended
    assert [line.split(" in ")[0] for line in again[:2]] == [found[0].split(" in ")[0] for found in runs]


def test_a_run_of_other_options_is_not_taken_for_the_same_one(root):
    options = ("--root", root, "--limit", 4, "--backend", "numpy", "--output", root / "out", "--epochs")
    run(NAME, *options, 1)
    with pytest.raises(subprocess.CalledProcessError):
        run(NAME, *options, 2)
