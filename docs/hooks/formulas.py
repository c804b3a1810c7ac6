"""Turns the formulas of a page into MathML when the site is built, so that no browser runs a script.

`pymdownx.arithmatex` finds the formulas between dollars and leaves their TeX in elements of its own
class. Every current browser draws MathML by itself.
"""

import html
import logging
import re
from typing import Any

from latex2mathml.converter import convert

LOG = logging.getLogger("mkdocs.plugins.formulas")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(content: str, /, *, page: Any, **_: Any) -> str:
    """Replace every formula of a page; one that cannot be translated is a warning, which fails the build."""

    def drawn(match: re.Match[str]) -> str:
        tex = html.unescape(match[2]).strip()
        try:
            math = convert(tex, display="block" if match[1] == "div" else "inline")
        except Exception as error:
            LOG.warning("%s: the formula %s is not understood: %s", page.file.src_path, tex, type(error).__name__)
            return match[0]
        unknown = re.search(r"\\[A-Za-z]+", math)
        if unknown:
            LOG.warning("%s: the formula %s has an unknown command, %s", page.file.src_path, tex, unknown[0])
        return f'<{match[1]} class="formula">{math}</{match[1]}>'

    return FORMULA.sub(drawn, content)
