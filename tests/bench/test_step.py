"""Whole training steps, on batches too small to measure anything."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.multiplying import asked_of

from gpunet import functional as F
from gpunet.backends import get_backend, why_unavailable
from gpunet.bench import memory
from gpunet.bench.cli import main
from gpunet.bench.contenders import GpunetInference, GpunetStep, Spec
from gpunet.bench.measure import LOSS_TOLERANCES
from gpunet.bench.nets import NETS, make_batch, make_model
from gpunet.bench.rivals import RIVALS
from gpunet.precision import PRECISIONS

SMALL = ["step", "--nets", "lenet", "--batch", "4", "--threads", "1", "--rounds", "2", "--repeats", "2"]


def test_a_run_is_recorded_with_its_command_and_versions(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "HASWELL")
    assert main([*SMALL, "--backend", "numpy", "--output", str(tmp_path / "new" / "step.json")]) == 0
    record = json.loads((tmp_path / "new" / "step.json").read_text())
    assert record["command"] == (
        "OPENBLAS_CORETYPE=HASWELL gpunet bench step --nets lenet --batch 4 --backend numpy --precision float32 "
        "--threads 1 --rounds 2 --repeats 2"
    )
    assert record["contenders"]["gpunet"]["backend"] == "numpy"
    assert record["contenders"]["gpunet"]["threads"] == "1"
    (row,) = record["rows"]
    assert row["case"] == {"net": "lenet", "batch": 4}
    times = row["times"]["gpunet"]
    assert 0 < times["p10_ms"] <= times["median_ms"] <= times["p90_ms"]
    assert row["ratios"] == {}
    assert "| lenet | 4 |" in (tmp_path / "new" / "step.md").read_text()
    assert capsys.readouterr().out.startswith("lenet 4: gpunet ")


def test_each_net_is_measured_at_each_batch(bench):
    record, _ = bench(*SMALL, "--nets", "lenet", "cnn", "--batch", "2", "3", "--rounds", "1", "--repeats", "1")
    cases = [tuple(row["case"].values()) for row in record["rows"]]
    assert cases == [("lenet", 2), ("lenet", 3), ("cnn", 2), ("cnn", 3)]


@pytest.mark.parametrize("kind", ["step", "inference"])
def test_the_memory_of_a_run_is_recorded_where_the_system_counts_it(bench, kind):
    record, text = bench(kind, *SMALL[1:], "--backend", "numpy")
    (row,) = record["rows"]
    if not Path("/proc/self/clear_refs").exists():
        assert row["notes"] == {}
        return
    assert list(row["notes"]) == ["gpunet, MB"]
    assert 0 <= row["notes"]["gpunet, MB"] < 500  # so little may fit into what an import left
    assert "| net | batch | gpunet, MB |" in text


def test_a_peak_is_what_was_resident_since_it_was_forgotten():
    if memory.resident_megabytes() is None:
        pytest.skip("this system does not count it")
    large = np.ones(10_000_000)
    del large
    memory.forget_peak()
    if memory.peak_megabytes() is None:
        pytest.skip("the peak cannot be forgotten here")
    before = memory.peak_megabytes()
    large = np.ones(20_000_000)
    assert 150 < memory.peak_megabytes() - before < 200
    del large


def test_inference_is_the_forward_pass_in_evaluation_mode(bench, monkeypatch):
    record, _ = bench("inference", *SMALL[1:], "--backend", "numpy")
    assert record["rows"][0]["case"] == {"net": "lenet", "batch": 4}
    contender = GpunetInference(Spec("inference", "gpunet", "numpy", 1))
    losses = contender.prepare({"net": "mobilenet", "batch": 4})["losses"]
    assert len(set(losses)) == 1  # nothing is trained, and no moments of batch norm move
    assert contender.logits.creator is None
    model, (x, y) = make_model("mobilenet").eval(), make_batch("mobilenet", 4)
    assert losses[0] == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-5)


def test_numbers_below_one_are_refused():
    for option in ("rounds", "repeats", "threads", "batch", "timeout"):
        with pytest.raises(ValueError, match=f"bench: --{option} is 0 but must be at least 1"):
            main([*SMALL, f"--{option}", "0"])


def test_work_that_pytorch_cannot_do_here_is_named(bench, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    record, text = bench(*SMALL, "--backend", "numpy", "--against", "torch")
    assert f"--against {' '.join(RIVALS)}" in record["command"]
    (row,) = record["rows"]
    assert list(row["times"]) == ["gpunet", *RIVALS]
    assert "PyTorch cannot be imported" in row["times"]["torch-eager"]["not_measured"]
    assert (
        "- not measured: torch-channels-last-graph, torch-graph, torch-compile-max: CUDA graphs and max-autotune need a GPU\n"
        in text
    )


def test_a_backend_that_cannot_be_used_is_an_error_not_a_row(bench):
    if not why_unavailable("cuda"):
        pytest.skip("there is a GPU")
    from gpunet import BackendError

    with pytest.raises(BackendError, match="CUDA needs"):
        bench(*SMALL, "--backend", "cuda")


@pytest.mark.parametrize("net", ["lenet", pytest.param("resnet9", marks=pytest.mark.slow)])
def test_a_step_can_be_captured_and_its_replays_train(net, monkeypatch, device_timer):
    small = NETS[net]._replace(input_shape=NETS[net].input_shape if net == "lenet" else (8, 8, 3))
    monkeypatch.setitem(NETS, net, small)
    case = {"net": net, "batch": 3}
    contender = GpunetStep(Spec("step", "gpunet", "emulated", 1))
    contender.timer, contender.graph = device_timer, True
    losses = contender.prepare(case)["losses"]
    assert losses == GpunetStep(Spec("step", "gpunet", "emulated", 1)).prepare(case)["losses"]  # bit for bit
    assert losses[-1] < losses[0]
    assert min(contender.time(2)) > 0


def test_16_bits_are_measured_where_they_are_stored(bench):
    with pytest.raises(ValueError, match="bench: precision='bfloat16' takes a CUDA backend, got numpy"):
        main([*SMALL, "--backend", "numpy", "--precision", "bfloat16"])
    with pytest.raises(ValueError, match="bench: precision='tf32' takes a CUDA backend with matrix units, got numpy"):
        main([*SMALL, "--backend", "numpy", "--precision", "tf32"])
    if why := why_unavailable("emulated"):
        pytest.skip(why)
    losses = [GpunetStep(Spec("step", "gpunet", "emulated", 1, p)).prepare({"net": "lenet", "batch": 4})["losses"]
              for p in ("float32", "float16")]  # fmt: skip
    assert losses[1] != losses[0]
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)


def test_a_step_is_measured_in_the_precision_that_was_asked_for(monkeypatch):
    if why := why_unavailable("emulated"):
        pytest.skip(why)
    backend = get_backend("emulated")
    monkeypatch.setattr(type(backend), "matrix_units", ("tf32",))
    asked = asked_of(backend, monkeypatch)
    contender = GpunetStep(Spec("step", "gpunet", "emulated", 1, "tf32"))
    losses = contender.prepare({"net": "lenet", "batch": 4})["losses"]
    assert {precision for _, precision in asked} == {"tf32"}
    assert contender.describe()["precision"] == "tf32"
    exact = GpunetStep(Spec("step", "gpunet", "emulated", 1)).prepare({"net": "lenet", "batch": 4})["losses"]
    assert losses == pytest.approx(exact, rel=LOSS_TOLERANCES["tf32"])
    assert set(LOSS_TOLERANCES) == set(PRECISIONS)


@pytest.mark.parity
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_the_rivals_do_the_same_work_in_16_bits(bench, precision):
    pytest.importorskip("torch")
    record, _ = bench(*SMALL, "--backend", "emulated", "--precision", precision, "--against", "torch-eager")
    (row,) = record["rows"]
    assert 0 < row["checked"]["loss_difference"] < LOSS_TOLERANCES[precision]
    assert {about["precision"] for about in record["contenders"].values()} == {precision}


@pytest.mark.parity
@pytest.mark.parametrize("net", ["lenet", "cnn", *(pytest.param(n, marks=pytest.mark.slow) for n in list(NETS)[2:])])
@pytest.mark.parametrize("kind", ["step", "inference"])
def test_the_rivals_do_the_same_work_on_every_net(bench, net, kind):
    pytest.importorskip("torch")
    record, _ = bench(
        kind, "--nets", net, "--batch", "64" if net == "mobilenet" else "3", "--threads", "1", "--rounds", "1",
        "--repeats", "1", "--backend", "numpy", "--against", "torch-eager", "torch-channels-last",
    )  # fmt: skip
    (row,) = record["rows"]
    # The first steps' losses, from translated weights; mobilenet's last batch norms see 4 pixels an image.
    assert row["checked"]["loss_difference"] < (1e-4 if net == "mobilenet" else 1e-5)
    assert all(row["ratios"][name]["median"] > 0 for name in ("torch-eager", "torch-channels-last"))


@pytest.mark.slow
@pytest.mark.parity
def test_a_compiled_rival_runs_on_the_cpu_or_says_why_not(tmp_path):
    pytest.importorskip("torch")
    output = tmp_path / "step.json"
    command = [sys.executable, "-m", "gpunet", "bench", *SMALL, "--backend", "numpy", "--against", "torch-compile"]
    status = subprocess.run([*command, "--output", output], check=False, capture_output=True).returncode
    times = json.loads(output.read_text())["rows"][0]["times"]
    assert times["gpunet"]["median_ms"] > 0
    assert ("error" in times["torch-compile"]) == (status == 1)  # for want of a compiler, say
    assert status == 1 or times["torch-compile"]["median_ms"] > 0
