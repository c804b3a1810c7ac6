"""What regularises beside the loss: frozen layers, gradients of several batches, averages of weights, mixed images."""

import re

import numpy as np
import pytest
import tolerances
from helpers import host, relative_error

import gpunet as gp
from gpunet import data, nn, optim
from gpunet import functional as F
from gpunet.backends import get_backend, why_unavailable
from gpunet.interop.safetensors import load_checkpoint
from gpunet.train import Trainer

needs_emulator = pytest.mark.skipif(bool(why_unavailable("emulated")), reason=why_unavailable("emulated"))


def net():
    gp.seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding="same"),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(36, 4),
    )


def batches_of(rng, sizes):
    return [(rng.normal(size=(n, 6, 6, 1)).astype(np.float32), rng.integers(0, 4, n)) for n in sizes]


# ---- frozen layers


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("kind", [optim.SGD, optim.AdamW, optim.Muon])
def test_frozen_layers_stay_as_they_are_and_the_others_learn(backend, rng, before, kind):
    model = net().to(backend)
    below = nn.Sequential(*model.layers[:2])
    if before:
        below.freeze()
    optimizer = kind(model.parameters(), lr=0.1, weight_decay=0.5)
    batch = batches_of(rng, [8])[0]
    if not before:
        model.train()
        F.softmax_cross_entropy(model(batch[0]), batch[1]).backward()
        below.freeze()  # which forgets the gradients that there are
    start = model.state_dict()
    model.train()
    for _ in range(2):
        if before:
            optimizer.zero_grad()
        F.softmax_cross_entropy(model(batch[0]), batch[1]).backward()
        optimizer.step()
    for name, value in model.state_dict().items():
        assert np.array_equal(value, start[name]) == (not name.startswith("5.")), name
    assert model[0].weight.grad is None
    assert not model[1].training
    assert model[2].training
    below.unfreeze()
    model.train()
    optimizer.zero_grad()
    F.softmax_cross_entropy(model(batch[0]), batch[1]).backward()
    optimizer.step()
    assert not any(np.array_equal(value, start[name]) for name, value in model.state_dict().items() if "0." in name)


def test_backward_ends_above_frozen_layers(backend, rng):
    model = net().to(backend)
    nn.Sequential(*model.layers[:2]).freeze()
    model.train()
    hidden = nn.Sequential(*model.layers[:4])(batches_of(rng, [4])[0][0])
    assert not hidden.requires_grad
    assert nn.Sequential(*model.layers[4:])(hidden).requires_grad


def test_parameters_alone_may_be_left_out(rng):
    model = net()
    assert model[0].requires_grad_(False) is model[0]
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True, True, True]
    model.train()
    assert model[0].training


@needs_emulator
def test_freezing_between_captured_epochs_takes_effect(new_task):
    states = []
    for capture in (False, True):
        task = new_task(0)
        trainer = task.trainer(backend="emulated", capture=capture)
        trainer.fit(task.train, 2)
        task.model[0].freeze()
        kept = task.model.state_dict()["0.weight"]
        trainer.fit(task.train, 2)
        np.testing.assert_array_equal(task.model.state_dict()["0.weight"], kept)
        states.append(task.model.state_dict())
    for name, value in states[0].items():
        np.testing.assert_array_equal(value, states[1][name])


# ---- gradients of several batches


def plain_net():
    gp.seed(3)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding="same"), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))


def trained(backend, batches, **options):
    model = plain_net().to(backend)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9, clip_norm=0.5)
    trainer = Trainer(model, optimizer, backend=backend, progress=False, capture=False, **options)
    trainer.fit(batches, 2)
    return model.state_dict(), trainer


