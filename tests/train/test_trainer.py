import os
import signal
import threading

import numpy as np
import pytest

import gpunet as gp
from gpunet import functional as F
from gpunet import nn, optim
from gpunet.train import SkipStep, StopEpoch, StopTraining, Trainer

TIMES = {"seconds", "images_per_second"}


def measured(history):
    return [{name: value for name, value in row.items() if name not in TIMES} for row in history.rows]


def assert_same_weights(a, b):
    for name, value in a.state_dict().items():
        np.testing.assert_array_equal(value, b.state_dict()[name], err_msg=name)


class At:
    """Does something in one step of one epoch."""

    def __init__(self, action, epoch=0, step=2):
        self.action, self.at, self.steps = action, (epoch, step), []

    def before_step(self, trainer):
        self.steps.append((trainer.epoch, trainer.step))

    def after_step(self, trainer):
        if (trainer.epoch, trainer.step) == self.at:
            self.action()


# ---- fit


def test_fit_learns_and_returns_a_row_for_each_epoch(new_task):
    task = new_task(dropout=0.0)
    history = task.trainer().fit(task.train, 15, valid=task.valid)
    assert history.columns == [
        "epoch", "loss", "accuracy", "valid_loss", "valid_accuracy", "lr", "seconds", "images_per_second",
    ]  # fmt: skip
    assert history["epoch"] == list(range(1, 16))
    assert history["valid_loss"][-1] < 0.5 * history["valid_loss"][0]
    assert history["valid_accuracy"][-1] > 0.85
    assert min(history["images_per_second"]) > 0
    assert not history.interrupted


@pytest.mark.parametrize("prefetch", [0, 2])
def test_equal_seeds_give_equal_histories_and_weights_bit_for_bit(new_task, prefetch):
    runs = []
    for seed in (0, 0, 1):
        task = new_task(seed, prefetch=prefetch)
        runs.append((measured(task.trainer().fit(task.train, 2, valid=task.valid)), task.model))
    assert runs[0][0] == runs[1][0]
    assert_same_weights(runs[0][1], runs[1][1])
    assert runs[0][0] != runs[2][0]


def test_a_second_fit_goes_on_where_the_first_ended(new_task):
    whole, parts = new_task(), new_task()
    one = whole.trainer().fit(whole.train, 3, valid=whole.valid)
    trainer = parts.trainer()
    trainer.fit(parts.train, 1, valid=parts.valid)
    two = trainer.fit(parts.train, 2, valid=parts.valid)
    assert two["epoch"] == [1, 2, 3]
    assert measured(one) == measured(two)
    assert_same_weights(whole.model, parts.model)


def test_evaluation_in_between_does_not_change_training(new_task):
    plain, watched = new_task(), new_task()
    plain.trainer().fit(plain.train, 2)
    watched.trainer(metrics=["accuracy", "top2", "confusion"]).fit(watched.train, 2, valid=watched.train)
    assert_same_weights(plain.model, watched.model)


def test_the_history_of_a_later_fit_may_have_more_columns(task):
    trainer = task.trainer()
    trainer.fit(task.train, 1)
    history = trainer.fit(task.train, 1, valid=task.valid)
    assert np.isnan(history["valid_loss"][0])
    assert np.isfinite(history["valid_loss"][1])


def test_the_loss_of_an_epoch_is_weighted_by_rows(new_task):
    task = new_task(lr=0.0, dropout=0.0)  # 50 images in batches of 16, 16, 16 and 2
    task.train.transform = None
    row = task.trainer().fit(task.train, 1).rows[0]
    x, y = task.train.dataset.arrays
    logits = task.model(x)
    assert row["loss"] == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-5)
    assert row["accuracy"] == pytest.approx((logits.numpy().argmax(-1) == y).mean())


def test_each_epoch_has_its_own_order_and_each_step_its_own_dropout(task, monkeypatch):
    begun = []
    monkeypatch.setattr("gpunet.random.begin_step", lambda epoch, step: begun.append((epoch, step)))
    epochs = []

    class Loader(list):
        epoch = None

        def __iter__(self):
            epochs.append(self.epoch)
            return super().__iter__()

    task.trainer().fit(Loader(task.train), 3)
    assert epochs == [0, 1, 2]
    assert list(dict.fromkeys(begun)) == [(epoch, step) for epoch in range(3) for step in range(4)]


