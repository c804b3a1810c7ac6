"""PyTorch as a rival: the ways of running it, its precision, and gpunet in its process."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from gpunet.backends import registry
from gpunet.bench.contenders import Spec
from gpunet.bench.rivals import CONV_RIVALS, LAYER_RIVALS, RIVALS, Rival, allow_tf32
from gpunet.bench.worker import make

STEP = {"net": "lenet", "batch": 2}
CASES = [
    ("step", STEP),
    ("conv", {**STEP, "layer": 1, "pass": "fused"}),
    ("layers", {"layer": "batch_norm", "batch": 1}),
]


def test_every_layout_is_measured_with_cudnns_benchmark_and_as_a_graph():
    ways = list(RIVALS.values())
    assert Rival(benchmark=True) in ways
    assert any(w.graph and w.channels_last and w.benchmark and w.compile is None for w in ways)
    for names in (CONV_RIVALS, LAYER_RIVALS):
        assert {Rival(), Rival(benchmark=True), Rival(benchmark=True, channels_last=True)} <= {RIVALS[n] for n in names}


def test_rivals_that_take_longer_to_compile_come_later_in_any_order_of_the_command(bench, monkeypatch):
    effort = [{None: 0, "default": 1, "max-autotune": 2}[way.compile] for way in RIVALS.values()]
    assert effort == sorted(effort)
    for names in (CONV_RIVALS, LAYER_RIVALS):
        assert list(names) == [name for name in RIVALS if name in names]
    monkeypatch.setitem(sys.modules, "torch", None)
    asked = ["step", "--nets", "lenet", "--batch", "2", "--threads", "1", "--rounds", "1", "--repeats", "1"]
    record, _ = bench(*asked, "--backend", "numpy", "--against", "torch-graph", "torch-compile", "torch-eager")
    assert list(record["rows"][0]["times"]) == ["gpunet", "torch-eager", "torch-compile", "torch-graph"]


def test_an_older_pytorch_has_its_own_flags_for_tf32():
    flags = SimpleNamespace(allow_tf32=True), SimpleNamespace(allow_tf32=True)
    old = SimpleNamespace(backends=SimpleNamespace(cuda=SimpleNamespace(matmul=flags[0]), cudnn=flags[1]))
    for allowed in (False, True, False):
        allow_tf32(old, allowed)
        assert [vars(f) for f in flags] == [{"allow_tf32": allowed}] * 2


@pytest.mark.parity
def test_pytorch_multiplies_in_float32_by_every_flag_that_it_reads():
    torch = pytest.importorskip("torch")
    allow_tf32(torch, False)
    backends = torch.backends
    assert {backends.fp32_precision, backends.cuda.matmul.fp32_precision, backends.cudnn.conv.fp32_precision} == {
        "ieee"
    }
    assert not backends.cuda.matmul.allow_tf32
    assert not backends.cudnn.allow_tf32  # torch.compile reads it, and it raises where it contradicts the others


@pytest.mark.parity
@pytest.mark.parametrize(("precision", "flag"), [("float32", "ieee"), ("tf32", "tf32"), ("3xtf32", "ieee")])
def test_pytorch_may_use_tf32_for_tf32_alone(precision, flag):
    torch = pytest.importorskip("torch")
    backends = torch.backends
    try:
        contender = make(Spec("step", "torch-eager", "numpy", 1, precision))
        assert {backends.cuda.matmul.fp32_precision, backends.cudnn.conv.fp32_precision} == {flag}
        assert backends.cuda.matmul.allow_tf32 is backends.cudnn.allow_tf32 is (flag == "tf32")
        assert np.isfinite(contender.prepare({"net": "lenet", "batch": 2})["losses"]).all()
        assert contender.describe()["precision"] == precision
    finally:
        allow_tf32(torch, False)


@pytest.mark.parity
@pytest.mark.parametrize(("kind", "case"), CASES, ids=[kind for kind, _ in CASES])
def test_a_rival_makes_gpunet_arrays_on_the_host_alone(monkeypatch, kind, case):
    pytest.importorskip("torch")
    asked, right = [], registry._make

    def made(name, device):
        asked.append(name)
        return right(name, device)

    monkeypatch.delenv("GPUNET_BACKEND", raising=False)
    monkeypatch.setattr(registry, "_make", made)
    monkeypatch.setattr(registry, "why_unavailable", lambda name: "")  # as on a machine with a GPU
    contender = make(Spec(kind, "torch-eager", "numpy", 1))
    contender.prepare(case)
    assert contender.time(1)[0] > 0
    assert asked
    assert set(asked) <= {"numpy", "reference"}
