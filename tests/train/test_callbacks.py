import csv
import io
import sys

import numpy as np
import pytest

from gpunet import optim
from gpunet.interop import read_metadata
from gpunet.train import BestCheckpoint, CSVLogger, EarlyStopping, History, LearningRateMonitor, ProgressBar


class Script:
    """Replaces a column by given values, as if they had been measured, and keeps each epoch's weights."""

    order = -1

    def __init__(self, column, values):
        self.column, self.values, self.weights = column, values, []

    def after_epoch(self, trainer):
        trainer.history.rows[-1][self.column] = self.values[len(trainer.history) - 1]
        self.weights.append(trainer.model.state_dict())


def is_model_of(model, weights):
    return all(np.array_equal(value, weights[name]) for name, value in model.state_dict().items())


# ---- EarlyStopping


@pytest.mark.parametrize(
    ("column", "values", "options", "epochs", "best"),
    [
        ("loss", [3, 2, 2.5, 2.5, 1], {"patience": 2}, 4, 1),
        ("loss", [3, 2, 2.5, 1.9, 1.95, 2, 2], {"patience": 2}, 6, 3),
        ("loss", [3, 2.9, 2.8, 2.7], {"patience": 1, "min_delta": 0.15}, 2, 0),
        ("loss", [3, 2.9, 2.8, 2.75, 2.7], {"patience": 2, "min_delta": 0.15}, 5, 2),
        ("accuracy", [0.1, 0.5, 0.5, 0.4], {"patience": 2}, 4, 1),
        ("accuracy", [0.1, 0.2, 0.3, 0.4, 0.5], {"patience": 1}, 5, 4),
    ],
)
def test_early_stopping_waits_and_restores_the_best_weights(task, column, values, options, epochs, best):
    script = Script(column, values)
    history = task.trainer(callbacks=[EarlyStopping(column, **options), script]).fit(task.train, 5 + (len(values) > 5))
    assert len(history) == epochs
    assert is_model_of(task.model, script.weights[best])


def test_early_stopping_may_leave_the_last_weights(task):
    script = Script("loss", [1, 2, 3])
    task.trainer(callbacks=[EarlyStopping("loss", 2, restore_best=False), script]).fit(task.train, 3)
    assert is_model_of(task.model, script.weights[2])


def test_early_stopping_counts_anew_in_a_second_fit(task):
    script = Script("loss", [1, 2, 3, 3, 4, 5])
    trainer = task.trainer(callbacks=[EarlyStopping("loss", 2), script])
    trainer.fit(task.train, 5)
    assert len(trainer.fit(task.train, 5)) == 6


# ---- monitors


@pytest.mark.parametrize("callback", [EarlyStopping("valid_loss"), BestCheckpoint("x", "valid_loss")])
def test_a_column_that_will_not_exist_raises_before_training(task, callback):
    before = task.model.state_dict()
    message = (
        f"^{type(callback).__name__}: monitor 'valid_loss' is no column; "
        "there are epoch, loss, accuracy, lr, seconds, images_per_second$"
    )
    with pytest.raises(ValueError, match=message):
        task.trainer(callbacks=[callback]).fit(task.train, 1)
    assert is_model_of(task.model, before)


@pytest.mark.parametrize("options", [{"patience": 0}, {"patience": 1.5}, {"min_delta": -1}, {"min_delta": np.nan}])
def test_early_stopping_checks_its_arguments(options):
    with pytest.raises(ValueError, match=f"^EarlyStopping: {next(iter(options))} is"):
        EarlyStopping("loss", **options)


# ---- BestCheckpoint


def test_best_checkpoint_keeps_the_best_epoch(task, tmp_path):
    script = Script("accuracy", [0.1, 0.5, 0.5, 0.4])
    callback = BestCheckpoint(tmp_path / "runs" / "best.safetensors", "accuracy", metadata={"net": "tiny"})
    trainer = task.trainer(callbacks=[callback, script])
    trainer.fit(task.train, 4)
    assert read_metadata(callback.path)["net"] == "tiny"
    assert trainer.load(callback.path) == {"net": "tiny"}
    assert trainer.epoch == 2
    assert is_model_of(task.model, script.weights[1])


def test_best_checkpoint_of_the_epoch_keeps_the_last(task, tmp_path):
    trainer = task.trainer(callbacks=[BestCheckpoint(tmp_path / "last.safetensors", "epoch")])
    trainer.fit(task.train, 3)
    assert read_metadata(tmp_path / "last.safetensors")["training"]["epoch"] == 3


def test_a_loss_that_is_not_finite_leaves_the_last_good_checkpoint(task, tmp_path):
    path = tmp_path / "best.safetensors"
    trainer = task.trainer(callbacks=[BestCheckpoint(path, "loss")])
    trainer.fit(task.train, 1)
    good = path.read_bytes()
    batches = list(task.train)
    batches[1][0][:] = np.nan
    with pytest.raises(FloatingPointError, match="in epoch 2, step 2"):
        trainer.fit(batches, 1)
    assert path.read_bytes() == good


# ---- the rest


def test_learning_rate_monitor_notes_the_rate_of_every_step(task):
    schedule, monitor = optim.CosineLR(task.optimizer, total=8), LearningRateMonitor()
    task.trainer(schedule=schedule, callbacks=[monitor]).fit(task.train, 2)
    assert monitor.rates == [schedule.rates(step) for step in range(8)]


def test_csv_logger_writes_the_history(task, tmp_path):
    path = tmp_path / "history.csv"
    trainer = task.trainer(callbacks=[CSVLogger(path)])
    trainer.fit(task.train, 1)
    history = trainer.fit(task.train, 1, valid=task.valid)
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == history["loss"]
    assert rows[0]["valid_loss"] == ""
    assert float(rows[1]["valid_loss"]) == history["valid_loss"][1]


def test_progress_prints_a_line_an_epoch_where_there_is_no_terminal(task, capsys):
    task.trainer(progress=True).fit(task.train, 2, valid=task.valid)
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    for part in ("loss", "accuracy", "valid loss", "valid accuracy", "images/s"):
        assert part in lines[0]
    assert err == ""


def test_progress_shows_a_bar_on_a_terminal(task, capsys, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    task.trainer(callbacks=[ProgressBar()]).fit(task.train, 1)
    assert "epoch 1/1:" in sys.stderr.getvalue()
    assert capsys.readouterr().out.startswith("epoch 1/1  loss")


def test_progress_can_be_switched_off(task, capsys):
    task.trainer().fit(task.train, 1)
    assert capsys.readouterr() == ("", "")


def test_history_names_its_columns():
    history = History([{"epoch": 1, "loss": 2.0}])
    with pytest.raises(KeyError, match="no column 'accuracy'; it has epoch, loss"):
        history["accuracy"]
    assert "loss" in history
    assert repr(history) == "History(1 epochs: loss 2)"
    assert repr(History()) == "History(0 epochs: empty)"