def test_accumulated_gradients_are_those_of_the_big_batch(backend, rng):
    small = batches_of(rng, [6, 6, 3, 5, 2])  # the last update takes two batches, and sizes differ
    big = [tuple(np.concatenate(parts) for parts in zip(*some, strict=True)) for some in (small[:3], small[3:])]
    expected, whole = trained(backend, big)
    got, parts = trained(backend, small, accumulate=3)
    for name, value in expected.items():
        assert relative_error(got[name], value) < tolerances.LOSS_CURVE, name
    assert parts.optimizer.steps.tolist() == whole.optimizer.steps.tolist() == [4] * 4
    np.testing.assert_allclose(parts.history["loss"], whole.history["loss"], rtol=tolerances.LOSS_CURVE)
    assert parts.history["accuracy"] == whole.history["accuracy"]


def test_gradients_add_up_by_hand(backend, rng):
    small, states = batches_of(rng, [4, 4, 4]), []
    for batches in (small, [tuple(np.concatenate(parts) for parts in zip(*small, strict=True))]):
        model = plain_net().to(backend)
        optimizer = optim.Adam(model.parameters())
        optimizer.zero_grad()
        for x, y in batches:
            optimizer.backward(F.softmax_cross_entropy(model(x), y), 1 / len(batches))
        optimizer.step()
        states.append([host(p.grad, backend) for p in model.parameters()])
    for one, other in zip(*states, strict=True):
        assert relative_error(one, other) < tolerances.LOSS_CURVE


def test_a_schedule_and_hooks_go_by_updates(rng):
    class Rates:
        seen = ()

        def after_step(self, trainer):
            self.seen = *self.seen, (trainer.step, trainer.optimizer.groups[0]["lr"])

    model, rates = plain_net(), Rates()
    optimizer = optim.SGD(model.parameters(), lr=1.0)
    schedule = optim.StepLR(optimizer, 1, 0.5)
    trainer = Trainer(
        model, optimizer, schedule=schedule, accumulate=2, backend="numpy", progress=False, callbacks=[rates]
    )
    trainer.fit(batches_of(rng, [4, 4, 4]), 1)
    assert rates.seen == ((1, 0.5), (2, 0.25))


def test_a_loss_that_is_not_finite_in_a_later_part_updates_nothing(rng):
    batches = batches_of(rng, [4, 4])
    batches[1][0][0] = np.nan
    model = plain_net()
    start = model.state_dict()
    trainer = Trainer(model, optim.SGD(model.parameters(), lr=1.0), accumulate=2, backend="numpy", progress=False)
    with pytest.raises(FloatingPointError, match="nothing was updated"):
        trainer.fit(batches, 1)
    assert all(np.array_equal(value, start[name]) for name, value in model.state_dict().items())


def test_accumulate_is_a_number_of_batches():
    model = plain_net()
    with pytest.raises(ValueError, match="Trainer: accumulate is 0 but must be an integer of at least 1"):
        Trainer(model, optim.SGD(model.parameters(), lr=1.0), accumulate=0)


@needs_emulator
@pytest.mark.parametrize("metrics", [[], ["accuracy"]])
@pytest.mark.parametrize("hook", [False, True])
@pytest.mark.parametrize("accumulate", [2, 3])
def test_captured_updates_of_several_batches_are_the_eager_ones_bit_for_bit(
    new_task, monkeypatch, accumulate, hook, metrics
):
    class Each:
        def after_step(self, trainer):
            seen.append((trainer.step, trainer.running["loss"]))

    monkeypatch.setattr("gpunet.train.trainer.STEPS", 3)
    states, calls = [], []
    for capture in (False, True):
        task, seen = new_task(0), []
        trainer = task.trainer(
            backend="emulated", capture=capture, accumulate=accumulate, metrics=metrics,
            schedule=optim.CosineLR(task.optimizer, 30), callbacks=[Each()] * hook,
        )  # fmt: skip
        whole = [batch for batch in task.train if len(batch[0]) == 16]
        for batches in (
            whole * 7,
            [*whole * 2, *task.train],
        ):  # with unlike batches in an update, and a last one of few
            trainer.fit(batches, 2)
        states.append(
            (task.model.state_dict(), [{**r, "seconds": 0, "images_per_second": 0} for r in trainer.history.rows])
        )
        calls.append(seen)
    for name, value in states[0][0].items():
        np.testing.assert_array_equal(value, states[1][0][name])
    assert states[0][1] == states[1][1]
    assert calls[0] == calls[1]
    counts = {count for _, count in trainer._step.graphs}
    assert accumulate * (1 if hook else 3) in counts


