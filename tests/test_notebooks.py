"""Notebooks of the documentation's pages: what becomes a cell, what stands on the page, and what fails the build.

Nothing is executed here. The build of the site executes every notebook; tests/test_site.py runs the same blocks.
"""

import json
import logging
import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import pages

DOCS = Path(__file__).resolve().parents[1] / "docs"
MARKED = [page for page in sorted(DOCS.rglob("*.md")) if "\n<!-- notebook -->\n" in page.read_text(encoding="utf-8")]
PAGE = """# Title

<!-- notebook -->

Before, with a [link
to it](other.md#part), [Other](other.md), [a place](#here) and [a site](https://a.example/b).

<!-- tested with: 20 -> 3 -->
```python
epochs = 20

print(epochs)
```

```text
20
```

```sh
pip install it
```

```text
installed
```

<!-- not run: no GPU -->
```python
gpu()
```

```python
figure
```

<!-- picture: a command -->
![What it
shows.](figure.png)

```python
table
```
"""

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="the documentation stands in a checkout")


@pytest.fixture
def notebooks():
    """The hook of the site's build."""
    spec = spec_from_file_location("notebooks", DOCS / "hooks" / "notebooks.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    module.pool.shutdown()


def title(target):
    return {"other.md": "Other"}.get(target, "")


def sources(notebook, kind):
    return [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == kind]


def test_prose_and_python_blocks_become_cells_and_shown_outputs_are_left_out(notebooks):
    notebook = notebooks.notebook_of(PAGE, title)
    assert [cell["cell_type"] for cell in notebook["cells"]] == ["markdown", "code"] * 2 + ["code"]  # no picture
    assert sources(notebook, "code") == ["epochs = 20\n\nprint(epochs)", "figure", "table"]
    first, second = sources(notebook, "markdown")
    assert first == f"# Title\n\n{notebooks.ABOUT}\n\n" + (
        "Before, with a link\nto it (see *Other*), Other, a place and [a site](https://a.example/b)."
    )
    assert second == "```sh\npip install it\n```\n\n```text\ninstalled\n```\n\n```python\ngpu()\n```"


@pytest.mark.parametrize("page", MARKED, ids=lambda page: page.stem)
def test_the_cells_of_a_page_are_the_blocks_that_are_tested(notebooks, page):
    notebook = notebooks.notebook_of(page.read_text(encoding="utf-8"), title)
    run = [block for block in pages.blocks(page) if block.language == "python" and not block.not_run]
    assert sources(notebook, "code") == [block.text.rstrip() for block in run]
    text = "\n".join(sources(notebook, "markdown"))
    assert "<!--" not in text
    assert "```text" not in text
    assert pages.links_of(text) == []
    assert pages.data_of(page) == []


def test_there_are_marked_pages():
    assert MARKED


def test_the_page_has_a_link_and_a_place_behind_each_block_that_has_no_picture(notebooks):
    text = notebooks.with_places(PAGE, "page.ipynb")
    assert "<!-- notebook -->" not in text
    assert 'href="page.ipynb" download' in text
    assert re.findall(r'```\n\n<div class="cell-output">(\d)</div>\n', text) == ["0", "2"]
    assert text.index("20\n```") < text.index('"cell-output">0<')


def test_what_a_cell_shows_beyond_text_is_put_into_its_place(notebooks):
    def shows(**data):
        data = {name.replace("_", "/"): value for name, value in data.items()}
        return {"cell_type": "code", "source": "a", "outputs": [{"output_type": "execute_result", "data": data}]}

    cells = [shows(text_plain="a"), shows(text_html="<b>b</b>", image_png="c"), shows(image_png="d\n")]
    places = "".join(f'<div class="cell-output">{number}</div>' for number in range(3))
    html = notebooks.filled(places, {"cells": cells})
    table, figure = re.findall(r'<div class="cell-output">(.+?)</div>', html)
    assert table == "<b>b</b>"
    assert 'src="data:image/png;base64,d"' in figure


@pytest.fixture
def build(notebooks, monkeypatch, tmp_path, caplog):
    """Builds PAGE with the given output of its first cell -> (the page's HTML, what it warns of)."""

    def built(output, text=PAGE):
        def executed(source):
            notebook = json.loads(source)
            notebooks.code_cells(notebook)[0]["outputs"] = [output]
            return notebook

        monkeypatch.setattr(notebooks, "executed", executed)
        file = SimpleNamespace(src_uri="folder/page.md", dest_uri="folder/page.html")
        page = SimpleNamespace(file=file)
        files = SimpleNamespace(get_file_from_path=lambda path: None)
        with caplog.at_level(logging.WARNING):
            page.content = notebooks.on_page_markdown(text, page=page, files=files)
            notebooks.on_env(None, config=SimpleNamespace(site_dir=tmp_path))
        return page.content, [record.getMessage() for record in caplog.records if record.name == notebooks.LOG.name]

    return built


def test_the_executed_notebook_stands_beside_the_page(build, tmp_path):
    html, warnings = build({"output_type": "display_data", "data": {"text/html": "<b>20</b>"}})
    assert warnings == []
    assert '<div class="cell-output"><b>20</b></div>' in html
    notebook = json.loads((tmp_path / "folder" / "page.ipynb").read_text(encoding="utf-8"))
    assert notebook["cells"][1]["outputs"][0]["data"] == {"text/html": "<b>20</b>"}


def test_a_cell_that_raises_is_a_warning_with_its_page(build):
    _, warnings = build({"output_type": "error", "ename": "KeyError", "evalue": "'a'", "traceback": []})
    assert warnings == ["folder/page.md: code cell 1 (epochs = 20) raises KeyError: 'a'"]


@pytest.mark.parametrize(
    "html", ['<img src="https://a.example/b">', "<style>@import '//a.example';</style>", "<p style='b: url(http://a)'>"]
)
def test_html_that_asks_another_host_is_a_warning(build, html):
    _, warnings = build({"output_type": "display_data", "data": {"text/html": html}})
    assert warnings == ["folder/page.md: code cell 1 (epochs = 20) shows HTML that asks another host for something"]


def test_a_page_that_needs_data_is_no_notebook(build, tmp_path):
    text = PAGE.replace("<!-- notebook -->", "<!-- notebook -->\n<!-- data: cifar10 -->")
    html, warnings = build({}, text)
    assert warnings == ["folder/page.md: a page that needs data cannot be a notebook"]
    assert html == text
    assert list(tmp_path.iterdir()) == []


def test_other_pages_stay_as_they_are(build, tmp_path):
    text = PAGE.replace("<!-- notebook -->\n", "")
    assert build({}, text) == (text, [])
    assert list(tmp_path.iterdir()) == []
