"""The bytes of weights files and checkpoints: format 2, and what is not whole."""

import hashlib
import json
import struct

import numpy as np
import pytest
import safetensors.numpy
from helpers.saved_files import assert_refused, joined, made, split, states

import gpunet as gp
from gpunet import nn
from gpunet.interop import load_checkpoint, load_weights, save_checkpoint, save_weights
from gpunet.interop.container import snapshot


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.safetensors"


@pytest.fixture
def checkpoint(path):
    save_checkpoint(path, **made(), metadata={"note": 'of "quotes", \\ and ü'})
    return path


def resealed(content):
    """The bytes with the digest that they should have: 64 digits behind the first "sha256":" in the file."""
    at = content.index(b'"sha256":"') + 10
    blank = content[:at] + b"0" * 64 + content[at + 64 :]
    return blank[:at] + hashlib.sha256(blank).hexdigest().encode() + blank[at + 64 :]


# ---- format 2


def test_the_digest_is_that_of_the_file_with_zeros_in_its_place(checkpoint):
    content = checkpoint.read_bytes()
    assert content == resealed(content)
    start = b'{"__metadata__":{"format":"gpunet-checkpoint-2","sha256":"'
    assert content[8:].startswith(start)
    header, _ = split(content)
    assert len(header) % 8 == 0
    assert list(json.loads(header)["__metadata__"]) == ["format", "sha256", "json"]
    altered = bytearray(content)
    altered[-1] ^= 1
    assert bytes(altered) != resealed(bytes(altered))


def test_equal_contents_give_equal_bytes(checkpoint, tmp_path):
    for n in range(5):
        other = tmp_path / f"{n}"
        save_checkpoint(other, **made(), metadata={"note": 'of "quotes", \\ and ü'})
        assert other.read_bytes() == checkpoint.read_bytes()


def test_every_other_value_of_every_byte_of_the_header_is_refused(checkpoint):
    content = checkpoint.read_bytes()
    end = content.index(b'"json"') + 200
    parts = made(1)
    before = states(parts)
    for at in range(end):
        altered = bytearray(content)
        altered[at] ^= 1 << at % 8
        checkpoint.write_bytes(altered)
        for load in (lambda: load_checkpoint(checkpoint, **parts), lambda: load_weights(checkpoint, parts["model"])):
            with pytest.raises(gp.DamagedFileError):
                load()
    assert states(parts) == before


def test_arrays_of_every_dtype_come_back_aligned_and_as_they_were(path):
    arrays = {
        name: np.arange(3).astype(name)
        for name in ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", ">f8")
    }
    arrays |= {"none": np.zeros((2, 0), np.float32), "one": np.array(2.5), "turned": np.arange(6.0).reshape(2, 3).T}
    snapshot("test", "gpunet-weights", arrays, '{"metadata":{}}').write(path)
    found = safetensors.numpy.load_file(path)
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(found[name], array)
    header = json.loads(split(path.read_bytes())[0])
    for name, array in arrays.items():
        assert header[name]["data_offsets"][0] % array.itemsize == 0
    for dtype in ("longdouble", "complex64", "U3"):
        with pytest.raises(TypeError, match="test: x is of dtype .* but takes numbers"):
            snapshot("test", "gpunet-weights", {"x": np.zeros(2, dtype)}, "")
    with pytest.raises(ValueError, match="no array can have the name __metadata__"):
        snapshot("test", "gpunet-weights", {"__metadata__": np.zeros(2)}, "")


def test_a_header_that_would_be_too_large_to_be_read_is_not_written(path, monkeypatch):
    monkeypatch.setattr("gpunet.interop.container.LARGEST_HEADER", 1000)
    with pytest.raises(ValueError, match=r"save_weights: metadata and names take \d+ bytes but a file holds at most"):
        save_weights(path, nn.Linear(1, 1), {"x": "a" * 1000})
    assert not path.exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"format"', b'"fprmat"'),
        (b'"sha256"', b'"sha255"'),
        (b'"sha256"', b'"crc32"'),
        (b'"format":"gpunet-checkpoint-2",', b""),
        (b'"format":"gpunet-checkpoint-2"', b'"format":"pt"'),
        (b'"gpunet-checkpoint-2"', b'"gpunet-checkpoint-1"'),
        (b'"gpunet-checkpoint-2"', b'"gpunet-checkpoint-02"'),
        (b'"gpunet-checkpoint-2"', b'"gpunet-checkpoint"'),
        (b'"gpunet-checkpoint-2"', b'"gpunet-weights-2"'),
        (b'{"__metadata__"', b' {"__metadata__"'),
        (b'"json":', b'"jsom":'),
    ],
)
def test_metadata_that_is_not_all_there_is_refused(checkpoint, old, new):
    header, data = split(checkpoint.read_bytes())
    assert header.count(old) >= 1
    assert_refused(checkpoint, joined(header.replace(old, new, 1).rstrip(), data), "is damaged")


