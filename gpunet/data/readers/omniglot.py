"""Omniglot: characters of many alphabets, each drawn by twenty people."""

from __future__ import annotations

import numpy as np

from gpunet.data.datasets import ArrayDataset
from gpunet.data.readers.checks import checked_size
from gpunet.data.readers.download import Root, checked_split, find_folder
from gpunet.data.readers.images import read_image
from gpunet.progress import track

__all__ = ["Omniglot", "omniglot"]

FOLDERS = {"train": "images_background", "test": "images_evaluation"}


class Omniglot(ArrayDataset):
    """Drawings (N, H, W, 1) uint8, and the character of each, (N,) int64.

    Attributes:
        classes: names of the K characters, "ALPHABET/characterNN".
        alphabets: names of the alphabets.
        alphabet: (K,) int64, the alphabet of each character.
        drawer: (N,) int64, who made each drawing, from 0 to 19.
    """

    def __init__(self, images: np.ndarray, characters: np.ndarray, drawer: np.ndarray, classes: list[str]) -> None:
        super().__init__(images, characters, classes=classes)
        self.drawer = drawer
        names = [name.rpartition("/")[0] for name in classes]
        self.alphabets = tuple(dict.fromkeys(names))
        self.alphabet = np.array([self.alphabets.index(name) for name in names], np.int64)


def omniglot(root: Root = None, split: str = "train", *, size: int = 28) -> Omniglot:
    """Omniglot (Lake, Salakhutdinov & Tenenbaum 2015): 1,623 characters, drawn by 20 people each.

    The original drawings are black on white, 105x105; here ink is 255 and paper 0, as in MNIST, and
    the images are scaled down (bilinear, antialiased).

    Args:
        root: the folder that holds ``omniglot/`` with the two folders of the published archives;
            the folder in GPUNET_DATA if None.
        split: "train" is the 30 alphabets of ``images_background`` (964 characters), "test" the 20
            others of ``images_evaluation`` (659 characters).
        size: height and width in pixels.
    Raises:
        FileNotFoundError: the folder is not there.
        ValueError: another split, no alphabets, a character without drawings, an image that cannot
            be read.
    """
    extents = checked_size("omniglot", (size, size))
    part = FOLDERS[checked_split("omniglot", root, split)]
    base = find_folder("omniglot", "omniglot", root, "https://github.com/brendenlake/omniglot") / part
    folders = sorted(
        path
        for path in base.glob("*/*")
        if path.is_dir() and not path.name.startswith(".") and not path.parent.name.startswith(".")
    )
    if not folders:
        raise ValueError(f"omniglot: {base} must hold ALPHABET/characterNN folders, got none")
    images: list[np.ndarray] = []
    characters: list[int] = []
    drawer: list[int] = []
    for label, folder in enumerate(track(folders, "reading drawings", "character")):
        drawings = sorted(path for path in folder.glob("*.png") if not path.name.startswith("."))
        if not drawings:
            raise ValueError(f"omniglot: {folder} holds no drawings")
        images += [255 - read_image(path, extents, grey=True) for path in drawings]
        characters += [label] * len(drawings)
        drawer += range(len(drawings))
    names = [f"{folder.parent.name}/{folder.name}" for folder in folders]
    return Omniglot(np.stack(images), np.array(characters, np.int64), np.array(drawer, np.int64), names)
