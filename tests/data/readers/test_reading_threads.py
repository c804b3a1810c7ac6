"""Files are read in several threads, in order."""

import threading
import time

import numpy as np
import pytest

from gpunet import data
from gpunet.data.readers.threads import in_threads

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")


@pytest.fixture
def cores(monkeypatch):
    monkeypatch.setenv("GPUNET_NUM_THREADS", "3")


@pytest.mark.usefixtures("cores")
def test_results_come_in_the_order_of_the_items_from_several_threads():
    names = set()

    def read(item):
        names.add(threading.current_thread().name)
        time.sleep(0.002 * (10 - item))
        return item * item

    assert list(in_threads(read, range(10))) == [i * i for i in range(10)]
    assert len(names) > 1


@pytest.mark.usefixtures("cores")
def test_the_first_error_is_raised():
    def read(item):
        if item in (3, 5):
            raise ValueError(f"item {item}")
        return item

    with pytest.raises(ValueError, match="item 3"):
        list(in_threads(read, range(8)))


@pytest.mark.usefixtures("cores")
def test_a_folder_gives_the_same_images_one_by_one_and_at_once(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "a").mkdir()
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)).save(tmp_path / "a" / f"{i:02}.jpg")
    folder = data.ImageFolder(tmp_path)
    images, labels = folder[np.arange(12)[::-1]]
    assert labels.tolist() == [0] * 12
    np.testing.assert_array_equal(images, np.stack([folder[i][0] for i in range(11, -1, -1)]))
