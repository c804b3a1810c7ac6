"""Data sets in COCO's JSON format.

Lin et al. 2014, "Microsoft COCO: common objects in context".
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpunet.data.readers.annotations import Annotation, BoxChecker, BoxDataset
from gpunet.data.readers.checks import LARGEST, LONGEST_SIDE, flag, name_below, numbers, shown, whole, written
from gpunet.data.readers.masks import boxes_of_masks, decode_mask, encode_mask, plain_segmentation
from gpunet.files import write_whole
from gpunet.progress import track, working

__all__ = ["annotate_masks", "coco", "write_coco"]


def coco(
    annotations: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    *,
    size: tuple[int, int] | None = None,
) -> BoxDataset:
    """Read a data set in COCO's detection format; annotations of crowds are left out.

    Boxes (x, y, width, height) become (x0, y0, x1, y1). Classes come in the order of their category
    ids, which are whole numbers or text. Boxes that reach beyond their image are clipped, and those
    without area in it are skipped; one warning counts them. Masks are checked when
    `Annotation.masks` decodes them.

    Args:
        annotations: the JSON file, in UTF-8, UTF-16 or UTF-32.
        images: the folder of the image files; the JSON file's own folder if None. No file name may
            lead out of it.
        size: as for `BoxDataset`.
    Raises:
        FileNotFoundError: there is no such file.
        ValueError: JSON that is malformed or not of this format; the message names the file and the
            entry.
    """
    path = Path(annotations).expanduser()
    folder = path.parent if images is None else Path(images).expanduser()
    with working(f"reading {path.name}"):
        content = _loaded(path)
        categories = _by_id(content, "categories", ("id", "name"), path)
        labels = {identity: i for i, identity in enumerate(_in_order(list(categories), path))}
        pictures = _by_id(content, "images", ("id", "file_name", "height", "width"), path)
        found: dict[int | str, list[Entry]] = {identity: [] for identity in pictures}
        for entry in _entries(content, "annotations", ("image_id", "category_id", "bbox"), path):
            image, category = entry.identity("image_id"), entry.identity("category_id")
            if image not in found or category not in labels:
                raise ValueError(
                    f"{entry.where} names image {shown(image)} and category {shown(category)}, but the file does not have both"
                )
            if not entry.flag("iscrowd"):
                found[image].append(entry)
    checker = BoxChecker("coco")
    made = [
        _annotation(picture, found[identity], labels, folder, checker)
        for identity, picture in track(pictures.items(), "reading annotations", "image")
    ]
    checker.warn()
    return BoxDataset(made, [categories[identity].text("name") for identity in labels], size)


def _annotation(
    picture: Entry, entries: list[Entry], labels: dict[int | str, int], folder: Path, checker: BoxChecker
) -> Annotation:
    """The annotation of one image, from the file's entries for it."""
    name, extents = picture.file_name("file_name"), (picture.side("height"), picture.side("width"))
    boxes, kept = checker.usable(np.array([entry.box("bbox") for entry in entries]), extents, name)
    entries = [entry for entry, keep in zip(entries, kept, strict=True) if keep]
    for entry in entries:
        if not isinstance(entry.content.get("segmentation"), list | dict | None):
            raise entry.wrong("segmentation", "polygons or a run-length code")
    parts = tuple(entry.content.get("segmentation") for entry in entries)
    chosen = np.array([labels[entry.identity("category_id")] for entry in entries], np.int64)
    if not all(parts):
        return Annotation(folder / name, extents, boxes[kept], chosen)
    return Annotation(folder / name, extents, boxes[kept], chosen, parts, tuple(entry.where for entry in entries))


