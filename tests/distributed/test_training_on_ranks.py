"""Several ranks train what one rank trains: the same samples, random numbers, losses and weights."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from helpers.pages import blocks
from helpers.ranks import PROGRAMS, needs_mpi, succeeded

pytestmark = needs_mpi
PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"

specification = importlib.util.spec_from_file_location("training_program", PROGRAMS / "training.py")
program = importlib.util.module_from_spec(specification)
specification.loader.exec_module(program)
WIDE = [name for name in program.CASES if name not in ("device", "each-normalised")]  # a DeviceLoader makes float32


def results(folder, case, ranks):
    return [dict(np.load(folder / f"{case}-{rank}.npz")) for rank in range(ranks)]


@pytest.fixture(scope="module")
def alone():
    return {case: program.trained(case) for case in (*WIDE, "device")}


@pytest.mark.parametrize("ranks", [2, 4])
def test_weights_after_two_epochs_are_those_of_one_rank(tmp_path, alone, ranks):
    succeeded(ranks, "training.py", tmp_path, "float64", 2, *alone)
    for case in alone:
        tolerance = 1e-10 if case in WIDE else 2e-6
        for found in results(tmp_path, case, ranks):
            assert found.keys() == alone[case].keys()
            for name, expected in alone[case].items():
                np.testing.assert_allclose(found[name], expected, rtol=1e-10, atol=tolerance, err_msg=f"{case}: {name}")


def test_every_rank_has_the_same_bits_and_so_has_every_run(tmp_path):
    runs = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        cases = "plain", "gathered-ignored", "each-normalised"
        succeeded(2, "training.py", tmp_path / name, "float32", 1, *cases)
        runs += [results(tmp_path / name, case, 2) for case in cases]
    for first, second in zip(runs[:3], runs[3:], strict=True):
        for found in (first[1], *second):
            for name, expected in first[0].items():
                np.testing.assert_array_equal(found[name], expected, err_msg=name)


def test_float32_losses_are_those_of_one_rank_over_twenty_steps(tmp_path):
    succeeded(2, "training.py", tmp_path, "float32", 3, "plain")
    expected, found = program.trained("plain", np.float32, 3)["running"], results(tmp_path, "plain", 2)[0]["running"]
    assert len(expected) == 27
    np.testing.assert_allclose(found[:20, 0], expected[:20, 0], rtol=1e-5)


@pytest.mark.skipif(not PAGE.is_file(), reason="the documentation stands in a checkout")
def test_the_loop_of_the_page_on_ranks_prints_what_one_rank_prints(tmp_path):
    page = blocks(PAGE)
    (end,) = (i for i, block in enumerate(page) if "ranks.add(optimizer.arena.grad)" in block.text)
    program = "\n".join(block.text for block in page[: end + 1] if block.language == "python")
    (tmp_path / "loop.py").write_text(program)
    printed = succeeded(2, tmp_path / "loop.py", cwd=tmp_path)  # with accuracy.txt
    assert printed.splitlines()[-1:] == page[end + 1].text.splitlines()
