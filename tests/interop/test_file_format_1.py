"""Files of format 1, which gpunet 0.1 wrote: they load, and damaged ones are refused."""

import json
import zlib

import pytest
import safetensors.numpy
from helpers.saved_files import assert_refused, joined, made, split, states

from gpunet.interop import load_checkpoint, load_weights, open_checkpoint, read_metadata


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.safetensors"


def old_file(path, kind, arrays, state):
    """Write a file as gpunet 0.1 did."""
    checksum = 0
    for name in sorted(arrays):
        checksum = zlib.crc32(arrays[name].tobytes(), checksum)
    safetensors.numpy.save_file(arrays, path, {"format": kind, "crc32": str(checksum), "json": json.dumps(state)})


def old_checkpoint(path, parts):
    arrays = {f"model.{name}": array for name, array in parts["model"].state_dict().items()}
    arrays |= {f"average.{name}": array for name, array in parts["average"].state_dict().items()}
    saved = parts["optimizer"].state_dict()
    slots = saved.pop("slots")
    arrays |= {f"optimizer.{slot}.{i}": array for slot, group in slots.items() for i, array in enumerate(group)}
    counts = {slot: len(group) for slot, group in slots.items()}
    state = {
        "metadata": {"epoch": 3},
        "optimizer": {**saved, "name": "Adam", "slots": counts},
        "schedule": {"name": "StepLR", **parts["schedule"].state_dict()},
    }
    old_file(path, "gpunet-checkpoint-1", arrays, state)


def test_a_checkpoint_of_format_1_loads(path):
    parts, other = made(), made(1)
    parts["schedule"].step()
    old_checkpoint(path, parts)
    assert load_checkpoint(path, **other) == read_metadata(path) == {"epoch": 3}
    assert states(other) == states(parts)
    opened = open_checkpoint(path)
    assert (opened.callbacks, opened.about, opened.model) == ([], {}, None)


def test_a_weights_file_of_format_1_loads(path):
    model, other = made()["model"], made(1)["model"]
    old_file(path, "gpunet-weights-1", model.state_dict(), {"metadata": {"a": 1}})
    assert load_weights(path, other) == {"a": 1}
    assert repr(model.state_dict()) == repr(other.state_dict())


@pytest.mark.parametrize("change", ["data", "crc32", "json", "sha256", "format", "json's form"])
def test_a_damaged_file_of_format_1_is_refused(path, change):
    old_checkpoint(path, made())
    header, data = split(path.read_bytes())
    header = json.loads(header)
    metadata = header["__metadata__"]
    if change == "data":
        data = data[:-1] + bytes([data[-1] ^ 1])
    elif change in ("json", "crc32"):
        del metadata[change]
    elif change == "sha256":
        metadata["sha256"] = "0" * 64
    elif change == "format":
        metadata["format"] = "pt"
    else:
        metadata["json"] = "[]"
    assert_refused(path, joined(json.dumps(header).encode(), data), "is damaged")


def test_a_format_of_a_later_version_raises(path):
    old_file(path, "gpunet-weights-9", made()["model"].state_dict(), {"metadata": {}})
    for load in (load_weights, load_checkpoint):
        with pytest.raises(ValueError, match="has format 'gpunet-weights-9', which this version of gpunet does not kn"):
            load(path, made()["model"])