def write_coco(
    path: str | os.PathLike[str], annotations: Sequence[Annotation], classes: Sequence[str], *, images: Any = None
) -> None:
    """Write a data set in COCO's format, which `coco` and pycocotools read.

    Everything is checked before the file is touched, and an old file is replaced as a whole. `coco`
    reads back the same paths, sizes, boxes, labels, segmentations and classes.

    Args:
        path: the JSON file.
        annotations: one for each image. An object's area is that of its mask, or of its box where
            there are no segmentations.
        classes: names of the labels; their category ids are 1, 2, ….
        images: the folder that file names are relative to; the JSON file's own folder if None.
    Raises:
        FileNotFoundError: the folder of `path` does not exist.
        ValueError: no image, labels out of range, a box without area or not within its image, a
            segmentation that cannot be read, an image that is not in the folder. Nothing is written
            then.
        ImportError: there are polygons, and pycocotools is not installed.
    """
    target = Path(path).expanduser()
    if not target.parent.is_dir():
        raise FileNotFoundError(f"write_coco: there is no folder {target.parent}")
    folder = (target.parent if images is None else Path(images).expanduser()).resolve()
    pictures: list[dict[str, Any]] = []
    entries: list[dict[str, Any]] = []
    for i, each in enumerate(annotations, 1):
        name, (height, width) = _name_in(folder, each), each.size
        pictures.append({"id": i, "file_name": name, "height": height, "width": width})
        for k, label in enumerate(each.labels.tolist()):
            if label >= len(classes):
                raise ValueError(f"write_coco: {each.path} has label {label} but there are {len(classes)} classes")
            ids = {"id": len(entries) + 1, "image_id": i, "category_id": label + 1, "iscrowd": 0}
            entries.append(ids | _shape_of(each, k))
    if not pictures:
        raise ValueError("write_coco: there are no annotations, but there must be at least one image")
    if isinstance(classes, str) or not classes or not all(written(name) for name in classes):
        raise ValueError(f"write_coco: classes must be names that are not blank, at least one, got {shown(classes)}")
    categories = [{"id": i, "name": name} for i, name in enumerate(classes, 1)]
    content = {"images": pictures, "annotations": entries, "categories": categories}
    write_whole(target, json.dumps(content, allow_nan=False).encode())


def _name_in(folder: Path, annotation: Annotation) -> str:
    """The name of an image's file relative to the folder; it must be read back as the same name."""
    image = Path(annotation.path).expanduser().resolve()
    if not image.is_relative_to(folder):
        raise ValueError(f"write_coco: {image} is not in {folder}; pass the folder of the images as images=")
    name = image.relative_to(folder).as_posix()
    if name == "." or name_below(name) != name:
        raise ValueError(f"write_coco: {image} has a name that COCO's readers would read as another one, got {name!r}")
    return name


def _shape_of(annotation: Annotation, k: int) -> dict[str, Any]:
    """Box, area and segmentation of an annotation's k-th object, as the file's keys."""
    box, (height, width) = annotation.boxes[k], annotation.size
    x0, y0, x1, y1 = box.tolist()
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise ValueError(
            f"write_coco: {annotation.path} has box {k} of {box.tolist()}, (x0, y0, x1, y1), but it must have an area within "
            f"the image of {height} x {width} pixels"
        )
    made: dict[str, Any] = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}
    if annotation.segmentations:
        given = annotation.segmentations[k]
        made["area"] = int(decode_mask(given, annotation.size, source=f"{annotation.path}, object {k},").sum())
        made["segmentation"] = plain_segmentation(given)
    return made


def annotate_masks(path: str | os.PathLike[str], masks: Any, labels: Sequence[int]) -> Annotation:
    """The annotation of an image from the masks of its objects: their boxes and run-length codes.

    Args:
        path: of the image file.
        masks: (K, H, W); elements other than 0 belong to the object.
        labels: (K,), positions in the data set's classes.
    Raises:
        ValueError: masks without a pixel, or different numbers of masks and labels.
        TypeError: labels that are not whole numbers.
        ImportError: pycocotools is not installed.
    """
    stack, chosen = np.asarray(masks) != 0, np.asarray(labels)
    if stack.ndim != 3 or chosen.shape != stack.shape[:1]:
        raise ValueError(
            f"annotate_masks: {path} takes masks (K, H, W) and K labels, got {stack.shape} and {chosen.shape}"
        )
    codes = tuple(encode_mask(mask) for mask in stack)
    return Annotation(
        Path(path), (stack.shape[1], stack.shape[2]), boxes_of_masks(stack, source=f"{path}, mask"), chosen, codes
    )


