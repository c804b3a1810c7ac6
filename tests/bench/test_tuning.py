"""Tables of tiles: what is timed, what is written, and that the chooser takes it."""

import json
from argparse import Namespace

import numpy as np
import pytest
from helpers import needs_emulator

import gpunet as gp
from gpunet import interop, nn, optim
from gpunet.backends import get_backend
from gpunet.backends.contract import Conv
from gpunet.backends.cuda.backend import emulated_backend
from gpunet.backends.cuda.device import CudaDevice
from gpunet.backends.cuda.tile_file import VARIABLE, Entry, read_tiles, table_of_environment, write_tiles
from gpunet.backends.cuda.tiles import lay_out
from gpunet.bench import convolutions, tuning
from gpunet.bench.cli import main
from gpunet.bench.commands import conv
from gpunet.bench.contenders import Spec
from gpunet.bench.nets import Convolution
from gpunet.bench.worker import make
from gpunet.cuda.description import H200
from gpunet.cuda.tile_lists import FORWARD_TILES
from gpunet.cuda.tile_table import TileChoice, TiledProduct, tiles_of

LAYER = Convolution((6, 6, 5), (3, 3, 5, 6), activation=True)
"""Its channels are no multiples of four, so that each pass has two tiles alone."""
CASE = {"net": "56x56", "layer": 0, "batch": 2, "pass": "input_grad"}
TUNE = ["conv", "--nets", "56x56", "--batch", "2", "--threads", "1", "--rounds", "1", "--repeats", "1"]
PRODUCT = TiledProduct("conv2d_forward", "float", 0, "NONE", False, 100352, 64, 576, 1, True, True)


@pytest.fixture
def layer(monkeypatch):
    """`LAYER` in place of the convolutions of every net."""
    for module in (convolutions, conv):
        monkeypatch.setattr(module, "layers_of", lambda net: [LAYER])


class KnownTimes:
    """`TimedCalls` whose times are known by the rows and columns of the tile, and its splits."""

    seconds_of = None

    def __init__(self, timer, runs):
        ((_, choice),) = runs[0].args[0].description.table.choices.items()
        self.value = self.seconds_of.get((choice.rows, choice.cols, choice.splits), 1.0)

    def seconds(self, repeats):
        return [self.value] * repeats


@pytest.fixture
def known(monkeypatch):
    """Layouts take a second, but for those that a test puts into this dictionary."""
    times = {}
    monkeypatch.setattr(KnownTimes, "seconds_of", times)
    monkeypatch.setattr(tuning, "TimedCalls", KnownTimes)
    return times


def tuned(path, *arguments):
    """The table that the command writes."""
    assert main([*TUNE, "--backend", "emulated", "--tune", str(path), *arguments]) == 0
    return json.loads(path.read_text())


def input_grad(backend):
    """The input gradient of `LAYER` on a backend, and on the reference."""
    rng = np.random.default_rng(1)
    conv = Conv(LAYER.geometry(2))
    dy, w = rng.normal(size=conv.y_shape).astype(np.float32), rng.normal(size=LAYER.w_shape).astype(np.float32)
    got = backend.to_numpy(backend.conv2d_input_grad(backend.asarray(dy), backend.asarray(w), conv))
    return got, get_backend("reference").conv2d_input_grad(dy, w, conv)


def tiles_launched(backend):
    """The instances with tiles that an emulated backend has launched."""
    return [name for name in backend.launcher.totals if "_tiled" in name]


def tuner_of(path):
    """A tuner on the emulated device."""
    return tuning.Tuner(
        Namespace(
            tune=path, backend="emulated", threads=1, precision="float32", against=[], output=None, rounds=1, repeats=1
        )
    )


# ---- what is timed, and what is written


