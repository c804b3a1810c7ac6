"""Makes a notebook of each page that holds ``<!-- notebook -->``, executes it, and puts it beside the page.

Prose becomes Markdown cells, and each Python block a code cell. The output that a page shows behind a
block is left out, because an executed cell has its own. Shell blocks stay prose: their commands belong
into a terminal, and some of them, such as ``pip install``, come before the notebook is opened.

The cells hold what the page shows, and are executed so. The smaller settings of the tests
(``<!-- tested with: … -->``) do not count: the results of 3 epochs would mislead behind code and prose
of 20. So only a page that runs within seconds can be a notebook, and none that needs data which
scikit-learn or scikit-image do not bring along. Notebooks run beside each other, while the other pages
are made.

What a cell shows beyond text, a table in HTML or a figure, also stands below its block on the page,
unless the page has a picture there itself, for those who read the Markdown.
"""

import functools
import json
import logging
import os
import posixpath
import re
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

LOG = logging.getLogger("mkdocs.plugins.notebooks")
ROOT = Path(__file__).resolve().parents[2]
MARK = re.compile(r"^<!-- notebook -->$", re.MULTILINE)
DATA = re.compile(r"^<!-- data: .+ -->$", re.MULTILINE)
CELL = re.compile(
    r"^(<!-- not run: .+ -->\n)?```python\n(.*?)^```$(?:\n+```(?:text|output)\n.*?^```$)?", re.MULTILINE | re.DOTALL
)
"""A Python block, and the output that the page shows directly behind it."""
PICTURE = re.compile(r"\n+<!-- picture: .+ -->\n")
COMMENT = re.compile(r"^<!-- .+ -->\n?", re.MULTILINE)
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!\w+:)([^)\s]+)\)")
"""A picture, or a link to another page or a place on this one."""
PLACE = '\n\n<div class="cell-output">{}</div>\n'
FILLED = re.compile(r'<div class="cell-output">(\d+)</div>')
ELSEWHERE = re.compile(r"(?:\b(?:src|href|data|srcset)=|@import\b|\burl\()[\s\"']*(?:https?:)?//", re.IGNORECASE)
ABOUT = '*A page of the documentation as a notebook. It runs where gpunet is installed with `pip install -e ".[examples]"`.*'
SECONDS = 600
"""The longest that a cell may take."""

pool = ThreadPoolExecutor(max_workers=2)
running: dict[str, tuple[Any, Future[dict[str, Any]]]] = {}
"""Each page that is a notebook, by its file, and what its execution will return."""


def on_page_markdown(markdown: str, /, *, page: Any, files: Any, **_: Any) -> str:
    """Begin to execute a page that is a notebook; put a link at its top and places for what its cells show."""
    if not MARK.search(markdown):
        return markdown
    uri = page.file.src_uri
    if DATA.search(markdown):
        LOG.warning("%s: a page that needs data cannot be a notebook", uri)
        return markdown

    def title(target: str) -> str:
        file = files.get_file_from_path(posixpath.normpath(posixpath.join(posixpath.dirname(uri), target)))
        return str(file.page.title) if file and file.page else ""

    notebook = notebook_of(markdown, title)
    running[uri] = page, pool.submit(executed, json.dumps(notebook))
    return with_places(markdown, posixpath.basename(uri).replace(".md", ".ipynb"))


