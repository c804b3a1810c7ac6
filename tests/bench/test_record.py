"""The files of a benchmark exist from the start, and are valid at every moment."""

import json
import os
from argparse import Namespace

import pytest

from gpunet.bench.cli import main
from gpunet.bench.record import Record
from gpunet.bench.worker import Worker

SMALL = ["conv", "--nets", "lenet", "--passes", "forward", "--batch", "2", "--backend", "numpy",
         "--threads", "1", "--rounds", "1", "--repeats", "1"]  # fmt: skip


def row(batch, **times):
    timed = {"p10_ms": 1.0, "median_ms": 1.0, "p90_ms": 1.0}
    return {"case": {"batch": batch}, "notes": {}, "times": {"gpunet": timed, **times}, "ratios": {}, "checked": {}}


@pytest.fixture
def output(tmp_path):
    return tmp_path / "new" / "record.json"


@pytest.fixture
def measured(output):
    return Record("Steps", Namespace(kind="step", output=output))


def batches(output):
    return [found["case"]["batch"] for found in json.loads(output.read_text())["rows"]]


def test_the_files_exist_from_the_start_and_grow_with_each_row(measured, output):
    assert batches(output) == []
    assert "No row is done." in output.with_suffix(".md").read_text()
    for batch in (1, 2):
        measured.add(row(batch), {})
        assert batches(output) == [1, 2][:batch]
        assert f"| {batch} | 1.000 |" in output.with_suffix(".md").read_text()
    assert sorted(path.name for path in output.parent.iterdir()) == ["record.json", "record.md"]


def test_an_interrupted_write_leaves_the_old_file(measured, output, monkeypatch):
    measured.add(row(1), {})

    def interrupted(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measured.add(row(2), {})
    assert batches(output) == [1]
    assert sorted(path.name for path in output.parent.iterdir()) == ["record.json", "record.md"]


@pytest.mark.parametrize(
    ("times", "status"), [({}, 0), ({"not_measured": "finds no GPU"}, 0), ({"error": "OutOfMemoryError"}, 1)]
)
def test_the_exit_status_says_whether_a_contender_failed(measured, times, status):
    measured.add(row(1, rival=times or row(1)["times"]["gpunet"]), {})
    measured.add(row(2), {})
    assert measured.finish() == status


def test_ctrl_c_keeps_the_rows_that_are_done(local, output, monkeypatch):
    prepared = Worker.prepare

    def prepare(self, case):
        if case["layer"] == 1:
            raise KeyboardInterrupt
        return prepared(self, case)

    monkeypatch.setattr(Worker, "prepare", prepare)
    with pytest.raises(KeyboardInterrupt):
        main([*SMALL, "--output", str(output)])
    assert [found["case"]["layer"] for found in json.loads(output.read_text())["rows"]] == [0]


def test_the_output_names_the_json_not_the_table(tmp_path):
    with pytest.raises(ValueError, match=r"bench: --output is .*table\.md but names the JSON"):
        main([*SMALL, "--output", str(tmp_path / "table.md")])