@needs_emulator
def test_the_fastest_layout_is_written_and_then_taken(layer, known, tmp_path, monkeypatch, capsys):
    known[64, 64, 2] = 0.5  # predicted is the tile of 128 x 16
    known[128, 16, 1] = 0.75
    table = tuned(tmp_path / "tiles.json", "--passes", "input_grad")
    (entry,) = table["products"]
    assert (entry["kernel"], entry["tile"], entry["loads"], entry["splits"]) == (
        "conv2d_input_grad", [64, 64], [1, 1], 2,
    )  # fmt: skip
    assert (entry["rows"], entry["cols"], entry["depth"], entry["aligned"]) == (72, 5, 54, [False, False])
    assert entry["microseconds"] == 5e5
    assert entry["chosen_microseconds"] in (7.5e5, 1e6)
    assert "1 of 1 products" in capsys.readouterr().out

    plain = emulated_backend()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "tiles.json"))
    backend = emulated_backend()
    (first, expected), (second, _) = input_grad(backend), input_grad(backend)
    assert tiles_launched(backend) == ["conv2d_input_grad_tiled<float, 64, 64, 4, 4, 1, 0>"]
    np.testing.assert_allclose(first, expected, atol=1e-5)
    assert first.tobytes() == second.tobytes()
    digest = backend.description.table.digest
    assert backend.describe()["tiles"] == f"tiles.json (SHA-256 {digest})"
    assert "tiles" not in plain.describe()
    np.testing.assert_allclose(input_grad(plain)[0], expected, atol=1e-5)
    assert tiles_launched(plain) == ["conv2d_input_grad_tiled<float, 128, 16, 4, 2, 1, 0>"]


@needs_emulator
def test_a_gain_within_the_noise_is_not_written(layer, known, tmp_path, capsys):
    product = TiledProduct("conv2d_input_grad", "float", 0, "NONE", False, 72, 5, 54, 1, False, False)
    device = emulated_backend().description
    others = tuning.layouts_of(product, device)[1:]
    known.update({(layout.tile.rows, layout.tile.cols, layout.splits): 0.98 for layout in others})
    assert tuned(tmp_path / "tiles.json", "--passes", "input_grad")["products"] == []
    assert ", which nothing beats" in capsys.readouterr().out
    known.update({(layout.tile.rows, layout.tile.cols, layout.splits): 0.9 for layout in others[:1]})
    assert len(tuned(tmp_path / "tiles.json", "--passes", "input_grad")["products"]) == 1


@needs_emulator
def test_a_layout_that_computes_something_else_is_left_out(layer, known, tmp_path, monkeypatch, capsys):
    right = CudaDevice._launch_tiles

    def wrong(self, kernel, element, layout, options, args, flops):
        right(self, kernel, element, layout, options, args, flops)
        if layout.tile.cols == 16:
            self.full(args[3].shape, 0.0, np.float32)
            self.copy(self.full(args[3].shape, 0.0, np.float32), out=args[3])

    monkeypatch.setattr(CudaDevice, "_launch_tiles", wrong)
    known.update({(128, 16, splits): 0.5 for splits in range(1, 5)})
    known[64, 64, 1] = known[64, 64, 2] = 0.9
    table = tuned(tmp_path / "tiles.json", "--passes", "input_grad")
    assert all(entry["tile"] == [64, 64] for entry in table["products"])
    assert "is left out: its result differs by 1" in capsys.readouterr().out


@needs_emulator
def test_real_times_are_measured_of_every_product_of_the_fused_pass(layer, tmp_path, capsys):
    table = tuned(tmp_path / "tiles.json", "--passes", "fused")
    said = capsys.readouterr().out
    assert "of 3 products" in said
    for kernel, gate in (("forward", "NONE"), ("input_grad", "RELU"), ("weight_grad", "RELU")):
        assert f"conv2d_{kernel} float, 1 of" in said
        assert f"gate {gate}" in said
    assert table["device"].startswith("CUDA emulated")
    assert (table["gpunet"], table["architecture"], table["multiprocessors"]) == (gp.__version__, 80, 132)
    for entry in table["products"]:
        assert 0 < entry["microseconds"] < entry["chosen_microseconds"]


