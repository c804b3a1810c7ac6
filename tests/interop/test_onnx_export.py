"""Every layer and every model as an ONNX file: onnxruntime computes what gpunet computes."""

import pytest
from helpers.onnx_files import TOLERANCE, error_of, with_random_state

from gpunet import models, nn

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
from gpunet.interop.onnx import export  # noqa: E402 - it takes onnx

IMAGE = (9, 7, 4)
LAYERS = {
    "AdaptiveAvgPool2d": [lambda: nn.AdaptiveAvgPool2d((4, 3)), lambda: nn.AdaptiveAvgPool2d((3, 7))],
    "AdaptiveMaxPool2d": [lambda: nn.AdaptiveMaxPool2d((4, 3)), lambda: nn.AdaptiveMaxPool2d((3, 1))],
    "AvgPool2d": [
        lambda: nn.AvgPool2d(2),
        lambda: nn.AvgPool2d(3, stride=2, padding=1),
        lambda: nn.AvgPool2d(3, stride=2, padding="same"),
        lambda: nn.AvgPool2d(3, stride=2, padding=1, count_padding=False),
        lambda: nn.AvgPool2d((2, 3), stride=(3, 2), padding=((1, 0), (0, 2)), ceil_mode=True),
        lambda: nn.AvgPool2d(4, stride=3, padding=1, ceil_mode=True, count_padding=False),
    ],
    "BatchNorm2d": [
        lambda: nn.BatchNorm2d(4),
        lambda: nn.BatchNorm2d(4, affine=False, eps=0.1),
        lambda: nn.BatchNorm2d(4, activation="leaky_relu", momentum=None),
    ],
    "Concat": [lambda: nn.Concat(nn.Identity(), nn.Conv2d(4, 3, 3, padding="same"), nn.BatchNorm2d(4))],
    "Conv2d": [
        lambda: nn.Conv2d(4, 6, 3),
        lambda: nn.Conv2d(4, 6, (3, 2), stride=2, padding="same", bias=False, activation="relu"),
        lambda: nn.Conv2d(4, 6, 3, dilation=2, groups=2, padding=((1, 0), (2, 1)), activation="tanh", pool=2),
        lambda: nn.Conv2d(4, 8, 3, groups=4, padding=1, activation="hard_sigmoid", pool=3),
    ],
    "ConvTranspose2d": [
        lambda: nn.ConvTranspose2d(4, 6, 2, stride=2),
        lambda: nn.ConvTranspose2d(4, 6, (3, 2), stride=(3, 2), padding=((1, 0), (0, 1)), output_padding=(2, 1)),
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding="same", groups=2, bias=False),
        lambda: nn.ConvTranspose2d(4, 6, 2, stride=3, padding="same", dilation=2),
    ],
    "Dropout": [lambda: nn.Sequential(nn.Dropout(0.5), nn.Conv2d(4, 3, 1))],
    "Dropout2d": [lambda: nn.Sequential(nn.ReLU(), nn.Dropout2d(0.5))],
    "ELU": [lambda: nn.ELU(0.7)],
    "Flatten": [lambda: nn.Flatten()],
    "GELU": [lambda: nn.GELU()],
    "GaussianNoise": [lambda: nn.Sequential(nn.GaussianNoise(0.5), nn.ReLU())],
    "GlobalAvgPool2d": [lambda: nn.GlobalAvgPool2d(), lambda: nn.Sequential(nn.GlobalAvgPool2d(), nn.Flatten())],
    "GlobalMaxPool2d": [lambda: nn.GlobalMaxPool2d()],
    "GroupNorm": [
        lambda: nn.GroupNorm(2, 4),
        lambda: nn.GroupNorm(4, 4, eps=0.1),
        lambda: nn.GroupNorm(1, 4, affine=False),
    ],
    "HardSigmoid": [lambda: nn.HardSigmoid()],
    "HardSwish": [lambda: nn.HardSwish()],
    "HardTanh": [lambda: nn.HardTanh(-0.3, 0.6), lambda: nn.HardTanh(float("-inf"), 0.5)],
    "Identity": [lambda: nn.Identity()],
    "LayerNorm": [
        lambda: nn.LayerNorm(4),
        lambda: nn.LayerNorm(IMAGE),
        lambda: nn.LayerNorm((7, 4), elementwise_affine=False, eps=0.1),
    ],
    "LeakyReLU": [lambda: nn.LeakyReLU(0.2)],
    "Linear": [lambda: nn.Linear(4, 5, activation="elu"), lambda: nn.Linear(4, 5, bias=False)],
    "LocallyConnected2d": [
        lambda: nn.LocallyConnected2d(IMAGE, 3, 3, stride=2, padding=((1, 0), (0, 2))),
        lambda: nn.LocallyConnected2d(IMAGE, 3, (2, 3), bias=False),
    ],
    "LogSoftmax": [lambda: nn.LogSoftmax()],
    "MaxPool2d": [
        lambda: nn.MaxPool2d(2),
        lambda: nn.MaxPool2d((9, 7)),
        lambda: nn.MaxPool2d((2, 3), stride=(3, 2), padding=((1, 0), (0, 2)), ceil_mode=True),
        lambda: nn.MaxPool2d(3, stride=2, padding="same"),
    ],
    "PReLU": [lambda: nn.PReLU(), lambda: nn.PReLU(4)],
    "ReLU": [lambda: nn.ReLU()],
    "ReLU6": [lambda: nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU6())],
    "ReflectionPad2d": [lambda: nn.ReflectionPad2d(((1, 2), (3, 0)))],
    "ReplicationPad2d": [lambda: nn.ReplicationPad2d(((1, 2), (3, 0))), lambda: nn.ReplicationPad2d(0)],
    "Residual": [
        lambda: nn.Residual(nn.Conv2d(4, 4, 3, padding="same"), nn.Softplus()),
        lambda: nn.Residual(nn.Conv2d(4, 6, 3, padding="same"), shortcut=nn.Conv2d(4, 6, 1)),
    ],
    "Sequential": [
        lambda: nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 2)),
        lambda: nn.Sequential(),
    ],
    "SiLU": [lambda: nn.SiLU()],
    "Sigmoid": [lambda: nn.Sigmoid()],
    "Softmax": [lambda: nn.Softmax()],
    "Softplus": [lambda: nn.Softplus(), lambda: nn.Softplus(3.0)],
    "Tanh": [lambda: nn.Tanh()],
    "Upsample2d": [
        lambda: nn.Upsample2d(2),
        lambda: nn.Upsample2d((2, 3), mode="bilinear"),
        lambda: nn.Upsample2d(2, mode="bilinear", align_corners=True),
        lambda: nn.Upsample2d(1.7),
        lambda: nn.Upsample2d(size=(4, 11), mode="bilinear"),
        lambda: nn.Upsample2d(0.6, mode="bilinear", antialias=True),
        lambda: nn.Upsample2d(size=(18, 5), mode="bilinear", align_corners=True),
    ],
    "ZeroPad2d": [lambda: nn.ZeroPad2d(((1, 2), (3, 0)))],
}
"""Layers by the name of their class, for images of IMAGE's shape."""
ANCHORS = [[10, 14], [23, 27]]
MODELS = {
    "Siamese": lambda: (models.Siamese(models.conv4((16, 16, 1), (4, 4)), 64), [(16, 16, 1)] * 2),
    "UNet": lambda: (models.UNet(3, 2, base_channels=4, depth=2, batch_norm=True), (16, 24, 3)),
    "YOLO": lambda: (models.YOLO(ANCHORS, 3, base_channels=4), (32, 48, 3)),
    "alexnet": lambda: (models.alexnet((15, 19, 3), dense=(8,)), (15, 19, 3)),
    "cnn": lambda: (models.cnn((8, 8, 1), dropout=0.5), (8, 8, 1)),
    "conv4": lambda: (models.conv4((16, 16, 1), (4, 4, 4)), (16, 16, 1)),
    # without the head, which Siamese has too: it takes differences that nearly cancel, in float32
    "koch": lambda: (models.koch((65, 65, 1)).embedding, (65, 65, 1)),
    "lenet": lambda: (models.lenet((14, 16, 1)), (14, 16, 1)),
    "mobilenet": lambda: (models.mobilenet((16, 16, 3), width_mult=0.1, stride=1), (16, 16, 3)),
    "resnet9": lambda: (models.resnet9((8, 8, 3)), (8, 8, 3)),
    "resnet18": lambda: (models.resnet18((32, 32, 3), stem="paper"), (32, 32, 3)),
    "resnet34": lambda: (models.resnet34((8, 8, 3)), (8, 8, 3)),
    "speedrun": lambda: (models.speedrun((9, 9, 3)), (9, 9, 3)),
    "vgg11": lambda: (models.vgg11((32, 32, 3), dense=(8,)), (32, 32, 3)),
    "vgg16": lambda: (models.vgg16((32, 32, 3), batch_norm=False), (32, 32, 3)),
}
MORE_MODELS = {
    "UNet of bilinear": lambda: (models.UNet(3, 2, base_channels=4, depth=2, upsample="bilinear"), (16, 24, 3)),
    "alexnet of the paper": lambda: (models.alexnet((67, 67, 3), stem="paper", dense=()), (67, 67, 3)),
    "BasicBlock": lambda: (models.BasicBlock(3, 5, 2), (9, 7, 3)),
}
NOT_MODELS = {"load_model", "rebuild", "whiten", "whitening_filters", "embed_views", "one_shot_trials"}
EACH_LAYER = [(name, i) for name, makers in LAYERS.items() for i in range(len(makers))]


