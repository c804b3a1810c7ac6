"""A captured step is the eager one bit for bit, whatever happens around it; and what cannot be captured says so."""

import gc
import os
import re
import signal
import warnings

import numpy as np
import pytest

import gpunet as gp
from gpunet import data, models, nn, optim, random
from gpunet import functional as F
from gpunet.backends import get_backend, why_unavailable
from gpunet.errors import BackendError
from gpunet.train import Accuracy, Callback, StopEpoch, Trainer

pytestmark = pytest.mark.skipif(bool(why_unavailable("emulated")), reason=why_unavailable("emulated"))

STEPS = 3
TIMES = {"seconds", "images_per_second"}


@pytest.fixture(autouse=True)
def _short_graphs(monkeypatch):
    monkeypatch.setattr("gpunet.train.trainer.STEPS", STEPS)


def state_of(task, trainer):
    """Everything that training leaves: weights, slots, counts, history."""
    state = task.optimizer.state_dict()
    slots = {f"{name}.{i}": a for name, arrays in state.pop("slots").items() for i, a in enumerate(arrays)}
    rows = [{name: value for name, value in row.items() if name not in TIMES} for row in trainer.history.rows]
    schedule = None if trainer.schedule is None else trainer.schedule.state_dict()
    return {"rows": rows, "optimizer": state, "schedule": schedule, "epoch": trainer.epoch}, {
        **task.model.state_dict(),
        **slots,
    }


def assert_same(one, other):
    (numbers, arrays), (others, other_arrays) = one, other
    np.testing.assert_equal(numbers, others)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, other_arrays[name], err_msg=name)


def both(new_task, use, make=lambda task: {}, **how):
    """`use(task, trainer)` eagerly and captured, then compared -> the captured task's trainer."""
    states = []
    for capture in (False, True):
        task = new_task(0, **how)
        trainer = task.trainer(backend="emulated", capture=capture, **make(task))
        use(task, trainer)
        states.append(state_of(task, trainer))
    assert_same(*states)
    return trainer


def counts_of(trainer):
    """Steps of the graphs that were recorded."""
    return sorted(count for _, count in trainer._step.graphs)


def grouped(kind, **options):
    def make(parameters, lr):
        return kind([{"params": parameters[:2], "lr": lr / 2}, {"params": parameters[2:]}], lr=lr, **options)

    return make


