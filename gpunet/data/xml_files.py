"""XML of other people's files: decoded by the encoding that it declares, parsed without entities."""

from __future__ import annotations

import codecs
import re
from xml.etree import ElementTree

BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16's, with which it begins
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (b"<\0?\0", "utf-16-le"),  # no mark, but how XML begins (XML 1.0, appendix F)
    (b"\0<\0?", "utf-16-be"),
)

WIDER = {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949"}
"""The encoding that holds another one and more, which programs write under the other's name; by Python's names."""


def decoded(content: bytes, where: str) -> str:
    """The text of a file: in the encoding of its byte order mark, the one that its XML declares, or UTF-8.

    Args:
        content: the file's bytes.
        where: begins errors, such as "voc: set.xml".
    Raises:
        ValueError: an encoding that Python does not know, bytes that are not of it, null characters.
    """
    declared = re.match(rb"""\s*<\?xml[^>]*?\bencoding\s*=\s*["']([A-Za-z0-9._:-]+)["']""", content[:1000])
    marked = next((encoding for mark, encoding in BYTE_ORDER_MARKS if content.startswith(mark)), None)
    name = marked or (declared[1].decode("ascii") if declared else "utf-8")
    try:
        if not marked and codecs.lookup(name).name.startswith(("utf-16", "utf-32")):
            name = "utf-8"  # for the declaration has been read one byte a character
        try:
            text = content.decode(name)
        except UnicodeError:
            if (wider := WIDER.get(codecs.lookup(name).name)) is None:
                raise
            text = content.decode(wider)
        if "\0" in text:  # of no text, or of two bytes a character
            raise ValueError("it holds null characters")
    except (LookupError, ValueError) as error:  # UnicodeError is a ValueError
        raise ValueError(f"{where} is not text in the encoding {name}: {error}") from error
    return text


def parsed_xml(content: bytes, where: str) -> ElementTree.Element:
    """The root of an XML file; arguments as for `decoded`.

    Raises:
        ValueError: a file that is empty, not text, not well-formed, or that has a DTD: its entities may expand without end.
    """
    if not content.strip():
        raise ValueError(f"{where} is empty but must be XML")
    text = decoded(content, where)
    builder = _Builder()
    try:
        parser = ElementTree.XMLParser(target=builder)
        parser.feed(text.lstrip())  # some write a line before the declaration
        root: ElementTree.Element = parser.close()
    except ElementTree.ParseError as error:
        raise ValueError(f"{where} is not well-formed XML: {error}") from error
    except _RefusedError as error:
        raise ValueError(f"{where} has a document type, which is not read: it may define entities") from error
    return root


class _RefusedError(Exception):
    """A document type has begun."""


class _Builder(ElementTree.TreeBuilder):
    """Stops where a document type begins, before any of its entities is read."""

    def doctype(self, name: str, pubid: str, system: str) -> None:
        """What the parser calls first."""
        raise _RefusedError
