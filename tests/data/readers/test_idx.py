import gzip
import struct

import numpy as np
import pytest

from gpunet.data import read_idx

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def encode(array):
    """The idx bytes of an array, written from the format's description."""
    header = bytes([0, 0, CODES[array.dtype.str[1:]], array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("code", list(CODES))
def test_every_dtype_of_the_format_is_read(tmp_path, code, compressed):
    expected = np.random.default_rng(0).integers(-100, 100, (3, 2, 5)).astype(code)
    path = tmp_path / "some-idx3"
    path.write_bytes(gzip.compress(encode(expected)) if compressed else encode(expected))
    got = read_idx(path)
    assert got.dtype == np.dtype(code)
    assert got.dtype.isnative
    assert np.array_equal(got, expected)
    got += 1  # writable


GOOD = encode(np.arange(12, dtype=np.uint8).reshape(3, 4))
ZIPPED = gzip.compress(GOOD, mtime=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got nothing"),
        (b"\0\0\x08", "got 00 00 08"),
        (b"\1\0" + GOOD[2:], "begin with bytes 00 00, a dtype code .* got 01 00 08 02"),
        (b"\0\0\x0a" + GOOD[3:], r"dtype code \(08, 09, 0b, 0c, 0d, 0e\) .* got 00 00 0a 02"),
        (GOOD[:9], "12 bytes of header for 2 axes, got 9 bytes"),
        (GOOD[:-1], r"12 bytes after the header uint8 \(3, 4\), got 11"),
        (GOOD + b"\0", r"12 bytes after the header uint8 \(3, 4\), got 13"),
        (b"\0\0\x0e\xff" + b"\xff" * 1020, "bytes after the header float64"),
        (ZIPPED[:-9], "corrupt or truncated gzip"),
        (ZIPPED[:5], "corrupt or truncated gzip"),
        (ZIPPED[:-8] + b"\0\0\0\0\0\0\0\0", "corrupt or truncated gzip"),
        (ZIPPED[:12] + b"\xff\xff" + ZIPPED[14:], "corrupt or truncated gzip"),
        (ZIPPED + b"more", "corrupt or truncated gzip"),
        (gzip.compress(GOOD[:-1], mtime=0), "got 11"),
    ],
)
def test_bad_files_raise_with_their_name(tmp_path, content, message):
    path = tmp_path / "bad-idx.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^read_idx: .*bad-idx\.gz .*{message}") as caught:
        read_idx(path)
    assert "\n" not in str(caught.value)


def test_missing_file_raises(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_idx(tmp_path / "absent")
