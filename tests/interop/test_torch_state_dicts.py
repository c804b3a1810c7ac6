"""PyTorch's state dicts and files, without PyTorch: layouts against definitions, names, and what is refused.

tests/parity/test_torch_weights.py compares with PyTorch itself.
"""

import struct
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import tolerances
from helpers import relative_error
from safetensors.numpy import load_file, save, save_file

import gpunet as gp
from gpunet import interop, models, nn
from gpunet.interop import torch as weights


def state_of(rng, **shapes):
    """Random arrays of PyTorch's shapes, with "__" for dots in names."""
    return {name.replace("__", "."): rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def windows(x, kh, kw):
    return np.lib.stride_tricks.sliding_window_view(x, (kh, kw), axis=(2, 3))


def conv(x, w, b):
    """PyTorch's convolution of (N, C, H, W) by its definition; w (O, C / groups, KH, KW)."""
    inner = w.shape[1]
    groups = x.shape[1] // inner
    per = len(w) // groups
    parts = [
        np.einsum(
            "nchwij,ocij->nohw", windows(x[:, g * inner : (g + 1) * inner], *w.shape[2:]), w[g * per : (g + 1) * per]
        )
        for g in range(groups)
    ]
    return np.concatenate(parts, axis=1) + b[:, None, None]


def conv_transposed(x, w, b, groups):
    """PyTorch's transposed convolution with stride 1: each pixel adds its filter; w (I, O / groups, KH, KW)."""
    n, channels, h, width = x.shape
    _, per, kh, kw = w.shape
    y = np.zeros((n, per * groups, h + kh - 1, width + kw - 1), np.float64)
    inner = channels // groups
    for c in range(channels):
        out = slice(c // inner * per, (c // inner + 1) * per)
        for i in range(h):
            for j in range(width):
                y[:, out, i : i + kh, j : j + kw] += x[:, c, i, j, None, None, None] * w[c]
    return y + b[:, None, None]


def test_filters_and_what_is_flattened_are_those_of_the_definitions(rng):
    state = state_of(
        rng, **{"0__weight": (8, 3, 3, 2), "0__bias": (8,), "1__weight": (8, 3, 2, 3), "1__bias": (6,)},
        **{"3__weight": (5, 6 * 4 * 6), "3__bias": (5,)},
    )  # fmt: skip
    model = nn.Sequential(
        nn.Conv2d(6, 8, (3, 2), groups=2), nn.ConvTranspose2d(8, 6, (2, 3), groups=2), nn.Flatten(), nn.Linear(144, 5)
    )
    found = weights.load_state_dict(model, state)
    assert found == {name: name for name in state}
    x = rng.normal(size=(2, 6, 5, 5)).astype(np.float32)
    h = conv_transposed(conv(x, state["0.weight"], state["0.bias"]), state["1.weight"], state["1.bias"], 2)
    expected = h.reshape(2, -1) @ state["3.weight"].T + state["3.bias"]
    assert relative_error(model(gp.tensor(x.transpose(0, 2, 3, 1))).numpy(), expected) <= tolerances.TORCH
    back = weights.to_torch_state_dict(model, numpy=True)
    for name, array in state.items():
        np.testing.assert_array_equal(back[name], array)


def test_norms_over_whole_images_have_their_axes_moved(rng):
    state = state_of(rng, weight=(4, 2, 3), bias=(4, 2, 3))
    model = nn.LayerNorm((2, 3, 4))
    weights.load_state_dict(model, state)
    np.testing.assert_array_equal(model.weight.numpy(), state["weight"].transpose(1, 2, 0))


def test_counts_of_batches_are_taken_where_batch_norm_has_one_and_written_for_all(rng):
    state = {**state_of(rng, weight=(3,), bias=(3,), running_mean=(3,)), "running_var": np.ones(3, np.float32)}
    state["num_batches_tracked"] = np.array(12)
    plain, counting = nn.BatchNorm2d(3), nn.BatchNorm2d(3, momentum=None)
    weights.load_state_dict(plain, state)
    weights.load_state_dict(counting, state)
    assert counting.num_batches_tracked.numpy() == 12
    counts = [weights.to_torch_state_dict(norm, numpy=True)["num_batches_tracked"] for norm in (plain, counting)]
    assert [(count.dtype, count.shape, int(count)) for count in counts] == [(np.int64, (), 0), (np.int64, (), 12)]


# ---- whole networks


@pytest.fixture
def empty_layers(monkeypatch):
    """Layers start with zeros, since drawing the many weights of large networks takes seconds."""
    monkeypatch.setattr("gpunet.nn.init.draw", lambda init, shape: np.zeros(shape, np.float32))


def numbered(state):
    """Arrays of the same shapes and dtypes, each of which counts on from another number."""
    return {name: (i + np.arange(a.size).reshape(a.shape)).astype(a.dtype) for i, (name, a) in enumerate(state.items())}


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (models.lenet, {}), (models.cnn, {}), (models.conv4, {}), (lambda: models.vgg11((32, 64, 3)), {}),
        (models.resnet9, {}), (models.speedrun, {}),
        (lambda: models.UNet(1, 2, base_channels=4, depth=2), {}),
        (lambda: models.YOLO(np.array([[10.0, 14.5]]), 2, base_channels=4), {}),
        (lambda: models.Siamese(models.conv4((16, 16, 1), (4, 4, 4, 4)), 4), {"input_shape": (16, 16, 1)}),
    ],
)  # fmt: skip
def test_every_network_takes_and_gives_back_the_same_arrays(empty_layers, make, told):
    model = make()
    state = numbered(weights.to_torch_state_dict(model, **told, numpy=True))
    found = weights.load_state_dict(model, state, **told)
    assert set(found) == set(model.state_dict())
    for name, array in weights.to_torch_state_dict(model, **told, numpy=True).items():
        np.testing.assert_array_equal(array, 0 if name.endswith("tracked") else state[name], name)


