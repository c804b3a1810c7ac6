"""Drawings of models: what stands in their boxes, and which arrows join them."""

import re
import shutil
import sys
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest

import gpunet as gp
from gpunet import functional as F
from gpunet import models, nn
from gpunet.report.drawing import draw

needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="the program dot is not installed")


class Picture:
    """What a drawing says, read from its source."""

    def __init__(self, dot):
        self.boxes = {
            box: re.sub(r"<[^>]+>", " ", label) for box, label in re.findall(r"(n\d+) \[label=<(.*?)>[,\]]", dot)
        }
        self.boxes = {box: " ".join(text.split()) for box, text in self.boxes.items()}
        self.arrows = {(self.boxes[a], self.boxes[b]) for a, b in re.findall(r"^  (n\d+) -> (n\d+)", dot, re.MULTILINE)}
        self.frames = re.findall(r"subgraph .*\n +label=\"(.*?)\";", dot)

    def into(self, text):
        """The boxes with an arrow to the one that has this text in it."""
        return {a for a, b in self.arrows if text in b}


def pictured(model, input_shape):
    return Picture(draw(model, input_shape).dot)


def test_each_layer_is_a_box_with_its_name_shape_and_parameters():
    model = nn.Sequential(nn.Conv2d(1, 6, 5, activation="relu"), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(216, 3))
    picture = pictured(model, (16, 16, 1))
    assert list(picture.boxes.values()) == [
        "input 16×16×1",
        "Conv2d + relu 0 12×12×6 · 156 parameters",
        "MaxPool2d 1 6×6×6",
        "Flatten 2 216",
        "Linear 3 3 · 651 parameters",
        "output 3",
    ]
    boxes = list(picture.boxes.values())
    assert picture.arrows == set(pairwise(boxes))


def test_layers_that_would_be_fused_are_boxes_of_their_own():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2))
    assert [text.split()[0] for text in pictured(model, (8, 8, 1)).boxes.values()] == [
        "input", "Conv2d", "ReLU", "MaxPool2d", "output",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: models.resnet18((8, 8, 3)), (8, 8, 3)),
        (lambda: models.UNet(3, 2, base_channels=4, batch_norm=True), (8, 8, 3)),
        (lambda: models.YOLO([[10, 14]], 3, base_channels=4), (32, 32, 3)),
        (lambda: models.mobilenet((16, 16, 3), width_mult=0.1), (16, 16, 3)),
    ],
)
def test_the_parameters_of_the_boxes_add_up_to_those_of_the_model(make, shape):
    model = make()
    dot = draw(model, shape).dot
    total = sum(p.size for p in model.parameters())
    counts = [int(n.replace(",", "")) for n in re.findall(r"· ([\d,]+) parameters<", dot)]
    assert sum(counts) == total
    assert f": {total:,} parameters" in dot


def test_the_sum_of_a_residual_block_has_two_arrows():
    picture = pictured(nn.Sequential(nn.ReLU(), nn.Residual(nn.Conv2d(3, 3, 1))), (4, 4, 3))
    assert picture.into("+ 4×4×3") == {"ReLU 0 4×4×3", "Conv2d 1.0 4×4×3 · 12 parameters"}
    assert picture.frames == ["1 Residual"]


def test_the_way_around_the_middle_of_a_u_net_is_drawn():
    picture = pictured(models.UNet(1, 2, base_channels=2, depth=1), (8, 8, 1))
    assert picture.into("concat") == {"ReLU down.0.3 8×8×2", "ConvTranspose2d upsamplers.0 8×8×2 · 34 parameters"}


def test_a_layer_that_passes_its_input_on_is_on_its_own_branch_alone():
    picture = pictured(nn.Concat(nn.Identity(), nn.Conv2d(3, 3, 1), nn.Dropout(0.5)), (4, 4, 3))
    assert picture.into("Conv2d") == picture.into("Identity") == picture.into("Dropout") == {"input 4×4×3"}
    assert len(picture.into("concat")) == 3


def test_a_layer_that_runs_twice_has_two_boxes_and_counts_once():
    picture = pictured(models.Siamese(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), 3), [(2, 2, 1)] * 2)
    dense = [text for text in picture.boxes.values() if "embedding.1" in text]
    assert dense == ["Linear embedding.1 3 · 15 parameters", "Linear embedding.1 3 · shared parameters"]
    assert picture.frames == ["embedding Sequential"] * 2
    assert {"input 0 2×2×1", "input 1 2×2×1"} <= set(picture.boxes.values())
    assert picture.into("abs 3") == {"− 3"}


