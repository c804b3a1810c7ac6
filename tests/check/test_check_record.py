"""The record holds every result that was written, also by several processes that are killed."""

import multiprocessing
import os

import numpy as np
import pytest

from gpunet.check.record import BEGIN, Record, Result, last_run, read


def test_results_come_back_as_they_were_appended(tmp_path):
    record = Record(tmp_path / "new" / "folder")
    results = [
        Result(BEGIN, "emulated", None, {"command": "gpunet check"}),
        Result("contract", "a line\nbreak, and ‖ ü", True, {"ulp": 3, "kernels": ["a<b, c>"], "same bits": True}, 1.5),
        Result("speed", "nothing", None, error="no GPU"),
    ]
    for result in results:
        record.append(result)
    assert read(record.path) == results
    assert len(record.path.read_text().splitlines()) == 3


def test_numpys_numbers_are_recorded_as_numbers(tmp_path):
    record = Record(tmp_path)
    record.append(Result("a", "b", True, {"error": np.float32(0.5), "ulp": np.int64(7), "dtype": np.dtype("float32")}))
    assert read(record.path)[0].numbers == {"error": 0.5, "ulp": 7, "dtype": "float32"}


def _append(folder, name):
    record = Record(folder)
    for i in range(200):
        record.append(Result(name, f"{i}", True, {"text": name * 300}))


def test_processes_that_write_at_once_do_not_divide_each_others_lines(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_append, args=(tmp_path, name)) for name in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    results = read(tmp_path / "record.jsonl")
    for name in "ab":
        assert [r.what for r in results if r.stage == name] == [str(i) for i in range(200)]


def test_a_line_that_holds_no_result_is_named(tmp_path):
    path = tmp_path / "record.jsonl"
    for broken in ('{"stage": "a"}', '{"what": "b"}', "[1]"):
        path.write_text('{"stage": "a", "what": "b", "ok": true}\n' + broken + "\n")
        with pytest.raises(ValueError, match=r"record\.jsonl:2: not a result of gpunet check"):
            read(path)


def test_the_last_run_starts_at_the_last_begin_line():
    runs = [Result(BEGIN, "1", None), Result("a", "b", True), Result(BEGIN, "2", None), Result("c", "d", True)]
    assert [r.what for r in last_run(runs)] == ["2", "d"]
    assert last_run(runs[1:2]) == runs[1:2]


def test_an_unfinished_line_is_ignored_and_cut_off_by_the_next_run(tmp_path):
    record, result = Record(tmp_path), Result("a", "b", True)
    record.append(result)
    with record.path.open("a") as file:
        file.write('{"stage": "a", "wh')
    assert read(record.path) == [result]
    with record.claimed():
        record.append(result)
    assert read(record.path) == [result, result]


def test_a_file_system_without_locks_is_good_enough(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def flock(file, how):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    with Record(tmp_path).claimed(), Record(tmp_path).claimed():
        pass


def test_a_full_disk_is_reported(tmp_path, monkeypatch):
    record, write = Record(tmp_path), os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:10]))
    with pytest.raises(OSError, match=r"no space left on the disk.*record\.jsonl"):
        record.append(Result("a", "b", True))
    assert read(record.path) == []


def test_only_one_check_can_claim_a_record(tmp_path):
    pytest.importorskip("fcntl")
    with Record(tmp_path).claimed(), pytest.raises(BlockingIOError), Record(tmp_path).claimed():
        pass
    with Record(tmp_path).claimed():
        pass
