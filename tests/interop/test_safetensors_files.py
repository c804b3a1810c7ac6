import json
import math
import os
import stat
import struct
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import safetensors.numpy

import gpunet as gp
from gpunet import functional as F
from gpunet import nn, optim
from gpunet.interop import load_checkpoint, load_weights, read_metadata, save_checkpoint, save_weights


def make(seed=0, features=3, optimizer=optim.AdamW):
    """A model, and an optimizer that has made a step."""
    gp.seed(seed)
    model = nn.Sequential(nn.Linear(features, 5), nn.ReLU(), nn.Linear(5, 2))
    optimizer = optimizer(model.parameters(), lr=0.1)
    x = np.random.default_rng(seed).normal(size=(4, features)).astype(np.float32)
    F.cross_entropy(model(x), np.array([0, 1, 1, 0])).backward()
    optimizer.step()
    return model, optimizer


def assert_equal_states(a, b):
    assert list(a) == list(b)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def snapshot(model, optimizer):
    slots = {f"{s}{i}": v for s, group in optimizer.state_dict()["slots"].items() for i, v in enumerate(group)}
    return {**model.state_dict(), **slots, "steps": np.array(optimizer.steps)}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.safetensors"


# ---- weights


def test_weights_come_back_with_their_metadata(path):
    model, other = make(0)[0], make(1)[0]
    save_weights(path, model, metadata={"classes": ["cat", "dog"], "mean": [0.1, 1 / 3]})
    assert load_weights(path, other) == {"classes": ["cat", "dog"], "mean": [0.1, 1 / 3]}
    assert_equal_states(model.state_dict(), other.state_dict())
    assert read_metadata(path)["classes"] == ["cat", "dog"]


def test_other_tools_read_the_weights_by_name(path):
    model = make()[0]
    save_weights(path, model)
    assert_equal_states(
        dict(sorted(safetensors.numpy.load_file(path).items())), dict(sorted(model.state_dict().items()))
    )


def test_weights_that_another_tool_wrote_load(path):
    model = make()[0]
    state = {name: value + 1 for name, value in model.state_dict().items()}
    safetensors.numpy.save_file(state, path, {"format": "pt"})
    assert load_weights(path, model) == {}
    assert_equal_states(state, model.state_dict())


def test_buffers_float64_and_numbers_without_axes_are_kept(path):
    class Net(nn.Module):
        def __init__(self):
            self.weight = nn.parameter(np.array(1 / 3))
            self.mean = nn.Buffer(np.arange(6.0).reshape(2, 3).T)

    net, other = Net(), Net()
    other.weight.data[...] = 0
    other.mean.data[...] = 0
    save_weights(path, net)
    load_weights(path, other)
    assert other.weight.numpy() == 1 / 3
    assert_equal_states(net.state_dict(), other.state_dict())


def test_weights_of_another_model_raise_and_change_nothing(path):
    save_weights(path, make()[0])
    model = make(1, features=4)[0]
    before = model.state_dict()
    with pytest.raises(
        ValueError, match=r"net\.safetensors: load_state_dict: 0\.weight is \(3, 5\) but takes \(4, 5\)"
    ):
        load_weights(path, model)
    assert_equal_states(before, model.state_dict())


# ---- checkpoints


@pytest.mark.parametrize("kind", [optim.SGD, optim.Adam, optim.AdamW])
def test_a_checkpoint_brings_model_optimizer_and_schedule_back(path, kind):
    model, optimizer = make(0, optimizer=kind)
    schedule = optim.CosineAnnealingLR(optimizer, 10)
    schedule.step()
    save_checkpoint(path, model, optimizer, schedule, metadata={"epoch": 3})
    other, second = make(1, optimizer=kind)
    second_schedule = optim.CosineAnnealingLR(second, 10)
    assert load_checkpoint(path, other, second, second_schedule) == {"epoch": 3}
    assert_equal_states(snapshot(model, optimizer), snapshot(other, second))
    assert second.groups[0]["lr"] == optimizer.groups[0]["lr"] < 0.1
    assert second_schedule.step_count == 1


def test_a_checkpoint_gives_a_model_its_weights_alone(path):
    model, optimizer = make()
    save_checkpoint(path, model, optimizer)
    for load in (load_weights, load_checkpoint):
        other = make(1)[0]
        load(path, other)
        assert_equal_states(model.state_dict(), other.state_dict())


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ({"optimizer": None}, "holds optimizer none, not AdamW"),
        ({"optimizer": optim.SGD}, "holds optimizer SGD, not AdamW"),
        ({"features": 4}, r"0\.weight is \(4, 5\) but takes \(3, 5\)"),
    ],
)
def test_a_checkpoint_of_something_else_raises_and_changes_nothing(path, saved, message):
    kind = saved.get("optimizer", optim.AdamW)
    model, optimizer = make(0, saved.get("features", 3), kind or optim.SGD)
    save_checkpoint(path, model, optimizer if kind else None)
    target = make(1)
    before = snapshot(*target)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(path, *target)
    assert_equal_states(before, snapshot(*target))


