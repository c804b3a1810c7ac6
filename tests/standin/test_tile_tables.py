"""Tables of tiles through CuPy: measured by replays of graphs, and read when a backend is made."""

import json

import numpy as np
import pytest

from gpunet.backends import get_backend
from gpunet.backends.contract import Conv
from gpunet.backends.cuda.backend import cuda_backend
from gpunet.bench import convolutions
from gpunet.bench.cli import main
from gpunet.bench.commands import conv
from gpunet.bench.nets import Convolution
from gpunet.bench.timing import CupyTimer

LAYER = Convolution((6, 6, 5), (3, 3, 5, 6))
TUNE = ["conv", "--nets", "56x56", "--batch", "2", "--threads", "1", "--rounds", "1", "--repeats", "1"]


def test_a_table_is_measured_by_graphs_and_taken_by_the_next_backend(cuda, tmp_path, monkeypatch):
    for module in (convolutions, conv):
        monkeypatch.setattr(module, "layers_of", lambda net: [LAYER])
    for name, value in {"rotated_bytes": 5000, "steady_seconds": 0, "settling_seconds": 0, "short_runs": 1}.items():
        monkeypatch.setattr(CupyTimer, name, value)
    path = tmp_path / "tiles.json"
    assert main([*TUNE, "--backend", "cuda", "--passes", "input_grad", "--tune", str(path)]) == 0
    table = json.loads(path.read_text())
    assert table["device"] == "CUDA stand-in"
    # Whatever was the fastest here, the next backend takes what the table says.
    entry = {
        "kernel": "conv2d_input_grad", "element": "float", "terms": 0, "gate": "NONE", "general": False, "rows": 72,
        "cols": 5, "depth": 54, "copies": 1, "aligned": [False, False], "tile": [64, 64], "loads": [1, 1], "splits": 3,
        "microseconds": 1.0, "chosen_microseconds": 2.0,
    }  # fmt: skip
    assert all(set(written) == set(entry) for written in table["products"])
    path.write_text(json.dumps({**table, "products": [entry]}))
    monkeypatch.setenv("GPUNET_TILES", str(path))
    backend = cuda_backend()
    assert backend.describe()["tiles"].startswith("tiles.json (SHA-256 ")
    rng, product = np.random.default_rng(0), Conv(LAYER.geometry(2))
    dy, w = rng.normal(size=product.y_shape).astype(np.float32), rng.normal(size=LAYER.w_shape).astype(np.float32)
    dx = backend.conv2d_input_grad(backend.asarray(dy), backend.asarray(w), product)
    assert "conv2d_input_grad_tiled<float, 64, 64, 4, 4, 1, 0>" in backend.launcher._functions
    expected = get_backend("reference").conv2d_input_grad(dy, w, product)
    np.testing.assert_allclose(backend.to_numpy(dx), expected, atol=1e-5)

    path.write_text(json.dumps({**table, "device": "NVIDIA H200"}))
    with pytest.raises(ValueError, match="has device 'NVIDIA H200' but this device has 'CUDA stand-in'"):
        cuda_backend()
