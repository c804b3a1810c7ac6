"""A Trainer's precision of matrices: where it holds, whom it overrides, and that no graph outlives it."""

import csv
import json

import numpy as np
import pytest
from helpers.multiplying import asked_of

import gpunet as gp
from gpunet import data, nn, optim
from gpunet.backends import get_backend
from gpunet.cli import main
from gpunet.interop import read_metadata
from gpunet.modes import mode
from gpunet.precision import PRECISIONS, Precision, split_precision
from gpunet.train import Callback, Trainer

pytestmark = pytest.mark.usefixtures("short_graphs")

UNITS = ("tf32", "3xtf32", "bfloat16", "float16")


@pytest.fixture
def units(monkeypatch):
    """Sets what a backend computes on matrix units, whichever the device under test has."""

    def set_units(backend, *units):
        monkeypatch.setattr(type(backend), "matrix_units", units)
        return backend

    return set_units


@pytest.fixture
def device(cuda_backend, units):
    """A CUDA backend with all matrix units: it may use them, and is asked to either way."""
    return units(cuda_backend, *UNITS)


@pytest.fixture
def asked(device, monkeypatch):
    """A list that takes (primitive, precision) of each call of the device."""
    return asked_of(device, monkeypatch)


def found(asked):
    """The precisions that were asked for since the last look."""
    precisions = {precision for _, precision in asked}
    asked.clear()
    return precisions


def loader_of(count=48):
    rng = np.random.default_rng(3)
    return data.DataLoader(data.ArrayDataset(rng.normal(size=(count, 6, 6, 4)), rng.integers(0, 3, count)), 8)


@pytest.fixture
def trainer_of(device):
    """Makes trainers on the device."""

    def make(optimizer=optim.SGD, backend=device, **options):
        gp.seed(0)
        model = nn.Sequential(
            nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.GlobalAvgPool2d(), nn.Flatten(), nn.Linear(8, 3)
        )
        made = optimizer(model.parameters(), lr=0.01)
        return Trainer(model, made, **{"backend": backend, "progress": False, "capture": False, **options})

    return make


@pytest.mark.parametrize("capture", [False, True])
@pytest.mark.parametrize("precision", ["tf32", "3xtf32"])
def test_steps_evaluation_and_prediction_have_the_trainers_precision_and_nothing_else_has(
    trainer_of, asked, precision, capture
):
    trainer, loader = trainer_of(optim.Muon, precision=precision, capture=capture), loader_of()
    trainer.fit(loader, 2, valid=loader)
    assert {name for name, _ in asked} >= {"conv2d_forward", "conv2d_input_grad", "conv2d_weight_grad", "matmul"}
    assert found(asked) == {precision}
    trainer.evaluate(loader)
    assert found(asked) == {precision}
    trainer.predict(loader)
    assert found(asked) == {precision}
    trainer.model(gp.tensor(np.ones((1, 6, 6, 4), np.float32), backend=trainer.backend))
    assert found(asked) == {"float32"}


def test_hooks_run_in_the_precision_outside(trainer_of, asked):
    seen = []

    class Look(Callback):
        def before_step(self, trainer):
            seen.append(mode.matrix_precision)

        def after_epoch(self, trainer):
            seen.append(mode.matrix_precision)

    trainer_of(precision="tf32", callbacks=[Look()]).fit(loader_of(16), 1)
    assert set(seen) == {"float32"}


def test_a_trainer_of_float32_takes_what_holds_around_it_and_another_does_not(trainer_of, asked):
    follows, leads, stores = trainer_of(), trainer_of(precision="tf32"), trainer_of(precision="bfloat16")
    loader = loader_of(16)
    follows.fit(loader, 1)
    assert found(asked) == {"float32"}
    with gp.matrix_precision("3xtf32"):
        for trainer, expected in ((follows, "3xtf32"), (leads, "tf32"), (stores, "3xtf32")):
            trainer.fit(loader, 1, valid=loader)
            assert found(asked) == {expected}
            trainer.predict(loader)
            assert found(asked) == {expected}
    follows.evaluate(loader)
    assert found(asked) == {"float32"}


