"""``gpunet check`` on CuPy: as on a GPU, but for the stand-in beneath it."""

import json

import pytest
from standin.install import why_impossible

from gpunet.check.record import END

pytestmark = pytest.mark.skipif(bool(why_impossible()), reason=why_impossible())


def by_stage(results, stage):
    return [r for r in results if r.stage == stage and r.what != END]


def test_what_gpunet_believes_of_cupy_holds(checks):
    stages = ["environment", "contract", "training"]
    status, printed, results = checks.run("--stages", *stages, "--minutes", 5, backend="cuda")
    assert status == 0, printed
    assert [r.stage for r in results if r.what == END] == stages
    environment = {r.what: r.numbers for r in by_stage(results, "environment")}
    assert environment["memory, MiB"]["total"] > environment["memory, MiB"]["used"]
    assert environment["compiler and headers"]["headers"]
    contract = {r.what: r.numbers for r in by_stage(results, "contract")}
    assert contract["20 recorders made and dropped leave memory as it was"]["bytes more than before"] < 2**20


def test_rows_of_benches_are_recorded_in_their_order_as_they_are_made(checks):
    status, printed, results = checks.run("--stages", "speed", "--minutes", 3, backend="cuda", fault="small:speed")
    assert status == 0, printed
    found = by_stage(results, "speed")
    assert [r.what.split(":")[0] for r in found[:2]] == ["ceiling", "ceiling"]
    assert found[0].numbers["GB/s read and written"] > 0
    rows = [r for r in found if "row" in r.numbers]
    assert [r.what for r in rows] == ["step: lenet 2", "ops: sgd 1000", "step: lenet 2"]
    assert all(r.numbers["gpunet, ms"] > 0 for r in rows)
    assert rows[1].numbers["copy, ms"] > 0
    record = json.loads((checks.folder / "bench-0-step.json").read_text())
    assert record["rows"] == [rows[0].numbers["row"]]


def test_a_bench_that_measures_nothing_is_a_failure_and_the_next_one_runs(checks):
    status, _, results = checks.run("--stages", "speed", "--minutes", 3, backend="cuda", fault="fails:speed")
    assert status == 1
    *_, failed, row = by_stage(results, "speed")
    assert failed.what == "step --nets nonsense"
    assert "nonsense" in failed.error
    assert row.what == "step: lenet 2"


def test_a_file_of_the_emulated_devices_results_is_what_a_gpu_is_compared_with(checks, tmp_path):
    from gpunet.check import reference

    path = tmp_path / "reference.npz"
    assert reference.write(path)["MB"] < 16
    status, printed, results = checks.run("--stages", "agreement", "--minutes", 5, "--reference", path, backend="cuda")
    assert status == 0, printed
    agreed = [r for r in by_stage(results, "agreement") if "kernels" in r.numbers]
    assert len({kernel for r in agreed for kernel in r.numbers["kernels"]}) > 300
    assert all(r.numbers["ulp"] == 0 for r in agreed)  # the stand-in runs the very same machine
