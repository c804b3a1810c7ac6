"""What image files of every kind become: 8 bits, opaque, against float64 computed from the levels that were written."""

import io
import struct
import zlib

import numpy as np
import pytest

from gpunet import data
from gpunet.data.readers.images import read_image

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

GREY, RGB, GREY_ALPHA, RGBA = 0, 2, 4, 6
"""Colour types of a PNG file."""


def png(levels, kind, bits, transparent=None):
    """A PNG file of levels (H, W, C), written byte by byte, since Pillow writes no colours of 16 bits."""
    height, width = levels.shape[:2]
    if bits < 8:
        rows = [np.packbits(np.unpackbits(row.astype(np.uint8)[:, None], axis=1)[:, -bits:]) for row in levels[..., 0]]
    else:
        rows = levels.astype(">u2" if bits == 16 else np.uint8).reshape(height, -1)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))]
    if transparent is not None:
        chunks.append((b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)))
    chunks += [(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))), (b"IEND", b"")]
    parts = [struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(levels, byteorder="<", photometric=None, kind=1):
    """An uncompressed TIFF file of levels (H, W, C)."""
    height, width, channels = levels.shape
    wide = levels.dtype.newbyteorder(byteorder)
    strip = levels.astype(wide).tobytes()
    bits, start = 8 * levels.dtype.itemsize, 8 + 2 * channels
    photometric = photometric if photometric is not None else (2 if channels > 2 else 1)
    entries = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, channels, bits if channels == 1 else 8), (259, 3, 1, 1),
        (262, 3, 1, photometric), (273, 4, 1, start), (277, 3, 1, channels), (278, 4, 1, height), (279, 4, 1, len(strip)),
        (339, 3, 1, kind),
    ]  # fmt: skip
    if channels == 4:
        entries.insert(9, (338, 3, 1, 2))

    def packed(tag, form, count, value):
        short = form == 3 and count <= 2
        content = struct.pack(byteorder + ("HH" if short else "I"), *([value, 0] if short else [value]))
        return struct.pack(byteorder + "HHI", tag, form, count) + content

    head = (b"II" if byteorder == "<" else b"MM") + struct.pack(byteorder + "HI", 42, start + len(strip))
    sizes = struct.pack(byteorder + f"{channels}H", *[bits] * channels)
    table = struct.pack(byteorder + "H", len(entries)) + b"".join(packed(*each) for each in entries) + bytes(4)
    return head + sizes + strip + table


def blended(levels, full, background=(255, 255, 255), transparent=None):
    """The right uint8 (H, W, 3), in float64."""
    share = levels / full
    if transparent is not None:
        share = np.concatenate([share, (levels != np.array(transparent)).any(axis=-1, keepdims=True)], axis=-1)
    if share.shape[-1] % 2 == 0:
        share = share[..., :-1] * share[..., -1:] + np.array(background) / 255 * (1 - share[..., -1:])
    return np.broadcast_to(np.floor(share * 255 + 0.5 + 1e-9), (*levels.shape[:2], 3))


def decode(content, **options):
    return read_image(io.BytesIO(content), **options)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("kind", "channels"), [(GREY, 1), (GREY_ALPHA, 2), (RGB, 3), (RGBA, 4)])
def test_levels_are_scaled_and_blended_over_the_background(rng, bits, kind, channels):
    full = (1 << bits) - 1
    levels = rng.integers(0, full + 1, (7, 9, channels))
    levels[0] = [[0], [full]] * 4 + [[full // 2]]
    content = png(levels, kind, bits)
    np.testing.assert_array_equal(decode(content), blended(levels, full))
    for background in (0, (10, 200, 30)):
        over = background if isinstance(background, tuple) else (background,) * 3
        np.testing.assert_array_equal(decode(content, background=background), blended(levels, full, over))
    luma = blended(levels, full) @ np.array([0.299, 0.587, 0.114])
    assert np.abs(decode(content, grey=True)[..., 0] - luma).max() < 0.51


@pytest.mark.parametrize(
    ("kind", "bits"), [(GREY, 1), (GREY, 2), (GREY, 4), (GREY, 8), (GREY, 16), (RGB, 8), (RGB, 16)]
)
def test_one_level_may_stand_for_transparent(rng, kind, bits):
    full = (1 << bits) - 1
    levels = rng.integers(0, full + 1, (4, 8, 3 if kind == RGB else 1))
    transparent = levels[1, 2].tolist()
    if bits == 16:
        levels[0] = levels[1, 2] ^ 1  # the same upper byte, but another level
    for background in ((255, 255, 255), (0, 90, 200)):
        expected = blended(levels, full, background, transparent)
        np.testing.assert_array_equal(decode(png(levels, kind, bits, transparent), background=background), expected)


def test_black_on_transparent_does_not_become_all_black(tmp_path):
    drawing = Image.new("RGBA", (8, 8))
    drawing.paste((0, 0, 0, 255), (2, 2, 5, 5))
    wanted = np.full((8, 8), 255)
    wanted[2:5, 2:5] = 0
    for mode, name in (("RGBA", "x.png"), ("LA", "y.png"), ("RGBA", "z.tiff"), ("RGBA", "w.webp")):
        drawing.convert(mode).save(tmp_path / name, **({"lossless": True} if name == "w.webp" else {}))
        np.testing.assert_array_equal(read_image(tmp_path / name), np.repeat(wanted[..., None], 3, axis=2))
        np.testing.assert_array_equal(read_image(tmp_path / name, grey=True)[..., 0], wanted)


def test_palettes_may_be_transparent_in_one_entry_or_partly_in_each(tmp_path):
    image = Image.new("P", (4, 1))
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 10, 20, 30])
    image.putdata([0, 1, 2, 3])
    image.save(tmp_path / "one.gif", transparency=1)
    image.save(tmp_path / "each.png", transparency=bytes([255, 128, 0, 51]))
    over = {"background": (0, 0, 255)}
    assert read_image(tmp_path / "one.gif", **over)[0].tolist() == [[0, 0, 0], [0, 0, 255], [0, 255, 0], [10, 20, 30]]
    assert read_image(tmp_path / "each.png", **over)[0].tolist() == [[0, 0, 0], [128, 0, 127], [0, 0, 255], [2, 4, 210]]


