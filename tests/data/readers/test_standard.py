import dataclasses
import gzip
import hashlib
import io
import os
import struct
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from gpunet import data
from gpunet.data.readers import standard

EXTRA = r'pip install "gpunet\[examples\]"'
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
LABELS = np.array([3, 0, 9, 1, 1], np.uint8)


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_mnist(folder, part="train", images=IMAGES, labels=LABELS, compress=True):
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in (("images-idx3", images), ("labels-idx1", labels)):
        content = idx(array)
        path = folder / f"{part}-{name}-ubyte{'.gz' if compress else ''}"
        path.write_bytes(gzip.compress(content) if compress else content)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """No test looks into the user's own data or cache, or through a proxy."""
    monkeypatch.delenv("GPUNET_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    pooch = pytest.importorskip("pooch", reason="pooch is not installed")
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    return tmp_path / "cache" / "gpunet"


# ---- files that are there ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize(("name", "folder"), [("mnist", "mnist"), ("fashion_mnist", "fashion-mnist")])
def test_idx_files_are_found_below_root_and_environment(tmp_path, monkeypatch, name, folder, compress):
    write_mnist(tmp_path / "one" / folder, compress=compress)
    write_mnist(tmp_path / "one" / folder, "t10k", IMAGES[:2], LABELS[:2], compress=compress)
    dataset = getattr(data, name)(tmp_path / "one", "train", download=False)
    assert np.array_equal(dataset.arrays[0], IMAGES[..., None])
    assert dataset.arrays[0].dtype == np.uint8
    assert dataset.arrays[1].tolist() == LABELS.tolist()
    assert dataset.arrays[1].dtype == np.int64
    assert len(dataset.classes) == 10
    monkeypatch.setenv("GPUNET_DATA", str(tmp_path / "one"))
    assert len(getattr(data, name)(split="test", download=False)) == 2
    with pytest.raises(FileNotFoundError):  # root= is looked into instead
        getattr(data, name)(tmp_path / "two", "test", download=False)


def test_cache_is_looked_into_after_the_environments_folder(tmp_path, monkeypatch, cache):
    write_mnist(cache / "mnist")
    monkeypatch.setenv("GPUNET_DATA", str(tmp_path / "other"))
    assert len(data.mnist(split="train", download=False)) == 5
    write_mnist(tmp_path / "other/mnist", images=IMAGES[:4], labels=LABELS[:4])
    assert len(data.mnist(split="train", download=False)) == 4


@pytest.mark.parametrize("name", ["digits", "mnist", "fashion_mnist", "cifar10"])
def test_other_splits_raise(name):
    with pytest.raises(ValueError, match=f'^{name}: split is \'valid\' but takes "train" or "test"$'):
        getattr(data, name)(split="valid")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "omniglot", "nuclei"])
def test_a_split_in_the_place_of_the_root_raises(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match=f"^{name}: root is 'test', which is a split, not a folder; write split='test'$"
    ):
        getattr(data, name)("test")
    assert not list(tmp_path.iterdir())


def test_missing_files_say_where_and_how(tmp_path, monkeypatch, cache):
    monkeypatch.setenv("GPUNET_DATA", str(tmp_path / "mine"))
    with pytest.raises(FileNotFoundError) as caught:
        data.mnist(split="test", download=False)
    message = str(caught.value)
    assert message.startswith("mnist: t10k-images-idx3-ubyte.gz, t10k-labels-idx1-ubyte.gz are not in ")
    assert f"{tmp_path / 'mine' / 'mnist'} or {cache / 'mnist'}" in message
    assert "were not fetched from https://ossci-datasets.s3.amazonaws.com/mnist/: download=False" in message
    assert 'put them into a folder "mnist" and name the folder that holds it by root= or GPUNET_DATA' in message
    assert "\n" not in message
    assert not cache.exists()


def test_missing_pooch_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(FileNotFoundError, match=rf"not in GPUNET_DATA, which is not set, .* need pooch: {EXTRA}"):
        data.cifar10(split="train")


