"""Data sets in the layout of Pascal VOC, and the parsing of their XML.

Everingham et al. 2010, "The PASCAL Visual Object Classes (VOC) challenge".
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from gpunet.data.readers.annotations import Annotation, BoxChecker, BoxDataset
from gpunet.data.readers.checks import LARGEST, LONGEST_SIDE, flag, shown
from gpunet.data.readers.download import Root, find_folder
from gpunet.data.readers.images import SUFFIXES
from gpunet.progress import track

__all__ = ["bccd", "voc"]


class _Object(NamedTuple):
    """One object of an annotation file."""

    name: str
    box: tuple[float, ...]
    """(xmin, ymin, xmax, ymax) as in the file."""
    difficult: bool


BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # stands before UTF-16's mark, with which it begins
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (b"<\0?\0", "utf-16-le"),  # not a mark, but the beginning of XML (XML 1.0, appendix F)
    (b"\0<\0?", "utf-16-be"),
)

WIDER = {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949"}
"""For each encoding, by Python's name, one that contains it.

Programs write text in the wider encoding under the other's name.
"""

BLOOD_CELLS = ("RBC", "WBC", "Platelets")


def voc(
    root: str | os.PathLike[str],
    split: str,
    *,
    classes: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
    skip_difficult: bool = False,
    one_based: bool = False,
) -> BoxDataset:
    """Read one split of a data set in Pascal VOC's layout.

    The files are ``Annotations/NAME.xml``, ``JPEGImages/…`` and ``ImageSets/Main/SPLIT.txt`` below
    `root`. Boxes are (xmin, ymin, xmax, ymax) as in the files, taken as distances from the upper
    left corner. Boxes that reach beyond their image are clipped, and those without area in it are
    skipped; one warning counts them and names the files.

    The image of an annotation is the file in JPEGImages with the annotation's own name, or else the
    file that its ``<filename>`` names. XML is read in the encoding that it declares; the split's file
    is read as UTF-8, or as UTF-16 with a byte order mark.

    Args:
        root: the folder, such as ``VOC2007`` or ``BCCD``.
        split: name of a file in ``ImageSets/Main``, such as "train", "val" or "test". Each line
            holds the name of an image. In splits of one class, a 1, 0 or -1 after the name says
            whether the class is in the image; all images are taken.
        classes: names of the labels in their order; if None, all names in any file of Annotations,
            sorted, so that every split has the same classes.
        size: as for `BoxDataset`.
        skip_difficult: whether to leave out objects that are marked as difficult.
        one_based: whether the files count pixels from 1 and include xmax and ymax in the box, as
            Pascal VOC's own files do; 1 is then subtracted from xmin and ymin.
    Raises:
        FileNotFoundError: a file that is not there.
        ValueError: an empty split, malformed XML or XML with a DTD (which could define entities),
            text that does not match its encoding, an object without exactly one name and one box,
            or a class that is not in `classes`. The message names the file.
    """
    folder = Path(root).expanduser()
    names = _names_of(folder / "ImageSets" / "Main" / f"{split}.txt", folder / "Annotations")
    if classes is None:
        files = (path for path in (folder / "Annotations").glob("*.xml") if not path.name.startswith("."))
        classes = sorted(
            {each.name for path in track(sorted(files), "reading classes", "file") for each in _parsed(path)[2]}
        )
    labels, checker, made = {name: i for i, name in enumerate(classes)}, BoxChecker("voc"), []
    for name in track(names, "reading annotations", "file"):
        path = folder / "Annotations" / f"{name}.xml"
        filename, extents, every = _parsed(path)
        objects = [each for each in every if not (skip_difficult and each.difficult)]
        if unknown := [each.name for each in objects if each.name not in labels]:
            raise ValueError(f'voc: {path} names class "{unknown[0]}" but classes are {", ".join(classes)}')
        corners = np.array([each.box for each in objects]).reshape(-1, 4) - ([1, 1, 0, 0] if one_based else 0)
        boxes, kept = checker.usable(corners, extents, path.name)
        chosen = np.array([labels[each.name] for each in objects], np.int64)[kept]
        made.append(Annotation(_image_of(folder / "JPEGImages", name, filename), extents, boxes[kept], chosen))
    checker.warn()
    return BoxDataset(made, classes, size)


def bccd(root: Root = None, split: str = "train", *, size: tuple[int, int] | None = None) -> BoxDataset:
    """Blood cells (BCCD, Shenggan 2018, MIT licence): 364 micrographs of 640x480 pixels.

    Its classes are red blood cells, white blood cells and platelets. Two boxes without area, in
    images 00338 and 00343, are skipped with a warning.

    Args:
        root: the folder that holds ``BCCD/`` as published; the folder in GPUNET_DATA if None.
        split: "train" (205 images), "val" (87), "trainval" (292) or "test" (72).
        size: as for `BoxDataset`.
    Raises:
        FileNotFoundError: the folder is not there.
    """
    folder = find_folder("bccd", "BCCD", root, "https://github.com/Shenggan/BCCD_Dataset")
    return voc(folder, split, classes=BLOOD_CELLS, size=size)


def _names_of(path: Path, annotations: Path) -> list[str]:
    """The names of a split's images.

    A number after a name, as in splits of one class, is not part of it unless there is such a file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"voc: there is no split {path}")
    names = []
    for line in decoded(path.read_bytes(), f"voc: {path}").splitlines():
        if name := line.strip():
            flagged = re.fullmatch(r"(.*\S)\s+[+-]?[01]", name)
            names.append(flagged[1] if flagged and not (annotations / f"{name}.xml").is_file() else name)
    if not names:
        raise ValueError(f"voc: split {path} names no images")
    return names


