"""``gpunet export``, which writes a saved network for other programs."""

from __future__ import annotations

import inspect
import json
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from gpunet import nn
from gpunet.cli.arguments import Command, image_shape
from gpunet.cli.user_models import import_function
from gpunet.interop import read_metadata, read_origin
from gpunet.models import load_model
from gpunet.nn.origin import MAKERS
from gpunet.train.saved import load_saved

WEIGHTS = ("best.safetensors", "last.safetensors")
"""The files of a run folder that are exported, the first one that is there."""


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "saved",
        type=Path,
        metavar="RUN_OR_FILE",
        help="a run folder, of which best.safetensors is taken or else last.safetensors, or a file of weights",
    )
    parser.add_argument("--onnx", type=Path, required=True, metavar="OUT", help="the file to write")
    parser.add_argument("--opset", type=int, default=17, help="version of ONNX's operators, 17 (default) to 23")
    parser.add_argument(
        "--layout",
        default="NCHW",
        choices=("NCHW", "NHWC"),
        help="order of the axes of images in the file; default NCHW",
    )
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="images in a batch, fixed in the file; default: any number"
    )
    parser.add_argument("--fold-batch-norm", action="store_true", help="fold batch norms into the layers before them")
    parser.add_argument(
        "--input", type=image_shape, metavar="HxWxC", help="the images' shape, needed if the file has none"
    )
    parser.add_argument(
        "--model",
        metavar="MODULE:FUNCTION",
        help="the function that makes the model, if it is yours: of a run the one that gpunet train was given, "
        "or else one without arguments",
    )


def export(options: Namespace) -> int:
    """Write a saved network as an ONNX file, with its classes and the scaling of its images."""
    from gpunet.interop.onnx import export as write_onnx  # it takes the package onnx

    path = _weights_of(options.saved)
    make = None if options.model is None else import_function(options.model)
    said = {}
    if "recipe" in read_metadata(path):
        saved = load_saved(path, make)
        model, shape = saved.model, saved.input_shape if options.input is None else options.input
        said = {"classes": json.dumps(saved.classes), "mean": json.dumps(saved.recipe.mean)}
        said["std"] = json.dumps(saved.recipe.std)
    else:
        origin = read_origin(path) or {}
        if make is None and isinstance(origin, dict) and str(origin.get("name")) not in MAKERS:
            raise ValueError(f"{path} is of no network of gpunet.models: give --model MODULE:FUNCTION, which makes it")
        model = load_model(path, make)
        shape = _input_shape(path) if options.input is None else options.input
    write_onnx(
        model, options.onnx, [shape] * _count_inputs(model), opset=options.opset, layout=options.layout,
        batch_size=options.batch_size, fold_batch_norm=options.fold_batch_norm, metadata=said,
    )  # fmt: skip
    h, w, *c = map(str, shape)
    axes = ", ".join([str(options.batch_size or "N"), *([*c, h, w] if options.layout == "NCHW" else [h, w, *c])])
    print(f"{options.onnx}: {options.onnx.stat().st_size:,} bytes, opset {options.opset}, of images ({axes})")
    return 0


def _weights_of(saved: Path) -> Path:
    """The file of a run folder that holds its network; a file itself."""
    if not saved.is_dir():
        return saved
    found = next((saved / name for name in WEIGHTS if (saved / name).is_file()), None)
    if found is None:
        raise FileNotFoundError(f"{saved} holds no {' and no '.join(WEIGHTS)}")
    return found


def _input_shape(path: Path) -> Sequence[int]:
    """The shape of the images that a model was made for; a ValueError if the file does not say."""
    arguments = (read_origin(path) or {}).get("arguments", {})
    while "input_shape" not in arguments and isinstance(arguments.get("embedding"), dict):
        arguments = arguments["embedding"].get("arguments", {})
    shape = arguments.get("input_shape")
    if shape is None:
        raise ValueError(f"{path} does not say which images its model takes: give their shape by --input HxWxC")
    return tuple(int(n) for n in shape)


def _count_inputs(model: nn.Module) -> int:
    """How many images the model takes: two if it compares them."""
    parameters = inspect.signature(model.forward).parameters.values()
    return sum(p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)


EXPORT = Command("export", "Write a saved network as an ONNX file, which other programs run.", _add_arguments, export)
