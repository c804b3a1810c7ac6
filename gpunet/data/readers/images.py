"""Image files as arrays: 8 bits per channel, without transparency, the right way up."""

from __future__ import annotations

import os
import sys
from numbers import Integral
from typing import Any, BinaryIO

import numpy as np

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""The endings of image files' names, in lower case; other files are ignored."""
Background = int | tuple[int, int, int]
"""A level of grey, or (red, green, blue), from 0 to 255."""

WHITE = 255
KEPT_DETAIL = 2
"""How many times as large as wanted a JPEG is decoded at least, so that scaling it still averages."""
_ORIENTATION = 0x0112
"""The EXIF tag that says how an image is turned."""
_OTHER_BYTES = {"RGB;16B": "RGB;16L", "RGB;16L": "RGB;16B", "RGBA;16B": "RGBA;16L", "RGBA;16L": "RGBA;16B"}
"""For each of Pillow's 16-bit modes, the mode of the other byte order.

Pillow keeps only the upper byte of each 16-bit level; read in the other byte order, it gives the
lower byte.
"""
_OTHER_BYTES |= {f"{mode};16N": f"{mode};16{'B' if sys.byteorder == 'little' else 'L'}" for mode in ("RGB", "RGBA")}
_FEW_BITS = {"L;2": 85, "L;4": 17}
"""Factors that scale a level of few bits to 8 bits.

Pillow scales the pixels, but not the level that stands for transparent.
"""
_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_PLANAR = 258, 262, 284


def read_image(
    path: str | os.PathLike[str] | BinaryIO,
    size: tuple[int, int] | None = None,
    grey: bool = False,
    *,
    stated: tuple[int, int] | None = None,
    background: Background = WHITE,
) -> np.ndarray:
    """An image file as (H, W, C) uint8, with C = 3, or 1 if `grey`.

    Levels v of 16 bits become round(v / 257), of 12 bits round(v / 16.06). Transparent pixels are
    blended with the background: round(a * v + (1 - a) * background) for an opacity a from 0 to 1.
    The image is turned as its EXIF orientation says, which PyTorch's readers do not do by default. Of an
    animation, the first picture is taken. Colour profiles are ignored. A JPEG whose height and
    width are at least four times the longer side of `size` is decoded at a half, a quarter or an
    eighth of its own size, which takes a fraction of the time, and scaled from there.

    Args:
        path: the file's path, or an open file that can seek.
        size: (height, width) in pixels to scale to (bilinear, antialiased) after blending; the
            file's own size if None.
        grey: whether to take the luma instead of red, green and blue.
        stated: the (height, width) that the file must have before it is scaled; any size if None.
        background: the colour behind transparent pixels.
    Raises:
        ValueError: a file that cannot be read; one whose scale from black to white is unknown
            (floats, signed or 32-bit numbers); another size than stated. The message names the
            file.
        ImportError: Pillow is not installed.
    """
    image_module = _image_module()
    below = checked_background("read_image", background)
    try:
        with image_module.open(path) as image:
            if size is not None and stated is None:
                _decode_small(image, size)
            upright = _upright(_opaque(image, path, below), image).convert("L" if grey else "RGB")
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds of errors
        raise ValueError(f"read_image: cannot read {path}: {error}") from error
    if stated is not None and upright.size != (stated[1], stated[0]):
        raise ValueError(f"read_image: {path} is {upright.size[::-1]} (height, width) but annotated as {stated}")
    if size is not None and size != upright.size[::-1]:
        height, width = size
        upright = upright.resize((width, height), image_module.Resampling.BILINEAR)
    pixels = np.array(upright)
    return pixels[:, :, np.newaxis] if grey else pixels


def _decode_small(image: Any, size: tuple[int, int]) -> None:
    """Let the decoder of JPEG leave out what scaling to `size` would average away: the image stays
    twice as large at least, in height and width, whichever way it is turned later."""
    if image.format == "JPEG" and image.mode in ("L", "RGB"):
        side = KEPT_DETAIL * max(size)
        image.draft(image.mode, (side, side))


def checked_background(operation: str, background: Any) -> tuple[int, int, int]:
    """Red, green and blue of a background, as Python integers.

    Raises:
        TypeError: anything but an integer or three of them.
        ValueError: a level below 0 or above 255.
    """
    levels = (background,) * 3 if isinstance(background, Integral) else background
    wrong = not isinstance(levels, list | tuple) or len(levels) != 3
    if wrong or any(not isinstance(level, Integral) or isinstance(level, bool) for level in levels):
        raise TypeError(
            f"{operation}: background must be a level from 0 to 255 or (red, green, blue), got {background!r}"
        )
    red, green, blue = (int(level) for level in levels)
    if min(red, green, blue) < 0 or max(red, green, blue) > 255:
        raise ValueError(f"{operation}: background must have levels from 0 to 255, got {background}")
    return red, green, blue