def test_layouts_are_captured_where_the_timer_captures(layer, device_timer, tmp_path):
    tuner = tuner_of(tmp_path / "tiles.json")
    tuner.runner.timer = device_timer
    for entry in tuner.entries(CASE):
        assert entry.microseconds < entry.chosen_microseconds
    assert len(tuner.seen) == 1


@needs_emulator
def test_a_product_of_several_cases_is_timed_once(layer, known, tmp_path):
    known[64, 64, 2] = 0.5
    tuner = tuner_of(tmp_path / "tiles.json")
    assert [entry.choice.rows for entry in tuner.entries(CASE)] == [64]
    assert tuner.entries(CASE) == []
    assert len(tuner.entries({**CASE, "batch": 3})) == 1


class Turns:
    """Calls that take the given seconds, and note when they are timed."""

    def __init__(self, name, values, order):
        self.name, self.values, self.order = name, iter(values), order

    def seconds(self, repeats):
        self.order.append(self.name)
        return [next(self.values)] * repeats


def test_layouts_are_timed_in_turns_once_slow_ones_are_left_out():
    values = {"own": [9.0, 2.0, 8.0, 3.0], "best": [1.0, 1.1, 5.0, 1.2], "near": [1.2, 1.3, 1.3, 1.3], "slow": [1.3]}
    order = []
    calls = {name: Turns(name, times, order) for name, times in values.items()}
    assert tuning.shortlisted(calls, "own", rounds=3, repeats=2) == {"own": 3.0, "best": 1.2, "near": 1.3}
    kept = ["own", "best", "near"]
    assert order == [*kept, "slow", *kept, *kept[::-1], *kept]


@pytest.mark.parametrize("kernel", ["conv2d_forward", "conv2d_input_grad", "conv2d_weight_grad"])
@pytest.mark.parametrize(("element", "terms"), [("float", 0), ("float", 1), ("float", 3), ("bfloat16", 1)])
def test_every_legal_tile_is_timed_with_at_most_three_numbers_of_splits(kernel, element, terms):
    product = PRODUCT._replace(kernel=kernel, element=element, terms=terms)
    layouts = tuning.layouts_of(product, H200)
    assert len(set(layouts)) == len(layouts)
    assert {layout.tile for layout in layouts} == set(tiles_of(product))
    for tile in tiles_of(product):
        assert 1 <= sum(layout.tile == tile for layout in layouts) <= tuning.SPLITS
    if terms == 0:
        unaligned = tuning.layouts_of(product._replace(left=False, right=False), H200)
        assert all(layout.tile.left == layout.tile.right == 1 for layout in unaligned)
    options = {"left": True, "right": True, **tuning.arguments_of(product)[1]}
    assert layouts[0] == lay_out(tiles_of(product), *product[5:8], H200, **options)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--backend", "numpy"], "--tune takes a CUDA backend but --backend is numpy"),
        (["--backend", "emulated", "--against", "torch"], "--tune takes neither --against nor --output"),
        (["--backend", "emulated", "--output", "o.json"], "--tune takes neither --against nor --output"),
        (["--backend", "emulated", "--tune", "tiles.txt"], "--tune is tiles.txt but names a .json file"),
    ],
)
@needs_emulator
def test_options_that_do_not_go_with_tuning_are_refused(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=said):
        main([*TUNE, "--tune", "tiles.json", *arguments])
    assert list(tmp_path.iterdir()) == []


# ---- the chooser