def test_missing_scikit_learn_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.delitem(sys.modules, "sklearn.datasets", raising=False)
    with pytest.raises(ImportError, match=f"digits: needs scikit-learn: {EXTRA}"):
        data.digits(split="train")


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES[:, :27], LABELS, r"train-images.* must hold uint8 images \(N, 28, 28\), got uint8 \(5, 27, 28\)"),
        (IMAGES, LABELS[:4], r"train-labels.* must hold uint8 labels \(5,\), got uint8 \(4,\)"),
        (LABELS, IMAGES, r"train-images.* must hold uint8 images"),
        (IMAGES, LABELS + 1, "train-labels.* must hold labels from 0 to 9, got 10 in record 2"),
    ],
)
def test_idx_files_that_do_not_fit_raise_with_their_name(tmp_path, images, labels, message):
    write_mnist(tmp_path / "mnist", images=np.ascontiguousarray(images), labels=labels)
    with pytest.raises(ValueError, match=f"^mnist: .*{message}"):
        data.mnist(tmp_path, "train")


def test_corrupt_idx_file_raises_with_its_name(tmp_path):
    write_mnist(tmp_path / "mnist")
    path = tmp_path / "mnist/train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz is corrupt or truncated gzip"):
        data.mnist(tmp_path, "train")


def cifar_records():
    records = np.zeros((10_000, 3073), np.uint8)
    records[:, 0] = np.arange(10_000) % 10
    records[:, 1:] = np.random.default_rng(0).integers(0, 256, 3072)
    return records


def test_cifar_planes_become_channels(tmp_path):
    (tmp_path / "cifar-10-batches-bin").mkdir()
    records = cifar_records()
    records.tofile(tmp_path / "cifar-10-batches-bin/test_batch.bin")
    images, labels = data.cifar10(tmp_path, "test").arrays
    assert images.shape == (10_000, 32, 32, 3)
    assert images.flags.c_contiguous
    assert labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert labels.dtype == np.int64
    for row, column, channel in ((0, 0, 0), (3, 5, 1), (31, 30, 2)):
        assert images[17, row, column, channel] == records[17, 1 + 1024 * channel + 32 * row + column]


@pytest.mark.parametrize("size", [0, 3073 * 9_999, 3073 * 10_000 - 1, 3073 * 10_000 + 1, 3073 * 20_000])
def test_cifar_file_of_wrong_size_raises_with_its_name(tmp_path, size):
    (tmp_path / "cifar-10-batches-bin").mkdir()
    with (tmp_path / "cifar-10-batches-bin/test_batch.bin").open("wb") as file:
        file.truncate(size)
    with pytest.raises(ValueError, match=rf"^cifar10: .*test_batch\.bin must have 30730000 bytes .*, got {size}$"):
        data.cifar10(tmp_path, "test")


def test_cifar_label_above_nine_raises_with_the_files_name(tmp_path):
    (tmp_path / "cifar-10-batches-bin").mkdir()
    records = cifar_records()
    records[123, 0] = 10
    records.tofile(tmp_path / "cifar-10-batches-bin/test_batch.bin")
    with pytest.raises(ValueError, match=r"test_batch\.bin must hold labels from 0 to 9, got 10 in record 123$"):
        data.cifar10(tmp_path, "test")


