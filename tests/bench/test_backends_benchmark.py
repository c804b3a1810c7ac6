"""The same steps on several backends."""

import re
import sys

import pytest

from gpunet.backends import why_unavailable
from gpunet.backends.reference.backend import ReferenceBackend
from gpunet.bench.cli import main

SMALL = ["backends", "--nets", "lenet", "--batch", "2", "--threads", "1", "--rounds", "1", "--repeats", "1"]


def test_backends_are_compared_and_drawn(bench, tmp_path):
    pytest.importorskip("matplotlib")
    plot = tmp_path / "new" / "backends.png"
    record, text = bench(*SMALL, "--backends", "reference", "numpy", "--plot", plot)
    assert plot.stat().st_size > 1000
    assert str(plot) not in record["command"]
    (row,) = record["rows"]
    assert row["checked"]["loss_difference"] < 1e-5
    assert list(row["ratios"]) == ["reference"]  # over the last one's time
    assert "| reference, ms | numpy, ms | reference / numpy |" in text
    assert set(record["contenders"]) == {"reference", "numpy"}


def test_a_missing_backend_is_named_and_drawn_as_missing(bench, tmp_path):
    pytest.importorskip("matplotlib")
    if not why_unavailable("cuda"):
        pytest.skip("there is a GPU")
    record, text = bench(*SMALL, "--backends", "numpy", "cuda", "--plot", tmp_path / "backends.png")
    (row,) = record["rows"]
    assert row["times"]["cuda"] == {"not_measured": why_unavailable("cuda")}
    assert row["ratios"] == {}
    assert f"- not measured: cuda: {why_unavailable('cuda')}\n" in text


def test_backends_that_do_different_work_are_not_timed(bench, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    right = ReferenceBackend.conv2d_weight_grad

    def wrong(self, *args, **options):
        dw, db = right(self, *args, **options)
        return dw.__imul__(-1), db

    monkeypatch.setattr(ReferenceBackend, "conv2d_weight_grad", wrong)
    plot = tmp_path / "backends.png"
    record, text = bench(*SMALL, "--backends", "reference", "numpy", "--plot", plot, status=1)
    (row,) = record["rows"]
    for times in row["times"].values():
        assert times["error"].startswith("the contenders' losses differ by")
    assert row["ratios"] == row["checked"] == {}
    assert re.search(r"^\| lenet \| 2 \|.*\| failed \| failed \| failed \|$", text, re.MULTILINE)
    assert plot.exists()


def test_a_plot_without_matplotlib_is_refused_before_anything_is_measured(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'bench: --plot needs matplotlib .*: pip install "gpunet\[examples\]"'):
        main([*SMALL, "--plot", "backends.png"])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["numpy"], "--backends names numpy alone but takes at least two"),
        (["numpy", "tpu"], "--backends names 'tpu' but takes some of reference, numpy, emulated, cuda"),
    ],
)
def test_backends_that_cannot_be_compared_are_refused(names, message):
    with pytest.raises(ValueError, match=f"bench: {message}"):
        main([*SMALL, "--backends", *names])
