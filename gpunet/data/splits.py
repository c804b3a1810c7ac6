"""`stable_split`: a part of a folder's images held out, the same ones however the folder grows."""

from __future__ import annotations

import math
import unicodedata
from hashlib import blake2b

import numpy as np

from gpunet.data.datasets import Subset
from gpunet.data.folders import ImageFolder


def stable_split(dataset: ImageFolder | Subset, share: float, purpose: str = "test") -> tuple[Subset, Subset]:
    """(the rest, what is held out) of a folder's images, as each image's own name decides.

    A number from 0 to 1 is computed from `purpose` and the image's name relative to the root, "CLASS/NAME.png"; an image is
    held out if its number is below `share`. So neither another image, nor a seed, nor where the folder lies, nor the system
    changes where an image belongs. Per class, about `share` of n images are held out; where chance would hold out fewer than
    half of ``share * n`` or more than one and a half times as many, as happens to small classes, the images next to the
    border change sides. Of a class of two or more, at least one is held out and at least one is not; an only image is not.

    Args:
        dataset: an `ImageFolder`, or a `Subset` of one.
        share: how much to hold out, above 0 and below 1.
        purpose: splits of different purposes are independent.
    Raises:
        ValueError: another share; a data set of which nothing is held out, since no class has two images.
    """
    if not 0 < share < 1:
        raise ValueError(f"stable_split: share must be above 0 and below 1, got {share}")
    names = _names(dataset)
    numbers = np.array([_number(purpose, name) for name in names])
    held_out = np.zeros(len(names), bool)
    for label in np.unique(dataset.labels):
        members = np.flatnonzero(dataset.labels == label)
        count = _count(int((numbers[members] < share).sum()), len(members), share)
        held_out[members[np.argsort(numbers[members], kind="stable")[:count]]] = True
    if not held_out.any():
        raise ValueError(f"stable_split: no class has two images, so that none is left to {purpose}")
    return Subset(dataset, np.flatnonzero(~held_out)), Subset(dataset, np.flatnonzero(held_out))


def _count(below: int, total: int, share: float) -> int:
    """How many of a class's images are held out, of which `below` have a number below the share."""
    fewest = max(math.ceil(share * total / 2), 1)
    most = max(math.floor(share * total * 3 / 2), fewest)
    return min(max(below, fewest), most, total - 1)


def _number(purpose: str, name: str) -> float:
    """From 0 to 1, the same on every system: file systems differ in the Unicode form of one name."""
    text = f"{purpose}/{unicodedata.normalize('NFC', name)}"
    digest = blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _names(dataset: ImageFolder | Subset) -> list[str]:
    if isinstance(dataset, Subset):
        names = _names(dataset.dataset)  # type: ignore[arg-type]
        return [names[i] for i in dataset.indices]
    return list(dataset.names)
