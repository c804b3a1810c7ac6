"""Turns the formulas of a page into MathML when the site is built, so that no browser runs a script.

`pymdownx.arithmatex` finds the formulas between dollars and leaves their TeX in elements of its own
class. Every current browser draws MathML by itself.
"""

import html
import logging
import re
from typing import Any
from xml.etree import ElementTree

from latex2mathml.converter import convert

LOG = logging.getLogger("mkdocs.plugins.formulas")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
CODE = re.compile(r"<(pre|code)\b.*?</\1>", re.DOTALL)
PARTS = {"mfrac": 2, "mroot": 2, "msub": 2, "msup": 2, "munder": 2, "mover": 2, "msubsup": 3, "munderover": 3}
"""How many parts an element of MathML has."""
NAMED = re.compile(
    r"(\\(?:log|ln|exp|cos|sin|tanh?|max|min)(?![a-zA-Z])(?:[_^](?:\{[^}]*\}|\w))*) *(?=[a-zA-Z0-9]|\\[a-zA-Z])(?!\\left)"
)
"""A function by its name whose argument follows without a parenthesis."""


def on_page_content(content: str, /, *, page: Any, **_: Any) -> str:
    """Replace every formula of a page; one that cannot be translated is a warning, which fails the build."""

    def drawn(match: re.Match[str]) -> str:
        tex, display = html.unescape(match[2]).strip(), "block" if match[1] == "div" else "inline"
        try:
            # align* is the same as aligned, by the name that the converter knows
            math = convert(spaced(tex).replace("{aligned}", "{align*}"), display=display)
            fault = fault_of(math)
        except Exception as error:
            math, fault = "", f"{type(error).__name__} {error}"
        if fault:
            LOG.warning("%s: the formula %s cannot be translated: %s", page.file.src_path, tex, fault)
        return f'<{match[1]} class="formula">{math}</{match[1]}>'

    translated = FORMULA.sub(drawn, content)
    if "$$" in CODE.sub("", translated):
        LOG.warning("%s: $$ was not read as a formula; in a list it is indented by 4 spaces", page.file.src_path)
    return translated


def spaced(tex: str) -> str:
    """The formula with the thin space between a function's name and its argument that TeX sets by itself."""
    return NAMED.sub(r"\1 \, ", tex)


def fault_of(math: str) -> str:
    """What is wrong with MathML; empty if nothing is. The converter itself passes on what it does not know."""
    unknown = re.search(r"\\\W?\w*", math)
    if unknown:
        return f"{unknown[0]} is not known here"
    for element in ElementTree.fromstring(math).iter():
        kind = element.tag.rpartition("}")[2]
        if len(element) != PARTS.get(kind, len(element)):
            return f"{kind} has {len(element)} parts"
        if kind in ("mo", "mn") and not (element.text or "").strip():
            return f"an empty {kind}"
    return ""