# ---- names


def small(rng):
    return nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Linear(3, 2)), state_of(
        rng, body__conv__weight=(3, 2, 1, 1), body__conv__bias=(3,), head__weight=(2, 3), head__bias=(2,)
    )


@pytest.mark.parametrize(
    "names",
    [
        {"body.conv": "0", "head": "2"},
        {"body.conv.weight": "0.weight", "body.conv.bias": "0.bias", "head": "2"},
        lambda name: name.replace("body.conv", "0").replace("head", "2"),
    ],
)
def test_names_lead_from_theirs_to_ours_and_back(rng, names):
    model, state = small(rng)
    found = weights.load_state_dict(model, state, names=names)
    assert found == {
        "0.weight": "body.conv.weight",
        "0.bias": "body.conv.bias",
        "2.weight": "head.weight",
        "2.bias": "head.bias",
    }
    if isinstance(names, dict):
        back = weights.to_torch_state_dict(model, names=names, numpy=True)
        assert set(back) == set(state)
        np.testing.assert_array_equal(back["head.weight"], state["head.weight"])


def test_a_function_gives_names_there_on_the_way_back():
    model = nn.Linear(3, 2)
    back = weights.to_torch_state_dict(model, names=lambda own: f"head.{own}" if own == "weight" else None, numpy=True)
    assert list(back) == ["head.weight"]
    with pytest.raises(ValueError, match="names gives two entries the name x"):
        weights.to_torch_state_dict(model, names=lambda own: "x", numpy=True)


def test_a_head_is_left_out_there_and_kept_here(rng):
    model, state = small(rng)
    state["head.weight"] = np.zeros((9, 3), np.float32)  # of another number of classes
    before = model.state_dict()
    weights.load_state_dict(model, state, names={"body.conv": "0", "head": None}, keep=["2"])
    np.testing.assert_array_equal(model[0].weight.numpy()[0, 0], state["body.conv.weight"][:, :, 0, 0].T)
    np.testing.assert_array_equal(model[2].weight.numpy(), before["2.weight"])
    weights.load_state_dict(model, state, names={"body.conv": "0", "head": "2"}, keep=["2"])
    with pytest.raises(ValueError, match="keep names '3', which is no part of the model: it has 0, 2"):
        weights.load_state_dict(model, state, keep=["3"])


SMALL = {"num_classes": 5, "dense": (6, 7), "variant": "torchvision"}
TABLES = {
    "resnet18": (
        lambda: models.resnet18((32, 32, 3), 5, "paper"), "torchvision", 122,
        ["layer4.1.bn2.running_var", "layer2.0.downsample.1.bias", "fc.weight"],
    ),
    "resnet34": (
        lambda: models.resnet34((32, 32, 3), 5, "paper"), "timm", 218,
        ["layer3.5.conv2.weight", "layer4.2.bn1.num_batches_tracked"],
    ),
    "vgg11": (
        lambda: models.vgg11((32, 32, 3), batch_norm=False, **SMALL), "torchvision", 22, ["features.18.weight"]
    ),
    "vgg16_bn": (lambda: models.vgg16((32, 32, 3), **SMALL), "torchvision", 97, ["features.41.running_mean"]),
    "alexnet": (lambda: models.alexnet((63, 63, 3), **SMALL), "torchvision", 16, ["features.10.bias", "classifier.4.bias"]),
    "mobilenetv1_100": (
        lambda: models.mobilenet(variant="timm"), "timm", 164,
        ["blocks.3.5.conv_pw.weight", "conv_stem.weight", "classifier.bias"],
    ),
}  # fmt: skip
"""Networks, a table, and the number of the library's entries with some of them (of torchvision 0.28 and timm 1.0)."""


