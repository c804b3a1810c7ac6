"""`gpunet kernels --count-all` and `--coverage`: what kernels do in the cases of the check."""

import pytest
from helpers import needs_emulator

from gpunet import cli
from gpunet.check import survey
from gpunet.check.cases import all_cases
from gpunet.emulator.counts import Access
from gpunet.nvrtc import source

pytestmark = needs_emulator


@pytest.fixture(autouse=True)
def few_cases(monkeypatch):
    """Leave the cases of few kernels, so that few have to be compiled."""
    few = [c for c in all_cases() if c.dtype == "float32" and c.name.split()[0] in ("activation_forward", "take")]
    assert few
    monkeypatch.setattr(survey, "all_cases", lambda: few)


def test_only_kernels_of_the_name_are_counted():
    assert set(survey.count_all("activation_")) == {"activation_forward<float>"}
    everything = survey.count_all()
    assert {"activation_forward<float>"} < set(everything)
    assert all(p.accesses and p.blocks for p in everything.values())


def access(space, **counts):
    return Access("a.cu", 1, "", f"ld.{space}.f32", space, "load", 32, requests=10, lanes=320, **counts)


@pytest.mark.parametrize(
    ("a", "costly"),
    [
        (access("global", sectors=40, ideal_sectors=40), False),
        (access("global", sectors=20, ideal_sectors=10), False),  # one more for each request
        (access("global", sectors=80, ideal_sectors=40), True),
        (access("global", sectors=160, ideal_sectors=130), False),
        (access("shared", wavefronts=10, ideal_wavefronts=10), False),
        (access("shared", wavefronts=11, ideal_wavefronts=10), True),
    ],
)
def test_an_access_is_costly_if_it_conflicts_or_touches_many_more_sectors(a, costly):
    assert survey.is_costly(a) == costly


def test_costly_accesses_are_printed_with_their_kernel_and_line(capsys, monkeypatch):
    assert cli.main(["kernels", "--count-all", "activation_"]) == 0
    out = capsys.readouterr().out
    assert "1 instances counted" in out
    monkeypatch.setattr(survey, "is_costly", lambda a: a.kind == "store")
    cli.main(["kernels", "--count-all", "activation_"])
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  activation_forward ")]
    assert "activation.cu:" in row
    assert "st.global" in row
    assert row.endswith("1, most <float>")


def test_lines_that_ran_are_written_for_viewers(capsys, tmp_path):
    path = tmp_path / "kernels.lcov"
    assert cli.main(["kernels", "--coverage", str(path)]) == 0
    records = {r.split("SF:")[1].split("\n")[0]: r for r in path.read_text().split("end_of_record\n")[:-1]}
    file = source.kernels_folder() / "activation.cu"
    lines = dict(map(int, d[3:].split(",")) for d in records[str(file)].splitlines() if d.startswith("DA:"))
    text = file.read_text().splitlines()
    (body,) = [i for i, line in enumerate(text, 1) if "activation_forward(" in line]
    assert any(count > 0 for line, count in lines.items() if line > body)
    assert all(0 < line <= len(text) for line in lines)
    assert f"LF:{len(lines)}\nLH:{sum(c > 0 for c in lines.values())}" in records[str(file)]
    assert all("/cuda_fp16" not in name for name in records)
    assert "lines ran" in capsys.readouterr().out


def test_a_line_that_did_not_run_has_count_zero(tmp_path):
    text = survey.lcov({("a.cu", 3): 0, ("a.cu", 2): 7, ("b.cuh", 1): 1}, tmp_path)
    assert text == (
        f"TN:\nSF:{tmp_path}/a.cu\nDA:2,7\nDA:3,0\nLF:2\nLH:1\nend_of_record\n"
        f"TN:\nSF:{tmp_path}/b.cuh\nDA:1,1\nLF:1\nLH:1\nend_of_record\n"
    )