def test_what_the_optimizer_refuses_leaves_the_model_as_it_was(path):
    model, optimizer = make()
    save_checkpoint(path, model, optimizer)
    gp.seed(1)
    other = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    half = optim.AdamW(other[2].parameters(), lr=0.1)
    before = other.state_dict()
    with pytest.raises(ValueError, match=r"net\.safetensors: AdamW: the state's number of parameters 4"):
        load_checkpoint(path, other, half)
    assert_equal_states(before, other.state_dict())


def test_a_weights_file_is_not_a_checkpoint(path):
    model, optimizer = make()
    save_weights(path, model)
    with pytest.raises(ValueError, match=r"net\.safetensors is not a checkpoint of gpunet"):
        load_checkpoint(path, model, optimizer)


# ---- damaged files, and files that are something else


def damage(path, how):
    content = path.read_bytes()
    header = struct.unpack("<Q", content[:8])[0]
    if how == "truncated":
        return content[:-5]
    if how == "only a header":
        return content[: 8 + header]
    if how == "empty":
        return b""
    if how == "a flipped bit":
        return content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]
    if how == "a broken header":
        return content[:20] + b"\xff" + content[21:]
    if how == "a huge header":
        return struct.pack("<Q", 1 << 40) + content[8:]
    if how == "a pickle":
        return b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94\x93\x94."
    raise AssertionError(how)


@pytest.mark.parametrize(
    "how", ["truncated", "only a header", "empty", "a flipped bit", "a broken header", "a huge header", "a pickle"]
)
def test_a_damaged_file_raises_one_line_with_its_name(path, how):
    target = make()
    save_checkpoint(path, *target)
    path.write_bytes(damage(path, how))
    before = snapshot(*target)
    for load in (load_checkpoint, load_weights):
        with pytest.raises(ValueError, match=r"^load_\w+: .*net\.safetensors is damaged") as caught:
            load(path, target[0])
        assert "\n" not in str(caught.value)
    assert_equal_states(before, snapshot(*target))


def test_a_missing_file_is_an_os_error(path, tmp_path):
    with pytest.raises(FileNotFoundError, match="net.safetensors"):
        load_weights(path, make()[0])
    with pytest.raises(IsADirectoryError):
        load_weights(tmp_path, make()[0])


# ---- writing


def test_a_failed_write_leaves_the_old_file_and_nothing_else(path, monkeypatch):
    save_weights(path, make(0)[0])
    before = path.read_bytes()

    def fail(*arguments):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        save_weights(path, make(1)[0])
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_files_are_readable_as_others_are(path):
    save_weights(path, make()[0])
    ordinary = path.with_suffix(".txt")
    ordinary.write_text("")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)


def test_folders_are_made(tmp_path):
    save_weights(tmp_path / "a" / "b" / "net.safetensors", make()[0])
    assert (tmp_path / "a" / "b" / "net.safetensors").exists()


def test_arrays_of_objects_are_refused(path, monkeypatch):
    model = make()[0]
    monkeypatch.setattr(model, "state_dict", lambda: {"w": np.array([1, None])}, raising=False)
    with pytest.raises(TypeError, match="^save_weights: w is of dtype object but takes numbers$"):
        save_weights(path, model)
    assert not path.exists()