@pytest.mark.parametrize("name", TABLES)
def test_torchvisions_and_timms_names_are_known_and_found_by_themselves(empty_layers, name):
    make, table, count, some = TABLES[name]
    model = make()
    state = numbered(weights.to_torch_state_dict(model, names=table, numpy=True))
    assert len(state) == count
    assert set(some) <= set(state)
    found = weights.load_state_dict(model, state)
    assert len(set(found.values())) == len(model.state_dict())
    for entry, array in weights.to_torch_state_dict(model, names=table, numpy=True).items():
        np.testing.assert_array_equal(array, 0 if entry.endswith("tracked") else state[entry])


@pytest.mark.parametrize(
    ("model", "names", "message"),
    [
        (
            nn.Linear(3, 2),
            "torchvision",
            "names='torchvision' is not known for this model: there are tables for networks of",
        ),
        (models.mobilenet(), "timm", "names='timm' is not known for this model"),
        (models.resnet18(), "keras", "its tables are torchvision, timm"),
        (nn.Linear(3, 2), {"a": "weight", "b": "weight"}, "names leads twice to weight"),
        (
            nn.Linear(3, 2),
            lambda name: "weight",
            "bias and weight are both weight; .*missing|missing bias; .* are both weight",
        ),
    ],
)
def test_names_that_do_not_fit_are_refused(rng, model, names, message):
    with pytest.raises(ValueError, match=message):
        weights.load_state_dict(model, state_of(rng, weight=(2, 3), bias=(2,)), names=names)


# ---- what is refused


def test_everything_that_does_not_fit_is_said_at_once_and_nothing_is_changed(rng):
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Linear(3, 2))
    before = model.state_dict()
    state = state_of(
        rng, **{"0__weight": (3, 2, 2, 1), "0__bias": (3,), "1__weight": (3,), "1__running_mean": (3,)},
        **{"1__running_var": (3,), "2__weight": (2, 3), "2__more": (1,)},
    )  # fmt: skip
    state |= {
        "0.bias": np.ones(3, np.int64),
        "2.bias": [1.0, 2.0],
        "1.num_batches_tracked": np.array(1),
        "9": np.ones(1),
    }
    with pytest.raises(ValueError, match="^load_state_dict: the state dict: missing 1.bias; ") as caught:
        weights.load_state_dict(model, state)
    for said in (
        "0.weight is (3, 2, 2, 1) but takes (3, 2, 1, 1)", "0.bias is int64 but takes floats", "unexpected 2.more",
        "2.bias is list but takes a tensor or a NumPy array", "unexpected 9",
    ):  # fmt: skip
        assert said in str(caught.value)
    assert "num_batches_tracked" not in str(caught.value)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_what_is_missing_is_said_by_its_names_there_and_here():
    model = models.resnet18((32, 32, 3), 5, "paper")
    state = weights.to_torch_state_dict(model, names="torchvision", numpy=True)
    del state["layer1.0.conv1.weight"]
    state["fc.weight"] = np.ones((7, 512), np.float32)
    message = r"missing layer1.0.conv1.weight \(3.conv1.weight\); fc.weight is \(7, 512\) but takes \(5, 512\)"
    with pytest.raises(ValueError, match=message):
        weights.load_state_dict(model, state)


@pytest.mark.parametrize("convert", [weights.load_state_dict, lambda model, state: weights.to_torch_state_dict(model)])
def test_layers_without_counterpart_are_named(convert):
    model = nn.Sequential(nn.LocallyConnected2d((3, 3, 1), 2, 2))
    with pytest.raises(
        ValueError, match="PyTorch has no counterpart of 0.weight, of a LocallyConnected2d; 0.bias, of a"
    ):
        convert(model, {"0.weight": np.ones((2, 1, 2, 2), np.float32)})


def test_what_keeps_its_values_needs_no_counterpart(rng):
    model = nn.Sequential(nn.LocallyConnected2d((3, 3, 1), 2, 2), nn.Linear(2, 2))
    weights.load_state_dict(model, state_of(rng, **{"1__weight": (2, 2), "1__bias": (2,)}), keep=["0"])
    own = Network()
    weights.load_state_dict(own, state_of(rng, body__weight=(2,)), keep=["head"])