def on_env(_env: Any, /, *, config: Any, **_: Any) -> None:
    """Write the executed notebooks, and fill the places; a cell that raises is a warning, which fails the build."""
    for uri, (page, future) in running.items():
        notebook = future.result()
        page.content = filled(page.content, notebook)
        for fault in faults_of(notebook):
            LOG.warning("%s: %s", uri, fault)
        target = Path(config.site_dir, page.file.dest_uri).with_name(Path(uri).with_suffix(".ipynb").name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    running.clear()


# ---- from Markdown to cells


def notebook_of(markdown: str, title: Callable[[str], str]) -> dict[str, Any]:
    """The cells of a page, in nbformat 4.5; `title` says how the page that a link names is called."""
    cells: list[dict[str, Any]] = []

    def add(kind: str, source: str, **more: Any) -> None:
        if source:
            cells.append({"cell_type": kind, "id": f"cell-{len(cells)}", "metadata": {}, "source": source, **more})

    end = 0
    for block in blocks(markdown):
        add("markdown", prose(markdown[end : block.start()], title))
        add("code", block[2].rstrip(), execution_count=None, outputs=[])
        end = block.end()
    add("markdown", prose(markdown[end:], title))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def blocks(markdown: str) -> Iterable[re.Match[str]]:
    """The Python blocks that are cells."""
    return (block for block in CELL.finditer(markdown) if not block[1])


def prose(markdown: str, title: Callable[[str], str]) -> str:
    """Markdown that needs no other file: without pictures, which the cells draw, and without links to pages.

    A link becomes its text, with the title of the page that it leads to if the text says something else.
    """

    def alone(match: re.Match[str]) -> str:
        picture, text, target = match.groups()
        name = title(target.partition("#")[0])
        told = name.casefold() in ("", " ".join(text.split()).casefold())
        return "" if picture else text if told else f"{text} (see *{name}*)"

    return LINK.sub(alone, COMMENT.sub("", MARK.sub(ABOUT, markdown))).strip()


def with_places(markdown: str, name: str) -> str:
    """The page with a link to its notebook, and behind each block a place for what the cell shows."""
    text, end = "", 0
    for number, block in enumerate(blocks(markdown)):
        text, end = text + markdown[end : block.end()], block.end()
        if not PICTURE.match(markdown, end):
            text += PLACE.format(number)
    button = f'<p><a class="md-button" href="{name}" download>Download this page as a notebook</a></p>'
    return MARK.sub(button, text + markdown[end:])


# ---- the executed notebook


@functools.cache  # for mkdocs serve, which makes all pages anew when one has changed
def executed(source: str) -> dict[str, Any]:
    """Execute a notebook in an empty folder, on this checkout's gpunet and no GPU."""
    import nbformat
    from nbclient import NotebookClient

    notebook: dict[str, Any] = nbformat.reads(source, as_version=4)
    # what is set on this machine must not show; without MPLBACKEND, pyplot draws into the notebook
    env = {name: value for name, value in os.environ.items() if name != "MPLBACKEND" and "GPUNET_" not in name}
    env |= {"GPUNET_BACKEND": "numpy", "GPUNET_PROGRESS": "0"}  # a bar would be one of the outputs
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, resources={"metadata": {"path": folder}})
        client.timeout, client.allow_errors, client.record_timing = SECONDS, True, False
        client.extra_arguments = ["--log-level=ERROR"]  # it would warn that it talks to this process in plain text
        client.execute(env=env)
    for cell in code_cells(notebook):  # what goes to stderr, such as a warning, speaks of this machine
        cell["outputs"] = [output for output in cell["outputs"] if output.get("name") != "stderr"]
    return notebook


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """The code cells of a notebook, in order."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def faults_of(notebook: dict[str, Any]) -> list[str]:
    """What is wrong with an executed notebook: the first cell that raises, and HTML that asks another host."""
    for number, cell in enumerate(code_cells(notebook), 1):
        first, name = cell["source"].partition("\n")[0], f"code cell {number}"
        for output in cell["outputs"]:
            if output["output_type"] == "error":
                return [f"{name} ({first}) raises {output['ename']}: {output['evalue']}"]
            if ELSEWHERE.search(html_of(output)):
                return [f"{name} ({first}) shows HTML that asks another host for something"]
    return []


def html_of(output: dict[str, Any]) -> str:
    """An output of a cell as a part of the page; empty for text."""
    data = output.get("data", {})
    if "image/png" in data and "text/html" not in data:
        return f'<img alt="What the block above draws." src="data:image/png;base64,{data["image/png"].strip()}">'
    return str(data.get("text/html") or data.get("image/svg+xml", ""))


def filled(content: str, notebook: dict[str, Any]) -> str:
    """The HTML of a page with what its cells show in their places."""
    shown = ["\n".join(filter(None, map(html_of, cell["outputs"]))) for cell in code_cells(notebook)]

    def fill(place: re.Match[str]) -> str:
        html = shown[int(place[1])]
        return html and f'<div class="cell-output">{html}</div>'

    return FILLED.sub(fill, content)
