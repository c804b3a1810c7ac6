"""Public data sets by name: digits, MNIST, Fashion-MNIST, CIFAR-10, and MNIST's file format.

All are `ArrayDataset`s of uint8 images (N, H, W, C) and int64 labels (N,). Files are looked for in
the folder given as ``root=``; without one, in the folder that the environment variable GPUNET_DATA
names, then in the cache. Missing files are downloaded from their official address, checked, and
kept.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path

import numpy as np

from gpunet.data.datasets import ArrayDataset
from gpunet.data.readers.download import Root, Source, checked_split, find_files

__all__ = ["cifar10", "digits", "fashion_mnist", "mnist", "read_idx"]

MNIST = Source(
    folder="mnist",
    url="https://ossci-datasets.s3.amazonaws.com/mnist/",
    md5={
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    },
)
FASHION_MNIST = Source(
    folder="fashion-mnist",
    url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    md5={
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    },
)
CIFAR10 = Source(
    folder="cifar-10-batches-bin",
    url="https://www.cs.toronto.edu/~kriz/",
    md5={"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},
)

DIGITS = tuple("0123456789")
GARMENTS = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
OBJECTS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR_COUNT, CIFAR_BYTES = 10_000, 1 + 3 * 32 * 32
"""Images of a CIFAR-10 file, and bytes of an image: the label, then 32x32 red, green and blue."""

IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
"""The dtype codes of the idx format."""


def digits(split: str = "train") -> ArrayDataset:
    """Handwritten digits 8x8 of the UCI Optical Recognition test set, which scikit-learn contains.

    Args:
        split: "train" (1,438 images) or "test" (359 images): every fifth image, those with i % 5 ==
            4, is a test image.
    Returns:
        images (N, 8, 8, 1) uint8, round(255 v / 16) for the original's v = 0 to 16; labels (N,)
        int64.
    Raises:
        ValueError: another split.
        ImportError: scikit-learn is not installed.
    """
    train = checked_split("digits", None, split) == "train"
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError('digits: needs scikit-learn: pip install "gpunet[examples]"') from error
    original = load_digits()
    chosen = (np.arange(len(original.images)) % 5 == 4) != train
    levels = original.images[chosen].astype(np.int64)
    images = ((255 * levels + 8) // 16).astype(np.uint8)[..., np.newaxis]
    return ArrayDataset(images, original.target[chosen].astype(np.int64), classes=DIGITS)


def mnist(root: Root = None, split: str = "train", *, download: bool = True) -> ArrayDataset:
    """MNIST (LeCun et al. 1998): handwritten digits, grey 28x28.

    60,000 images are to train and 10,000 to test.

    Args:
        root: the folder that holds ``mnist/`` with the four official files, plain or ``.gz``; if
            None, the folder in GPUNET_DATA, then the cache.
        split: "train" or "test".
        download: whether to download missing files.
    Returns:
        images (N, 28, 28, 1) uint8, labels (N,) int64.
    Raises:
        ValueError: another split; a file whose content is not as it should be.
        OSError: the files are missing and cannot be downloaded, or cannot be written.
    """
    return _idx_dataset("mnist", MNIST, DIGITS, root, split, download)


def fashion_mnist(root: Root = None, split: str = "train", *, download: bool = True) -> ArrayDataset:
    """Fashion-MNIST (Xiao et al. 2017): ten kinds of garment, grey 28x28.

    60,000 images are to train and 10,000 to test.

    Args:
        root: the folder that holds ``fashion-mnist/`` with the four official files, plain or
            ``.gz``; if None, the folder in GPUNET_DATA, then the cache.
        split, download: as for `mnist`.
    Returns:
        images (N, 28, 28, 1) uint8, labels (N,) int64.
    Raises:
        ValueError, OSError: as for `mnist`.
    """
    return _idx_dataset("fashion_mnist", FASHION_MNIST, GARMENTS, root, split, download)


def cifar10(root: Root = None, split: str = "train", *, download: bool = True) -> ArrayDataset:
    """CIFAR-10 (Krizhevsky 2009): ten kinds of object, colour 32x32.

    50,000 images are to train and 10,000 to test.

    Args:
        root: the folder that holds ``cifar-10-batches-bin/`` with the six official files of the
            binary version; if None, the folder in GPUNET_DATA, then the cache.
        split, download: as for `mnist`.
    Returns:
        images (N, 32, 32, 3) uint8, labels (N,) int64.
    Raises:
        ValueError, OSError: as for `mnist`.
    """
    train = checked_split("cifar10", root, split) == "train"
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] if train else ["test_batch.bin"]
    files = find_files("cifar10", CIFAR10, names, root, download)
    records = np.concatenate([_cifar_records(path) for path in files])
    planes = records[:, 1:].reshape(-1, 3, 32, 32)
    return ArrayDataset(
        np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), records[:, 0].astype(np.int64), classes=OBJECTS
    )


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """The array of an idx file, MNIST's format, in this machine's byte order.

    The format is big-endian: two zero bytes, a dtype code, the number of axes, the extents, the
    numbers.

    Args:
        path: a plain or gzip-compressed file; its first bytes tell which, not its name.
    Raises:
        OSError: the file cannot be opened.
        ValueError: not an idx file, or one that is truncated, corrupt or too long; the message
            names the file.
    """
    path = Path(path)
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"read_idx: {path} is corrupt or truncated gzip: {error}") from error
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in IDX_DTYPES:
        codes = ", ".join(f"{code:02x}" for code in IDX_DTYPES)
        raise ValueError(
            f"read_idx: {path} must begin with bytes 00 00, a dtype code ({codes}) and the number of axes, "
            f"got {raw[:4].hex(' ') or 'nothing'}"
        )
    dtype, axes = np.dtype(IDX_DTYPES[raw[2]]), raw[3]
    start = 4 + 4 * axes
    if len(raw) < start:
        raise ValueError(f"read_idx: {path} must have {start} bytes of header for {axes} axes, got {len(raw)} bytes")
    shape = tuple(int(extent) for extent in np.frombuffer(raw, ">u4", axes, offset=4))
    expected = math.prod(shape) * dtype.itemsize
    if len(raw) - start != expected:
        raise ValueError(
            f"read_idx: {path} must have {expected} bytes after the header {dtype.name} {shape}, got {len(raw) - start}"
        )
    return np.frombuffer(raw, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def _idx_dataset(
    operation: str, source: Source, classes: tuple[str, ...], root: Root, split: str, download: bool
) -> ArrayDataset:
    """The data set of two idx files, of images and of labels."""
    part = "train" if checked_split(operation, root, split) == "train" else "t10k"
    names = [f"{part}-images-idx3-ubyte.gz", f"{part}-labels-idx1-ubyte.gz"]
    image_file, label_file = find_files(operation, source, names, root, download)
    images, labels = read_idx(image_file), read_idx(label_file)
    if images.dtype != np.uint8 or images.shape[1:] != (28, 28):
        raise ValueError(
            f"{operation}: {image_file} must hold uint8 images (N, 28, 28), got {images.dtype} {images.shape}"
        )
    if labels.dtype != np.uint8 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"{operation}: {label_file} must hold uint8 labels ({len(images)},), got {labels.dtype} {labels.shape}"
        )
    _check_labels(operation, label_file, labels)
    return ArrayDataset(images[..., np.newaxis], labels.astype(np.int64), classes=classes)


def _cifar_records(path: Path) -> np.ndarray:
    """The records of a CIFAR-10 file, uint8 (10,000, 3,073)."""
    size = path.stat().st_size
    if size != CIFAR_COUNT * CIFAR_BYTES:
        raise ValueError(
            f"cifar10: {path} must have {CIFAR_COUNT * CIFAR_BYTES} bytes "
            f"({CIFAR_COUNT} records of {CIFAR_BYTES} bytes), got {size}"
        )
    records = np.fromfile(path, np.uint8).reshape(CIFAR_COUNT, CIFAR_BYTES)
    _check_labels("cifar10", path, records[:, 0])
    return records


def _check_labels(operation: str, path: Path, labels: np.ndarray) -> None:
    """Raises a ValueError that names the first label above 9."""
    if labels.size and labels.max() > 9:
        first = int(np.argmax(labels > 9))
        raise ValueError(f"{operation}: {path} must hold labels from 0 to 9, got {labels[first]} in record {first}")