def test_a_single_layer_and_several_outputs_are_drawn():
    assert pictured(nn.Linear(4, 3), (4,)).into("output 3") == {"Linear 3 · 15 parameters"}

    class Both(nn.Module):
        def __init__(self):
            self.conv = nn.Conv2d(3, 2, 1)

        def forward(self, x):
            y = self.conv(x)
            return {"map": y, "mean": y.mean(axis=(1, 2))}

    picture = pictured(Both(), (4, 4, 3))
    assert picture.into("output map") == {"Conv2d conv 4×4×2 · 8 parameters"}
    assert picture.into("output mean") == {"÷ 2"}


def test_a_model_without_layers_is_drawn_by_its_operations():
    class Bare(nn.Module):
        def __init__(self):
            self.weight = nn.Parameter(np.zeros((3, 3, 1, 2), np.float32))

        def forward(self, x):
            return F.relu(F.conv2d(x, self.weight))

    assert list(pictured(Bare(), (5, 5, 1)).boxes.values()) == [
        "input 5×5×1",
        "conv2d 3×3×2",
        "relu 3×3×2",
        "output 3×3×2",
    ]
    inside = pictured(nn.Sequential(Bare()), (5, 5, 1))  # a layer of a network is one box, whatever it computes
    assert list(inside.boxes.values()) == ["input 5×5×1", "Bare 0 3×3×2 · 18 parameters", "output 3×3×2"]


def test_frames_stand_in_each_other():
    picture = pictured(nn.Sequential(nn.Sequential(nn.Residual(nn.Tanh()))), (4,))
    assert picture.frames == ["0 Sequential", "0.0 Residual"]


def test_the_model_stays_as_it_is():
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)).train()
    before = model.state_dict()
    gp.draw(model, (4, 4, 3))
    assert model.training
    assert all(np.array_equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(not module.hooked and "forward" not in vars(module) for _, module in model.named_modules())


def test_an_input_shape_that_is_none_is_refused():
    with pytest.raises(TypeError, match="draw: input_shape is 28 but takes"):
        draw(nn.ReLU(), 28)
    with pytest.raises(TypeError, match="draw: the model returns ndarray but must return tensors"):
        draw(type("Host", (nn.Module,), {"forward": lambda self, x: x.numpy()})(), (3,))


def test_the_title_is_what_made_the_model():
    assert repr(draw(models.lenet(), (28, 28, 1))) == "Drawing(title='lenet: 61,706 parameters')"
    assert repr(draw(nn.Linear(3, 2), (3,))) == "Drawing(title='Linear: 8 parameters')"


# ---- files and notebooks


def small():
    """A drawing whose names hold what Graphviz and SVG would read as their own."""
    layers = {'<a> & "b"\\': nn.Conv2d(3, 2, 1), "c": nn.ReLU()}

    class Named(nn.Module):
        def __init__(self):
            self.layers = layers

        def forward(self, x):
            for layer in self.layers.values():
                x = layer(x)
            return F.concatenate([x, x], axis=3)

    return draw(nn.Sequential(Named()), (4, 4, 3))


def test_the_source_is_saved_without_graphviz(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "graphviz", None)
    drawing = small()
    drawing.save(tmp_path / "new" / "model.dot")
    assert (tmp_path / "new" / "model.dot").read_text(encoding="utf-8") == drawing.dot


def test_another_end_of_the_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"model.jpg must end in one of \.svg, \.png, \.pdf, \.dot"):
        small().save(tmp_path / "model.jpg")


def test_a_missing_package_is_named_with_its_installation(monkeypatch):
    monkeypatch.setitem(sys.modules, "graphviz", None)
    with pytest.raises(ImportError, match=r'pip install "gpunet\[draw\]"'):
        small().svg()
    assert "gpunet[draw]" in small()._repr_html_()


def test_a_missing_program_is_named_with_its_installation(monkeypatch, tmp_path):
    pytest.importorskip("graphviz", reason="graphviz is not installed")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="the program dot of Graphviz, which is not on the PATH"):
        small().save(tmp_path / "model.svg")
    assert "the program dot" in small()._repr_html_()


@needs_dot
def test_a_picture_holds_every_name(tmp_path):
    pytest.importorskip("graphviz", reason="graphviz is not installed")
    small().save(tmp_path / "model.svg")
    root = ElementTree.parse(tmp_path / "model.svg").getroot()
    text = " ".join(" ".join(root.itertext()).split())
    for said in ("Conv2d", '0.layers.<a> & "b"\\', "ReLU", "concat", "Sequential: 8 parameters"):
        assert said in text
    assert small()._repr_html_().startswith("<svg")
    small().save(tmp_path / "model.png")
    assert (tmp_path / "model.png").read_bytes().startswith(b"\x89PNG")