def error(model, input_shape, tmp_path, *, layout="NCHW", **options):
    model = with_random_state(model)
    export(model, tmp_path / "model.onnx", input_shape, layout=layout, **options)
    return error_of(tmp_path / "model.onnx", model, input_shape, layout=layout)


def test_no_layer_of_the_package_is_forgotten():
    layers = {name for name, value in vars(nn).items() if isinstance(value, type) and issubclass(value, nn.Module)}
    assert layers - {"Module"} == set(LAYERS)


def test_no_model_of_the_package_is_forgotten():
    made = {name for name, value in vars(models).items() if callable(value) and name[0] != "_"}
    assert made - NOT_MODELS - {"BasicBlock"} == set(MODELS)


@pytest.mark.parametrize(("name", "i"), EACH_LAYER)
@pytest.mark.parametrize(("opset", "layout"), [(17, "NCHW"), (23, "NHWC")])
def test_a_layer_gives_the_same_outputs_in_onnxruntime(tmp_path, name, i, opset, layout):
    assert error(LAYERS[name][i](), IMAGE, tmp_path, opset=opset, layout=layout) < TOLERANCE


@pytest.mark.parametrize("name", [*MODELS, *MORE_MODELS])
def test_a_model_gives_the_same_outputs_in_onnxruntime(tmp_path, name):
    model, shape = (MODELS | MORE_MODELS)[name]()
    assert error(model, shape, tmp_path) < TOLERANCE


