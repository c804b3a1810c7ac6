"""No altered ONNX file crashes the reader: a sample of the campaign of `altered_onnx.py`."""

import altered_onnx
import pytest

pytest.importorskip("onnx", reason="onnx is not installed")


def test_a_campaign_of_all_kinds_of_alterations_finds_no_fault(tmp_path):
    found = altered_onnx.run(tmp_path, files=900, seed=3)
    assert found.faults == []
    assert found.refused > 500
    assert found.ran > 50
    assert found.longest < 5


@pytest.mark.skipif(not altered_onnx.Path("/proc/self/clear_refs").exists(), reason="Linux alone tells the peak")
def test_altered_files_take_no_more_memory_than_ten_times_their_size(tmp_path):
    found = altered_onnx.memory_in_a_child(tmp_path, 13, 0)
    assert found["loaded"] < 10 * found["size"]
    assert found["altered"] < 10 * found["size"]