def _image_module() -> Any:
    """Pillow's `Image` module."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError('reading images needs Pillow: pip install "gpunet[examples]"') from error
    return Image


def _upright(pixels: Any, image: Any) -> Any:
    """The picture `pixels`, turned as the file `image` says."""
    from PIL import ImageOps

    orientation = image.getexif().get(_ORIENTATION, 1)
    if orientation == 1:
        return pixels
    pixels = pixels.copy()
    pixels.getexif()[_ORIENTATION] = orientation
    return ImageOps.exif_transpose(pixels)


def _opaque(image: Any, path: str | os.PathLike[str] | BinaryIO, background: tuple[int, int, int]) -> Any:
    """The file's picture in one of Pillow's modes of 8 bits per channel, without transparency."""
    few = _FEW_BITS.get(_raw_mode(image), 1)
    deep = _grey_levels(image) if image.mode.startswith(("I", "F")) else _colour_levels(image, path)
    if deep is not None:
        return _image_module().fromarray(_blended(*deep, background))
    transparent = image.info.get("transparency")
    if few > 1 and isinstance(transparent, int):
        image.load()
        image.info["transparency"] = few * transparent
    if transparent is None and image.mode not in ("LA", "PA", "RGBA", "RGBa"):
        return image
    return _image_module().fromarray(_blended(np.array(image.convert("RGBA")), 255, background))


def _blended(levels: np.ndarray, full: int, background: tuple[int, int, int]) -> np.ndarray:
    """Blend levels with the background -> uint8 (H, W, 3).

    Args:
        levels: (H, W, C), from 0 to `full`; if C is even, the last channel is the opacity.
    """
    numerator, denominator = 255 * levels.astype(np.int64), full
    if levels.shape[-1] % 2 == 0:
        opacity = levels[..., -1:].astype(np.int64)
        numerator = numerator[..., :-1] * opacity + full * (full - opacity) * np.array(background, np.int64)
        denominator = full * full
    rounded = (2 * numerator + denominator) // (2 * denominator)
    return np.broadcast_to(rounded.astype(np.uint8), (*levels.shape[:2], 3)).copy()


def _grey_levels(image: Any) -> tuple[np.ndarray, int]:
    """(levels (H, W, C), the largest level) of a grey image of more than 8 bits.

    C is 1, or 2, with opacity, if the image is transparent.
    """
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        kind = "floats" if image.mode == "F" else "signed or 32-bit numbers"
        raise ValueError(
            f"it holds {kind}, whose levels of black and white are unknown; save it with 8 or 16 bits per channel"
        )
    tags = image.tag_v2 if image.format == "TIFF" else {}
    full = (1 << tags.get(_TIFF_BITS, (16,))[0]) - 1
    levels = np.array(image).astype(np.int64)[..., np.newaxis]
    if tags.get(_TIFF_PHOTOMETRIC) == 0:  # 0 stands for white
        levels = full - levels
    transparent = image.info.get("transparency")
    if transparent is None:
        return levels, full
    return np.concatenate([levels, full * (levels != transparent)], axis=-1), full


def _colour_levels(image: Any, path: str | os.PathLike[str] | BinaryIO) -> tuple[np.ndarray, int] | None:
    """(levels (H, W, C), the largest level) of an image of 16-bit channels; None for others.

    An even C includes opacity.
    """
    raw = _raw_mode(image)
    if image.format == "TIFF" and image.tag_v2.get(_TIFF_PLANAR) == 2 and max(image.tag_v2[_TIFF_BITS]) > 8:
        raise ValueError(
            "it stores its 16-bit channels one after the other, which Pillow reads wrongly; interleave them"
        )
    if raw == "LA;16B":  # read as four channels, which are the two bytes of both levels
        pairs = np.array(_as_raw_mode(image, "RGBA")).astype(np.int64)
        return pairs[..., 0::2] * 256 + pairs[..., 1::2], 65535
    if raw not in _OTHER_BYTES:
        return None
    with _image_module().open(path) as again:
        low = np.array(_as_raw_mode(again, _OTHER_BYTES[raw])).astype(np.int64)
    levels = np.array(image).astype(np.int64) * 256 + low
    transparent = image.info.get("transparency")
    if transparent is None:
        return levels, 65535
    opaque = (levels != np.array(transparent)).any(axis=-1, keepdims=True)
    return np.concatenate([levels, 65535 * opaque], axis=-1), 65535


def _raw_mode(image: Any) -> str:
    """Pillow's name for how the levels of a file lie before decoding; "" if it is not known."""
    arguments = image.tile[0][3] if getattr(image, "tile", None) else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _as_raw_mode(image: Any, raw: str) -> Any:
    """The image, decoded as if its levels lay as `raw` says."""
    tiles = []
    for tile in image.tile:
        changed = (raw, *tile[3][1:]) if isinstance(tile[3], tuple) else raw
        make = getattr(type(tile), "_make", tuple)  # newer releases of Pillow use a named tuple
        tiles.append(make((*tile[:3], changed)))
    image.tile = tiles
    image.load()
    return image
