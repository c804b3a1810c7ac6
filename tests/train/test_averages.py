"""Averages beside the model: inside and outside `applied`, in checkpoints, and in what a trainer validates."""

import numpy as np
import pytest

import gpunet as gp
from gpunet import nn, optim
from gpunet.backends import why_unavailable
from gpunet.interop.safetensors import load_checkpoint, save_checkpoint
from gpunet.train import BestCheckpoint, EarlyStopping, Trainer

needs_emulator = pytest.mark.skipif(bool(why_unavailable("emulated")), reason=why_unavailable("emulated"))


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


@pytest.mark.parametrize("capture", [False, pytest.param(True, marks=needs_emulator)])
def test_training_inside_applied_raises_before_anything_changes(rng, capture):
    trainer, some = made("emulated" if capture else "numpy", capture=capture), batches(rng, 4)
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


@pytest.mark.parametrize(
    ("capture", "precision"),
    [
        (False, "ieee"),
        pytest.param(True, "ieee", marks=needs_emulator),
        pytest.param(True, "bfloat16", marks=needs_emulator),  # where a shadow of the values must be written anew
    ],
)
def test_validation_goes_by_the_averages_and_training_by_the_values(rng, capture, precision):
    train, valid = batches(rng, 4), batches(rng)
    figures = {}
    for validated in (False, True):
        trainer = made("emulated" if capture else "numpy", decay=0.9, capture=capture, precision=precision)
        trainer.fit(train, 2, valid if validated else None)
        figures[validated] = states(trainer)
    for one, other in zip(figures[False], figures[True], strict=True):
        same(one, other)  # validation changes nothing
    with trainer.average.applied():
        assert trainer.evaluate(valid)["loss"] == trainer.history["valid_loss"][-1]
    assert trainer.evaluate(valid)["loss"] != trainer.history["valid_loss"][-1]


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