@needs_emulator
@pytest.mark.parametrize("bad", [0, 3, 7])
def test_a_bad_batch_stops_captured_updates_as_eager_ones(new_task, monkeypatch, bad):
    monkeypatch.setattr("gpunet.train.trainer.STEPS", 3)
    states = []
    for capture in (False, True):
        task = new_task(0)
        trainer = task.trainer(backend="emulated", capture=capture, accumulate=2)
        whole = [batch for batch in task.train if len(batch[0]) == 16]
        trainer.fit(whole * 4, 1)
        batches = [tuple(part.copy() for part in batch) for batch in whole * 4]
        batches[bad][0][0] = np.nan
        with pytest.raises(FloatingPointError, match="the loss is nan in epoch 2.*nothing was updated"):
            trainer.fit(batches, 1)
        trainer.fit(whole, 1)
        states.append(task.model.state_dict())
        assert task.optimizer.steps.tolist() == [6 + bad // 2 + 2] * 4
    for name, value in states[0].items():
        np.testing.assert_array_equal(value, states[1][name])


# ---- averages


def averaging(backend, decay=0.8, **options):
    model = net().to(backend)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    average = optim.ExponentialMovingAverage(model, optimizer, decay)
    return Trainer(model, optimizer, backend=backend, progress=False, average=average, **options)


def test_averages_are_their_formula_and_take_the_models_place_inside_applied(backend, rng):
    trainer, batches = averaging(backend, capture=False), batches_of(rng, [6, 6])
    expected = {name: value.astype(np.float64) for name, value in trainer.model.state_dict().items()}
    for batch in batches * 2:
        trainer.fit([batch], 1)
        for name, value in trainer.model.state_dict().items():
            expected[name] = 0.8 * expected[name] + 0.2 * value
    own = trainer.model.state_dict()
    outside = trainer.evaluate(batches)["loss"]
    with trainer.average.applied():
        for name, value in trainer.model.state_dict().items():
            assert relative_error(value, expected[name]) < tolerances.UPDATE["float32"], name
        assert trainer.evaluate(batches)["loss"] != outside
        with pytest.raises(RuntimeError, match=re.escape("SGD: a step inside applied()")):
            trainer.fit(batches, 1)
    for name, value in trainer.model.state_dict().items():
        if "running" not in name:  # of the forward pass of the refused step
            np.testing.assert_array_equal(value, own[name])


def test_averages_move_and_go_through_a_checkpoint(backend, rng, tmp_path):
    trainer, batches = averaging("numpy"), batches_of(rng, [6, 6])
    trainer.fit(batches, 1)
    trainer.save(tmp_path / "a.safetensors")
    again = averaging(backend, capture=False)
    again.load(tmp_path / "a.safetensors")
    for one, other in ((trainer.average, again.average), (trainer.model, again.model)):
        for name, value in one.state_dict().items():
            np.testing.assert_array_equal(value, other.state_dict()[name])
    again.model.to("reference")
    with again.average.applied():
        for name, value in again.model.state_dict().items():
            np.testing.assert_array_equal(value, trainer.average.state_dict()[name])


def test_a_checkpoint_without_averages_is_refused(tmp_path):
    model = net()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    Trainer(model, optimizer, backend="numpy", progress=False).save(tmp_path / "a.safetensors")
    average = optim.ExponentialMovingAverage(model, optimizer)
    with pytest.raises(ValueError, match="holds no averages"):
        load_checkpoint(tmp_path / "a.safetensors", model, optimizer, average=average)
    with pytest.raises(ValueError, match="ExponentialMovingAverage: decay is 1 but must be at least 0 and below 1"):
        optim.ExponentialMovingAverage(model, optimizer, 1)


@needs_emulator
@pytest.mark.parametrize("bad", [False, True])
def test_captured_averages_are_the_eager_ones_bit_for_bit(rng, monkeypatch, bad):
    monkeypatch.setattr("gpunet.train.trainer.STEPS", 3)
    batches, states = batches_of(rng, [6] * 7), []
    spoilt = [(x.copy(), y) for x, y in batches]
    spoilt[4][0][0] = np.nan
    for capture in (False, True):
        trainer = averaging("emulated", capture=capture)
        trainer.fit(batches, 1)
        trainer.average.decay = 0.6
        trainer.fit(batches, 1)
        if bad:
            with pytest.raises(FloatingPointError):
                trainer.fit(spoilt, 1)
        states.append(trainer.average.weights.data)
    weights = [get_backend("emulated").to_numpy(state) for state in states]
    np.testing.assert_array_equal(*weights)
    assert np.isfinite(weights[0]).all()


@needs_emulator
def test_a_step_that_overflows_leaves_max_norm_and_averages_alone(rng):
    gp.seed(0)
    model = plain_net()
    optimizer = optim.SGD(model.parameters(), lr=0.1, max_norm=0.9)
    average = optim.ExponentialMovingAverage(model, optimizer, 0.5)
    trainer = Trainer(
        model, optimizer, backend="emulated", precision="float16", capture=False, progress=False, average=average
    )
    trainer.fit(batches_of(rng, [8]), 1)
    arena = optimizer.arena
    read = arena.backend.to_numpy
    weights = model.state_dict()["3.weight"]
    assert np.linalg.norm(weights, axis=0).max() <= 0.9 * (1 + 1e-6)
    np.testing.assert_array_equal(read(arena.shadow), read(arena.data).astype(np.float16))
    optimizer.groups[0]["max_norm"] = 0.1
    before = [read(a).copy() for a in (arena.data, average.weights.data)]
    arena.grad = arena.backend.full(arena.grad.shape, np.inf, np.float32)
    optimizer.step()
    for old, now in zip(before, (arena.data, average.weights.data), strict=True):
        np.testing.assert_array_equal(read(now), old)


# ---- mixup


def test_mixup_shares_are_drawn_from_beta():
    stats = pytest.importorskip("scipy.stats")
    from gpunet.data.mixup import symmetric_beta

    u, v = np.random.default_rng(0).uniform(size=(2, 20_000))
    for alpha in (0.2, 0.5, 1.0, 3.0):
        assert stats.kstest(symmetric_beta(u, v, alpha), stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_mixup_mixes_images_and_labels_alike_and_by_image_not_by_place(rng):
    x, y = rng.normal(size=(9, 4, 5, 1)).astype(np.float32), rng.integers(0, 3, 9)
    mixup, indices = data.Mixup(3, alpha=1.0), np.arange(20, 29)
    new, soft = mixup((x, y), indices=indices, epoch=2, seed=5)
    assert new.dtype == soft.dtype == np.float32
    np.testing.assert_allclose(soft.sum(axis=1), 1, rtol=1e-6)
    turned = rng.permutation(9)
    again, again_soft = mixup((x[turned], y[turned]), indices=indices[turned], epoch=2, seed=5)
    np.testing.assert_array_equal(again, new[turned])
    np.testing.assert_array_equal(again_soft, soft[turned])
    # each is a mix of itself and one other, by the share that its label has
    for i in range(9):
        fits = []
        for j in set(range(9)) - {i}:
            direction = (x[j] - x[i]).ravel()
            share = float((new[i] - x[i]).ravel() @ direction / (direction @ direction))
            mixed = (1 - share) * np.eye(3)[y[i]] + share * np.eye(3)[y[j]]
            fits.append(np.abs(new[i] - x[i] - share * (x[j] - x[i])).max() + np.abs(soft[i] - mixed).max())
        assert min(fits) < 1e-5
    other, _ = mixup((x, y), indices=indices, epoch=3, seed=5)
    assert not np.array_equal(other, new)


def test_mixup_trains_with_the_same_loss_and_metrics(backend, rng):
    x, y = rng.normal(size=(24, 6, 6, 1)).astype(np.float32), rng.integers(0, 4, 24)
    loader = data.DataLoader(data.ArrayDataset(x, y), 8, shuffle=True, transform=data.Mixup(4), prefetch=0)
    model = plain_net().to(backend)
    trainer = Trainer(model, optim.SGD(model.parameters(), lr=0.05, momentum=0.9), backend=backend, progress=False)
    history = trainer.fit(loader, 4, valid=[(x, y)])
    assert history["loss"][-1] < history["loss"][0]
    assert set(history.rows[0]) >= {"accuracy", "valid_accuracy"}


def test_mixup_takes_floats_and_labels(rng):
    x, y = np.zeros((4, 2, 2, 1), np.uint8), np.zeros(4, int)
    with pytest.raises(TypeError, match="Mixup: takes .* behind Normalize; got 2 arrays of uint8"):
        data.Mixup(3)((x, y), indices=np.arange(4), epoch=0, seed=0)
    with pytest.raises(ValueError, match=r"Mixup: labels must be integers \(N,\), got float32 \(4,\)"):
        data.Mixup(3)((x.astype(np.float32), y.astype(np.float32)), indices=np.arange(4), epoch=0, seed=0)
    with pytest.raises(ValueError, match="Mixup: labels must be from 0 to 2, got 0 to 3"):
        data.Mixup(3)((x.astype(np.float32), np.arange(4)), indices=np.arange(4), epoch=0, seed=0)
    with pytest.raises(ValueError, match="Mixup: alpha is 0 but must be positive"):
        data.Mixup(3, 0)
    with pytest.raises(ValueError, match="Mixup: alpha is 'a' but must be positive, and finite"):
        data.Mixup(3, "a")


# ---- losses in a captured step


def pairs(model, batch):
    x, same = batch
    half = len(x) // 2
    return F.contrastive_loss(model(x[:half]), model(x[half:]), same[:half])


LOSSES = {
    "contrastive": (pairs, 2),
    "all pairs": (lambda model, batch: F.all_pairs_loss(model(batch[0]), 2), 4),
    "soft labels": (
        lambda model, batch: F.softmax_cross_entropy(
            model(batch[0]), F.one_hot(batch[1], 4, backend="emulated"), label_smoothing=0.1
        ),
        4,
    ),
    "focal": (lambda model, batch: F.focal_loss(model(batch[0]), batch[1]), 4),
    "huber": (lambda model, batch: F.huber_loss(model(batch[0]), F.one_hot(batch[1], 4, backend="emulated")), 4),
}


@needs_emulator
@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_captured(rng, name):
    step, classes = LOSSES[name]
    batches = [(x, y % classes) for x, y in batches_of(rng, [8] * 3)]
    states = []
    for capture in (False, True):
        model = plain_net()
        trainer = Trainer(
            model, optim.SGD(model.parameters(), lr=0.1), step=step, backend="emulated", capture=capture, progress=False
        )
        trainer.fit(batches, 2)
        states.append(model.state_dict())
    for key, value in states[0].items():
        np.testing.assert_array_equal(value, states[1][key])


@needs_emulator
@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("name", ["contrastive", "focal", "soft labels"])
def test_a_label_that_is_no_class_stops_a_captured_step(rng, name, on_device):
    """The host sees the labels of the first batch of a form; of those that a graph takes, the loss tells."""
    step, classes = LOSSES[name]
    batches = [(x, (y % classes).astype(np.int32)) for x, y in batches_of(rng, [8] * 3)]
    model = plain_net()
    trainer = Trainer(
        model, optim.SGD(model.parameters(), lr=0.1), step=step, backend="emulated", capture=True, progress=False
    )
    if on_device:
        batches = [(x, trainer.backend.asarray(y)) for x, y in batches]
    trainer.fit(batches, 1)
    before = model.state_dict()
    y = np.asarray(trainer.backend.to_numpy(batches[1][1]) if on_device else batches[1][1]).copy()
    y[2] = classes
    batches[1] = batches[1][0], trainer.backend.asarray(y) if on_device else y
    message = "the loss is nan" if on_device else "must be "
    with pytest.raises(FloatingPointError if on_device else ValueError, match=message):
        trainer.fit(batches[1:], 1)
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[key])
