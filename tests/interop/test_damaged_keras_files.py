"""Malformed HDF5 files, zips and settings are refused, whatever h5py's process does with them."""

import io
import json
import struct
import subprocess
import sys
import warnings
import zipfile

import h5py
import numpy as np
import pytest
from helpers.keras_files import assert_refused, keras_zip, settings, weights_h5

import gpunet as gp
from gpunet import nn
from gpunet.interop import hdf5, keras

GOOD = weights_h5({"layers/dense": [np.ones((3, 2), np.float32), np.ones(2, np.float32)]})


pytestmark = pytest.mark.usefixtures("h5py_mostly_here")


def edited(change):
    """The bytes of a good file after a change by h5py."""
    content = io.BytesIO(weights_h5({"layers/dense": [np.ones((3, 2), np.float32), np.ones(2, np.float32)]}))
    with h5py.File(content, "r+") as file:
        change(file)
    return content.getvalue()


def replaced(file, **options):
    del file["layers/dense/vars/0"]
    file["layers/dense/vars"].create_dataset("0", **options)


def linked(file, link):
    del file["layers/dense/vars/0"]
    file["layers/dense/vars/0"] = link


def in_a_circle(file):
    file["layers/dense/again"] = file["layers"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda f: replaced(f, data=np.ones((3, 2)), chunks=(1, 1), compression="gzip"),
            "is in chunks, compressed or stored",
        ),
        (lambda f: replaced(f, shape=(2**40, 2**20), dtype="f4", chunks=(1, 1)), "is in chunks"),
        (lambda f: replaced(f, shape=(2**40,), dtype="f4"), "vars/0 has no data"),
        (lambda f: replaced(f, data=np.array([1j])), "holds complex128, no numbers"),
        (lambda f: replaced(f, data=h5py.Empty("f4")), "compressed or stored|has no shape"),
        (lambda f: linked(f, h5py.SoftLink("/layers/dense/vars/1")), "is a link to elsewhere"),
        (lambda f: linked(f, h5py.ExternalLink("other.h5", "/x")), "is a link to elsewhere"),
        (lambda f: linked(f, f["layers/dense/vars/1"]), "stands in the file twice"),
        (in_a_circle, "stands in the file twice"),
        (lambda f: f.create_group("/".join("a" * 40)), "lies in over 32 groups"),
        (lambda f: f.move("layers/dense/vars/1", "layers/dense/vars/2"), "layers/dense lacks some of its arrays"),
        (
            lambda f: f.move("layers/dense/vars/1", "layers/dense/bias"),
            "no file of Keras's weights: it has an array layers/dense/b",
        ),
    ],
)
def test_what_weights_have_no_use_for_is_refused(written, change, reason):
    assert_refused(written(edited(change)), nn.Linear(3, 2), reason, gp.DamagedFileError)


def test_an_array_that_claims_more_than_the_file_has_is_refused(written):
    content = weights_h5({"layers/dense": [np.ones((311, 313), np.float32)]})
    shape = struct.pack("<QQ", 311, 313)
    assert content.count(shape) in (1, 2)  # the extents, and the largest that they may become
    huge = content.replace(shape, struct.pack("<QQ", 311 << 20, 313 << 20))
    assert_refused(written(huge), nn.Linear(311, 313, bias=False), "damaged", gp.DamagedFileError)


@pytest.mark.parametrize(
    "content", [b"", b"x" * 1000, bytes(1000), hdf5.SIGNATURE, hdf5.SIGNATURE + bytes(2000), b"PK\x03\x04"]
)
def test_other_files_are_refused(written, content):
    assert_refused(written(content), nn.Linear(3, 2), "is damaged", gp.DamagedFileError)


def test_a_truncated_file_is_refused(written, apart):
    content = weights_h5({"layers/dense": [np.ones((3, 2), np.float32)]})
    assert_refused(written(content[:-1]), nn.Linear(3, 2), "is damaged", gp.DamagedFileError)


# ---- the zip and its settings

CONFIG = settings(("dense", {}))


def deflated(**parts):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in parts.items():
            archive.writestr(name.replace("__", "."), part)
    return content.getvalue()


def twice():
    with warnings.catch_warnings(action="ignore"):
        return keras_zip(CONFIG, GOOD, model__weights__h5=GOOD)


