import sys

import numpy as np
import pytest

from gpunet import data
from gpunet.data.readers.images import _decode_small, read_image

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return pixels


def colours(seed, height=5, width=4):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    for seed, name in enumerate(["b/2.png", "b/1.PNG", "a/x.png", "a/deep/y.bmp"]):
        save(tmp_path / name, colours(seed))
    (tmp_path / "notes.txt").write_text("not a class")
    (tmp_path / "a/notes.txt").write_text("not an image")
    (tmp_path / ".hidden").mkdir()
    return tmp_path


def test_images_come_in_the_order_of_their_names_with_their_folders_label(folder):
    dataset = data.ImageFolder(folder)
    assert dataset.classes == ("a", "b")
    assert [path.relative_to(folder).as_posix() for path in dataset.paths] == [
        "a/deep/y.bmp",
        "a/x.png",
        "b/1.PNG",
        "b/2.png",
    ]
    images, labels = dataset[np.array([3, 0, 1])]
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    assert labels.tolist() == [1, 0, 0]
    assert np.array_equal(images, np.stack([colours(0), colours(3), colours(2)]))
    image, label = dataset[2]
    assert np.array_equal(image, colours(1))
    assert label == 1
    assert len(dataset) == 4
    with pytest.raises(IndexError):
        dataset[4]


def test_loader_batches_a_folder_of_images(folder):
    batches = list(data.DataLoader(data.ImageFolder(folder), 3, transform=data.Normalize(0.5, 0.5)))
    assert [(x.shape, x.dtype.name, y.tolist()) for x, y in batches] == [
        ((3, 5, 4, 3), "float32", [0, 0, 1]),
        ((1, 5, 4, 3), "float32", [1]),
    ]


def test_grey_images_have_one_channel(folder):
    images, _ = data.ImageFolder(folder, grey=True)[np.arange(4)]
    assert images.shape == (4, 5, 4, 1)
    luma = colours(2) @ np.array([0.299, 0.587, 0.114])
    assert np.abs(images[1, :, :, 0] - luma).max() < 1


def test_size_is_height_then_width(tmp_path):
    save(tmp_path / "a/1.png", np.full((8, 6, 3), 9, np.uint8))
    save(tmp_path / "a/2.png", np.full((3, 5, 3), 9, np.uint8))
    images, _ = data.ImageFolder(tmp_path, size=(4, 7))[np.arange(2)]
    assert images.shape == (2, 4, 7, 3)
    assert (images == 9).all()


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("turned", [1, 6])
def test_a_large_jpeg_is_decoded_at_a_fraction_and_looks_the_same(tmp_path, monkeypatch, grey, turned):
    smooth = Image.fromarray(colours(0, 7, 5)).resize((700, 900), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = turned
    smooth.save(tmp_path / "large.jpg", quality=95, exif=exif)
    small = read_image(tmp_path / "large.jpg", (60, 50), grey)
    decoded = []
    monkeypatch.setattr("gpunet.data.readers.images._decode_small", lambda image, size: decoded.append(image.size))
    exact = read_image(tmp_path / "large.jpg", (60, 50), grey)
    assert decoded == [(700, 900)]
    assert small.shape == exact.shape == (60, 50, 1 if grey else 3)
    assert np.abs(small.astype(int) - exact).max() <= 6
    assert np.abs(small.astype(int) - exact).mean() < 1


def test_a_jpeg_is_decoded_at_twice_the_wanted_size_at_least(tmp_path):
    for side, wanted, expected in ((800, 100, 200), (800, 99, 200), (800, 101, 400), (800, 400, 800), (130, 100, 130)):
        Image.new("RGB", (side, side)).save(tmp_path / "x.jpg")
        with Image.open(tmp_path / "x.jpg") as image:
            _decode_small(image, (wanted, wanted // 2))
            assert image.size == (expected, expected)


def test_palette_alpha_and_grey_files_become_rgb(tmp_path):
    grey = save(tmp_path / "a/1.png", np.arange(20, dtype=np.uint8).reshape(5, 4))
    save(tmp_path / "a/2.png", np.dstack([colours(0), np.full((5, 4), 255, np.uint8)]))
    Image.fromarray(grey).convert("P").save(tmp_path / "a/3.gif")
    images, _ = data.ImageFolder(tmp_path)[np.arange(3)]
    assert np.array_equal(images[0], np.repeat(grey[:, :, None], 3, axis=2))
    assert np.array_equal(images[1], colours(0))
    assert np.array_equal(images[2], images[0])


def test_exif_orientation_is_obeyed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    save(tmp_path / "a/1.png", colours(0), exif=exif)
    assert np.array_equal(data.ImageFolder(tmp_path)[0][0], np.rot90(colours(0), -1))


@pytest.mark.parametrize("asked", [0, 1])
def test_images_of_different_sizes_raise_naming_both(tmp_path, asked):
    save(tmp_path / "a/1.png", colours(0))
    save(tmp_path / "b/2.png", colours(0, height=6))
    dataset = data.ImageFolder(tmp_path)
    with pytest.raises(ValueError, match=r"of one size unless size= .*2\.png with \(6, 4\) and .*1\.png with \(5, 4\)"):
        dataset[asked], dataset[1]


@pytest.mark.parametrize("content", [b"", b"not an image", "truncated"])
def test_unreadable_image_raises_with_its_name(folder, content):
    if content == "truncated":
        save(folder / "c/bad.png", colours(0, 50, 50))
        content = (folder / "c/bad.png").read_bytes()[:1000]
    (folder / "c").mkdir(exist_ok=True)
    (folder / "c/bad.png").write_bytes(content)
    dataset = data.ImageFolder(folder, unreadable="later")
    with pytest.raises(ValueError, match=r"^read_image: cannot read .*bad\.png: "):
        dataset[4]


def test_bad_folders_raise(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^ImageFolder: root .*absent is not a folder"):
        data.ImageFolder(tmp_path / "absent")
    with pytest.raises(ValueError, match="holds no folders but must hold one for each class"):
        data.ImageFolder(tmp_path)
    save(tmp_path / "a/1.png", colours(0))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"class folder .*empty holds no images \(\.bmp"):
        data.ImageFolder(tmp_path)


@pytest.mark.parametrize(
    ("size", "kind"), [(5, TypeError), ((5,), TypeError), ((5.0, 4), TypeError), ((0, 4), ValueError)]
)
def test_bad_size_raises(folder, size, kind):
    with pytest.raises(kind, match=r"^ImageFolder: size must be"):
        data.ImageFolder(folder, size=size)


def test_missing_pillow_names_the_extra(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r'reading images needs Pillow: pip install "gpunet\[examples\]"'):
        data.ImageFolder(folder)