def test_a_choice_that_is_not_legal_for_a_call_is_ignored():
    options = {"left": True, "right": True}
    predicted = lay_out(FORWARD_TILES, 100352, 64, 576, H200, **options)
    choice = TileChoice(128, 32, 4, 4, 3)
    taken = lay_out(FORWARD_TILES, 100352, 64, 576, H200, **options, chosen=choice)
    assert (taken.tile[:2], taken.splits) == ((128, 32), 3)
    assert taken != predicted
    for illegal in (choice._replace(splits=10**6), choice._replace(rows=96), choice._replace(right=1)):
        assert lay_out(FORWARD_TILES, 100352, 64, 576, H200, **options, chosen=illegal) == predicted
    unaligned = {"left": False, "right": False}
    expected = lay_out(FORWARD_TILES, 100352, 64, 576, H200, **unaligned)
    assert lay_out(FORWARD_TILES, 100352, 64, 576, H200, **unaligned, chosen=choice) == expected
    small = H200._replace(shared=32 * 1024)
    expected = lay_out(FORWARD_TILES, 100352, 64, 576, small, **options)
    wide = TileChoice(128, 128, 4, 4, 1)
    assert lay_out(FORWARD_TILES, 100352, 64, 576, small, **options, chosen=wide) == expected


# ---- precision


@needs_emulator
@pytest.mark.parametrize("precision", ["tf32", "bfloat16", "float16"])
def test_convolutions_are_measured_in_a_precision(layer, bench, precision):
    asked = [*TUNE, "--backend", "emulated", "--precision", precision]
    record, text = bench(*asked, "--passes", "forward", "fused")
    rows = record["rows"]
    assert [row["case"]["precision"] for row in rows] == [precision] * 2
    error = rows[0]["checked"]["gpunet_error"]
    assert error < 1e-6 if precision == "tf32" else 1e-4 < error < 5e-3  # tensor cores take no five channels
    assert f"| fused | {precision} |" in text


def test_a_precision_that_the_backend_lacks_is_refused(layer):
    with pytest.raises(ValueError, match="bench: precision='bfloat16' takes a CUDA backend, got numpy"):
        main([*TUNE, "--backend", "numpy", "--precision", "bfloat16"])


@pytest.mark.parity
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("which", convolutions.PASSES)
def test_pytorch_computes_the_passes_in_16_bits(layer, precision, which):
    pytest.importorskip("torch")
    contender = make(Spec("conv", "torch-eager", "numpy", 1, precision))
    result = contender.prepare({**CASE, "pass": which, "precision": precision})
    assert 1e-4 < result["error"] <= result["tolerance"]


# ---- files


ENTRIES = [
    Entry(PRODUCT, TileChoice(128, 32, 4, 4, 3), 85.123, 100.0),
    Entry(PRODUCT._replace(element="bfloat16", terms=1), TileChoice(128, 256, 8, 8, 1), 20.0, 30.0),
    Entry(PRODUCT._replace(rows=9, kernel="conv2d_weight_grad"), TileChoice(32, 64, 1, 4, 2), 2.0, 3.0),
]


@pytest.fixture
def written(tmp_path):
    """The path of a table of an H200."""
    write_tiles(tmp_path / "h200.json", "NVIDIA H200", H200, ENTRIES)
    return tmp_path / "h200.json"


def test_a_table_is_read_as_it_was_written(written):
    table = read_tiles(written, "NVIDIA H200", H200)
    assert table.choices == {entry.product: entry.choice for entry in ENTRIES}
    assert all(table.find(entry.product) == entry.choice for entry in ENTRIES)
    assert table.find(PRODUCT._replace(rows=1)) is None
    assert table.name == "h200.json"
    held = json.loads(written.read_text())
    assert (held["device"], held["architecture"], held["multiprocessors"]) == ("NVIDIA H200", 90, 132)
    assert [entry["microseconds"] for entry in held["products"]] == [20.0, 85.12, 2.0]  # sorted by the products


