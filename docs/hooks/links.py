"""Lets pages link to files of the repository outside docs/, as they are seen on a repository viewer.

The site holds none of these files. Where `repo_url` of mkdocs.yml is set, such a link leads to the
file there; where it is not, its text stays without a link. A file that does not exist is a warning,
which fails the build; so is a page that asks another host for anything.
"""

import logging
import re
from pathlib import Path
from typing import Any

LOG = logging.getLogger("mkdocs.plugins.links")
LINK = re.compile(r"\[([^\]]+)\]\((\.\./[^)\s#]+)(#[^)\s]*)?\)")
ASKED = re.compile(
    r"<(?:script|link(?![^>]*canonical)|img|iframe|source)\b[^>]*?\s(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)"
)
"""What a browser fetches with a page from another host."""


def on_page_markdown(markdown: str, /, *, page: Any, config: Any, **_: Any) -> str:
    """Resolve the links that leave docs/."""
    docs = Path(config.docs_dir).resolve()
    folder = (docs / page.file.src_path).parent

    def resolved(match: re.Match[str]) -> str:
        target = (folder / match[2]).resolve()
        if target.is_relative_to(docs):
            return match[0]
        if not target.exists():
            LOG.warning("%s: %s does not exist", page.file.src_path, match[2])
        if not config.repo_url:
            return match[1]
        path = target.relative_to(docs.parent).as_posix()
        return f"[{match[1]}]({config.repo_url.rstrip('/')}/blob/HEAD/{path}{match[3] or ''})"

    return LINK.sub(resolved, markdown)


def on_post_page(output: str, /, *, page: Any, **_: Any) -> str:
    """Warn of what a page would fetch from another host, such as fonts or scripts."""
    for address in ASKED.findall(output):
        LOG.warning("%s: the page asks another host: %s", page.file.src_path, address)
    return output