HOLDS_ITSELF: list = []
HOLDS_ITSELF.append(HOLDS_ITSELF)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"x": object()}, r"metadata\['x'\] is of type object but must be what JSON can hold"),
        ({"a": {"b": [1, {2, 3}]}}, r"metadata\['a'\]\['b'\]\[1\] is of type set"),
        ({"x": 1j}, r"metadata\['x'\] is of type complex"),
        ({"x": np.complex64(1)}, r"metadata\['x'\] is of type complex64"),
        ({"x": np.timedelta64(5, "s")}, r"metadata\['x'\] is of type timedelta64"),
        ({"x": [Fraction(10**400)]}, r"metadata\['x'\]\[0\] cannot be written: "),
        ({"x": 10**5000}, r"metadata\['x'\] cannot be written: "),
        ({"x": b"text"}, r"metadata\['x'\] is of type bytes"),
        ({"x": np.array([object()])}, r"metadata\['x'\]\[0\] is of type object"),
        ({"x": {1: 2, "1": 3}}, r"metadata\['x'\] has two keys that are '1' in JSON"),
        ({"x": {float("nan"): 3}}, r"a key of metadata\['x'\] is nan but must be text or a finite number"),
        ({"x": {(1, 2): 3}}, r"a key of metadata\['x'\] is \(1, 2\)"),
        ({"x": {"__float__": "nan"}}, r"metadata\['x'\] has the one key '__float__'"),
        ({"x": HOLDS_ITSELF}, "a value holds itself, or is nested too deeply for JSON"),
    ],
)
def test_metadata_must_be_what_json_can_hold_and_the_good_file_stays(path, metadata, message):
    save_weights(path, make()[0], metadata={"good": 1})
    good = path.read_bytes()
    with pytest.raises(TypeError, match=f"^save_weights: {message}"):
        save_weights(path, make()[0], metadata=metadata)
    assert path.read_bytes() == good
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def strict(path):
    """What another program's parser reads of the header, which knows no NaN."""
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    return json.loads(header["__metadata__"]["json"], parse_constant=pytest.fail)


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (np.float32(0.1), 0.10000000149011612),
        (np.float16(0.5), 0.5),
        (np.longdouble(0.25), 0.25),
        (np.float64(0.1), 0.1),
        (np.int64(2**62), 2**62),
        (np.uint64(2**64 - 1), 2**64 - 1),
        (2**80 + 1, 2**80 + 1),
        (np.int8(-3), -3),
        (np.bool_(True), True),
        (np.array(2.5), 2.5),
        (np.array([[1, 2], [3, 4]], np.uint8), [[1, 2], [3, 4]]),
        (np.array([0.5, np.inf, -np.inf], np.float32), [0.5, math.inf, -math.inf]),
        (np.str_("cat"), "cat"),
        (np.array(["cat", "dog"]), ["cat", "dog"]),
        (gp.tensor(2.0), 2.0),
        (gp.tensor([1.0, 2.0]), [1.0, 2.0]),
        (Fraction(1, 4), 0.25),
        (Decimal("0.1"), 0.1),
        (math.inf, math.inf),
        (np.float32(-np.inf), -math.inf),
        ((1, (np.int32(2), None)), [1, [2, None]]),
        ({np.int64(3): "c", 2: "b", True: 1, 0.5: 2}, {"3": "c", "2": "b", "true": 1, "0.5": 2}),
        ({"a": [{"b": math.inf}]}, {"a": [{"b": math.inf}]}),
        ("NaN", "NaN"),
    ],
)
def test_metadata_of_numpys_values_comes_back_as_pythons(path, value, read):
    save_weights(path, make()[0], metadata={"x": value})
    strict(path)
    found = read_metadata(path)["x"]
    assert found == read
    assert type(found) is type(read)


@pytest.mark.parametrize("value", [math.nan, np.float32(np.nan), np.float64(np.nan), np.array(np.nan), Decimal("NaN")])
def test_nan_in_metadata_comes_back_as_nan_from_strict_json(path, value):
    save_checkpoint(path, *make(), metadata={"x": value, "xs": [value, 1.0]})
    assert strict(path)["metadata"]["x"] == {"__float__": "nan"}
    found = read_metadata(path)
    assert math.isnan(found["x"])
    assert math.isnan(found["xs"][0])


def test_a_learning_rate_of_numpys_is_saved(path):
    model = nn.Linear(3, 2)
    optimizer = optim.SGD(model.parameters(), lr=np.float32(0.125), weight_decay=np.float64(0.5))
    save_checkpoint(path, model, optimizer)
    load_checkpoint(path, model, optimizer)
    assert optimizer.groups[0]["lr"] == 0.125


def test_a_save_that_fails_leaves_the_good_file_and_nothing_beside_it(path, monkeypatch):
    save_weights(path, make()[0])
    good = path.read_bytes()

    def fail(*_):
        raise KeyboardInterrupt

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, fail)
            with pytest.raises(KeyboardInterrupt):
                save_weights(path, make(1)[0])
        assert path.read_bytes() == good
        assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_the_file_is_plain_safetensors_with_strict_json(path):
    save_checkpoint(path, *make(), metadata={"a": 1})
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    assert header["__metadata__"]["format"] == "gpunet-checkpoint-2"
    json.loads(header["__metadata__"]["json"], parse_constant=pytest.fail)
    assert header["optimizer.mean.0"]["shape"] == [3, 5]
