"""The benchmark's bookkeeping, on a batch too small to measure anything."""

import json

import pytest

from gpunet.bench.cli import main

SMALL = ["step", "--nets", "lenet", "--batch", "4", "--threads", "1", "--rounds", "2", "--steps", "2"]


def test_a_run_is_recorded_with_its_command_and_versions(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "HASWELL")
    assert main([*SMALL, "--output", str(tmp_path / "new" / "step.json")]) == 0
    record = json.loads((tmp_path / "new" / "step.json").read_text())
    assert record["command"].startswith("OPENBLAS_CORETYPE=HASWELL gpunet bench step --nets lenet --batch 4 ")
    assert record["contenders"]["gpunet"]["backend"] == "numpy"
    assert record["contenders"]["gpunet"]["threads"] == "1"
    (row,) = record["rows"]
    assert 0 < row["gpunet"]["p10_ms"] <= row["gpunet"]["median_ms"] <= row["gpunet"]["p90_ms"]
    assert "ratio" not in row
    assert "| lenet | 4 | 1 |" in (tmp_path / "new" / "step.md").read_text()
    assert capsys.readouterr().out.startswith("lenet    batch 4: gpunet ")


def test_numbers_below_one_are_refused():
    with pytest.raises(ValueError, match="bench: --rounds is 0 but must be at least 1"):
        main([*SMALL, "--rounds", "0"])


@pytest.mark.parity
def test_the_rival_does_the_same_work(tmp_path):
    pytest.importorskip("torch")
    main([*SMALL, "--nets", "lenet", "cnn", "--against", "torch", "--output", str(tmp_path / "step.json")])
    rows = json.loads((tmp_path / "step.json").read_text())["rows"]
    assert [row["net"] for row in rows] == ["lenet", "cnn"]
    for row in rows:
        assert row["loss_difference"] < 1e-5  # the first steps' losses, from translated weights
        assert row["ratio"]["median"] > 0
