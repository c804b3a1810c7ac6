"""The programs that pages show in another framework, beside gpunet's, are Python, and run where it is installed."""

import ast
import os
from pathlib import Path

import pytest
from helpers import page_runs, pages

import gpunet as gp

DOCS = Path(__file__).resolve().parents[1] / "docs"

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="the documentation stands in a checkout")


@pytest.mark.filterwarnings("ignore")  # another framework's warnings are not gpunet's
@pytest.mark.parametrize(
    ("framework", "page"),
    [
        pytest.param("torch", "reference/from-pytorch.md", marks=pytest.mark.parity),
        pytest.param("torch", "start/weights-from-elsewhere.md", marks=pytest.mark.parity),
        ("keras", "reference/from-keras.md"),
        ("chainer", "reference/from-chainer.md"),
    ],
)
def test_the_programs_of_another_framework_run_beside_gpunets(framework, page, tmp_path, monkeypatch):
    programs = [block for block in pages.blocks(DOCS / page) if block.language in ("python", "py")]
    theirs = [block for block in programs if block.language == "py"]
    assert theirs
    for block in theirs:
        ast.parse(block.text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPUNET_BACKEND", "numpy")
    monkeypatch.setenv("KERAS_BACKEND", os.environ.get("KERAS_BACKEND", "torch"))
    pytest.importorskip(framework, exc_type=ImportError)
    gp.seed(0)
    names = {"__name__": "__main__"}
    for block in programs:
        if block.not_run:
            continue
        _, error = page_runs.printed_by(block, block.text, names)
        if error is not None:
            raise error