def test_a_product_is_a_line_and_tables_are_equal_by_their_bytes(written, tmp_path):
    lines = written.read_text().splitlines()
    assert sum('"kernel"' in line for line in lines) == len(ENTRIES)
    write_tiles(tmp_path / "other.json", "NVIDIA H200", H200, ENTRIES[:2])
    assert len(set(lines) - set((tmp_path / "other.json").read_text().splitlines())) <= 3
    first, again = (read_tiles(written, "NVIDIA H200", H200) for _ in range(2))
    assert first == again
    assert hash(first) == hash(again)
    written.write_text(written.read_text().replace('"splits": 3', '"splits": 2'))
    assert read_tiles(written, "NVIDIA H200", H200) != first


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('{\n "format"', '\n "format"', "is no JSON"),
        ("gpunet-tiles-1", "gpunet-tiles-9", "has the format 'gpunet-tiles-9' but takes 'gpunet-tiles-1'"),
        ("NVIDIA H200", "NVIDIA A100", "has device 'NVIDIA A100' but this device has 'NVIDIA H200'"),
        ('"architecture": 90', '"architecture": 80', "has architecture 80 but this device has 90"),
        ('"multiprocessors": 132', '"multiprocessors": 108', "has multiprocessors 108 but this device has 132"),
        ("[128, 32]", "[96, 32]", r"products\[1\] has tile \[96, 32\] with loads \[4, 4\] but conv2d_forward of float"),
        ("[128, 256]", "[128, 512]", r"products\[0\] has tile \[128, 512\].* but conv2d_forward of bfloat16"),
        ('"splits": 3', '"splits": 80', r"in 80 splits but a product of 100352x64x576, .* cannot be cut so"),
        ('"splits": 3', '"splits": 0', r"products\[1\]: splits is 0 but takes whole number of at least 1"),
        ('"splits": 3', '"splits": true', "splits is True but takes whole number of at least 1"),
        ("[128, 32]", "[128]", r"tile is \[128\] but takes 2 of whole number of at least 1"),
        ('"conv2d_forward", "element": "float"', '"conv3d", "element": "float"', "kernel is 'conv3d' but takes one of"),
        ('"gate": "NONE"', '"gate": "OPEN"', "gate is 'OPEN' but takes one of NONE, RELU, ACTIVATION"),
        ('"general": false', '"general": 0', "general is 0 but takes true or false"),
        ('"element": "bfloat16", "terms": 1', '"element": "float", "terms": 0', "products"),
    ],
)
def test_a_table_that_is_broken_or_of_another_device_is_refused(written, old, new, said):
    text = written.read_text()
    assert old in text
    written.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=said) as refused:
        read_tiles(written, "NVIDIA H200", H200)
    assert str(refused.value).startswith(f"GPUNET_TILES: {written}")
    assert "\n" not in str(refused.value)


def test_a_product_stands_in_a_table_once(tmp_path):
    write_tiles(tmp_path / "twice.json", "NVIDIA H200", H200, [ENTRIES[0], ENTRIES[0]])
    with pytest.raises(ValueError, match=r"products\[1\] has the product of an entry before it"):
        read_tiles(tmp_path / "twice.json", "NVIDIA H200", H200)


def test_the_environment_names_the_table(written, monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, "")
    assert table_of_environment("NVIDIA H200", H200) is None
    monkeypatch.setenv(VARIABLE, str(written))
    assert table_of_environment("NVIDIA H200", H200) == read_tiles(written, "NVIDIA H200", H200)
    with pytest.raises(ValueError, match="has device 'NVIDIA H200' but this device has 'NVIDIA T4'"):
        table_of_environment("NVIDIA T4", H200)
    assert table_of_environment("CUDA emulated", H200, only_own=True) is None
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nothing.json"))
    for only_own in (False, True):
        with pytest.raises(ValueError, match=r"nothing\.json cannot be read: No such file"):
            table_of_environment("NVIDIA H200", H200, only_own=only_own)


@needs_emulator
def test_a_checkpoint_names_the_table(written, tmp_path):
    backend = emulated_backend()
    table = read_tiles(written, "NVIDIA H200", H200)
    tabled = backend.twin(description=backend.description._replace(table=table))
    model = nn.Sequential(nn.Linear(2, 2))
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    trainer = gp.Trainer(model, optimizer, backend=tabled, progress=False)
    trainer.save(tmp_path / "last.safetensors")
    about = interop.open_checkpoint(tmp_path / "last.safetensors").about
    assert about["tiles"] == f"h200.json (SHA-256 {table.digest})"