def test_upper_case_digits_are_refused(checkpoint):
    content = checkpoint.read_bytes()
    at = content.index(b'"sha256":"') + 10
    altered = content[:at] + content[at : at + 64].upper() + content[at + 64 :]
    assert_refused(checkpoint, altered, "SHA-256 is not in its place, or not 64 digits")


def test_text_that_looks_like_the_digest_changes_nothing(path):
    note = '","sha256":"' + "0" * 64 + '" {"__metadata__":{"format":"gpunet-weights-2","sha256":"' + "0" * 64
    save_checkpoint(path, **made(), metadata={note: note})
    assert load_checkpoint(path, **made(1)) == {note: note}
    content = path.read_bytes()
    at = content.rindex(b"0" * 64)
    assert_refused(path, content[:at] + b"1" + content[at + 1 :], "do not match its SHA-256")


def test_a_sealed_file_of_a_later_version_is_not_called_damaged(checkpoint):
    content = checkpoint.read_bytes().replace(b"gpunet-checkpoint-2", b"gpunet-checkpoint-3", 1)
    newer = "has format 'gpunet-checkpoint-3', which this version of gpunet does not know: a newer gpunet wrote it"
    assert_refused(checkpoint, resealed(content), newer, ValueError)
    assert_refused(checkpoint, content, f"do not match its SHA-256, or it {newer}")


def test_a_weights_file_is_told_from_a_file_of_another_program(path):
    save_weights(path, made()["model"])
    with pytest.raises(ValueError, match="is not a checkpoint of gpunet") as caught:
        load_checkpoint(path, **made())
    assert type(caught.value) is ValueError
    safetensors.numpy.save_file(made()["model"].state_dict(), path, {"format": "pt"})
    with pytest.raises(gp.DamagedFileError, match="is not a checkpoint of gpunet"):
        load_checkpoint(path, **made())


# ---- files with a good digest that gpunet did not write


def sealed(state, change=lambda header: None, data=None, checkpoint=None):
    """A checkpoint whose header and state were changed, with the digest that it should have."""
    header, own = split(checkpoint.read_bytes())
    header = json.loads(header)
    text = json.loads(header["__metadata__"]["json"])
    text.update(state)
    header["__metadata__"]["json"] = json.dumps(text)
    change(header)
    return resealed(joined(json.dumps(header, separators=(",", ":")).encode(), own if data is None else data))


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({"metadata": 3}, "its JSON has no metadata"),
        ({"optimizer": 3}, "its JSON has no optimizer"),
        ({"optimizer": {}}, "its JSON has no optimizer"),
        ({"schedule": []}, "its JSON has no schedule"),
        ({"optimizer": {"name": "Adam"}}, "no numbers of the optimizer's slots"),
        ({"optimizer": {"name": "Adam", "slots": {"mean": 10**15}}}, "no numbers of the optimizer's slots"),
        ({"optimizer": {"name": "Adam", "slots": {"other": 2}}}, r"lacks optimizer\.other\.0, optimizer\.other\.1"),
        ({"callbacks": {}}, "no list of callbacks"),
        ({"callbacks": [{"name": "a"}]}, "a callback without a name or a state"),
        ({"callbacks": [3]}, "a callback without a name or a state"),
        ({"about": None}, "does not say who wrote it"),
        ({"model": []}, "does not say who wrote it"),
    ],
)
def test_json_of_another_form_is_refused(checkpoint, state, reason):
    checkpoint.write_bytes(sealed(state, checkpoint=checkpoint))
    parts = made(1)
    before = states(parts)
    with pytest.raises(gp.DamagedFileError, match=reason):
        load_checkpoint(checkpoint, **parts)
    assert states(parts) == before


@pytest.mark.parametrize(
    "state",
    [
        {"optimizer": {"name": "Adam", "slots": {}}},
        {"optimizer": {"name": "Adam", "slots": {"mean": 4, "square": 4}, "options": 3, "groups": 3, "steps": 3}},
        {"schedule": {"name": "StepLR"}},
        {"schedule": {"name": "StepLR", "step_count": 1e99, "base_rates": [1], "options": {}}},
    ],
)
def test_a_state_of_another_form_is_refused_and_nothing_is_changed(checkpoint, state):
    checkpoint.write_bytes(sealed(state, checkpoint=checkpoint))
    parts = made(1)
    before = states(parts)
    with pytest.raises(ValueError, match=r"net\.safetensors"):
        load_checkpoint(checkpoint, **parts)
    assert states(parts) == before