# ---- downloads, from a server on this machine ----------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """Serves `files`; of those in `interrupted` half the bytes, and calls `halfway` between the halves of each."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.interrupted, self.asked, self.halfway = {}, set(), [], lambda: None
        self.url = f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        name = self.path.removeprefix("/")
        self.server.asked.append(name)
        content = self.server.files.get(name)
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])
        self.wfile.flush()
        self.server.halfway()
        if name not in self.server.interrupted:
            self.wfile.write(content[len(content) // 2 :])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        for name in ("MNIST", "CIFAR10"):
            source = dataclasses.replace(getattr(standard, name), url=running.url)
            monkeypatch.setattr(standard, name, source)
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def published(server, monkeypatch, tmp_path):
    """The server has small MNIST files, whose checksums are the official ones for this test."""
    write_mnist(tmp_path / "published")
    server.files = {path.name: path.read_bytes() for path in sorted((tmp_path / "published").iterdir())}
    publish(monkeypatch, "MNIST", server.files)
    return server


def publish(monkeypatch, name, files):
    md5 = {file: hashlib.md5(content).hexdigest() for file, content in files.items()}
    monkeypatch.setattr(standard, name, dataclasses.replace(getattr(standard, name), md5=md5))


def everything(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_download_works_without_a_console(published, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    assert np.array_equal(data.mnist(tmp_path / "data", "train").arrays[0][..., 0], IMAGES)


@pytest.mark.parametrize("named", [False, True])
def test_download_is_kept_and_not_repeated(published, tmp_path, cache, named, capfd, monkeypatch):
    monkeypatch.delenv("GPUNET_PROGRESS", raising=False)
    monkeypatch.setattr("gpunet.progress.BAR_DELAY", 0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    root = tmp_path / "data" if named else None
    half = []
    published.halfway = lambda: half.extend(everything(tmp_path / "data" if named else cache))
    dataset = data.mnist(root, "train")
    assert np.array_equal(dataset.arrays[0][..., 0], IMAGES)
    assert sorted(published.asked) == ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"]
    assert "downloading train-images-idx3-ubyte.gz: " in capfd.readouterr().err  # the progress bar
    assert half
    assert "mnist/train-labels-idx1-ubyte.gz" not in half  # the second file: none has its name before it is complete
    kept = everything(tmp_path / "data" if named else cache)
    assert kept == ["mnist", "mnist/train-images-idx3-ubyte.gz", "mnist/train-labels-idx1-ubyte.gz"]
    assert len(data.mnist(root, "train", download=False)) == 5
    assert len(published.asked) == 2


def test_only_what_is_missing_is_fetched(published, tmp_path):
    write_mnist(tmp_path / "data/mnist", compress=False)
    (tmp_path / "data/mnist/train-labels-idx1-ubyte").unlink()
    assert len(data.mnist(tmp_path / "data", "train")) == 5
    assert published.asked == ["train-labels-idx1-ubyte.gz"]


def fails(root, *parts):
    with pytest.raises(FileNotFoundError) as caught:
        data.mnist(root, "train")
    message = str(caught.value)
    assert "\n" not in message
    for part in ("mnist: train-images-idx3-ubyte.gz", str(root / "mnist"), "by root= or GPUNET_DATA", *parts):
        assert part in message
    return message


def test_wrong_checksum_raises_with_both_and_keeps_nothing(published, tmp_path):
    name = "train-images-idx3-ubyte.gz"
    expected, changed = hashlib.md5(published.files[name]).hexdigest(), published.files[name][:-1] + b"?"
    published.files[name] = changed
    fails(tmp_path / "data", f"expected md5:{expected} but got {hashlib.md5(changed).hexdigest()}")
    assert everything(tmp_path / "data") == ["mnist"]


def test_absent_file_raises_with_what_the_server_said(published, tmp_path):
    del published.files["train-labels-idx1-ubyte.gz"]
    fails(tmp_path / "data", "404", f"{published.url}train-labels-idx1-ubyte.gz")
    assert everything(tmp_path / "data") == ["mnist", "mnist/train-images-idx3-ubyte.gz"]  # whole, so kept


def test_interrupted_transfer_keeps_nothing_and_can_be_repeated(published, tmp_path):
    published.interrupted = {"train-images-idx3-ubyte.gz"}
    half = len(published.files["train-images-idx3-ubyte.gz"]) // 2
    fails(tmp_path / "data", f"{half} bytes read")
    assert everything(tmp_path / "data") == ["mnist"]
    published.interrupted = set()
    assert len(data.mnist(tmp_path / "data", "train")) == 5


def test_server_that_does_not_answer_raises(server, monkeypatch, tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as closed:
        url = f"http://127.0.0.1:{closed.server_port}/"
    monkeypatch.setattr(standard, "MNIST", dataclasses.replace(standard.MNIST, url=url))
    fails(tmp_path / "data", f"were not fetched from {url}", "refused")


def test_folder_that_cannot_be_written_raises_with_its_name(published, tmp_path):
    (tmp_path / "data").write_text("a file where the folder should be")
    fails(tmp_path / "data", f"cannot write into folder {tmp_path / 'data' / 'mnist'}: Not a directory")
    assert published.asked == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind this user")
def test_read_only_folder_raises_with_its_name(published, tmp_path):
    (tmp_path / "data").mkdir(mode=0o555)
    fails(tmp_path / "data", f"cannot write into folder {tmp_path / 'data' / 'mnist'}: Permission denied")


def archive(**members):
    """A .tar.gz of the folder's files; a name with a slash is taken as it is."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name if "/" in name else f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return {"cifar-10-binary.tar.gz": buffer.getvalue()}


def test_cifar_archive_is_unpacked_and_not_kept(server, monkeypatch, tmp_path):
    server.files = archive(
        **{"test_batch.bin": cifar_records().tobytes(), "data_batch_1.bin": b"one", "../../outside.bin": b"outside"}
    )
    publish(monkeypatch, "CIFAR10", server.files)
    assert len(data.cifar10(tmp_path / "data", "test")) == 10_000
    folder = ["cifar-10-batches-bin"]
    assert everything(tmp_path / "data") == [
        *folder, "cifar-10-batches-bin/data_batch_1.bin", "cifar-10-batches-bin/test_batch.bin",
    ]  # fmt: skip
    assert not list(tmp_path.rglob("outside.bin"))


@pytest.mark.parametrize("truncated", [False, True])
def test_archive_without_the_files_raises_and_leaves_nothing(server, monkeypatch, tmp_path, truncated):
    server.files = archive(**{"test_batch.bin" if truncated else "other.bin": os.urandom(100_000)})
    if truncated:
        server.files = {name: content[:50_000] for name, content in server.files.items()}
    publish(monkeypatch, "CIFAR10", server.files)
    message = "end|reached|unexpected" if truncated else r"cifar-10-binary\.tar\.gz does not contain them"
    with pytest.raises(FileNotFoundError, match=f"^cifar10: (?i:.*({message}).*)"):
        data.cifar10(tmp_path / "data", "test")
    assert not list((tmp_path / "data").rglob("test_batch.bin"))
    assert not list((tmp_path / "data").rglob(".fetching*"))


def test_official_checksums_are_those_of_the_real_files(real_data):
    for source in (standard.FASHION_MNIST, standard.MNIST):
        for path in (real_data / source.folder).glob("*.gz"):
            assert hashlib.md5(path.read_bytes()).hexdigest() == source.md5[path.name]


# ---- the data themselves -------------------------------------------------------------------------------------------

REAL = os.environ.get("GPUNET_DATA")


@pytest.fixture
def real_data(tmp_path_factory):
    from pathlib import Path

    if not REAL:
        pytest.skip("GPUNET_DATA is not set")
    return Path(REAL)


def real(function, split, folder, real_data):
    if not (real_data / folder).is_dir():
        pytest.skip(f"GPUNET_DATA has no {folder}")
    dataset = function(real_data, split, download=False)
    assert [array.dtype for array in dataset.arrays] == [np.uint8, np.int64]
    return dataset


@pytest.mark.parametrize(
    ("split", "count", "first"), [("train", 60_000, [9, 0, 0, 3, 0]), ("test", 10_000, [9, 2, 1, 1, 6])]
)
def test_fashion_mnist_is_itself(real_data, split, count, first):
    dataset = real(data.fashion_mnist, split, "fashion-mnist", real_data)
    images, labels = dataset.arrays
    assert images.shape == (count, 28, 28, 1)
    assert np.bincount(labels).tolist() == [count // 10] * 10
    assert labels[:5].tolist() == first
    assert dataset.classes[9] == "ankle boot"
    if split == "train":
        assert images.mean() / 255 == pytest.approx(0.2860, abs=5e-5)


@pytest.mark.parametrize(
    ("split", "count", "first"), [("train", 50_000, [6, 9, 9, 4, 1]), ("test", 10_000, [3, 8, 8, 0, 6])]
)
def test_cifar10_is_itself(real_data, split, count, first):
    dataset = real(data.cifar10, split, "cifar-10-batches-bin", real_data)
    images, labels = dataset.arrays
    assert images.shape == (count, 32, 32, 3)
    assert np.bincount(labels).tolist() == [count // 10] * 10
    assert labels[:5].tolist() == first
    assert dataset.classes[6] == "frog"
    if split == "train":
        assert images[0, 0, 0].tolist() == [59, 62, 63]
        assert images.mean(axis=(0, 1, 2)) / 255 == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)


def test_mnist_is_itself(real_data):
    dataset = real(data.mnist, "train", "mnist", real_data)
    assert dataset.arrays[0].shape == (60_000, 28, 28, 1)
    assert dataset.arrays[1][:5].tolist() == [5, 0, 4, 1, 9]


def test_digits_test_is_every_fifth_and_values_are_scaled():
    load = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed").load_digits()
    train, test = data.digits(split="train"), data.digits(split="test")
    assert (len(train), len(test)) == (1438, 359)
    assert train.arrays[0].shape == (1438, 8, 8, 1)
    assert [array.dtype for array in train.arrays] == [np.uint8, np.int64]
    assert train.arrays[0][0, 0, :, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]  # 0 0 5 13 9 1 0 0
    assert test.arrays[1].tolist() == load.target[4::5].tolist()
    assert train.arrays[1][:6].tolist() == [0, 1, 2, 3, 5, 6]
    assert np.array_equal(test.arrays[0][..., 0], np.round(load.images[4::5] * 255 / 16))
    assert test.classes == tuple("0123456789")