def before_the_beginning():
    """The zip's directory says that a part begins before the file does."""
    content = keras_zip(CONFIG, GOOD)
    end = content.rindex(b"PK\x05\x06")
    (place,) = struct.unpack("<I", content[end + 16 : end + 20])
    return content[: end + 16] + struct.pack("<I", place + 1000) + content[end + 20 :]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (deflated(config__json="{}"), "it has 0 parts named model.weights.h5"),
        (deflated(model__weights__h5=GOOD), "it has 0 parts named config.json"),
        (twice(), "it has 2 parts named model.weights.h5"),
        (
            deflated(config__json="{}", model__weights__h5=bytes(10_000_000)),
            "claims 10000000 bytes, over 10 times the file",
        ),
        (
            deflated(config__json=" " * 10_000_000, model__weights__h5=GOOD),
            "config.json claims 10000000 bytes, over 10 times",
        ),
        (keras_zip("[" * 100_000, GOOD), "is damaged or not a .keras file"),
        (keras_zip("nonsense", GOOD), "is damaged or not a .keras file"),
        (keras_zip("[]", GOOD), "is damaged or not a .keras file"),
        (
            keras_zip({"class_name": "Sequential", "config": {"layers": [{"class_name": 3}]}}, GOOD),
            "is damaged or not a .keras",
        ),
        (keras_zip(settings(("dense", [])), GOOD), "has a layer without settings"),
        (keras_zip(settings(("dense", "layers")), GOOD), "has a layer without settings"),
        (before_the_beginning(), "is damaged or not a .keras file: "),
        (keras_zip(CONFIG, GOOD)[:-30], "is damaged or not a .keras file"),
        (keras_zip(CONFIG, GOOD[:-1]), "is damaged"),
    ],
)
def test_a_malformed_keras_file_is_refused(written, content, reason):
    assert_refused(written(content, "net.keras"), nn.Linear(3, 2), reason, gp.DamagedFileError)


def test_nothing_in_the_settings_is_run_or_imported(written, apart):
    """A lambda layer and a class by its name are values like others."""
    code = {"class_name": "__lambda__", "config": {"code": "4wEAAAAAAAAA", "defaults": None, "closure": None}}
    config = settings(("dense", {"activation": code}))
    config["config"]["layers"].append({"module": "os", "class_name": "system", "config": {"command": "exit 3"}})
    config["config"]["layers"].append({"module": "antigravity", "class_name": "Lambda", "config": {"function": code}})
    model = nn.Linear(3, 2)
    keras.load_weights(model, written(keras_zip(config, GOOD), "net.keras"))
    assert (model.weight.numpy() == 1).all()
    assert "antigravity" not in sys.modules


# ---- the process that reads HDF5


def test_h5py_is_not_imported_here(written, apart):
    code = (
        "import sys; from gpunet import nn; from gpunet.interop import keras; "
        "keras.load_weights(nn.Linear(3, 2), sys.argv[1]); assert 'h5py' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, written(GOOD)], check=True)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((None, b""), "h5py has not read it within 30 s"), ((-11, b""), "h5py ended by signal 11"),
        ((1, b""), "h5py ended by status 1"), ((0, b"{"), "h5py gave no answer"),
    ],
)  # fmt: skip
def test_a_process_that_hangs_or_crashes_makes_the_file_a_damaged_one(monkeypatch, written, answer, reason):
    monkeypatch.setattr(hdf5, "run_apart", lambda path: answer)
    assert_refused(written(GOOD), nn.Linear(3, 2), reason, gp.DamagedFileError)


@pytest.mark.parametrize(
    "arrays",
    [
        {"layers/dense/vars/0": [[3, 2], "<f4", len(GOOD) - 20]},
        {"layers/dense/vars/0": [[2**62, 2**62], "<f4", 0]},
        {f"layers/dense/vars/{i}": [[len(GOOD) // 6], "<f4", 0] for i in range(2)},  # both are the same bytes
    ],
)
def test_arrays_that_are_not_in_the_file_or_more_than_it_has_are_refused(monkeypatch, written, arrays):
    said = json.dumps({"arrays": arrays, "names": {}, "root": []}).encode()
    monkeypatch.setattr(hdf5, "run_apart", lambda path: (0, said))
    assert_refused(written(GOOD), nn.Linear(3, 2), f"but the file has {len(GOOD)} bytes", gp.DamagedFileError)


def test_a_process_that_hangs_is_ended(monkeypatch, tmp_path, written, apart):
    (tmp_path / "slow.py").write_text("while True: pass")
    monkeypatch.setattr(hdf5, "PROGRAM", tmp_path / "slow.py")
    monkeypatch.setattr(hdf5, "SECONDS", 0.3)
    assert_refused(written(GOOD), nn.Linear(3, 2), "h5py has not read it within 0.3 s", gp.DamagedFileError)


def test_the_process_has_a_limit_of_memory(monkeypatch, tmp_path, written, apart):
    if not sys.platform.startswith("linux"):
        pytest.skip("the system has no such limit")
    source = hdf5.PROGRAM.read_text().replace("print(report(sys.argv[1]))", "print(len(bytes(1 << 30)))")
    (tmp_path / "greedy.py").write_text(source)
    monkeypatch.setattr(hdf5, "PROGRAM", tmp_path / "greedy.py")
    assert_refused(written(GOOD), nn.Linear(3, 2), "h5py ended by status 1", gp.DamagedFileError)


def test_without_h5py_the_error_says_how_to_get_it(monkeypatch, written):
    monkeypatch.setattr(hdf5, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'load_weights: takes h5py: pip install "gpunet\[keras\]"'):
        keras.load_weights(nn.Linear(3, 2), written(GOOD))
