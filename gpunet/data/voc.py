"""Data sets in the layout of Pascal VOC (Everingham et al. 2010, "The PASCAL Visual Object Classes challenge")."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from gpunet.data.boxes import Annotation, BoxChecker, BoxDataset
from gpunet.data.download import find_folder

Objects = list[tuple[str, tuple[float, ...]]]

BLOOD_CELLS = ("RBC", "WBC", "Platelets")


def voc(
    root: str | os.PathLike[str],
    split: str,
    *,
    classes: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
) -> BoxDataset:
    """The images of one split: ``Annotations/NAME.xml``, ``JPEGImages/…`` and ``ImageSets/Main/SPLIT.txt`` below `root`.

    Boxes are (xmin, ymin, xmax, ymax) as the files have them, taken as distances from the upper left corner. One that
    reaches out of its image is cut off, one without area in it is skipped; a warning counts them and names the files.

    Args:
        root: the folder, such as ``VOC2007`` or ``BCCD``.
        split: name of a file in ``ImageSets/Main``, such as "train", "val", "trainval" or "test".
        classes: names of the labels, in their order; if None, all that any file in Annotations names, sorted, so that each
            split has the same.
        size: as for `BoxDataset`.
    Raises:
        FileNotFoundError: a file that is not there.
        ValueError: an empty split, malformed XML, a class that is not one of `classes`; names the file.
    """
    folder = Path(root).expanduser()
    names = _names_of(folder / "ImageSets" / "Main" / f"{split}.txt")
    if classes is None:
        every = sorted((folder / "Annotations").glob("*.xml"))
        classes = sorted({name for path in every for name, _ in _parsed(path)[2]})
    labels, checker, made = {name: i for i, name in enumerate(classes)}, BoxChecker("voc"), []
    for name in names:
        path = folder / "Annotations" / f"{name}.xml"
        filename, extents, objects = _parsed(path)
        for found, _ in objects:
            if found not in labels:
                raise ValueError(f'voc: {path} names class "{found}" but classes are {", ".join(classes)}')
        boxes, kept = checker.usable(np.array([box for _, box in objects]), extents, path.name)
        chosen = np.array([labels[found] for found, _ in objects], np.int64)[kept]
        made.append(Annotation(folder / "JPEGImages" / (filename or f"{name}.jpg"), extents, boxes[kept], chosen))
    checker.warn()
    return BoxDataset(made, classes, size)


def bccd(split: str, root: str | os.PathLike[str] | None = None, *, size: tuple[int, int] | None = None) -> BoxDataset:
    """Blood cells (BCCD, Shenggan 2018, MIT licence): 364 micrographs 640x480 with red and white cells and platelets.

    Two boxes without area, in images 00338 and 00343, are skipped with a warning.

    Args:
        split: "train" (205 images), "val" (87), "trainval" (292) or "test" (72).
        root: the folder that holds ``BCCD/`` as published; what GPUNET_DATA names if None.
        size: as for `BoxDataset`.
    Raises:
        FileNotFoundError: it is not there.
    """
    folder = find_folder("bccd", "BCCD", root, "https://github.com/Shenggan/BCCD_Dataset")
    return voc(folder, split, classes=BLOOD_CELLS, size=size)


def _names_of(path: Path) -> list[str]:
    """The first word of each line: a second one, as splits of one class have it, says whether the class is in it."""
    if not path.is_file():
        raise FileNotFoundError(f"voc: there is no split {path}")
    names = [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names:
        raise ValueError(f"voc: split {path} names no images")
    return names


def _parsed(path: Path) -> tuple[str, tuple[int, int], Objects]:
    """(the image's name, (height, width), [(class, (xmin, ymin, xmax, ymax)), …]) of an annotation file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FileNotFoundError(f"voc: cannot read {path}: {error.strerror}") from error
    if not content.strip():
        raise ValueError(f"voc: {path} is empty but must be XML")
    try:
        tree = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise ValueError(f"voc: {path} is not well-formed XML: {error}") from error
    height, width = int(_number(tree, "size/height", path)), int(_number(tree, "size/width", path))
    if min(height, width) < 1:
        raise ValueError(f"voc: {path} states a size of {width}x{height} pixels")
    objects: Objects = []
    for each in tree.findall("object"):
        name = (each.findtext("name") or "").strip()
        if not name:
            raise ValueError(f"voc: {path} has an object without a name")
        edges = ("xmin", "ymin", "xmax", "ymax")
        objects.append((name, tuple(_number(each, f"bndbox/{edge}", path) for edge in edges)))
    return (tree.findtext("filename") or "").strip(), (height, width), objects


def _number(tree: ElementTree.Element, name: str, path: Path) -> float:
    text = tree.findtext(name)
    try:
        value = float(text or "")
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise ValueError(f"voc: {path} must have a number as {name}, got {text!r}")
    return value
