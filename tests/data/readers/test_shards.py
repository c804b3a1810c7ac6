"""Images in tar files: the same as in their folder, read where they lie, in batches that go on anywhere."""

import builtins
import io
import tarfile

import numpy as np
import pytest
from helpers.shard_files import encoded, make_tar

from gpunet import data
from gpunet.data.readers import tars

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")


def by_content(dataset):
    """The samples, as bytes and label, in an order that depends on nothing else."""
    images, labels = dataset[np.arange(len(dataset))]
    return sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


# ---- the same images


@pytest.mark.parametrize("options", [{}, {"grey": True}, {"size": (4, 7)}, {"size": (3, 3), "grey": True}])
def test_shards_give_the_images_of_their_folder(folder, shards, options):
    whole, there = data.ImageShards(shards, **options), data.ImageFolder(folder.root, **options)
    assert len(whole) == len(there) == 41
    assert whole.classes == there.classes
    assert whole.samples_per_shard.tolist() == [9, 9, 9, 9, 5]
    assert by_content(whole) == by_content(there)


def test_every_kind_of_index_gives_the_same_rows(shards, rng):
    dataset = data.ImageShards(shards)
    images, labels = dataset[np.arange(41)]
    assert (images.dtype, images.shape, labels.dtype) == (np.uint8, (41, 6, 5, 3), np.int64)
    chosen = rng.integers(-41, 41, 60)  # in any order, from the end too, and some several times
    for index in (chosen, slice(30, 3, -4), np.arange(41) % 3 == 0, [7]):
        some, their_labels = dataset[index]
        np.testing.assert_array_equal(some, images[index])
        np.testing.assert_array_equal(their_labels, labels[index])
    image, label = dataset[-1]
    np.testing.assert_array_equal(image, images[40])
    assert (label.ndim, label) == (0, labels[40])
    with pytest.raises(IndexError):
        dataset[41]


def test_transparent_images_stand_on_the_background(tmp_path):
    file = io.BytesIO()
    Image.fromarray(np.zeros((2, 2, 4), np.uint8)).save(file, "png")
    make_tar(tmp_path / "a.tar", [("0.png", file.getvalue()), ("0.cls", b"0")])
    assert (data.ImageShards(tmp_path, background=(1, 2, 3))[0][0] == [1, 2, 3]).all()


def test_a_list_of_tar_files_is_taken_in_its_order(shards):
    paths = sorted(shards.glob("*.tar"))
    whole, part = data.ImageShards(shards), data.ImageShards([str(paths[4]), paths[1]])
    np.testing.assert_array_equal(part.labels, np.r_[whole.labels[36:], whole.labels[9:18]])
    np.testing.assert_array_equal(part[np.arange(14)][0], whole[np.r_[36:41, 9:18]][0])


# ---- what reading costs


class Counting:
    """Stands for the built-in `open` in `tars`, and counts bytes, reads and files that are open."""

    def __init__(self):
        self.bytes = self.reads = self.open = self.most_open = self.opened = 0

    def __call__(self, path, mode):
        counts, file = self, builtins.open(path, mode)  # noqa: SIM115

        class File:
            def __enter__(self):
                counts.open += 1
                counts.opened += 1
                counts.most_open = max(counts.most_open, counts.open)
                return self

            def __exit__(self, *_):
                counts.open -= 1
                file.close()

            def seek(self, place):
                file.seek(place)

            def read(self, size):
                content = file.read(size)
                counts.bytes += len(content)
                counts.reads += 1
                return content

            def fileno(self):
                return file.fileno()

        return File()


@pytest.fixture
def counted(monkeypatch):
    found = Counting()
    monkeypatch.setattr(tars, "open", found, raising=False)
    monkeypatch.setenv("GPUNET_NUM_THREADS", "3")
    return found


def test_a_batch_reads_its_own_images_and_neighbours_at_once(tmp_path, rng, counted):
    """Images of 41 kB, which are further apart than what is read along with others."""
    for shard in range(4):
        labels = [0] * 12
        members = [(f"{i}.{kind}", encoded(rng, "bmp", (100, 137)) if kind == "bmp" else b"0")
                   for i, _ in enumerate(labels) for kind in ("bmp", "cls")]  # fmt: skip
        make_tar(tmp_path / f"{shard}.tar", members)
    data.index_shards(tmp_path)
    dataset = data.ImageShards(tmp_path)
    dataset[0]  # whose size the others must have
    size = int(dataset._sizes[0])
    for chosen, reads in (
        (np.arange(12), 1),
        (np.arange(5, 40), 4),
        (np.array([40, 3, 20, 5]), 4),
        (np.array([2, 3, 2]), 1),
    ):
        counted.__init__()
        dataset[chosen]
        assert counted.reads == reads
        assert counted.opened == len({i // 12 for i in chosen})
        assert 0 <= counted.bytes - len({*chosen}) * size <= len(chosen) * 4096
        assert counted.most_open <= 3
        assert counted.open == 0


def test_the_headers_are_read_without_the_images(tmp_path, rng):
    path = make_tar(tmp_path / "a.tar", [("0.png", bytes(3 * 10**6)), ("0.cls", b"0")])
    opened = []

    class Recorded(io.FileIO):
        count = 0

        def readinto(self, buffer):
            got = super().readinto(buffer)
            Recorded.count += got
            return got

    def recording(name, mode="r", *_, **__):
        opened.append(name)
        return io.BufferedReader(Recorded(name, "r"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tarfile, "bltn_open", recording)
        assert tars.scan(path).sizes.tolist() == [3 * 10**6]
    assert opened
    assert 0 < Recorded.count < 200_000


# ---- a loader


def batches(parts):
    return [[np.asarray(array) for array in part] for part in parts]


def test_a_loader_goes_on_with_the_very_batches_that_were_left(shards):
    dataset = data.ImageShards(shards)

    def loader():
        sampler = data.ShuffleBuffer(dataset, 7)
        changes = data.Compose([data.RandomHorizontalFlip(), data.Normalize(0.5, 0.25)])
        return data.DataLoader(dataset, 4, sampler=sampler, seed=5, transform=changes)

    whole = loader()
    epochs = [batches(whole) for _ in range(2)]
    assert [len(epoch) for epoch in epochs] == [11, 11]
    for epoch, first in ((0, 3), (1, 10), (1, 0)):
        later = loader()
        later.epoch, later.first_batch = epoch, first
        for got, want in zip(batches(later), epochs[epoch][first:], strict=True):
            for one, other in zip(got, want, strict=True):
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_the_shares_of_the_ranks_are_the_batches(shards, size):
    def loader():
        dataset = data.ImageShards(shards)
        return data.DataLoader(dataset, 6, sampler=data.ShuffleBuffer(dataset, 8), seed=2)

    shares = [list(loader().shares(rank, size)) for rank in range(size)]
    for batch, *parts in zip(loader(), *shares, strict=True):
        taken = [part for part in parts if part.rows]
        assert [part.first for part in taken] == np.cumsum([0, *[part.rows for part in taken[:-1]]]).tolist()
        for column in (0, 1):
            joined = np.concatenate([part.batch[column][: part.rows] for part in taken])
            np.testing.assert_array_equal(joined, batch[column])
