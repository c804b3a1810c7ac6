"""Averages of the weights: inside and outside `applied`, in checkpoints, and in validation."""

import re

import numpy as np
import pytest
import tolerances
from helpers import relative_error
from helpers.small_nets import batches_of, normalised_net, plain_net

import gpunet as gp
from gpunet import nn, optim
from gpunet.interop.safetensors import load_checkpoint, save_checkpoint
from gpunet.train import BestCheckpoint, EarlyStopping, Trainer


def made(backend="numpy", decay=0.5, seed=3, momentum=0.9, **options):
    gp.seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm2d(4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=momentum)
    average = optim.ExponentialMovingAverage(model.to(backend), optimizer, decay)
    return Trainer(model, optimizer, backend=backend, progress=False, average=average, **options)


def batches(rng, count=2):
    return [(rng.normal(size=(6, 3)).astype(np.float32), rng.integers(0, 2, 6)) for _ in range(count)]


@pytest.fixture
def trainer(backend, rng):
    """After an epoch, so that averages and values differ."""
    trained = made(backend, capture=False)
    trained.fit(batches(rng), 1)
    return trained


def states(trainer):
    """(the model's, the averages') outside `applied`."""
    return trainer.model.state_dict(), trainer.average.state_dict()


def same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


def differ(one, other):
    return any(not np.array_equal(value, other[name]) for name, value in one.items())


def test_applied_nests_and_the_states_are_the_same_inside(trainer):
    values, averages = states(trainer)
    assert differ(values, averages)
    with trainer.average.applied():
        same(trainer.average.state_dict(), averages)
        assert trainer.average.applying
        with trainer.average.applied():
            same(trainer.model.state_dict(), averages)
            with trainer.average.applied(False):
                same(trainer.model.state_dict(), values)
                same(trainer.average.state_dict(), averages)
        same(trainer.model.state_dict(), averages)
    same(trainer.model.state_dict(), values)
    same(trainer.average.state_dict(), averages)


def test_averages_are_loaded_inside_and_outside_and_must_be_whole(trainer):
    values, averages = states(trainer)
    other = {name: value + 1 for name, value in averages.items()}
    with trainer.average.applied():
        trainer.average.load_state_dict(other)
        same(trainer.model.state_dict(), other)
    same(trainer.model.state_dict(), values)
    same(trainer.average.state_dict(), other)
    del other["0.weight"]
    with pytest.raises(ValueError, match=r"missing 0\.weight"):
        trainer.average.load_state_dict(other)


@pytest.mark.parametrize("saving", [False, True])
@pytest.mark.parametrize("loading", [False, True])
def test_checkpoints_hold_values_and_averages_whether_applied_or_not(trainer, backend, tmp_path, saving, loading):
    values, averages = states(trainer)
    with trainer.average.applied(saving):
        trainer.save(tmp_path / "a.safetensors")
    same(trainer.model.state_dict(), values)
    again = made(backend, seed=4, capture=False)
    with again.average.applied(loading):
        again.load(tmp_path / "a.safetensors")
    same(again.model.state_dict(), values)
    same(again.average.state_dict(), averages)


def test_a_checkpoint_without_the_averages_that_are_applied_holds_the_values(trainer, tmp_path):
    values, _ = states(trainer)
    with trainer.average.applied():
        save_checkpoint(tmp_path / "a.safetensors", trainer.model, trainer.optimizer)
    again = made(seed=4)
    load_checkpoint(tmp_path / "a.safetensors", again.model, again.optimizer)
    same(again.model.state_dict(), values)


def test_a_checkpoint_that_does_not_fit_leaves_the_averages_too(trainer, tmp_path):
    trainer.save(tmp_path / "a.safetensors")
    other = made(seed=4, momentum=0.0)  # without the momentum that the file has
    before = states(other)
    with pytest.raises(ValueError, match="the state's slots"):
        other.load(tmp_path / "a.safetensors")
    for one, now in zip(before, states(other), strict=True):
        same(one, now)


def test_two_averages_are_not_applied_at_once(trainer):
    second = optim.ExponentialMovingAverage(trainer.model, trainer.optimizer, 0.9)
    values, averages = states(trainer)
    with trainer.average.applied(), pytest.raises(RuntimeError, match=r"SGD: other averages inside applied\(\)"):
        second.state_dict()
    same(trainer.model.state_dict(), values)
    same(trainer.average.state_dict(), averages)


def test_training_inside_applied_raises_before_anything_changes(backend, rng):
    trainer, some = made(backend), batches(rng, 4)
    trainer.fit(some, 1)
    values, averages = states(trainer)
    with trainer.average.applied(), pytest.raises(RuntimeError, match=r"SGD: a step inside applied\(\)"):
        trainer.fit(some, 1)
    with trainer.average.applied(), pytest.raises(RuntimeError, match=r"SGD: a step inside applied\(\)"):
        trainer.optimizer.step()
    same(trainer.model.state_dict(), values)
    same(trainer.average.state_dict(), averages)


