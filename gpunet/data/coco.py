"""Data sets as COCO's JSON (Lin et al. 2014, "Microsoft COCO: common objects in context"): read, written, masks coded."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gpunet.data.boxes import Annotation, BoxChecker, BoxDataset


def coco(
    annotations: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    *,
    size: tuple[int, int] | None = None,
) -> BoxDataset:
    """A data set of COCO's detection format, without its crowds.

    Its boxes (x, y, width, height) become (x0, y0, x1, y1). Classes are in the order of their category ids. Boxes that
    reach out of an image are cut off, those without area in it are skipped; a warning counts them.

    Args:
        annotations: the JSON file.
        images: the folder that its file names are in; the JSON file's own if None.
        size: as for `BoxDataset`.
    Raises:
        FileNotFoundError: no such file.
        ValueError: JSON that is malformed or not of this format; names the file, and the entry.
    """
    path = Path(annotations).expanduser()
    content = _loaded(path)
    folder = path.parent if images is None else Path(images).expanduser()
    categories = sorted(_entries(content, "categories", ("id", "name"), path), key=lambda c: c["id"])
    labels = {category["id"]: i for i, category in enumerate(categories)}
    pictures = _entries(content, "images", ("id", "file_name", "height", "width"), path)
    found: dict[Any, list[Mapping[str, Any]]] = {picture["id"]: [] for picture in pictures}
    for i, entry in enumerate(_entries(content, "annotations", ("image_id", "category_id", "bbox"), path)):
        if entry["image_id"] not in found or entry["category_id"] not in labels:
            raise ValueError(
                f"coco: {path}: annotations[{i}] is of image {entry['image_id']} and category {entry['category_id']}, "
                "not both of which are in the file"
            )
        if not entry.get("iscrowd"):
            found[entry["image_id"]].append({**entry, "bbox": _box(entry["bbox"], i, path)})
    checker, made = BoxChecker("coco"), []
    for picture in pictures:
        entries = found[picture["id"]]
        extents = int(picture["height"]), int(picture["width"])
        boxes, kept = checker.usable(np.array([e["bbox"] for e in entries]), extents, str(picture["file_name"]))
        entries = [entry for entry, keep in zip(entries, kept, strict=True) if keep]
        chosen = np.array([labels[entry["category_id"]] for entry in entries], np.int64)
        parts = tuple(entry.get("segmentation") for entry in entries)
        made.append(
            Annotation(folder / picture["file_name"], extents, boxes[kept], chosen, parts if all(parts) else ())
        )
    checker.warn()
    return BoxDataset(made, [category["name"] for category in categories], size)


def write_coco(
    path: str | os.PathLike[str], annotations: Sequence[Annotation], classes: Sequence[str], *, images: Any = None
) -> None:
    """Write a data set in COCO's format, which `coco` and pycocotools read; what is at `path` is replaced.

    Args:
        path: the JSON file.
        annotations: one an image; the areas are those of the masks where there are segmentations, else of the boxes.
        classes: names of the labels; their category ids are 1, 2, ….
        images: the folder that file names are written relative to; the JSON file's own if None.
    Raises:
        ValueError: labels out of range, an image that is not in the folder; nothing is written.
        ImportError: there are masks, and pycocotools is not installed.
    """
    target = Path(path).expanduser()
    folder = (target.parent if images is None else Path(images).expanduser()).resolve()
    pictures: list[dict[str, Any]] = []
    entries: list[dict[str, Any]] = []
    for i, each in enumerate(annotations, 1):
        image = Path(each.path).expanduser().resolve()
        if not image.is_relative_to(folder):
            raise ValueError(
                f"write_coco: {image} is not in {folder}; name the folder that holds the images by images="
            )
        height, width = each.size
        name = image.relative_to(folder).as_posix()
        pictures.append({"id": i, "file_name": name, "height": int(height), "width": int(width)})
        for k, (box, label) in enumerate(zip(each.boxes.tolist(), each.labels.tolist(), strict=True)):
            if not 0 <= label < len(classes):
                raise ValueError(f"write_coco: {image} has label {label} but there are {len(classes)} classes")
            x0, y0, x1, y1 = box
            entry: dict[str, Any] = {"id": len(entries) + 1, "image_id": i, "category_id": label + 1, "iscrowd": 0}
            entry |= {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}
            if each.segmentations:
                entry["segmentation"] = _plain(each.segmentations[k])
                entry["area"] = int(decode_mask(each.segmentations[k], each.size, source=str(image)).sum())
            entries.append(entry)
    categories = [{"id": i, "name": name} for i, name in enumerate(classes, 1)]
    text = json.dumps({"images": pictures, "annotations": entries, "categories": categories})
    aside = target.with_name(target.name + ".part")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, target)


def annotate_masks(path: str | os.PathLike[str], masks: Any, labels: Sequence[int]) -> Annotation:
    """The annotation of an image by the masks of its objects: their boxes, and their run-length codes.

    Args:
        path: of the image file.
        masks: (K, H, W), what is not 0 belongs to the object.
        labels: (K,), positions in the data set's classes.
    Raises:
        ValueError: masks without a pixel, or other numbers of masks and labels.
        ImportError: pycocotools is not installed.
    """
    stack, chosen = np.asarray(masks) != 0, np.asarray(labels, np.int64)
    if stack.ndim != 3 or len(stack) != len(chosen):
        raise ValueError(
            f"annotate_masks: {path} takes masks (K, H, W) and K labels, got {stack.shape} and {len(chosen)}"
        )
    codes = tuple(encode_mask(mask) for mask in stack)
    return Annotation(Path(path), (stack.shape[1], stack.shape[2]), boxes_of_masks(stack), chosen, codes)


def boxes_of_masks(masks: np.ndarray) -> np.ndarray:
    """The smallest upright boxes around masks (K, H, W) -> (K, 4) float32, (x0, y0, x1, y1); ValueError for an empty one."""
    boxes = np.zeros((len(masks), 4), np.float32)
    for i, mask in enumerate(masks):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not rows.size:
            raise ValueError(f"boxes_of_masks: mask {i} has no pixel")
        boxes[i] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """A mask (H, W) as COCO's compressed run-length code: {"size": [H, W], "counts": str}."""
    coder = _coder()
    with _older_numpy():
        return _plain(coder.encode(np.asfortranarray(np.asarray(mask) != 0, np.uint8)))


