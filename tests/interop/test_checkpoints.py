"""Snapshots, and checkpoints that are opened before they are loaded."""

import json
import struct
import threading

import numpy as np
import pytest

import gpunet as gp
from gpunet import nn, optim
from gpunet.files import versions
from gpunet.interop import checkpoint_snapshot, load_checkpoint, load_weights, open_checkpoint, save_checkpoint


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.safetensors"


def made(seed=0, T_max=10, backend="numpy"):
    gp.seed(seed)
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2)).to(backend)
    optimizer = optim.Adam(model.parameters(), lr=0.1)
    parts = {
        "model": model,
        "optimizer": optimizer,
        "average": optim.ExponentialMovingAverage(model, optimizer, 0.9),
        "schedule": optim.CosineAnnealingLR(optimizer, T_max),
    }
    train(parts)
    return parts


def train(parts):
    model = parts["model"]
    x = gp.tensor(np.ones((1, 3), np.float32), backend=next(iter(model.parameters())).backend.name)
    model(x).sum().backward()
    parts["optimizer"].step()
    parts["schedule"].step()


def states(parts):
    return repr([part.state_dict() for part in parts.values()])


# ---- snapshots


def test_training_after_a_snapshot_does_not_change_what_is_written(path, backend):
    parts = made(backend=backend.name)
    counts = np.arange(3)
    callbacks = [("Counter", {"counts": counts})]
    save_checkpoint(path, **parts)
    before = states(parts)
    taken = checkpoint_snapshot(**parts, callbacks=callbacks)
    train(parts)
    counts += 1
    assert states(parts) != before
    thread = threading.Thread(target=taken.write, args=(path,), kwargs={"keep": 2})
    thread.start()
    thread.join()
    opened = open_checkpoint(path)
    opened.load_into(**parts)
    assert states(parts) == before
    np.testing.assert_array_equal(opened.callbacks[0][1]["counts"], [0, 1, 2])
    assert len(versions(path)) == 2


def test_the_bytes_of_a_snapshot_cannot_be_written_to():
    taken = checkpoint_snapshot(**made())
    with pytest.raises(TypeError, match="read-only"):
        taken.parts[0][0] = 0


# ---- what a checkpoint says besides


def test_callbacks_come_back_with_their_arrays(path):
    state = {"best": np.float32(0.5), "wait": 3, "rows": [{"a": np.inf}], "sums": np.arange(6.0).reshape(2, 3).T}
    given = [("EarlyStopping", {"wait": 1}), ("Mean", state), ("Mean", {"a.b": np.array(3, np.int8)}), ("None", {})]
    checkpoint_snapshot(**made(), callbacks=given).write(path)
    found = open_checkpoint(path).callbacks
    assert [name for name, _ in found] == ["EarlyStopping", "Mean", "Mean", "None"]
    assert found[0][1] == {"wait": 1}
    np.testing.assert_array_equal(found[1][1].pop("sums"), state["sums"])
    assert found[1][1] == {"best": 0.5, "wait": 3, "rows": [{"a": np.inf}]}
    assert found[2][1]["a.b"].dtype == np.int8
    assert found[2][1]["a.b"].shape == ()
    assert found[3][1] == {}


def test_the_arrays_of_ten_callbacks_and_more_are_told_apart(path):
    given = [(f"Number{n}", {"x": np.full(2, n)}) for n in range(12)]
    checkpoint_snapshot(**made(), callbacks=given).write(path)
    for n, (name, state) in enumerate(open_checkpoint(path).callbacks):
        assert name == f"Number{n}"
        assert list(state) == ["x"]
        np.testing.assert_array_equal(state["x"], [n, n])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"callbacks": [("Mine", {"x": object()})]}, r"callbacks\[0\]\['state'\]\['x'\] is of type object"),
        ({"callbacks": [("Mine", {"x": np.array(["a"])})]}, r"callback\.0\.x is of dtype <U1 but takes numbers"),
        ({"about": {"device": object()}}, r"about\['device'\] is of type object"),
        ({"metadata": {"x": {1, 2}}}, r"metadata\['x'\] is of type set"),
    ],
)
def test_what_json_cannot_hold_is_named(given, message):
    with pytest.raises(TypeError, match=f"^save_checkpoint: {message}"):
        checkpoint_snapshot(**made(), **given)