@pytest.mark.parametrize("name", ["UNet", "YOLO", "Siamese", "mobilenet", "BasicBlock"])
def test_a_model_gives_the_same_outputs_at_the_last_opset_in_gpunets_order(tmp_path, name):
    model, shape = (MODELS | MORE_MODELS)[name]()
    assert error(model, shape, tmp_path, opset=23, layout="NHWC") < TOLERANCE


@pytest.mark.parametrize("opset", range(17, 24))
@pytest.mark.parametrize(("name", "i"), [("GroupNorm", 0), ("GELU", 0), ("LayerNorm", 1), ("Upsample2d", 1)])
def test_every_opset_gives_the_same_outputs(tmp_path, opset, name, i):
    assert error(LAYERS[name][i](), IMAGE, tmp_path, opset=opset) < TOLERANCE
    file = onnx.load(tmp_path / "model.onnx")
    assert [(entry.domain, entry.version) for entry in file.opset_import] == [("", opset)]


def features(*layers):
    return nn.Sequential(*layers), (6, 5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: features(nn.GroupNorm(5, 5)),
        lambda: features(nn.GroupNorm(1, 5)),
        lambda: features(nn.BatchNorm2d(5), nn.Softmax()),
        lambda: features(nn.Linear(5, 3), nn.PReLU(3), nn.LayerNorm((6, 3))),
        lambda: (nn.Sequential(nn.GroupNorm(3, 6), nn.Linear(6, 4), nn.BatchNorm2d(4)), (6,)),
        lambda: (nn.Sequential(nn.LayerNorm(6), nn.GELU()), (6,)),
    ],
)
@pytest.mark.parametrize("opset", [17, 23])
def test_features_without_images_are_exported_too(tmp_path, make, opset):
    model, shape = make()
    assert error(model, shape, tmp_path, opset=opset) < TOLERANCE
