"""A user's own images: one folder a class."""

from __future__ import annotations

import os
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""What an image's name may end in, in either case; other files are passed over."""


class ImageFolder:
    """Images below ``root/CLASS/``, decoded when they are asked for; classes and files in the order of their names.

    A sample is (image (H, W, C) uint8, label int64), several (images (B, H, W, C) uint8, labels (B,) int64); C is 3,
    or 1 if `grey`. Images are turned as their EXIF orientation says; of an animation, the first picture is taken.

    Args:
        root: the folder that holds one folder a class.
        size: (height, width) in pixels that every image is scaled to (bilinear, antialiased); if None, all images must
            be of one size.
        grey: whether to take the luma instead of red, green and blue.
    Raises:
        FileNotFoundError: no such folder.
        ValueError: no classes, or a class without images; later, an image that cannot be read or has another size.
        ImportError: Pillow is not installed.
    """

    def __init__(self, root: str | os.PathLike[str], size: tuple[int, int] | None = None, grey: bool = False) -> None:
        _image_module()
        self.root, self.size, self.grey = Path(root).expanduser(), checked_size("ImageFolder", size), grey
        if not self.root.is_dir():
            raise FileNotFoundError(f"ImageFolder: root {self.root} is not a folder")
        folders = sorted(p for p in self.root.iterdir() if p.is_dir() and not p.name.startswith("."))
        if not folders:
            raise ValueError(f"ImageFolder: root {self.root} holds no folders but takes one folder a class")
        self.classes = tuple(folder.name for folder in folders)
        self.paths: list[Path] = []
        labels: list[int] = []
        for label, folder in enumerate(folders):
            found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
            if not found:
                raise ValueError(f"ImageFolder: class folder {folder} holds no images ({', '.join(SUFFIXES)})")
            self.paths += found
            labels += [label] * len(found)
        self.labels = np.array(labels, dtype=np.int64)
        self._expected: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> tuple[Any, ...]:
        labels = self.labels[index]
        if np.ndim(labels) == 0:
            return self._decode(self.paths[index]), labels
        chosen = np.arange(len(self))[index]
        return np.stack([self._decode(self.paths[i]) for i in chosen]), labels

    def _decode(self, path: Path) -> np.ndarray:
        """The image as (H, W, C) uint8, of the same shape as every other."""
        if self.size is None and not self._expected and path != self.paths[0]:
            self._decode(self.paths[0])
        pixels = read_image(path, self.size, self.grey)
        if self._expected and pixels.shape != self._expected:
            raise ValueError(
                f"ImageFolder: images must be of one size unless size= is given, got {path} with "
                f"{pixels.shape[:2]} and {self.paths[0]} with {self._expected[:2]} (height, width)"
            )
        self._expected = pixels.shape
        return pixels


def read_image(
    path: str | os.PathLike[str],
    size: tuple[int, int] | None = None,
    grey: bool = False,
    *,
    stated: tuple[int, int] | None = None,
) -> np.ndarray:
    """An image file as (H, W, C) uint8; arguments, orientation and errors as for `ImageFolder`.

    Args:
        stated: the (height, width) that the file must have, before it is scaled; any if None.
    """
    image_module = _image_module()
    from PIL import ImageOps

    try:
        with image_module.open(path) as image:
            deep = image.mode.startswith(("I", "F"))
            if not deep:
                upright = ImageOps.exif_transpose(image).convert("L" if grey else "RGB")
    except Exception as error:  # Pillow's decoders raise many kinds
        raise ValueError(f"read_image: cannot read {path}: {error}") from error
    if deep:
        raise ValueError(f"read_image: {path} has more than 8 bits a channel, which is the most that is taken")
    if stated is not None and upright.size != (stated[1], stated[0]):
        raise ValueError(f"read_image: {path} is {upright.size[::-1]} (height, width) but annotated as {stated}")
    if size is not None and size != upright.size[::-1]:
        height, width = size
        upright = upright.resize((width, height), image_module.Resampling.BILINEAR)
    pixels = np.array(upright)
    return pixels[:, :, np.newaxis] if grey else pixels


def _image_module() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError('reading images needs Pillow: pip install "gpunet[examples]"') from error
    return Image


def checked_size(operation: str, size: Any) -> tuple[int, int] | None:
    """(height, width) as Python integers, or None."""
    if size is None:
        return None
    if not isinstance(size, list | tuple) or len(size) != 2 or not all(isinstance(n, Integral) for n in size):
        raise TypeError(f"{operation}: size must be (height, width) in pixels or None, got {size!r}")
    if min(size) < 1:
        raise ValueError(f"{operation}: size must be at least 1 pixel high and wide, got {size}")
    return int(size[0]), int(size[1])