BOMB = "[" * 200_000 + "]" * 200_000
HUGE = 2**62


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h["__metadata__"].update(json=BOMB),
        lambda h: h["__metadata__"].update(json=f'{{"metadata":{{"a":{BOMB}}}}}'),
        lambda h: h["__metadata__"].update(json='{"metadata":{},"metadata":{}}'),
        lambda h: h["__metadata__"].update(json='{"metadata":{"a":1,"a":2}}'),
        lambda h: h["__metadata__"].update(json=f'{{"metadata":{{"a":{"9" * 100_000}}}}}'),
        lambda h: h["__metadata__"].update(json="[]"),
        lambda h: h["__metadata__"].update(more="text"),
        lambda h: h["model.0.weight"].update(shape=[HUGE, 4]),
        lambda h: h["model.0.weight"].update(shape=[HUGE, 0, HUGE]),
        lambda h: h["model.0.weight"].update(data_offsets=[0, HUGE]),
        lambda h: h["model.0.weight"].update(data_offsets=[-8, 16]),
        lambda h: h["model.0.weight"].update(dtype="F99"),
        lambda h: h["model.0.weight"].update(dtype="F64"),
        lambda h: h.update(more={"dtype": "U8", "shape": [HUGE], "data_offsets": [0, HUGE]}),
        lambda h: h.pop("model.0.weight"),
    ],
)  # fmt: skip
def test_a_header_that_asks_for_too_much_is_refused(checkpoint, change):
    assert_refused(checkpoint, sealed({}, change, checkpoint=checkpoint), "is damaged")


def test_an_array_of_more_axes_than_numpy_has_is_refused(checkpoint):
    def change(header):
        header["more"] = {"dtype": "F32", "shape": [0] * 100, "data_offsets": [0, 0]}

    checkpoint.write_bytes(sealed({}, change, checkpoint=checkpoint))
    with pytest.raises(gp.DamagedFileError, match="is damaged"):
        load_checkpoint(checkpoint, **made())


def test_lists_nested_without_end_in_the_header_are_refused(checkpoint):
    header, data = split(checkpoint.read_bytes())
    bomb = header.rstrip()[:-1] + b',"more":' + BOMB.encode() + b"}"
    assert_refused(checkpoint, resealed(joined(bomb, data)), "is damaged")
    assert_refused(checkpoint, joined(BOMB.encode(), data), "is damaged")


@pytest.mark.parametrize("length", [0, 1, 7, 2**31, 2**40, 2**63, 2**64 - 1])
def test_a_header_of_a_wrong_length_is_refused(checkpoint, length):
    content = checkpoint.read_bytes()
    assert_refused(checkpoint, struct.pack("<Q", length) + content[8:], "is damaged")
    assert_refused(checkpoint, resealed(struct.pack("<Q", length) + content[8:]), "is damaged")


def test_a_key_that_stands_twice_in_the_header_is_refused(checkpoint):
    header, data = split(checkpoint.read_bytes())
    entry = b',"model.0.weight":' + json.dumps(json.loads(header)["model.0.weight"]).encode()
    assert_refused(checkpoint, resealed(joined(header.rstrip()[:-1] + entry + b"}", data)), "has a key twice")


def test_bytes_behind_the_end_are_refused_whatever_the_digest(checkpoint):
    content = checkpoint.read_bytes()
    for altered in (content + b"\0", content[:-1]):
        assert_refused(checkpoint, altered, "do not match its SHA-256")
        assert_refused(checkpoint, resealed(altered), "is damaged")


def test_a_file_that_is_replaced_while_it_is_read_is_read_again(checkpoint, monkeypatch, tmp_path):
    from gpunet.interop import container

    other, format_of, calls = tmp_path / "other", container._verified_format, []
    save_checkpoint(other, **made(), metadata={"note": "other"})

    def replaced(file):
        calls.append(format_of(file))
        if len(calls) == 1:
            other.rename(checkpoint)
        return calls[-1]

    monkeypatch.setattr(container, "_verified_format", replaced)
    assert load_checkpoint(checkpoint, **made(1)) == {"note": "other"}
    assert len(calls) == 2