def _loaded(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds."""
    if not path.is_file():
        raise FileNotFoundError(f"coco: there is no file {path}")
    text = path.read_bytes()
    if not text.strip():
        raise ValueError(f"coco: {path} is empty but must be JSON")
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"coco: {path} is not JSON that can be read: it nests too deeply") from error
    except ValueError as error:  # also for bytes that are not text and for too long numbers
        raise ValueError(f"coco: {path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"coco: {path} must hold an object, got a {type(content).__name__}")
    return content


def _entries(content: dict[str, Any], name: str, keys: tuple[str, ...], path: Path) -> list[Entry]:
    """The entries of one of the file's lists, each with the given keys."""
    entries = content.get(name)
    if not isinstance(entries, list):
        raise ValueError(f'coco: {path} must have a list "{name}"')
    if not entries and name != "annotations":  # a set may have no objects, but must have images
        raise ValueError(f'coco: {path} has no entries in "{name}"')
    return [Entry(entry, f"coco: {path}: {name}[{i}]", keys) for i, entry in enumerate(entries)]


def _by_id(content: dict[str, Any], name: str, keys: tuple[str, ...], path: Path) -> dict[int | str, Entry]:
    """The entries by their ids; ValueError for an id that occurs twice."""
    found: dict[int | str, Entry] = {}
    for entry in _entries(content, name, keys, path):
        identity = entry.identity("id")
        if identity in found:
            raise ValueError(f"{entry.where} has the same id as {found[identity].where}")
        found[identity] = entry
    return found


def _in_order(identities: list[int | str], path: Path) -> list[int | str]:
    """The ids of the categories, sorted; ValueError for a mixture of numbers and text."""
    if len(set(map(type, identities))) > 1:
        raise ValueError(
            f"coco: {path}: ids of categories must be all whole numbers or all text, got {shown(identities)}"
        )
    return sorted(identities)


class Entry:
    """An object of a JSON file, whose fields are checked when they are asked for.

    Args:
        content: the object as JSON gives it.
        where: its place in the file, such as "set.json: images[3]"; begins errors.
        required: keys that it must have.
    Raises:
        ValueError: not an object, or one that lacks a key; the methods raise it for a field of the
            wrong kind.
    """

    def __init__(self, content: Any, where: str, required: tuple[str, ...]) -> None:
        if not isinstance(content, Mapping):
            raise ValueError(f"{where} must be an object, got {shown(content)}")
        if missing := [key for key in required if key not in content]:
            raise ValueError(f"{where} has no {', '.join(missing)}")
        self.content, self.where = content, where
        if content.get("id") is not None:
            self.where += f" (id {shown(content['id'])})"

    def identity(self, key: str) -> int | str:
        """The field as an id: a whole number or text."""
        value = self.content[key]
        number = None if isinstance(value, str) else whole(value)
        if number is None and not written(value):
            raise self.wrong(key, "a whole number or text")
        return value if number is None else number

    def text(self, key: str) -> str:
        """The field as text that is not blank."""
        if not written(self.content[key]):
            raise self.wrong(key, "text that is not blank")
        return str(self.content[key])

    def file_name(self, key: str) -> str:
        """The field as the name of a file, as `name_below` gives it."""
        if (name := name_below(self.content[key])) is None:
            raise self.wrong(key, "the name of a file below the folder of the images")
        return name

    def side(self, key: str) -> int:
        """The field as an image's height or width in pixels."""
        number = whole(self.content[key])
        if number is None or not 1 <= number <= LONGEST_SIDE:
            raise self.wrong(key, f"a whole number of pixels from 1 to {LONGEST_SIDE}")
        return number

    def flag(self, key: str) -> bool:
        """The field as `checks.flag` reads it; False if there is no such key."""
        if (value := flag(self.content.get(key))) is None:
            raise self.wrong(key, "0 or 1")
        return value

    def box(self, key: str) -> tuple[float, float, float, float]:
        """The field, COCO's [x, y, width, height], as (x0, y0, x1, y1)."""
        given = self.content[key]
        made = numbers(given)
        if made is None or made.shape != (4,):
            raise self.wrong(key, f"[x, y, width, height], numbers up to {LARGEST:.0f}")
        x, y, width, height = made.tolist()
        if width < 0 or height < 0:
            raise self.wrong(key, "[x, y, width, height] with a width and a height of at least 0")
        return x, y, x + width, y + height

    def wrong(self, key: str, expected: str) -> ValueError:
        """The error that says what a field must be and what it is."""
        return ValueError(f"{self.where} must have {key} {expected}, got {shown(self.content.get(key))}")