def test_an_error_in_a_step_leaves_the_precision_outside_as_it_was(trainer_of):
    trainer = trainer_of(precision="tf32", loss=lambda logits, y: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.fit(loader_of(16), 1)
    assert mode.matrix_precision == "float32"


@pytest.mark.parametrize("precision", ["tf32", "3xtf32"])
def test_captured_steps_equal_eager_ones_bit_for_bit(trainer_of, precision):
    states = []
    for capture in (False, True):
        trainer = trainer_of(precision=precision, capture=capture)
        trainer.fit(loader_of(), 2)
        states.append([trainer.model.state_dict(), list(trainer.history["loss"])])
    np.testing.assert_equal(*states)


# ---- captured steps


class Entering(Callback):
    """Enters a precision in a hook, as nobody should, and does not leave it."""

    every_step = False

    def __init__(self):
        self.entered = gp.matrix_precision("tf32")

    def after_step(self, trainer):
        if trainer.step == 5 and trainer.epoch == 1:
            self.entered.__enter__()


def test_graphs_are_dropped_where_another_precision_holds_and_only_there(trainer_of, asked):
    trainer, loader = trainer_of(capture=True), loader_of()
    trainer.fit(loader, 2)
    graphs = list(trainer._step.graphs.values())
    assert graphs
    trainer.fit(loader, 1)
    assert list(trainer._step.graphs.values()) == graphs
    asked.clear()
    with gp.matrix_precision("tf32"):
        trainer.fit(loader, 1)
        assert not set(trainer._step.graphs.values()) & set(graphs)
        assert found(asked) == {"tf32"}
        kept = list(trainer._step.graphs.values())
        trainer.fit(loader, 1)
        assert list(trainer._step.graphs.values()) == kept
    trainer.fit(loader, 1)
    assert found(asked) == {"float32"}


def test_a_trainer_with_a_precision_of_its_own_keeps_its_graphs(trainer_of):
    trainer, loader = trainer_of(capture=True, precision="tf32"), loader_of()
    trainer.fit(loader, 2)
    graphs = list(trainer._step.graphs.values())
    with gp.matrix_precision("3xtf32"):
        trainer.fit(loader, 1)
    assert list(trainer._step.graphs.values()) == graphs


def test_a_precision_that_begins_within_an_epoch_counts_from_the_next_launch_on(trainer_of, asked):
    entering = Entering()
    trainer = trainer_of(capture=True, callbacks=[entering])
    assert trainer._step.max_batches > 1
    try:
        trainer.fit(loader_of(96), 2)
        assert mode.matrix_precision == "tf32"
    finally:
        entering.entered.__exit__(None, None, None)
    assert "tf32" in found(asked)


# ---- which there are


def test_a_precision_is_split_in_what_is_stored_and_how_it_is_multiplied(device):
    split = {precision: split_precision("test", precision, device) for precision in PRECISIONS}
    assert split == {
        "float32": Precision(None, None), "tf32": Precision(None, "tf32"), "3xtf32": Precision(None, "3xtf32"),
        "bfloat16": Precision("bfloat16", None), "float16": Precision("float16", None),
    }  # fmt: skip


@pytest.mark.parametrize("precision", ["tf32", "3xtf32"])
def test_a_device_without_a_matrix_unit_says_which_it_has(trainer_of, device, units, precision):
    units(device, "float16")
    with pytest.raises(
        ValueError, match="^Trainer: .* takes a CUDA backend with matrix units, .* computes float16 on them$"
    ):
        trainer_of(precision=precision)
    units(device)
    with pytest.raises(ValueError, match=f"got {device.name}, which computes nothing on them$") as caught:
        trainer_of(precision=precision)
    assert "\n" not in str(caught.value)
    trainer_of(precision="bfloat16")  # which needs no matrix units


def test_a_plan_is_made_in_the_precision(device, asked):
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU())
    seen = []
    model[0].register_forward_hook(lambda module, inputs, y: seen.append(mode.matrix_precision))
    gp.plan(model, (6, 6, 4), batch_size=2, training=False, backend=device, precision="tf32")
    assert seen == ["tf32"]
    assert mode.matrix_precision == "float32"


# ---- commands


def run(capsys, *arguments):
    """(exit status, stdout, stderr)"""
    status = main([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


def test_a_run_goes_on_in_its_own_precision(capsys, tmp_path, monkeypatch, device, asked):
    (tmp_path / "one_layer.py").write_text(
        "from gpunet import nn\n"
        "def make(shape, classes):\n"
        "    return nn.Sequential(nn.Conv2d(shape[2], classes, 3), nn.GlobalAvgPool2d(), nn.Flatten())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    folder, own = tmp_path / "run", ("--model", "one_layer:make")
    options = ("--epochs", 1, "--batch-size", 512, "--backend", device.name, *own, "--quiet")
    assert run(capsys, "train", *options, "--precision", "tf32", "--output", folder)[0] == 0
    assert found(asked) == {"tf32"}
    assert json.loads((folder / "config.json").read_text())["precision"] == "tf32"
    assert run(capsys, "train", "--resume", folder, *own, "--epochs", 2, "--quiet")[0] == 0
    assert found(asked) == {"tf32"}
    assert read_metadata(folder / "last.safetensors")["training"]["epoch"] == 2
    with (folder / "history.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2


def test_a_run_on_a_cpu_is_refused_in_one_line(capsys):
    status, _, err = run(capsys, "train", "--backend", "numpy", "--precision", "tf32", "--epochs", 1)
    assert status == 2
    assert (
        "Trainer: precision='tf32' takes a CUDA backend with matrix units, got numpy, which computes nothing on" in err
    )
    assert len(err.strip().splitlines()) == 1


def test_info_says_what_each_device_computes_on_matrix_units(capsys, device, units):
    _, out, _ = run(capsys, "info")
    assert f"\n{device.name}, on matrix units: tf32, 3xtf32, bfloat16, float16\n" in out
    assert "\nnumpy, on matrix units: none, because a CPU's products are computed in the dtype of the arrays\n" in out
    units(device)
    assert f"\n{device.name}, on matrix units: none, because gpunet has no kernels" in run(capsys, "info")[1]


def test_a_checkpoint_names_the_precision(trainer_of, tmp_path):
    trainer = trainer_of(precision="3xtf32")
    trainer.save(tmp_path / "a.safetensors")
    assert gp_about(tmp_path / "a.safetensors")["precision"] == "3xtf32"
    numpy_trainer = trainer_of(backend=get_backend("numpy"))
    numpy_trainer.save(tmp_path / "b.safetensors")
    assert gp_about(tmp_path / "b.safetensors")["precision"] == "float32"


def gp_about(path):
    """What a checkpoint says of who wrote it."""
    from gpunet.interop.checkpoints import open_checkpoint

    return open_checkpoint(path).about
