"""Single convolutions: what is measured, and that a wrong result is refused."""

import numpy as np
import pytest

from gpunet.backends import get_backend
from gpunet.backends.host import memory
from gpunet.backends.numpy.backend import NumpyBackend
from gpunet.bench import convolutions, primitives
from gpunet.bench.contenders import Spec
from gpunet.bench.convolutions import PASSES, layers_of, problem
from gpunet.bench.timing import HostTimer
from gpunet.geometry import Geometry

SMALL = ["conv", "--batch", "2", "--threads", "1", "--rounds", "1", "--repeats", "1"]


def test_the_layers_of_a_net_are_found_with_the_operations_fused_into_them():
    first, second = layers_of("lenet")
    assert (first.x_shape, first.w_shape, first.padding) == ((28, 28, 1), (5, 5, 1, 6), "same")
    assert (second.x_shape, second.w_shape, second.padding) == ((14, 14, 6), (5, 5, 6, 16), "valid")
    assert first.activation
    assert first.pool
    assert (first.inner, second.inner) == (False, True)
    resnet = layers_of("resnet9")
    assert [layer.w_shape[3] for layer in resnet] == [64, 128, 128, 256, 512, 512]  # of equal ones, the first
    assert not any(layer.activation or layer.pool for layer in resnet)  # batch norm stands between


def test_every_pass_of_every_layer_is_a_row(bench):
    record, text = bench(*SMALL, "--nets", "lenet", "--backend", "numpy")
    assert [(row["case"]["layer"], row["case"]["pass"]) for row in record["rows"]] == [
        (0, "forward"), (0, "weight_grad"), (0, "fused"),  # nobody wants the gradient of the images
        (1, "forward"), (1, "input_grad"), (1, "weight_grad"), (1, "fused"),
    ]  # fmt: skip
    assert all(row["checked"]["gpunet_error"] < 1e-6 for row in record["rows"])
    assert "| lenet | 2 | 1 | 14x14x6 to 16, 5x5 | fused |" in text


def test_the_passes_run_on_every_backend(backend):
    for number in range(2):
        for which in PASSES:
            case = {"net": "lenet", "layer": number, "batch": 2, "pass": which}
            asked = problem(case)
            inputs = {name: backend.asarray(a) for name, a in asked.inputs.items()}
            outputs = [backend.to_numpy(y) for y in asked.run(backend, inputs)]
            assert asked.error(outputs) < 1e-5


@pytest.mark.parametrize(
    ("method", "which"),
    [("conv2d_forward", "forward"), ("conv2d_input_grad", "input_grad"), ("conv2d_weight_grad", "weight_grad")],
)
def test_a_wrong_result_is_not_timed(bench, monkeypatch, method, which):
    right = getattr(NumpyBackend, method)

    def wrong(self, *args, **options):
        result = right(self, *args, **options)
        (result[0] if isinstance(result, tuple) else result)[-1, -1] *= 1.01
        return result

    monkeypatch.setattr(NumpyBackend, method, wrong)
    record, _ = bench(*SMALL, "--nets", "lenet", "--passes", which, "--backend", "numpy", status=1)
    for row in record["rows"]:
        assert row["times"]["gpunet"]["error"].startswith("its result differs from float64 by")
        assert row["checked"] == {}


def test_a_pass_that_raises_loses_only_its_own_row(bench, monkeypatch, capsys):
    def full(self, *args, **options):
        raise MemoryError("out of memory\n  in a second line")

    monkeypatch.setattr(NumpyBackend, "conv2d_weight_grad", full)
    asked = [*SMALL, "--nets", "lenet", "--passes", "forward", "weight_grad", "--backend", "numpy"]
    record, text = bench(*asked, status=1)
    assert [(row["case"]["pass"], next(iter(row["times"]["gpunet"]))) for row in record["rows"]] == [
        ("forward", "p10_ms"), ("weight_grad", "error"), ("forward", "p10_ms"), ("weight_grad", "error"),
    ]  # fmt: skip
    why = "MemoryError: out of memory in a second line"
    assert record["rows"][1]["times"]["gpunet"] == {"error": why}
    assert f"- failed: gpunet: {why}\n" in text
    said = capsys.readouterr()
    assert f"weight_grad: gpunet failed ({why})\n" in said.out
    assert "Traceback" in said.err