def _image_of(folder: Path, name: str, filename: str) -> Path:
    """The path of the image that belongs to the annotation called `name`.

    Its ``<filename>`` may be missing, wrong, or a path on another machine.
    """
    stated = PureWindowsPath(filename).name  # the part after the last "/" or "\\"
    beside = (folder / name).parent
    own = [stated] if PureWindowsPath(stated).stem == Path(name).name else []
    own += [Path(name).name + ending for suffix in (".jpg", *SUFFIXES) for ending in (suffix, suffix.upper())]
    there = (beside / candidate for candidate in (*own, stated) if candidate and (beside / candidate).is_file())
    return next(there, beside / (stated or own[0]))


def _parsed(path: Path) -> tuple[str, tuple[int, int], list[_Object]]:
    """(name of the image, (height, width), objects) of an annotation file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FileNotFoundError(f"voc: cannot read {path}: {error.strerror}") from error
    tree = parsed_xml(content, f"voc: {path}")
    height, width = _number(tree, "size/height", path), _number(tree, "size/width", path)
    if not (min(height, width) >= 1 and max(height, width) <= LONGEST_SIDE and height % 1 == width % 1 == 0):
        raise ValueError(f"voc: {path} states a size of {width:g}x{height:g} pixels")
    objects = [_object(each, path) for each in tree.findall("object")]
    return _text(tree, "filename", path).strip(), (int(height), int(width)), objects


def _object(element: ElementTree.Element, path: Path) -> _Object:
    """One object element, checked."""
    name = _text(element, "name", path).strip()
    if not name:
        raise ValueError(f"voc: {path} has an object without a name")
    difficult = flag(_text(element, "difficult", path))
    if difficult is None:
        raise ValueError(f"voc: {path} must have 0 or 1 as difficult, got {shown(element.findtext('difficult'))}")
    if len(element.findall("bndbox")) > 1:
        raise ValueError(f"voc: {path} has an object with {len(element.findall('bndbox'))} boxes")
    return _Object(
        name, tuple(_number(element, f"bndbox/{edge}", path) for edge in ("xmin", "ymin", "xmax", "ymax")), difficult
    )


def _text(element: ElementTree.Element, name: str, path: Path) -> str:
    """The text of the one element of that name; "" if there is none."""
    found = element.findall(name)
    if len(found) > 1:
        raise ValueError(f"voc: {path} has {name} {len(found)} times in one element")
    return (found[0].text or "") if found else ""


def _number(element: ElementTree.Element, name: str, path: Path) -> float:
    """The number in the one element of that name."""
    text = _text(element, name, path)
    try:
        value = float(text) if "_" not in text else np.nan  # Python would accept 1_000
    except ValueError:
        value = np.nan
    if not abs(value) <= LARGEST:
        raise ValueError(f"voc: {path} must have a number as {name}, got {shown(element.findtext(name))}")
    return value


# ---- text and XML of other people's files


def decoded(content: bytes, where: str) -> str:
    """The text of a file.

    Its encoding is that of its byte order mark, the one that its XML declares, or UTF-8.

    Args:
        content: the file's bytes.
        where: begins errors, such as "voc: set.xml".
    Raises:
        ValueError: an encoding that Python does not know, bytes that do not match the encoding, or
            null characters.
    """
    declared = re.match(rb"""\s*<\?xml[^>]*?\bencoding\s*=\s*["']([A-Za-z0-9._:-]+)["']""", content[:1000])
    marked = next((encoding for mark, encoding in BYTE_ORDER_MARKS if content.startswith(mark)), None)
    name = marked or (declared[1].decode("ascii") if declared else "utf-8")
    try:
        if not marked and codecs.lookup(name).name.startswith(("utf-16", "utf-32")):
            name = "utf-8"  # the declaration was found as single bytes, so it cannot be true
        try:
            text = content.decode(name)
        except UnicodeError:
            if (wider := WIDER.get(codecs.lookup(name).name)) is None:
                raise
            text = content.decode(wider)
        if "\0" in text:  # from binary data, or from text of two bytes per character
            raise ValueError("it holds null characters")
    except (LookupError, ValueError) as error:  # UnicodeError is a ValueError
        raise ValueError(f"{where} is not text in the encoding {name}: {error}") from error
    return text


def parsed_xml(content: bytes, where: str) -> ElementTree.Element:
    """The root element of an XML file; the arguments are those of `decoded`.

    Raises:
        ValueError: a file that is empty, is not text, is not well-formed, or has a DTD, whose
            entities may expand without end.
    """
    if not content.strip():
        raise ValueError(f"{where} is empty but must be XML")
    text = decoded(content, where)
    builder = _Builder()
    try:
        parser = ElementTree.XMLParser(target=builder)
        parser.feed(text.lstrip())  # some programs write an empty line before the declaration
        root: ElementTree.Element = parser.close()
    except ElementTree.ParseError as error:
        raise ValueError(f"{where} is not well-formed XML: {error}") from error
    except _RefusedError as error:
        raise ValueError(f"{where} has a document type, which is refused: it may define entities") from error
    return root


class _RefusedError(Exception):
    """The file has a document type."""


class _Builder(ElementTree.TreeBuilder):
    """Stops where a document type begins, before any of its entities is read."""

    def doctype(self, name: str, pubid: str, system: str) -> None:
        """Called by the parser at the beginning of a document type."""
        raise _RefusedError