def decode_mask(segmentation: Any, size: tuple[int, int], *, source: str = "segmentation") -> np.ndarray:
    """(H, W) bool of COCO's segmentation: polygons, or a run-length code, compressed or not.

    Args:
        segmentation: [[x, y, x, y, …], …] in pixels, or {"size": [H, W], "counts": str or list}.
        size: (H, W) of the image.
        source: named by errors.
    Raises:
        ValueError: a code of another size, or one that cannot be read.
        ImportError: pycocotools is not installed.
    """
    coder = _coder()
    if isinstance(segmentation, Mapping):
        if tuple(segmentation.get("size", ())) != tuple(size):
            raise ValueError(f"decode_mask: {source} has a mask of {segmentation.get('size')} but is {list(size)}")
        parts: Any = segmentation
    else:
        parts = [list(polygon) for polygon in segmentation]
        if not parts or any(len(polygon) < 6 or len(polygon) % 2 for polygon in parts):
            raise ValueError(f"decode_mask: {source} has a polygon that is not x, y of at least three points")
    try:
        with _older_numpy():
            if not isinstance(parts, Mapping) or isinstance(parts.get("counts"), list):
                parts = coder.frPyObjects(parts, *size)
            decoded = coder.decode(parts)
    except Exception as error:  # pycocotools raises many kinds
        raise ValueError(f"decode_mask: {source} has a segmentation that cannot be read: {error}") from error
    return decoded.astype(bool) if decoded.ndim == 2 else decoded.any(axis=2)


def _plain(segmentation: Any) -> Any:
    """A segmentation that JSON can hold: pycocotools gives counts as bytes."""
    if not isinstance(segmentation, Mapping):
        return segmentation
    counts = segmentation["counts"]
    return {
        "size": [int(n) for n in segmentation["size"]],
        "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts,
    }


@contextmanager
def _older_numpy() -> Iterator[None]:
    """Without the deprecations that pycocotools, written for NumPy 1, meets in NumPy 2."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _coder() -> Any:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ImportError('masks of COCO need pycocotools: pip install "gpunet[examples]"') from error
    return mask


def _loaded(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"coco: there is no file {path}")
    text = path.read_text(encoding="utf-8", errors="replace")
    if not text.strip():
        raise ValueError(f"coco: {path} is empty but must be JSON")
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"coco: {path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"coco: {path} must hold an object, got a {type(content).__name__}")
    return content


def _entries(content: dict[str, Any], name: str, keys: Sequence[str], path: Path) -> list[dict[str, Any]]:
    entries = content.get(name)
    if not isinstance(entries, list):
        raise ValueError(f'coco: {path} must have a list "{name}"')
    if not entries and name != "annotations":  # images without objects are good, no images are not
        raise ValueError(f'coco: {path} has no entries in "{name}"')
    for i, entry in enumerate(entries):
        missing = [key for key in keys if not isinstance(entry, dict) or key not in entry]
        if missing:
            raise ValueError(f"coco: {path}: {name}[{i}] has no {', '.join(missing)}")
    return entries


def _box(given: Any, i: int, path: Path) -> list[float]:
    if (
        not isinstance(given, list)
        or len(given) != 4
        or not all(isinstance(v, int | float) and np.isfinite(v) for v in given)
    ):
        raise ValueError(f"coco: {path}: annotations[{i}] must have bbox [x, y, width, height], got {given}")
    x, y, width, height = given
    return [x, y, x + width, y + height]