class Network(nn.Module):
    """It does not tell what stands before its dense layers."""

    def __init__(self):
        self.body, self.head = nn.PReLU(2), nn.Linear(2, 2)


def test_a_name_with_a_line_break_makes_no_second_line():
    with pytest.raises(ValueError, match=r"unexpected a\\nb") as caught:
        weights.load_state_dict(nn.Linear(1, 1), {"a\nb": np.ones(1)})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("state", "names"), [({3: np.ones(1)}, None), ({"a": np.ones(1)}, lambda name: 3)])
def test_names_that_are_no_text_are_refused(state, names):
    with pytest.raises(TypeError, match="has a key 3 but takes names|names gives a 3 but takes a name or None"):
        weights.load_state_dict(nn.Linear(1, 1), state, names=names)


def test_a_value_that_float32_cannot_hold_is_refused():
    with pytest.raises(ValueError, match=r"^load_state_dict: the state dict: weight holds 1e\+39"):
        weights.load_state_dict(nn.Linear(1, 1), {"weight": np.full((1, 1), 1e39), "bias": np.ones(1)})


@pytest.mark.parametrize("source", [3, None, [("weight", 1)]])
def test_other_sources_are_refused(source):
    with pytest.raises(TypeError, match="source is .* but takes a file's name or a state dict"):
        weights.load_state_dict(nn.Linear(1, 1), source)


# ---- files


def test_a_file_is_read_and_written_without_pytorch(tmp_path, rng):
    path = tmp_path / "net.safetensors"
    state = state_of(rng, weight=(2, 3), bias=(2,))
    save_file({**state, "weight": state["weight"].astype(ml_dtypes.bfloat16)}, path, metadata={"format": "pt"})
    model = nn.Linear(3, 2)
    weights.load_state_dict(model, path)
    np.testing.assert_array_equal(model.weight.numpy(), state["weight"].astype(ml_dtypes.bfloat16).astype("f4").T)
    weights.save_state_dict(model, path, names={"dense": ""})
    back = load_file(path)
    assert set(back) == {"dense.weight", "dense.bias"}
    np.testing.assert_array_equal(back["dense.weight"], model.weight.numpy().T)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.pth", b""), ("a.bin", b"x" * 100), ("a", b"PK\x03\x04" + bytes(90)), ("a.safetensors", b"\x80\x02}q\x00.")],
)
def test_a_pickle_is_not_opened(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TypeError, match=r"is a pickle of torch\.save, .* save it as safetensors, or give pickle=True"):
        weights.load_state_dict(nn.Linear(3, 2), tmp_path / name)


@pytest.mark.parametrize("length", [0x0280, 0x0380])
def test_a_header_whose_length_looks_like_a_pickle_is_none(tmp_path, length):
    """The length, in eight bytes, stands first in the file: 80 02 is how a pickle begins."""
    path, state = tmp_path / "a.bin", {"weight": np.ones((2, 3), np.float32), "bias": np.ones(2, np.float32)}
    short = len(save(state, metadata={"x": ""})) - 32 - 8
    path.write_bytes(save(state, metadata={"x": "x" * (length - short)}))
    assert path.read_bytes()[:4] == struct.pack("<I", length)
    weights.load_state_dict(nn.Linear(3, 2), path)


def test_gpunets_own_file_is_refused_by_name(tmp_path):
    interop.save_weights(tmp_path / "own.safetensors", nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"is gpunet's own file: load it by interop\.load_weights"):
        weights.load_state_dict(nn.Linear(3, 2), tmp_path / "own.safetensors")


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"weight": np.ones((2, 3), np.float32)}, path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(gp.DamagedFileError, match=r"load_state_dict: .*a\.safetensors is damaged"):
        weights.load_state_dict(nn.Linear(3, 2), path)


def test_tensors_take_pytorch_and_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r'takes PyTorch: pip install "gpunet\[torch\]"'):
        weights.to_torch_state_dict(nn.Linear(3, 2))
    with pytest.raises(ImportError, match="pickle=True: takes PyTorch"):
        weights.load_state_dict(nn.Linear(3, 2), "a.pth", pickle=True)


def test_importing_the_readers_imports_no_other_framework():
    code = (
        "import sys, gpunet; assert not any('interop.torch' in m or 'interop.keras' in m for m in sys.modules); "
        "import gpunet.interop.torch, gpunet.interop.keras; assert not {'torch', 'h5py', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
