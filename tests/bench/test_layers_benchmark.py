"""Layers other than convolutions: both passes of each, and that a wrong result is refused."""

import pytest

from gpunet.backends.numpy.backend import NumpyBackend
from gpunet.bench.contenders import Spec
from gpunet.bench.primitives import GpunetPrimitive
from gpunet.bench.whole_layers import LAYERS, problem

SMALL = ["layers", "--batch", "1", "--threads", "1", "--rounds", "1", "--repeats", "1", "--backend", "numpy"]


@pytest.mark.parametrize("layer", LAYERS)
def test_each_case_runs_on_every_backend(backend, layer):
    asked = problem({"layer": layer, "batch": 1})
    outputs = asked.run(backend, {name: backend.asarray(a) for name, a in asked.inputs.items()})
    assert asked.error([backend.to_numpy(y) for y in outputs]) < 1e-5
    assert asked.outputs == ("y", "dx", *(f"d{name}" for name in LAYERS[layer].parameters))


def test_each_layer_is_a_row(bench):
    record, text = bench(*SMALL)
    assert [row["case"]["layer"] for row in record["rows"]] == list(LAYERS)
    assert all(row["checked"]["gpunet_error"] < 1e-5 for row in record["rows"])
    assert "| layer | batch | gpunet, ms |" in text


def test_a_wrong_gradient_is_not_timed(bench, monkeypatch):
    right = NumpyBackend.resample2d

    def wrong(self, x, rows, columns):
        y = right(self, x, rows, columns)
        if rows.outputs < rows.extent:  # backward
            y[-1, -1] *= 1.01
        return y

    monkeypatch.setattr(NumpyBackend, "resample2d", wrong)
    record, _ = bench(*SMALL, "--layers", "upsample bilinear", status=1)
    assert record["rows"][0]["times"]["gpunet"]["error"].startswith("its result differs from float64 by")


@pytest.mark.parametrize("layer", LAYERS)
def test_each_case_can_be_captured(device_timer, layer):
    contender = GpunetPrimitive(Spec("layers", "gpunet", "emulated", 1), problem)
    contender.timer = device_timer
    assert contender.prepare({"layer": layer, "batch": 1})["error"] < 1e-5
    assert contender.time(1)[0] > 0


@pytest.mark.parity
def test_pytorch_computes_the_same_layers(bench):
    pytest.importorskip("torch")
    record, _ = bench(*SMALL, "--against", "torch")
    for row in record["rows"]:
        assert list(row["ratios"]) == ["torch-eager", "torch-channels-last"]
        assert max(row["checked"].values()) < 1e-5