@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_tiff_files_of_16_bits_are_scaled_in_either_byte_order(rng, byteorder, channels):
    levels = rng.integers(0, 65536, (5, 6, channels), dtype=np.uint16)
    np.testing.assert_array_equal(decode(tiff(levels, byteorder)), blended(levels, 65535))


def test_a_tiff_in_which_white_is_0_is_turned_round(rng):
    levels = rng.integers(0, 65536, (5, 6, 1), dtype=np.uint16)
    np.testing.assert_array_equal(decode(tiff(levels, photometric=0)), blended(65535 - levels.astype(np.int64), 65535))


@pytest.mark.parametrize("most", [255, 1023, 65535])
def test_pgm_files_are_scaled_by_their_largest_level(rng, most):
    levels = rng.integers(0, most + 1, (3, 4, 1))
    content = b"P5 4 3 %d\n" % most + levels.astype(np.uint8 if most < 256 else ">u2").tobytes()
    assert np.abs(decode(content) - levels / most * 255).max() < 0.51


@pytest.mark.parametrize(
    ("levels", "kind", "what"),
    [
        (np.ones((2, 3, 1), np.float32), 3, "floats"),
        (np.ones((2, 3, 1), np.int16), 2, "signed or 32-bit numbers"),
        (np.ones((2, 3, 1), np.uint32), 1, "signed or 32-bit numbers"),
    ],
)
def test_levels_without_a_known_white_raise_with_the_name_of_the_file(tmp_path, levels, kind, what):
    (tmp_path / "x.tif").write_bytes(tiff(levels, kind=kind))
    with pytest.raises(
        ValueError, match=rf"^read_image: cannot read .*x\.tif: it holds {what}, whose levels of black and white"
    ):
        read_image(tmp_path / "x.tif")


def test_the_first_picture_of_an_animation_is_taken(tmp_path):
    frames = [Image.new("RGB", (3, 2), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    for name in ("x.gif", "x.png", "x.webp"):
        frames[0].save(
            tmp_path / name, save_all=True, append_images=frames[1:], **({"lossless": True} if "w" in name else {})
        )
        np.testing.assert_array_equal(read_image(tmp_path / name), np.array(frames[0]))


def test_images_of_16_bits_and_transparent_ones_are_turned_too(rng, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = rng.integers(0, 65536, (3, 4), dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png"), np.rot90(blended(deep[..., None], 65535), -1))
    clear = rng.integers(0, 256, (3, 4, 4), dtype=np.uint8)
    Image.fromarray(clear).save(tmp_path / "clear.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "clear.png"), np.rot90(blended(clear, 255), -1))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "LA", "PA", "RGBA", "I;16"])
def test_every_common_kind_of_image_is_read(tmp_path, mode):
    suffix = {"CMYK": "tif", "YCbCr": "tif", "PA": "tif"}.get(mode, "png")
    image = Image.new("RGBA", (4, 3), (255, 255, 255, 255))
    image = (
        Image.fromarray(np.full((3, 4), 65535, np.uint16))
        if mode == "I;16"
        else image.convert(mode if mode != "PA" else "P")
    )
    image.save(tmp_path / f"x.{suffix}")
    assert np.abs(read_image(tmp_path / f"x.{suffix}").astype(int) - 255).max() <= 1


def test_a_wrong_suffix_does_not_matter_and_too_large_an_image_is_named(tmp_path, monkeypatch):
    Image.new("RGB", (40, 30), (1, 2, 3)).save(tmp_path / "x.jpg", format="PNG")
    assert (read_image(tmp_path / "x.jpg") == [1, 2, 3]).all()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"cannot read .*x\.jpg: .*1200 pixels"):
        read_image(tmp_path / "x.jpg")


def test_a_folder_of_images_has_a_background(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("RGBA", (4, 3), (0, 0, 0, 51)).save(tmp_path / "a/1.png")
    assert (data.ImageFolder(tmp_path)[0][0] == 204).all()
    assert (data.ImageFolder(tmp_path, background=(100, 0, 10))[0][0] == [80, 0, 8]).all()


@pytest.mark.parametrize(
    ("background", "kind"),
    [
        ("white", TypeError),
        (True, TypeError),
        (0.5, TypeError),
        ((1, 2), TypeError),
        (256, ValueError),
        ((0, -1, 0), ValueError),
    ],
)
def test_a_background_that_is_no_colour_raises(tmp_path, background, kind):
    with pytest.raises(kind, match="^read_image: background must"):
        read_image(tmp_path / "x.png", background=background)