def test_the_model_trains_in_training_mode_and_is_evaluated_in_inference_mode(task):
    modes = []
    task.model[0].register_forward_hook(lambda layer, inputs, output: modes.append(layer.training))
    task.model.eval()
    task.trainer().fit(task.train, 2, valid=task.valid)
    assert modes == ([True] * len(task.train) + [False] * len(task.valid)) * 2


def test_the_schedule_steps_after_each_step_of_the_optimizer(task):
    schedule = optim.OneCycleLR(task.optimizer, 0.01, 8)
    history = task.trainer(schedule=schedule).fit(task.train, 2)
    assert schedule.step_count == 8
    assert history["lr"] == [schedule.rates(3)[0], schedule.rates(7)[0]]


def test_the_model_and_the_optimizer_move_to_the_backend(task):
    task.trainer(backend="reference").fit(task.train, 1)
    assert {p.backend.name for p in task.model.parameters()} == {"reference"}
    assert task.optimizer.arena.backend.name == "reference"


def test_backends_agree_on_the_losses(new_task):
    losses = []
    for backend in ("numpy", "reference"):
        task = new_task()
        losses.append(task.trainer(backend=backend).fit(task.train, 2)["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_float64_batches_are_converted_to_the_parameters_dtype(new_task):
    narrow, wide = new_task(), new_task()
    narrow.train.transform = wide.train.transform = None
    wide.train.dataset.arrays = (wide.train.dataset.arrays[0].astype(np.float64), wide.train.dataset.arrays[1])
    narrow.trainer().fit(narrow.train, 1)
    wide.trainer().fit(wide.train, 1)
    assert_same_weights(narrow.model, wide.model)


# ---- a step of one's own


def test_a_loss_step_computes_the_loss_of_any_batch(task):
    kinds = []

    def step(model, batch):
        a, b, same = batch
        kinds.append([type(part) for part in batch])
        distance = ((model(a) - model(b)) ** 2).mean(axis=1)
        return (distance * same).mean()

    x = task.valid.dataset.arrays[0]
    batches = [(x[:8], x[8:16], np.ones(8, np.float32)), (x[:4], x[4:8], np.arange(4).astype(np.float32))]
    trainer = task.trainer(loss_step=step)
    history = trainer.fit(batches, 4, valid=batches)
    assert kinds[0] == [gp.Tensor] * 3
    assert history["loss"][-1] < history["loss"][0]
    assert set(trainer.evaluate(batches)) == {"loss"}


def test_integers_reach_a_loss_step_as_host_arrays(task):
    batch = (np.zeros((2, 6, 6, 1), np.float32), np.array([1, 3]))
    seen = []

    def step(model, batch):
        seen.append(batch[1])
        return F.cross_entropy(model(batch[0]), batch[1])

    task.trainer(loss_step=step).fit([batch], 1)
    assert isinstance(seen[0], np.ndarray)


def test_a_loss_step_must_return_one_number(task):
    trainer = task.trainer(loss_step=lambda model, batch: model(batch[0]))
    with pytest.raises(
        TypeError, match=r"Trainer: loss_step must return the loss, a tensor of one element, got shape \(16, 4\)"
    ):
        trainer.fit(task.train, 1)


# ---- evaluate and predict


def test_evaluate_weights_the_smaller_last_batch_by_its_rows(task, images):
    x, y = images
    result = task.trainer(metrics=["accuracy", "top2", "confusion"]).evaluate(task.valid)  # 30 images in batches of 8
    logits = task.model.eval()(x)
    assert result["loss"] == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-5)
    assert result["accuracy"] == pytest.approx((logits.numpy().argmax(-1) == y).mean())
    assert result["confusion"].sum() == 30
    assert np.trace(result["confusion"]) == round(result["accuracy"] * 30)


def test_predict_takes_loaders_and_arrays(task, images):
    trainer = task.trainer()
    from_loader = trainer.predict(task.valid)
    assert from_loader.shape == (30, 4)
    np.testing.assert_array_equal(from_loader, trainer.predict([(x,) for x, _ in task.valid]))
    np.testing.assert_allclose(from_loader, trainer.predict(images[0], batch_size=7), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(from_loader, trainer.predict(images[0].astype(np.float64)), rtol=1e-5, atol=1e-6)


def test_evaluate_and_predict_restore_the_modes_of_every_layer(task, images):
    trainer = task.trainer()
    task.model.train()
    task.model[0].training = False
    trainer.predict(images[0])
    trainer.evaluate(task.valid)
    assert [layer.training for layer in task.model] == [False] + [True] * (len(task.model) - 1)


# ---- what stops training


def test_a_loss_that_is_not_finite_stops_before_the_update(task):
    batches = list(task.train)
    batches[2][0][0, 0, 0, 0] = np.nan
    before = []
    trainer = task.trainer(callbacks=[At(lambda: before.append(task.model.state_dict()), step=1)])
    with pytest.raises(FloatingPointError, match="^Trainer: the loss is nan in epoch 1, step 3; nothing was updated$"):
        trainer.fit(batches, 2)
    for name, value in task.model.state_dict().items():
        np.testing.assert_array_equal(value, before[0][name])


def test_parameters_that_are_not_finite_stop_at_the_end_of_the_epoch(task):
    def overflow():
        task.model[0].weight.data[0, 0, 0] = [np.inf, -np.inf, 0, 0]

    last_step = At(overflow, step=3)
    with pytest.raises(FloatingPointError, match="^Trainer: the parameters are not finite after epoch 1$"):
        task.trainer(callbacks=[last_step]).fit(task.train, 1)


def test_a_validation_loss_that_is_not_finite_stops(task):
    bad = [(np.full((2, 6, 6, 1), np.inf, np.float32), np.array([0, 1]))]
    with pytest.raises(FloatingPointError, match="^Trainer: valid_loss is nan after epoch 1$"):
        task.trainer().fit(task.train, 1, valid=bad)


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def sigint():
    """Python's own handler, whatever runs the tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_after_the_running_step_and_keeps_the_history(task, sigint):
    callback = At(interrupt, epoch=1, step=2)
    trainer = task.trainer(callbacks=[callback])
    history = trainer.fit(task.train, 3)
    assert history.interrupted
    assert history["epoch"] == [1]
    assert callback.steps[-1] == (1, 2)
    assert signal.getsignal(signal.SIGINT) is sigint
    callback.at = None
    history = trainer.fit(task.train, 1)  # the epoch that was interrupted, again
    assert history["epoch"] == [1, 2]
    assert not history.interrupted


def test_ctrl_c_ends_an_evaluation_too(task, sigint):
    class Valid(list):
        def __iter__(self):
            interrupt()
            return super().__iter__()

    history = task.trainer().fit(task.train, 3, valid=Valid(task.valid))
    assert history.interrupted
    assert len(history) == 0


def test_a_second_ctrl_c_raises_at_once(task, sigint):
    def twice():
        interrupt()
        interrupt()

    with pytest.raises(KeyboardInterrupt):
        task.trainer(callbacks=[At(twice)]).fit(task.train, 3)
    assert signal.getsignal(signal.SIGINT) is sigint


def test_a_keyboard_interrupt_that_is_raised_ends_training_too(task):
    def stop():
        raise KeyboardInterrupt

    assert task.trainer(callbacks=[At(stop)]).fit(task.train, 3).interrupted


def test_fit_works_outside_the_main_thread(task):
    histories = []
    thread = threading.Thread(target=lambda: histories.append(task.trainer().fit(task.train, 1)))
    thread.start()
    thread.join()
    assert len(histories[0]) == 1


def test_the_signal_handler_is_restored_after_an_error(task, sigint):
    def fail():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="^no$"):
        task.trainer(callbacks=[At(fail)]).fit(task.train, 1)
    assert signal.getsignal(signal.SIGINT) is sigint


# ---- hooks


class Recorder:
    def __init__(self, log, name, order=0):
        self.log, self.name, self.order = log, name, order

    def __getattr__(self, hook):
        if not hook.startswith(("before_", "after_")):
            raise AttributeError(hook)
        return lambda trainer: self.log.append((hook, self.name))


def test_hooks_take_turns_by_order(task):
    log = []
    callbacks = [Recorder(log, "late", 5), Recorder(log, "early", -5), Recorder(log, "middle")]
    task.trainer(callbacks=callbacks).fit([next(iter(task.train))], 1)
    hooks = ["before_fit", "before_epoch", "before_step", "after_step", "after_epoch", "after_fit"]
    assert log == [(hook, name) for hook in hooks for name in ("early", "middle", "late")]


def test_a_hook_may_stop_training_or_an_epoch_or_skip_a_step(task):
    def throw(error):
        def action():
            raise error

        return action

    class Skip:
        def before_step(self, trainer):
            if trainer.step == 1:
                raise SkipStep

    class CountSteps:
        def after_step(self, trainer):
            done.append(trainer.step)

    done = []
    trainer = task.trainer(callbacks=[Skip(), CountSteps()])
    trainer.fit(task.train, 1)
    assert done == [0, 2, 3]
    done.clear()
    assert len(task.trainer(callbacks=[CountSteps(), At(throw(StopEpoch), step=1)]).fit(task.train, 2)) == 2
    assert done == [0, 1, 0, 1, 2, 3]
    history = task.trainer(callbacks=[At(throw(StopTraining), epoch=1)]).fit(task.train, 5)
    assert len(history) == 1
    assert not history.interrupted


HOOKS = ("before_fit", "before_epoch", "before_step", "after_step", "after_epoch", "after_fit")


def make_throw(hook, error):
    """A callback that raises in one hook."""

    def method(self, trainer):
        raise error

    return type("Throw", (), {hook: method})()


@pytest.mark.parametrize(("hook", "rows"), list(zip(HOOKS, [0, 0, 0, 0, 1, 3], strict=True)))
def test_any_hook_may_stop_training_and_all_callbacks_have_their_end(task, hook, rows):
    log = []
    trainer = task.trainer(callbacks=[make_throw(hook, StopTraining()), Recorder(log, "x", 1)])
    history = trainer.fit(task.train, 3)
    assert trainer.epoch == len(history) == rows
    assert not history.interrupted
    assert log[-1:] == [("after_fit", "x")]


@pytest.mark.parametrize("error", [SkipStep, StopEpoch])
@pytest.mark.parametrize("hook", HOOKS)
def test_skip_step_and_stop_epoch_in_other_hooks_are_errors(task, sigint, hook, error):
    if hook == "before_step" or (hook == "after_step" and error is StopEpoch):
        return
    allowed = "before_step may" if error is SkipStep else "before_step and after_step may"
    message = f"^Trainer: Throw.{hook} raised {error.__name__}, which only {allowed}"
    with pytest.raises(RuntimeError, match=message):
        task.trainer(callbacks=[make_throw(hook, error())]).fit(task.train, 1)
    assert signal.getsignal(signal.SIGINT) is sigint


@pytest.mark.parametrize("error", [SkipStep, StopEpoch])
def test_an_epoch_in_which_hooks_leave_out_every_batch_says_so(task, error):
    with pytest.raises(ValueError, match="^Trainer: no step was run in epoch 1: hooks left out every batch$"):
        task.trainer(callbacks=[make_throw("before_step", error())]).fit(task.train, 1)


def test_a_skip_in_the_loss_says_so(task):
    def loss(logits, labels):
        raise SkipStep

    with pytest.raises(RuntimeError, match="^Trainer: SkipStep was raised outside the hooks around a step$"):
        task.trainer(loss=loss).fit(task.train, 1)


def test_after_fit_is_called_however_training_ended(task):
    def fail():
        raise RuntimeError("no")

    log = []
    with pytest.raises(RuntimeError, match="^no$"):
        task.trainer(callbacks=[At(fail), Recorder(log, "x")]).fit(task.train, 1)
    assert log[-1] == ("after_fit", "x")


# ---- bad input


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"metrics": ["f2"]}, ValueError, "metric is 'f2' but takes loss, accuracy, top5, confusion, prec"),
        ({"metrics": ["top0"]}, ValueError, "metric is 'top0' but takes"),
        ({"metrics": "accuracy"}, TypeError, "metrics takes a list, got the name 'accuracy'"),
        ({"metrics": [3]}, TypeError, "metric 3 has no name, reset, update, value"),
        (
            {"metrics": ["accuracy"], "loss_step": print},
            ValueError,
            "metrics take logits, which a loss_step= does not give",
        ),
        ({"precision": "half"}, ValueError, "precision is 'half' but takes one of float32, tf32"),
        ({"capture": True}, ValueError, "capture=True takes a CUDA backend, got numpy"),
        ({"capture": "yes"}, ValueError, "capture is 'yes' but takes True, False or 'auto'"),
        ({"callbacks": [object()]}, TypeError, "has none of the hooks before_fit"),
        ({"callbacks": [Recorder]}, TypeError, "has none of the hooks before_fit"),
    ],
)
def test_options_that_do_not_fit_raise_one_line(task, options, error, message):
    with pytest.raises(error, match=f"^Trainer: .*{message}") as caught:
        task.trainer(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("capture", ["auto", False])
def test_the_step_runs_eagerly_without_capture(task, capture):
    assert len(task.trainer(capture=capture).fit(task.train, 1)) == 1


def test_an_optimizer_or_schedule_of_another_model_raises(task, new_task):
    other = new_task(1)
    with pytest.raises(ValueError, match="^Trainer: the optimizer holds no parameter of the model$"):
        Trainer(task.model, other.optimizer, backend="numpy")
    with pytest.raises(ValueError, match="^Trainer: schedule is of another optimizer$"):
        task.trainer(schedule=optim.ConstantLR(other.optimizer))


def test_an_average_of_another_model_or_optimizer_raises_before_anything_moves(task, new_task):
    other = new_task(1)
    average = optim.ExponentialMovingAverage(other.model, other.optimizer)
    with pytest.raises(ValueError, match="^Trainer: average is of another optimizer$"):
        task.trainer(average=average, backend="reference")
    average = optim.ExponentialMovingAverage(nn.Sequential(*task.model.layers), task.optimizer)
    with pytest.raises(ValueError, match="^Trainer: average is of another model$"):
        task.trainer(average=average, backend="reference")
    with pytest.raises(TypeError, match="^Trainer: average takes an ExponentialMovingAverage, got float$"):
        task.trainer(average=0.999, backend="reference")
    assert task.model[0].weight.backend.name == "numpy"


def test_a_model_without_a_trainable_parameter_says_so(task):
    task.model.freeze()
    with pytest.raises(RuntimeError, match="needs no gradient.*or by frozen parameters"):
        task.trainer().fit(task.train, 1)


@pytest.mark.parametrize(
    ("loader", "epochs", "error", "message"),
    [
        ([], 1, ValueError, "train_loader has no batches"),
        (iter([]), 1, ValueError, "no step was run in epoch 1: train_loader gave no batches"),
        (3, 1, TypeError, "train_loader must give batches, such as a DataLoader; got int"),
        ("train", 0, ValueError, "epochs must be at least 1, got 0"),
        ("train", 1.5, TypeError, "epochs must be an integer, got 1.5"),
        ([np.zeros((2, 6, 6, 1), np.float32)], 1, TypeError, "a batch must be a tuple of arrays, got ndarray"),
        ([([[1.0]], [0])], 1, TypeError, "array 0 of a batch is list but must be an array"),
        ([(np.zeros((2, 6, 6, 1), np.float32),)], 1, ValueError, "takes 2 arrays, a batch has 1; pass a loss_step="),
        ([(np.zeros((2, 6, 6, 1), np.float32), np.zeros(3, int))], 1, ValueError, r"equally many rows.*got \[2, 3\]"),
        ([(np.zeros((2, 6, 6, 1), np.uint8), np.zeros(2, int))], 1, TypeError, r"images are uint8.*data\.Normalize"),
    ],
)
def test_batches_that_do_not_fit_raise_one_line(task, loader, epochs, error, message):
    loader = task.train if isinstance(loader, str) else loader
    with pytest.raises(error, match=f"^Trainer: .*{message}"):
        task.trainer().fit(loader, epochs)


def test_a_generator_is_empty_in_the_second_epoch(task):
    with pytest.raises(ValueError, match="^Trainer: no step was run in epoch 2"):
        task.trainer().fit(iter(list(task.train)), 2)


def test_labels_and_channels_that_do_not_fit_the_model_raise(task):
    x = np.zeros((2, 6, 6, 1), np.float32)
    with pytest.raises(ValueError, match="labels must be from 0 to 3, got 4"):
        task.trainer().fit([(x, np.array([0, 4]))], 1)
    with pytest.raises(ValueError, match="x has 3 channels but weight expects 1"):
        task.trainer().fit([(np.zeros((2, 6, 6, 3), np.float32), np.array([0, 1]))], 1)


def test_accuracy_of_targets_that_are_no_labels_says_what_to_do():
    model = nn.Linear(2, 1)
    trainer = Trainer(model, optim.SGD(model.parameters(), 0.1), loss=F.mse_loss, backend="numpy", progress=False)
    batch = (np.zeros((4, 2), np.float32), np.zeros((4, 1), np.float32))
    with pytest.raises(TypeError, match=r"accuracy: takes integer labels, got float32; .*metrics=\[\]"):
        trainer.fit([batch], 1)


def test_empty_evaluation_and_prediction_raise(task):
    trainer = task.trainer()
    for run in (trainer.evaluate, trainer.predict):
        with pytest.raises(ValueError, match="has no batches"):
            run([])
    with pytest.raises(TypeError, match="images are uint8"):
        trainer.predict(np.zeros((1, 6, 6, 1), np.uint8))