@pytest.mark.parametrize("which", PASSES)
def test_some_images_of_a_large_batch_are_checked_including_the_last(monkeypatch, which):
    monkeypatch.setattr(convolutions, "CHECKED", 3 * 10 * 10 * 16 * 25 * 6)
    monkeypatch.setattr(convolutions, "FUSED_CHECKED", 3 * 10 * 10 * 16 * 25 * 6)
    asked = problem({"net": "lenet", "layer": 1, "batch": 9, "pass": which})
    assert asked.images.tolist() == [0, 4, 8]
    backend = get_backend("numpy")
    outputs = [np.array(y) for y in asked.run(backend, asked.checked_inputs())]
    assert asked.error(outputs) < 1e-6
    for i in range(len(outputs)):
        wrong = [y.copy() for y in outputs]
        wrong[i][-1] = 0
        assert asked.error(wrong) > asked.tolerance


def test_an_unwritten_result_is_wrong_even_if_its_memory_held_the_right_one(bench, monkeypatch):
    right, calls = NumpyBackend.conv2d_input_grad, []

    def first_time_only(self, dy, w, conv, gate=None):
        dx = memory.empty(conv.geometry.x_shape, dy.dtype)  # the block that the last one gave back
        if not calls:
            dx[...] = right(self, dy, w, conv, gate)
        calls.append(dx.ctypes.data)
        return dx

    monkeypatch.setattr(NumpyBackend, "conv2d_input_grad", first_time_only)
    asked = [*SMALL, "--batch", "64", "--nets", "lenet", "--passes", "input_grad", "--backend", "numpy"]
    record, _ = bench(*asked, status=1)
    assert "differs from float64 by nan" in record["rows"][0]["times"]["gpunet"]["error"]
    assert calls[0] == calls[1]


def test_buffers_rotate_where_caches_matter(monkeypatch):
    asked = problem({"net": "lenet", "layer": 1, "batch": 2, "pass": "forward"})
    size = sum(a.nbytes for a in asked.inputs.values())
    timer = HostTimer()
    assert primitives.set_count(timer, asked) == 1
    timer.rotated_bytes = 3 * size - 1
    assert primitives.set_count(timer, asked) == 3
    called = []
    calls = primitives.TimedCalls(timer, [lambda i=i: called.append(i) for i in range(3)])
    assert len(called) == primitives.LEAST_CALLS  # once, to warm up
    assert called[:4] == [0, 1, 2, 0]
    monkeypatch.setattr(timer, "seconds", lambda work, repeats: [3.2 for _ in range(repeats) if work()])
    assert calls.seconds(2) == [3.2 / primitives.LEAST_CALLS] * 2  # a call's share
    assert len(called) == 3 * primitives.LEAST_CALLS


@pytest.mark.parametrize("which", PASSES)
def test_a_pass_can_be_captured(device_timer, which):
    contender = primitives.GpunetPrimitive(Spec("conv", "gpunet", "emulated", 1), problem)
    contender.timer = device_timer
    contender.prepare({"net": "lenet", "layer": 1, "batch": 2, "pass": which})
    assert min(contender.time(1)) > 0


def test_geometry_of_a_layer_is_the_nets():
    (single,) = layers_of(convolutions.SINGLE)
    assert single.geometry(32) == Geometry.conv((32, 56, 56, 64), (3, 3, 64, 64), padding="same")


@pytest.mark.parity
def test_pytorch_computes_the_same_passes(bench):
    pytest.importorskip("torch")
    asked = [*SMALL, "--nets", "lenet", "--backend", "numpy", "--against"]
    record, _ = bench(*asked, "torch-eager", "torch-channels-last")
    for row in record["rows"]:
        assert row["checked"]["torch-eager_error"] < 1e-5
        assert row["checked"]["torch-channels-last_error"] < 1e-5
    _, text = bench(*asked, "torch", "--passes", "forward")
    assert "- not measured: torch-benchmark: cuDNN needs a GPU; without it this is torch-eager\n" in text
    assert "- not measured: torch-compile: torch.compile has nothing to fuse in a single convolution\n" in text