def test_a_checkpoint_says_who_wrote_it(path):
    checkpoint_snapshot(**made(), about={"backend": "numpy", "gpunet": "mine"}, metadata={"a": 1}).write(path)
    opened = open_checkpoint(path)
    assert opened.about == {"backend": "numpy", "gpunet": gp.__version__}
    assert opened.metadata == {"a": 1}
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    state = json.loads(header["__metadata__"]["json"])
    assert list(state) == ["metadata", "optimizer", "schedule", "callbacks", "about", "model"]


# ---- loading


def test_opening_a_checkpoint_loads_nothing_and_loading_it_twice_gives_the_same(path):
    parts, other = made(), made(1)
    save_checkpoint(path, **parts)
    before = states(other)
    opened = open_checkpoint(path)
    assert states(other) == before
    for _ in range(2):
        opened.load_into(**other)
        assert states(other) == states(parts)
        train(other)


@pytest.mark.parametrize("part", ["model", "optimizer", "average", "schedule"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, RuntimeError])
def test_whichever_part_fails_half_way_all_are_as_they_were(path, monkeypatch, part, error):
    parts = made(1)
    save_checkpoint(path, **made())
    before, load, calls = states(parts), parts[part].load_state_dict, []

    def fail(state):
        load(state)
        calls.append(1)
        if len(calls) == 1:
            raise error("half-way")

    monkeypatch.setattr(parts[part], "load_state_dict", fail)
    with pytest.raises(error, match="half-way"):
        load_checkpoint(path, **parts)
    assert states(parts) == before


def test_a_schedule_of_other_options_is_refused_unless_it_is_asked_for(path):
    parts, longer = made(), made(1, T_max=40)
    train(parts)
    save_checkpoint(path, **parts)
    before = states(longer)
    refused = r"net\.safetensors: CosineAnnealingLR: the state is of T_max 10, not 40; .* extend_schedule=True$"
    with pytest.raises(ValueError, match=refused):
        load_checkpoint(path, **longer)
    assert states(longer) == before
    open_checkpoint(path).load_into(**longer, extend_schedule=True)
    schedule = longer["schedule"]
    assert (schedule.step_count, schedule.T_max, schedule.base_rates) == (2, 40, [0.1])
    assert longer["optimizer"].groups[0]["lr"] == pytest.approx(0.1 * (1 + np.cos(np.pi * 2 / 40)) / 2)
    assert repr(longer["model"].state_dict()) == repr(parts["model"].state_dict())


def test_a_plateau_schedule_keeps_its_own_options_too(path):
    parts = made()
    saved, other = (optim.ReduceLROnPlateau(parts["optimizer"], patience=patience) for patience in (1, 5))
    saved.step(2.5)
    save_checkpoint(path, parts["model"], parts["optimizer"], saved)
    opened = open_checkpoint(path)
    with pytest.raises(ValueError, match="ReduceLROnPlateau: the state is of patience 1, not 5; .*extend_schedule"):
        opened.load_into(parts["model"], parts["optimizer"], other)
    opened.load_into(parts["model"], parts["optimizer"], other, extend_schedule=True)
    assert (other.best, other.step_count, other.patience) == (2.5, 1, 5)


def test_another_kind_of_schedule_is_refused_even_so(path):
    parts = made()
    save_checkpoint(path, **parts)
    parts["schedule"] = optim.StepLR(parts["optimizer"], 2)
    with pytest.raises(ValueError, match="holds schedule CosineAnnealingLR, not StepLR"):
        open_checkpoint(path).load_into(**parts, extend_schedule=True)


def test_a_weights_file_is_not_opened_as_a_checkpoint_but_weights_are_taken_from_one(path):
    checkpoint_snapshot(made()["model"], callbacks=[("Mean", {"x": np.ones(2)})]).write(path)
    other = made(1)["model"]
    load_weights(path, other)
    assert repr(other.state_dict()) == repr(made()["model"].state_dict())
