"""Steps by the number and the size of their images."""

import sys

import pytest

from gpunet.bench.cli import main
from gpunet.bench.commands.scaling import rises

SMALL = ["scaling", "--backend", "numpy", "--threads", "2", "--rounds", "1", "--repeats", "1"]


def test_both_nets_are_measured_on_one_thread_and_on_several_and_drawn(bench, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    plot = tmp_path / "new" / "scaling.png"
    record, text = bench(*SMALL, "--batch", "1", "2", "--side", "128", "--plot", plot)
    assert [row["case"] for row in record["rows"]] == [
        {"net": "lenet", "batch": 1, "side": 28}, {"net": "lenet", "batch": 2, "side": 28},
        {"net": "resnet9", "batch": 1, "side": 128},
    ]  # fmt: skip
    for row in record["rows"]:
        case, times = row["case"], row["times"]["2 threads"]
        pixels = case["batch"] * case["side"] ** 2
        assert row["notes"]["2 threads, ns per pixel"] == pytest.approx(1e6 * times["median_ms"] / pixels, rel=1e-3)
    assert "| 1 thread / 2 threads |" in text
    assert plot.stat().st_size > 1000
    assert "1 thread: a pixel of lenet takes at most" in capsys.readouterr().out


def test_a_rise_is_over_the_best_of_all_smaller_steps():
    def row(batch, time, net="lenet"):
        pixels = batch * 100
        return {"case": {"net": net, "batch": batch, "side": 10}, "times": {"a": {"median_ms": time * pixels / 1e6}}}

    rows = [row(1, 8), row(2, 4), row(4, 5), row(8, 6), row(1, 9, "other"), row(2, 3, "other")]
    found = rises([*rows, {"case": rows[0]["case"], "times": {"a": {"not_measured": "no"}}}], "a")
    assert found["lenet"] == (pytest.approx(1.5), "8 images of 10 pixels")
    assert found["other"][0] == 1


def test_a_plot_without_matplotlib_is_refused_before_anything_is_measured(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="bench: --plot needs matplotlib"):
        main([*SMALL, "--plot", "scaling.png"])
