"""The runner of the documentation's blocks: it fails where a page shows something else than its programs do."""

import re

import pytest
from helpers import command_lines, page_runs, pages


def written(folder, text):
    page = folder / "page.md"
    page.write_text(text, encoding="utf-8")
    return page


def run(page):
    page_runs.run(pages.blocks(page), page.parent)


def test_blocks_of_a_page_share_names_and_print_what_is_shown(tmp_path):
    run(written(tmp_path, "```python\nx = 1\n```\ntext\n\n```python\nprint(x, 'a b')\n```\n\n```text\n1 …b\n```\n"))
    run(
        written(tmp_path, "```python\nprint('a')\n[][1]\n```\n```output\na\nIndexError: list index out of range\n```\n")
    )
    run(written(tmp_path, "- a list\n\n    ```python\n    if True:\n        y = 2\n    ```\n"))
    run(written(tmp_path, "```python\nprint(1)\n```\nother words\n```text\n2\n```\n"))


def test_shell_blocks_run_in_the_folder_and_share_its_files_with_python(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(
        written(
            tmp_path,
            "```sh\npip install -e '.[test]'\npython3 -m venv .venv\n. .venv/bin/activate\necho 1 >a\n```\n"
            "```python\nfrom pathlib import Path\nprint(Path('a').read_text())\n```\n\n```text\n1\n```\n"
            "```sh\ncat a; cat missing\n```\n```output\n1\n…: No such file or directory\n```\n",
        )
    )


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("\n```python\nprint(1)\n```\n\n```text\n2\n```\n", "page.md:3: the block prints\n1"),
        ("```python\nx = 1\n1 / 0\n```\n", "page.md:2: the block raises ZeroDivisionError"),
        ("```python\n1 / 0\n```\n```text\nZeroDivisionError: other\n```\n", "division by zero\n\nbut the page shows"),
        ("```sh\necho 1\n```\n```text\n2\n```\n", "page.md:2: the block prints\n1"),
        ("```sh\necho 1\nfalse\necho 2\n```\n```text\n1\n```\n", "exit status 1"),
        ("```sh\npip install 'gpunet[none]'\n```\n", "gpunet has no extra ['none']"),
        ("<!-- tested with: 5 -> 1 -->\n```sh\necho 4\n```\n", "page.md:3: '5 -> 1' changes nothing"),
        ("```python\nx = 1\n", "page.md:1: the block is not closed"),
    ],
)
def test_a_page_that_shows_something_else_fails(tmp_path, text, fault):
    with pytest.raises(AssertionError, match=re.escape(fault)):
        run(written(tmp_path, text))


def test_a_block_with_a_reason_is_not_run(tmp_path):
    page = written(tmp_path, "<!-- not run: it takes an hour -->\n```python\n1 / 0\n```\n")
    assert [block.not_run for block in pages.blocks(page)] == ["it takes an hour"]
    run(page)


def test_a_page_runs_in_full_with_the_settings_that_it_shows(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (
        "<!-- tested with: 5 -> 1 -->\n```python\nprint(5)\n[][1]\n```\n"
        "<!-- tested with: 5 -> 1 -->\n```sh\necho 5 >a\n```\n```python\nprint(open)\n```\n"
        "<!-- not run: no -->\n```sh\ntouch b\n```\n"
    )
    page_runs.run_in_full(pages.blocks(written(tmp_path, text)), tmp_path)
    assert capsys.readouterr().out == "5\nIndexError: list index out of range\n<built-in function open>\n"
    assert (tmp_path / "a").read_text() == "5\n"
    assert not (tmp_path / "b").exists()


def test_a_block_is_tested_with_its_smaller_settings(tmp_path):
    page = written(
        tmp_path,
        "<!-- tested with: range(9) -> range(2); a -> b -->\n```python\nfor a in range(9):\n    print(a)\n```\n",
    )
    (block,) = pages.blocks(page)
    assert block.tested == "for b in rbnge(2):\n    print(b)\n"
    assert block.text == "for a in range(9):\n    print(a)\n"


def test_what_a_page_needs_stands_near_its_top(tmp_path):
    page = written(tmp_path, "# Title\n\n<!-- data: omniglot, BCCD -->\n<!-- in a checkout -->\n\ntext\n")
    assert pages.data_of(page) == ["omniglot", "BCCD"]
    assert pages.in_a_checkout(page)
    assert not pages.needs_emulator(page)


def test_pictures_are_those_that_are_no_drawings(tmp_path):
    page = written(tmp_path, "<!-- picture: make it -->\n![a](b.png)\n![c](d.svg)\n\n![e](f.png)\n")
    assert pages.pictures([page]) == [(page, "b.png", "make it"), (page, "f.png", "")]


def test_command_lines_are_found_in_what_a_shell_joins(tmp_path):
    text = (
        "cat >x <<'END'\nit's\nEND\nA=1 gpunet info | head  # as\n"
        "cd x && gpunet train \\\n  --epochs 3 >log\npython examples/a.py 'b c'\nls\n"
    )
    assert command_lines.commands(text) == [
        ["gpunet", "info"], ["gpunet", "train", "--epochs", "3"], ["python", "examples/a.py", "b c"]
    ]  # fmt: skip


def test_an_option_that_a_command_does_not_know_is_found():
    for words in (["gpunet", "train", "--epoch-count", "3"], ["gpunet", "bench", "step", "--nets", "lenet", "--fast"]):
        with pytest.raises(AssertionError, match="is not understood"):
            command_lines.assert_parses(words, "page.md:1")
    with pytest.raises(AssertionError, match=r"has no \['--steps'\]"):
        command_lines.assert_parses(["python", "examples/train_classifier.py", "--epochs", "3", "--steps", "3"], "")
    command_lines.assert_parses(["gpunet", "bench", "step", "--nets", "lenet"], "")


def test_links_are_those_to_files_outside_code(tmp_path):
    text = "[a](b.md) [c](https://d) `[e](f)` [g](#h) ![i](j/k.png)\n[l](m.md#n)\n```python\nx = [o](p)\n```\n"
    assert pages.links(written(tmp_path, text)) == ["b.md", "j/k.png", "m.md"]