OPTIMIZERS = {
    "SGD": lambda parameters, lr: optim.SGD(parameters, lr),
    "momentum": lambda parameters, lr: optim.SGD(
        parameters, lr, momentum=0.9, nesterov=True, weight_decay=0.01, l1=1e-3
    ),
    "clipped": lambda parameters, lr: optim.SGD(parameters, lr, momentum=0.9, clip_norm=0.5),
    "Adam": lambda parameters, lr: optim.Adam(parameters, lr, weight_decay=0.01),
    "AdamW": lambda parameters, lr: optim.AdamW(parameters, lr, clip_norm=0.1),
    "two groups": grouped(optim.SGD, momentum=0.9, clip_norm=0.5),
    "two groups of Adam": grouped(optim.Adam),
    "RMSprop": lambda parameters, lr: optim.RMSprop(parameters, lr / 10, momentum=0.5, weight_decay=0.01),
    "Adagrad": lambda parameters, lr: optim.Adagrad(parameters, lr, l1=1e-3, max_norm=0.8),
    "Lion": lambda parameters, lr: optim.Lion(parameters, lr / 10, weight_decay=0.1, clip_norm=0.5),
    "Muon": lambda parameters, lr: optim.Muon(parameters, lr, weight_decay=0.1, clip_norm=0.5, max_norm=0.8),
}
SCHEDULES = {
    "no schedule": lambda optimizer: None,
    "cosine to 0": lambda optimizer: optim.CosineLR(optimizer, 15),  # every rate is 0 in the end
    "warm-up": lambda optimizer: optim.WarmupLR(optimizer, 5, optim.StepLR(optimizer, 3, 0.5)),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_replayed_steps_are_eager_ones_bit_for_bit(new_task, name, schedule):
    states = []
    for capture in (False, True):
        task = new_task(0)
        task.optimizer.release()
        task.optimizer = OPTIMIZERS[name](task.model.parameters(), 0.05)
        trainer = task.trainer(backend="emulated", capture=capture, schedule=SCHEDULES[schedule](task.optimizer))
        trainer.fit(task.train, 4, valid=task.valid)  # 3 whole batches and a smaller one an epoch, with dropout
        states.append(state_of(task, trainer))
        norm = task.optimizer.grad_norm
        states[-1][1]["norm"] = None if norm is None else task.optimizer.arena.backend.to_numpy(norm)
    assert_same(*states)
    assert counts_of(trainer) == [1, 1, STEPS]  # the smaller last batch has a graph of its own


def test_noise_is_drawn_anew_at_every_replay_as_it_is_eagerly(new_task):
    states = []
    for backend, capture in (("emulated", False), ("emulated", True), ("numpy", "auto")):
        task = new_task(0)
        task.optimizer.release()
        task.model = nn.Sequential(
            nn.GaussianNoise(0.3), nn.Conv2d(1, 4, 3, padding="same"), nn.GroupNorm(2, 4), nn.ELU(), nn.Dropout2d(0.3),
            nn.PReLU(4), nn.SiLU(), nn.MaxPool2d(2), nn.Flatten(), nn.LayerNorm(36), nn.Linear(36, 4),
        )  # fmt: skip
        task.optimizer = optim.AdamW(task.model.parameters(), lr=0.01)
        trainer = task.trainer(backend=backend, capture=capture)
        trainer.fit(task.train, 4, valid=task.valid)
        states.append(state_of(task, trainer))
    assert_same(*states[:2])
    losses = [[row["loss"] for row in state[0]["rows"]] for state in states]
    np.testing.assert_allclose(losses[1], losses[2], rtol=1e-5)


def test_numpy_draws_the_same_dropout(new_task):
    histories = []
    for backend in ("numpy", "emulated"):
        task = new_task(0)
        histories.append(task.trainer(backend=backend).fit(task.train, 3)["loss"])
    np.testing.assert_allclose(*histories, rtol=1e-5)


def test_a_graph_reads_the_host_once(new_task, monkeypatch):
    task = new_task(0)
    trainer = task.trainer(backend="emulated", capture=True)
    trainer.fit(task.train, 2)
    reads, launches = [], []
    to_numpy, run = trainer.backend.to_numpy, trainer.backend.launcher.run
    monkeypatch.setattr(trainer.backend, "to_numpy", lambda array: reads.append(array.shape) or to_numpy(array))
    monkeypatch.setattr(trainer.backend.launcher, "run", lambda *args: launches.append(args[1]) or run(*args))
    trainer.fit(task.train, 1)
    assert reads == [(1 + STEPS, 3), (2, 3), ()]  # notes, notes of the last batch, and the check of the parameters
    assert launches == ["reduce_sum_rows<float>"]  # of that check: no step launched anything


# ---- what happens between replays


def test_evaluation_two_fits_and_prediction_in_between_change_nothing(new_task, images):
    def use(task, trainer):
        trainer.fit(task.train, 2)
        trainer.evaluate(task.valid)
        trainer.fit(task.train, 1, valid=task.valid)
        trainer.predict(images[0])
        trainer.fit(task.train, 2)

    both(new_task, use)


def test_a_learning_rate_set_after_capture_takes_effect(new_task):
    def use(task, trainer):
        trainer.fit(task.train, 2)
        task.optimizer.groups[0]["lr"] = 0.5
        task.optimizer.groups[0]["weight_decay"] = 0.1
        trainer.fit(task.train, 1)
        assert trainer.history["lr"][-1] == 0.5

    both(new_task, use)


def test_a_schedule_that_is_changed_after_capture_takes_effect(new_task):
    def use(task, trainer):
        trainer.fit(task.train, 2)
        trainer.schedule.seek(3)
        trainer.fit(task.train, 1)

    both(new_task, use, lambda task: {"schedule": optim.CosineLR(task.optimizer, 12)})


def change_dropout(task, trainer):
    next(layer for layer in task.model if isinstance(layer, nn.Dropout)).p = 0.8


def freeze(task, trainer):
    task.model[0].weight.requires_grad = False


def change_clipping(task, trainer):
    task.optimizer.clip_norm = 0.01


def limit_norms(task, trainer):
    task.optimizer.groups[0]["max_norm"] = 0.3


def load_weights(task, trainer):
    rng = np.random.default_rng(5)
    task.model.load_state_dict({name: rng.normal(size=a.shape) for name, a in task.model.state_dict().items()})


def new_seed(task, trainer):
    gp.seed(77)


@pytest.mark.parametrize("change", [change_dropout, freeze, change_clipping, limit_norms, load_weights, new_seed])
def test_what_python_holds_is_not_frozen_for_ever(new_task, change):
    def use(task, trainer):
        trainer.fit(task.train, 2)
        before = task.model.state_dict()
        change(task, trainer)
        trainer.fit(task.train, 2)
        assert any((before[name] != value).any() for name, value in task.model.state_dict().items())

    both(new_task, use)


def test_muons_momentum_is_not_frozen_for_ever(new_task):
    def use(task, trainer):
        trainer.fit(task.train, 2)
        task.optimizer.groups[0]["momentum"] = 0.5
        trainer.fit(task.train, 2)

    both(new_task, use, optimizer=optim.Muon)


def test_parameters_that_were_updated_less_often_are_walked_apart(new_task):
    def use(task, trainer):
        trainer.fit(task.train, 2)
        task.optimizer.steps[:1] = 1  # as after a checkpoint of a model whose first layer was frozen
        trainer.fit(task.train, 2)

    trainer = both(new_task, use)
    assert any(len(graph.bounds) == 2 for graph in trainer._step.graphs.values())


def test_the_gradients_norm_is_that_of_the_last_step_whichever_graph_it_was_in(new_task):
    norms = []
    for capture in (False, True):
        task = new_task(0)
        task.optimizer.clip_norm = 0.1
        trainer = task.trainer(backend="emulated", capture=capture)
        trainer.fit(task.train, 3)
        trainer.fit([batch for batch in task.train if len(batch[0]) == 16], 1)
        norms.append(trainer.backend.to_numpy(task.optimizer.grad_norm))
    np.testing.assert_array_equal(*norms)


def test_callbacks_between_epochs_may_change_what_they_like(new_task):
    class Halve:
        def after_epoch(self, trainer):
            trainer.optimizer.groups[0]["lr"] /= 2
            change_dropout(task_of[trainer], trainer)

    task_of = {}

    def use(task, trainer):
        task_of[trainer] = task
        trainer.fit(task.train, 4)

    trainer = both(new_task, use, lambda task: {"callbacks": [Halve()]})
    assert STEPS in counts_of(trainer)


def test_training_goes_on_from_a_checkpoint(new_task, tmp_path):
    def use(task, trainer):
        trainer.fit(task.train, 2)
        trainer.save(tmp_path / "a.safetensors")
        trainer.fit(task.train, 1)
        trainer.load(tmp_path / "a.safetensors")
        trainer.fit(task.train, 2)
        assert trainer.epoch == 4

    trainer = both(new_task, use, lambda task: {"schedule": optim.OneCycleLR(task.optimizer, 16)})
    task = new_task(9)
    second = task.trainer(backend="emulated", capture=True, schedule=optim.OneCycleLR(task.optimizer, 16))
    second.load(tmp_path / "a.safetensors")
    second.fit(task.train, 2)
    assert second.history["loss"] == trainer.history["loss"]


class Each(Callback):
    def __init__(self, do=lambda trainer: None):
        self.steps, self.do = [], do

    def before_step(self, trainer):
        self.steps.append(trainer.step)

    def after_step(self, trainer):
        self.do(trainer)


class EachGraph(Each):
    every_step = False


def test_a_hook_around_steps_makes_each_a_graph_of_its_own(new_task):
    rates = []

    def change(trainer):
        rates.append(trainer.running["loss"])
        trainer.optimizer.groups[0]["lr"] *= 0.9

    trainer = both(
        new_task, lambda task, trainer: trainer.fit(task.train, 3), lambda task: {"callbacks": [Each(change)]}
    )
    assert counts_of(trainer) == [1, 1]
    assert rates[: len(rates) // 2] == rates[len(rates) // 2 :]


def test_a_hook_may_be_content_with_one_call_for_several_steps(new_task):
    task, hook, ends = new_task(0), EachGraph(lambda trainer: ends.append(trainer.step)), []
    trainer = task.trainer(backend="emulated", capture=True, callbacks=[hook], progress=True)
    trainer.fit(task.train, 2)
    assert (hook.steps, ends) == ([0, 3] * 2, [2, 3] * 2)
    assert counts_of(trainer) == [1, 1, 3]


def test_an_epoch_may_be_stopped(new_task):
    def stop(trainer):
        if trainer.step == 1:
            raise StopEpoch

    both(new_task, lambda task, trainer: trainer.fit(task.train, 3), lambda task: {"callbacks": [Each(stop)]})


def test_ctrl_c_ends_after_the_running_graph(new_task):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        task, sent = new_task(0), []

        class Batches(list):
            def __iter__(self):
                for i, batch in enumerate(super().__iter__()):
                    if i == 4 and trainer.epoch == 1 and not sent:
                        sent.append(True)
                        os.kill(os.getpid(), signal.SIGINT)
                    yield batch

        train = Batches([batch for batch in task.train if len(batch[0]) == 16] * 3)  # 9 steps, 3 graphs
        trainer = task.trainer(backend="emulated", capture=True)
        history = trainer.fit(train, 3)
        assert (history.interrupted, len(history)) == (True, 1)
        assert task.optimizer.steps.tolist() == [9 + 6] * 4
        trainer.fit(train, 1)
        assert task.optimizer.steps.tolist() == [9 + 6 + 9] * 4
    finally:
        signal.signal(signal.SIGINT, before)


# ---- bad batches


def spoil_image(batch):
    batch[0][0, 0, 0, 0] = np.nan


def spoil_label(batch):
    batch[1][1] = 4


def overflow_label(batch):
    batch[1][1] = -1


BAD = {
    "image": (spoil_image, FloatingPointError, "Trainer: the loss is nan in epoch 2, step {}; nothing was updated"),
    "label": (spoil_label, ValueError, r"softmax_cross_entropy: labels must be from 0 to 3, got 4 at \(1,\)"),
    "negative label": (overflow_label, ValueError, r"softmax_cross_entropy: labels must be from 0 to 3, got -1 at"),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("step", [0, 1, 2, 5, 6])
def test_a_bad_batch_stops_training_as_if_each_step_were_run_alone(new_task, bad, step):
    spoil, error, message = BAD[bad]

    def use(task, trainer):
        whole = [batch for batch in task.train if len(batch[0]) == 16]
        trainer.fit(whole * 2 + whole[:1], 1)
        batches = [tuple(part.copy() for part in batch) for batch in whole * 2 + whole[:1]]
        spoil(batches[step])
        with pytest.raises(error, match=message.format(step + 1)):
            trainer.fit(batches, 1)
        assert task.optimizer.steps.tolist() == [7 + step] * 4
        trainer.fit(whole, 1)  # and it goes on from there

    both(new_task, use, lambda task: {"schedule": optim.CosineLR(task.optimizer, 20)})


def test_what_a_loader_gave_before_it_failed_is_trained_on(new_task):
    def use(task, trainer):
        whole = [batch for batch in task.train if len(batch[0]) == 16]
        trainer.fit(whole, 2)

        def failing():
            yield from whole[:2]
            raise OSError("disk")

        with pytest.raises(OSError, match="disk"):
            trainer.fit(failing(), 1)

    both(new_task, use)


def test_labels_beyond_32_bits_are_refused(new_task):
    task = new_task(0)
    trainer = task.trainer(backend="emulated", capture=True)
    whole = [batch for batch in task.train if len(batch[0]) == 16]
    trainer.fit(whole, 1)
    whole[1][1][3] += 2**32
    with pytest.raises(ValueError, match="Trainer: array 1 of a batch holds 0 to 42949672.., beyond 32 bits"):
        trainer.fit(whole, 1)


# ---- metrics, and steps of a user's own


@pytest.mark.parametrize(
    "metrics",
    [[], ["accuracy"], ["accuracy", "top2", "confusion"], ["confusion"], [Accuracy(ignore_index=0)]],
    ids=["none", "accuracy", "several", "confusion", "an object"],
)
def test_metrics_are_the_eager_ones(new_task, metrics):
    trainer = both(
        new_task, lambda task, trainer: trainer.fit(task.train, 3, valid=task.valid), lambda task: {"metrics": metrics}
    )
    kept = [len(graph.logits) for graph in trainer._step.graphs.values()]
    assert any(kept) == (bool(metrics) and metrics != ["accuracy"])


def smoothed(logits, y):
    return F.softmax_cross_entropy(logits, y, label_smoothing=0.1) * 0.5 + (logits * logits).mean()


@pytest.mark.parametrize(
    "loss", [smoothed, lambda logits, y: F.softmax_cross_entropy(logits, y, ignore_index=2)], ids=["a sum", "ignoring"]
)
def test_accuracy_is_the_eager_one_of_any_loss(new_task, loss):
    trainer = both(new_task, lambda task, trainer: trainer.fit(task.train, 3), lambda task: {"loss": loss})
    assert STEPS in counts_of(trainer)


def test_a_step_of_a_users_own_takes_the_devices_arrays(new_task):
    def step(model, batch):
        x, y, w = batch
        return F.softmax_cross_entropy(model(x), y) + (model(x) * w).mean()

    def use(task, trainer):
        rng = np.random.default_rng(3)
        batches = [(x, y, rng.normal(size=(len(x), 4))) for x, y in task.train]
        trainer.fit(batches, 3, valid=batches)

    both(new_task, use, lambda task: {"step": step})


def test_batches_may_be_on_the_device_already(new_task):
    def use(task, trainer):
        batches = [(gp.tensor(x, backend="emulated"), trainer.backend.asarray(y, np.int32)) for x, y in task.train]
        trainer.fit(batches, 3, valid=batches)

    trainer = both(new_task, use)
    assert STEPS in counts_of(trainer)


class Drawn:
    """Images that kernels draw in place of a data set: what a loader on the device gives."""

    def __init__(self, backend, rows, labels):
        self.backend, self.rows, self.labels, self.key = backend, rows, labels, ("drawn", rows)

    def make(self, clock, dtype):
        place = random._state if clock is None else None
        stream = random.Stream(5, 3, place.step if place else 0, 0, place.epoch if place else 0, clock)
        return self.backend.random_uniform(stream, (self.rows, 6, 6, 1), dtype), self.labels


@pytest.mark.parametrize("metrics", [["accuracy"], ["top2"]])
def test_batches_may_be_made_inside_the_graph(new_task, metrics):
    def use(task, trainer):
        labels = [trainer.backend.asarray(np.arange(rows) % 4, np.int32) for rows in (16, 5)]
        batches = [Drawn(trainer.backend, 16, labels[0])] * 6 + [Drawn(trainer.backend, 5, labels[1])]
        trainer.fit(batches, 3)
        assert len(set(trainer.history["loss"])) == 3

    trainer = both(new_task, use, lambda task: {"metrics": metrics})
    assert counts_of(trainer) == [1, 1, STEPS]
    assert not any(graph.batch._feeds for graph in trainer._step.graphs.values())


# ---- what cannot be captured


def reads_the_host(model, batch):
    loss = F.softmax_cross_entropy(model(batch[0]), batch[1])
    loss.item()
    return loss


def copies_from_the_host(model, batch):
    return F.softmax_cross_entropy(model(batch[0]) * np.ones(4), batch[1])


def waits(model, batch):
    model[0].weight.backend.synchronize()
    return F.softmax_cross_entropy(model(batch[0]), batch[1])


def computes_on_the_host(model, batch):
    return F.softmax_cross_entropy(model(batch[0]), np.asarray(batch[1]) % 4)


REFUSED = {
    reads_the_host: r"a host read \(to_host\) cannot be captured",
    copies_from_the_host: "a copy of host data to the device cannot be captured",
    waits: "synchronisation cannot be captured",
    computes_on_the_host: "conversion to NumPy of a DeviceArray",
}


@pytest.mark.parametrize("step", REFUSED)
def test_what_cannot_be_captured_raises_and_names_operation_and_line(new_task, step):
    task = new_task(0)
    trainer = task.trainer(backend="emulated", capture=True, step=step)
    line = step.__code__.co_firstlineno
    with pytest.raises(BackendError, match=f"Trainer: the step cannot be captured .*: {REFUSED[step]}") as caught:
        trainer.fit(task.train, 1)
    assert "\n" not in str(caught.value)
    found = re.search(r"\(at test_captured.py:(\d+)\)", str(caught.value))
    assert line < int(found[1]) <= line + 3
    trainer.evaluate(task.valid)  # nothing is left capturing


@pytest.mark.parametrize("step", REFUSED)
def test_auto_runs_eagerly_what_cannot_be_captured_and_says_so_once(new_task, step):
    states = []
    for capture in (False, "auto"):
        task = new_task(0)
        trainer = task.trainer(backend="emulated", capture=capture, step=step)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer.fit(task.train, 2)
            trainer.fit(task.train, 1)
        states.append(state_of(task, trainer))
    assert_same(*states)
    assert [str(w.message).endswith("; it runs eagerly") for w in caught] == [True]
    assert re.search(REFUSED[step], str(caught[0].message))


def test_a_forward_hook_is_not_left_out_silently(new_task):
    task, calls = new_task(0), []
    task.model[1].register_forward_hook(lambda layer, inputs, y: calls.append(y.shape))
    with pytest.raises(
        BackendError, match=r"cannot be captured: the forward hook on 1 would not be called by a replay"
    ):
        task.trainer(backend="emulated", capture=True).fit(task.train, 1)
    calls.clear()
    with pytest.warns(RuntimeWarning, match="the forward hook on 1"):
        task.trainer(backend="emulated").fit(task.train, 1)
    assert len(calls) == len(task.train)


def test_a_forward_hook_that_comes_later_is_found(new_task):
    task = new_task(0)
    trainer = task.trainer(backend="emulated", capture=True)
    task.model[1].register_forward_hook(lambda layer, inputs, y: None).remove()
    trainer.fit(task.train, 2)
    task.model[1].register_forward_hook(lambda layer, inputs, y: None)
    with pytest.raises(BackendError, match="the forward hook on 1 would not be called"):
        trainer.fit(task.train, 1)


def test_parameters_that_get_a_gradient_by_turns_are_refused(new_task):
    turns = []

    def step(model, batch):
        turns.append(len(turns))
        x = batch[0].reshape(-1, 36)
        layer = model[-1]
        y = F.linear(x, layer.weight, layer.bias if len(turns) % 2 else None)
        return F.softmax_cross_entropy(y, batch[1])

    task = new_task(0)
    with pytest.raises(BackendError, match="other parameters got a gradient than in the step before"):
        task.trainer(backend="emulated", capture=True, step=step).fit(task.train, 1)


def test_a_step_that_updates_nothing_is_refused(new_task):
    other = nn.Linear(36, 4)

    def step(model, batch):
        return F.softmax_cross_entropy(other(batch[0].reshape(-1, 36)), batch[1])

    task = new_task(0)
    other.to("emulated")
    with pytest.raises(BackendError, match="captured: no parameter of the optimizer got a gradient"):
        task.trainer(backend="emulated", capture=True, step=step).fit(task.train, 1)


def test_a_static_array_that_is_freed_is_found(new_task):
    task = new_task(0)
    trainer = task.trainer(backend="emulated", capture=True)
    whole = [batch for batch in task.train if len(batch[0]) == 16]
    trainer.fit(whole, 2)
    graph = trainer._step.graphs.popitem()[1]
    graph.recording.launch()
    graph.batch._feeds.clear()
    gc.collect()
    with pytest.raises(BackendError, match=r"would touch \w+, an array of shape \(3, 16, 6, 6, 1\).* freed since"):
        graph.recording.launch()


def test_pythons_numbers_in_a_users_step_are_frozen(new_task):
    """The one hazard that nothing can find, and that the documentation therefore names."""
    scale, task = [1.0], new_task(0, dropout=0.0)

    def step(model, batch):
        return F.softmax_cross_entropy(model(batch[0]), batch[1]) * scale[0]

    task.optimizer.groups[0]["lr"] = 0.0
    trainer = task.trainer(backend="emulated", capture=True, step=step)
    whole = [batch for batch in task.train if len(batch[0]) == 16]
    trainer.fit(whole, 2)
    scale[0] = 2.0
    trainer.fit(whole, 1)
    assert trainer.history["loss"][2] == pytest.approx(trainer.history["loss"][1], rel=0.2)


def test_capture_takes_a_backend_that_records():
    model = nn.Linear(3, 2)
    assert get_backend("numpy").recorder() is None
    with pytest.raises(ValueError, match="capture=True takes a CUDA backend, got reference"):
        Trainer(model, optim.SGD(model.parameters(), 0.1), backend="reference", capture=True)


# ---- the launches of a step

LENET_STEP = (
    # forward: convolution, bias, ReLU and pool at once
    ["conv2d_forward_tiled"] * 2
    + ["matmul_tiled"] * 3
    # loss, its gradient, and the count of correct labels
    + ["softmax_cross_entropy_simple"]
    # backward
    + ["conv2d_weight_grad_tiled", "matmul_tiled"] * 3
    + ["conv2d_weight_grad_tiled", "conv2d_input_grad_tiled"]
    + ["conv2d_weight_grad_tiled"]
    # the update, which leaves the note
    + ["update"]
)


def test_a_lenet_step_launches_this_and_nothing_else():
    gp.seed(0)
    model = models.lenet((28, 28, 1), 10)
    optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    rng = np.random.default_rng(0)
    loader = data.DataLoader(
        data.ArrayDataset(rng.normal(size=(512, 28, 28, 1)).astype(np.float32), rng.integers(0, 10, 512)), 128
    )
    trainer = Trainer(model, optimizer, backend="emulated", capture=True, progress=False, callbacks=[Each()])
    trainer.fit(loader, 1)
    (graph,) = trainer._step.graphs.values()
    names = [kernel.partition("<")[0] for kernel in graph.recording.graph.kernels]
    print(f"\nlaunches of a LeNet step: {len(names)}")
    assert names == LENET_STEP
    assert len(names) == 16


def test_batches_of_a_device_loader_are_made_inside_the_graph():
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (23, 8, 8, 1), dtype=np.uint8), rng.integers(0, 3, 23)
    transform = data.Compose([data.RandomCrop(8, padding=2), data.RandomFlip(), data.Normalize(0.5, 0.25)])
    weights, made = [], []
    for capture in (False, True):
        gp.seed(3)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3))
        loader = data.DeviceLoader(
            data.ArrayDataset(images, labels), 4, backend="emulated", shuffle=True, transform=transform
        )
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        trainer = Trainer(model, optimizer, backend="emulated", capture=capture, progress=False)
        trainer.fit(loader, 3, valid=loader)
        weights.append(
            [*model.state_dict().values(), *([row["loss"], row["accuracy"]] for row in trainer.history.rows)]
        )
        made.append(trainer._step)
    for eager, captured in zip(*weights, strict=True):
        np.testing.assert_array_equal(eager, captured)
    kernels = {count: graph.recording.graph.kernels for (_, count), graph in made[1].graphs.items()}
    assert sum("gather_augment" in kernel for kernel in kernels[STEPS]) == STEPS