def test_averages_take_an_optimizer_of_the_model_that_still_holds_it(trainer):
    with pytest.raises(ValueError, match="ExponentialMovingAverage: the optimizer holds no parameter of the model"):
        optim.ExponentialMovingAverage(made().model, trainer.optimizer)
    with pytest.raises(TypeError, match="ExponentialMovingAverage: decay is 'a' but must be a number"):
        optim.ExponentialMovingAverage(trainer.model, trainer.optimizer, "a")
    with trainer.average.applied(), pytest.raises(RuntimeError, match=r"SGD: release\(\) inside applied\(\)"):
        trainer.optimizer.release()
    values = trainer.model.state_dict()
    trainer.optimizer.release()
    for use in (trainer.average.state_dict, lambda: trainer.average.load_state_dict(values)):
        with pytest.raises(RuntimeError, match="ExponentialMovingAverage: the optimizer has released the parameters"):
            use()
    same(trainer.model.state_dict(), values)
    with pytest.raises(ValueError, match="the optimizer holds no parameter of the model"):
        optim.ExponentialMovingAverage(trainer.model, trainer.optimizer)


def validated_and_not(rng, backend, **options):
    """Train with validation and without; assert that validation changes nothing and goes by the averages."""
    train, valid = batches(rng, 4), batches(rng)
    figures = {}
    for validated in (False, True):
        trainer = made(backend, decay=0.9, **options)
        trainer.fit(train, 2, valid if validated else None)
        figures[validated] = states(trainer)
    for one, other in zip(figures[False], figures[True], strict=True):
        same(one, other)  # validation changes nothing
    with trainer.average.applied():
        assert trainer.evaluate(valid)["loss"] == trainer.history["valid_loss"][-1]
    assert trainer.evaluate(valid)["loss"] != trainer.history["valid_loss"][-1]


def test_validation_goes_by_the_averages_and_training_by_the_values(backend, rng):
    validated_and_not(rng, backend)


def test_validation_in_16_bits_goes_by_the_averages_too(cuda_name, rng):
    """Where a shadow of the values must be written anew."""
    validated_and_not(rng, cuda_name, capture=True, precision="bfloat16")


def test_the_best_epoch_by_the_averages_is_kept_and_restored_with_them(rng, tmp_path):
    train = batches(rng, 4)
    valid = [(x, 1 - y) for x, y in train[:2]]  # what is learned is wrong: the first epoch is the best
    stopping, best = EarlyStopping(patience=2), BestCheckpoint(tmp_path / "a.safetensors", "valid_loss")
    trainer = made(decay=0.8, callbacks=[stopping, best])
    trainer.fit(train, 10, valid)
    assert len(trainer.history) == 3
    with trainer.average.applied():
        assert trainer.evaluate(valid)["loss"] == trainer.history["valid_loss"][0]
    after_one = made(decay=0.8)
    after_one.fit(train, 1)
    again = made(seed=4)
    again.load(tmp_path / "a.safetensors")
    for restored in (trainer, again):
        for one, other in zip(states(restored), states(after_one), strict=True):
            same(one, other)


# ---- over training


def averaging(backend, decay=0.8, **options):
    model = normalised_net().to(backend)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    average = optim.ExponentialMovingAverage(model, optimizer, decay)
    return Trainer(model, optimizer, backend=backend, progress=False, average=average, **options)


def test_averages_follow_their_formula_and_replace_the_values_inside_applied(backend, rng):
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
    model = normalised_net()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    Trainer(model, optimizer, backend="numpy", progress=False).save(tmp_path / "a.safetensors")
    average = optim.ExponentialMovingAverage(model, optimizer)
    with pytest.raises(ValueError, match="holds no averages"):
        load_checkpoint(tmp_path / "a.safetensors", model, optimizer, average=average)
    with pytest.raises(ValueError, match="ExponentialMovingAverage: decay is 1 but must be at least 0 and below 1"):
        optim.ExponentialMovingAverage(model, optimizer, 1)


@pytest.mark.usefixtures("short_graphs")
@pytest.mark.parametrize("bad", [False, True])
def test_captured_averages_equal_the_eager_ones_bit_for_bit(cuda_backend, rng, bad):
    batches, states = batches_of(rng, [6] * 7), []
    spoilt = [(x.copy(), y) for x, y in batches]
    spoilt[4][0][0] = np.nan
    for capture in (False, True):
        trainer = averaging(cuda_backend, capture=capture)
        trainer.fit(batches, 1)
        trainer.average.decay = 0.6
        trainer.fit(batches, 1)
        if bad:
            with pytest.raises(FloatingPointError):
                trainer.fit(spoilt, 1)
        states.append(trainer.average.weights.data)
    weights = [cuda_backend.to_numpy(state) for state in states]
    np.testing.assert_array_equal(*weights)
    assert np.isfinite(weights[0]).all()


def test_a_step_that_overflows_leaves_max_norm_and_averages_alone(cuda_name, rng):
    gp.seed(0)
    model = plain_net()
    optimizer = optim.SGD(model.parameters(), lr=0.1, max_norm=0.9)
    average = optim.ExponentialMovingAverage(model, optimizer, 0.5)
    trainer = Trainer(
        model, optimizer, backend=cuda_name, precision="float16", capture=False, progress=False, average=average
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
