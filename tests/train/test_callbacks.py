import csv
import io
import math
import os
import sys
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

import gpunet as gp
from gpunet import optim
from gpunet.interop import read_metadata
from gpunet.train import (
    BestCheckpoint,
    CSVLogger,
    EarlyStopping,
    History,
    LearningRateMonitor,
    ProgressBar,
    StopTraining,
)


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


def test_early_stopping_begins_to_count_again_in_a_second_fit(task):
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
    with pytest.raises((TypeError, ValueError), match=f"^EarlyStopping: {next(iter(options))} (is|must be)"):
        EarlyStopping("loss", **options)


@pytest.mark.parametrize(
    ("monitor", "mode"),
    [
        ("loss", "min"), ("valid_loss", "min"), ("valid_top5_error", "min"), ("mse_loss", "min"), ("DiceLoss", "min"),
        ("accuracy", "max"), ("valid_accuracy", "max"), ("f1", "max"), ("valid_f1_micro", "max"), ("precision", "max"),
        ("valid_recall", "max"), ("mean_iou", "max"), ("miou", "max"), ("valid_map", "max"), ("mAP50", "max"),
        ("valid_top5", "max"), ("dice", "max"), ("epoch", "max"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("make", [EarlyStopping, lambda monitor, **o: BestCheckpoint("x", monitor, **o)])
def test_names_that_say_what_is_better_need_no_mode(monitor, mode, make):
    assert make(monitor).mode == mode
    other = {"min": "max", "max": "min"}[mode]
    assert make(monitor, mode=other).mode == other  # what is said counts


@pytest.mark.parametrize("monitor", ["perplexity", "valid_mse", "heatmap", "epochs_left", "seconds", "lr", "stopped"])
def test_other_names_need_a_mode(task, monitor):
    for make in (EarlyStopping, lambda monitor, **o: BestCheckpoint("x", monitor, **o)):
        callback = type(make("loss")).__name__
        with pytest.raises(
            ValueError, match=f"^{callback}: the name of monitor '{monitor}' does not say what is better: "
        ):
            make(monitor)
        assert make(monitor, mode="min").mode == "min"
        with pytest.raises(ValueError, match=f"^{callback}: mode is 'less' but takes 'min', 'max' or None$"):
            make(monitor, mode="less")


@pytest.mark.parametrize(("mode", "best"), [("min", 2), ("max", 1)])
def test_the_mode_decides_which_epoch_is_best(task, tmp_path, mode, best):
    script = Script("lr", [0.2, 0.5, 0.1, 0.3])
    path = tmp_path / "best.safetensors"
    stop = EarlyStopping("lr", 4, mode=mode)
    task.trainer(callbacks=[stop, BestCheckpoint(path, "lr", mode=mode), script]).fit(task.train, 4)
    assert is_model_of(task.model, script.weights[best])
    assert read_metadata(path)["training"]["epoch"] == best + 1


def test_early_stopping_forgets_the_states_of_an_earlier_fit(task):
    class Stop:
        order = -1
        now = False

        def before_fit(self, trainer):
            if self.now:
                raise StopTraining

    stop, script = Stop(), Script("loss", [1, 2])
    trainer = task.trainer(callbacks=[stop, EarlyStopping("loss"), script])
    trainer.fit(task.train, 2)
    task.model[0].weight.data[:] = 5
    stop.now = True
    trainer.fit(task.train, 1)
    assert (task.model[0].weight.numpy() == 5).all()


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


def test_learning_rate_monitor_records_the_rate_of_every_step(task):
    schedule, monitor = optim.CosineAnnealingLR(task.optimizer, T_max=8), LearningRateMonitor()
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


def test_progress_prints_a_line_for_each_epoch_without_a_terminal(task, capsys):
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

    monkeypatch.delenv("GPUNET_PROGRESS", raising=False)
    monkeypatch.setattr(sys, "stderr", Terminal())
    task.trainer(callbacks=[ProgressBar()]).fit(task.train, 1)
    assert "epoch 1/1:" in sys.stderr.getvalue()
    assert capsys.readouterr().out.startswith("epoch 1/1  loss")


class Closed(io.StringIO):
    def isatty(self):
        raise ValueError("I/O operation on closed file")


@pytest.mark.parametrize("stream", [None, object(), Closed()])
def test_progress_without_a_console_shows_no_bar(task, capsys, monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    task.trainer(progress=True).fit(task.train, 1)
    assert capsys.readouterr().out.startswith("epoch 1/1  loss")
    monkeypatch.setattr(sys, "stdout", None)
    task.trainer(progress=True).fit(task.train, 1)


def test_progress_can_be_switched_off(task, capsys):
    task.trainer().fit(task.train, 1)
    assert capsys.readouterr() == ("", "")


class Odd:
    """A metric whose values are what NumPy gives, or nothing that is a number."""

    name = "odd"

    def __init__(self, value):
        self.value = value

    def reset(self):
        pass

    def update(self, logits, labels):
        pass


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (np.float32(0.25), 0.25),
        (np.float16(2), 2.0),
        (np.int64(2**60 + 1), 2**60 + 1),
        (np.bool_(True), True),
        (np.array(3), 3),
        (np.float64("inf"), math.inf),
        (-math.inf, -math.inf),
        (np.float32("nan"), math.nan),
        (Fraction(1, 2), 0.5),
        (Decimal("0.5"), 0.5),
        (gp.tensor(0.5), 0.5),
        ("text", "text"),
        (None, None),
    ],
)
def test_values_of_metrics_are_kept_as_pythons_numbers(task, tmp_path, capsys, value, kept):
    path, table = tmp_path / "last.safetensors", tmp_path / "history.csv"
    callbacks = [BestCheckpoint(path, "epoch"), CSVLogger(table)]
    trainer = task.trainer(metrics=[Odd(value)], callbacks=callbacks, progress=True)
    history = trainer.fit(task.train, 1, valid=task.valid)
    for rows in (history, read_metadata(path)["training"]["history"], _loaded(task, path)):
        found = (rows.rows if isinstance(rows, History) else rows)[0]["valid_odd"]
        assert type(found) is type(kept)
        assert found == kept or (found != found and kept != kept)
    with open(table, newline="") as file:
        text = next(csv.DictReader(file))["odd"]
    assert text == ("" if kept is None else str(kept))
    assert "odd" in capsys.readouterr().out


def _loaded(task, path):
    trainer = task.trainer(metrics=[])
    trainer.load(path)
    return trainer.history


def test_columns_that_a_callback_adds_are_saved_and_listed(task, tmp_path):
    class Add:
        def after_epoch(self, trainer):
            row = trainer.history.rows[-1]
            row["share"], row["matrix"] = np.float32(0.5), np.eye(2, dtype=np.int64)

    path, table = tmp_path / "last.safetensors", tmp_path / "history.csv"
    trainer = task.trainer(callbacks=[Add(), BestCheckpoint(path, "epoch"), CSVLogger(table)], progress=True)
    trainer.fit(task.train, 1)
    row = read_metadata(path)["training"]["history"][0]
    assert (row["share"], row["matrix"]) == (0.5, [[1, 0], [0, 1]])
    with open(table, newline="") as file:
        assert next(csv.DictReader(file))["share"] == "0.5"


def test_a_value_that_cannot_be_saved_names_its_place_and_leaves_the_good_file(task, tmp_path):
    path = tmp_path / "last.safetensors"
    trainer = task.trainer()
    trainer.fit(task.train, 1)
    trainer.save(path)
    good = path.read_bytes()
    trainer.history.rows[-1]["note"] = {1, 2}
    with pytest.raises(TypeError, match=r"metadata\['training'\]\['history'\]\[0\]\['note'\] is of type set"):
        trainer.save(path)
    assert path.read_bytes() == good


def test_the_history_goes_through_a_link_and_to_a_pipe(tmp_path):
    history = History([{"epoch": 1}])
    (tmp_path / "there").mkdir()
    (tmp_path / "link.csv").symlink_to(tmp_path / "there" / "real.csv")
    history.to_csv(tmp_path / "link.csv")
    assert (tmp_path / "there" / "real.csv").read_text() == "epoch\n1\n"
    history.to_csv(os.devnull)
    assert not os.path.isfile(os.devnull)


def test_history_names_its_columns():
    history = History([{"epoch": 1, "loss": 2.0}])
    with pytest.raises(KeyError, match="no column 'accuracy'; it has epoch, loss"):
        history["accuracy"]
    assert "loss" in history
    assert repr(history) == "History(1 epochs: loss 2)"
    assert repr(History()) == "History(0 epochs: empty)"
