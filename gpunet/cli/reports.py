"""``gpunet summary`` and ``gpunet info``, which describe a network and this installation."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from functools import partial
from importlib import metadata

from gpunet import models, optim
from gpunet.backends import Backend, get_backend, why_unavailable
from gpunet.backends.registry import NAMES
from gpunet.cli.arguments import PRECISION_HELP, Command, image_shape
from gpunet.precision import PRECISIONS
from gpunet.report import summary as describe
from gpunet.train import recipes
from gpunet.version import __version__

PACKAGES = (
    "numpy", "safetensors", "cupy-cuda12x", "cupy-cuda13x", "cupy", "cuda-bindings", "nvidia-cuda-nvdisasm",
)  # fmt: skip
"""The packages whose versions ``gpunet info`` prints, where they are installed."""


def _add_summary_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("model", choices=recipes.MODELS)
    parser.add_argument("--input", type=image_shape, default=(28, 28, 1), metavar="HxWxC", help="default 28x28x1")
    parser.add_argument("--classes", type=int, default=10, help="default 10")
    plan = parser.add_argument_group(
        "the kernels of one step", "They are recorded on a GPU, or on the emulated device where there is no GPU."
    )
    plan.add_argument(
        "--plan",
        action="store_true",
        help="list the kernels of forward pass, loss, backward pass and SGD with momentum",
    )
    plan.add_argument("--inference", action="store_true", help="list the kernels of the forward pass alone")
    plan.add_argument("--batch-size", type=int, default=32, help="default 32")
    plan.add_argument(
        "--precision",
        default="float32",
        choices=PRECISIONS,
        help=f"{PRECISION_HELP}; default float32",
    )
    plan.add_argument("--backend", default="auto", help="cuda, cuda:1, emulated or auto")


def summary(options: Namespace) -> int:
    """Print the layers of a network, or with ``--plan`` the kernels of one step."""
    model = getattr(models, options.model)(options.input, options.classes)
    if not options.plan:
        print(describe.summary(model, options.input))
        return 0
    from gpunet.report.plan import plan  # it loads the CUDA backend, which the other commands do without

    print(
        plan(
            model,
            options.input,
            batch_size=options.batch_size,
            training=not options.inference,
            optimizer=partial(optim.SGD, lr=0.1, momentum=0.9),
            backend=None if options.backend == "auto" else options.backend,
            precision=options.precision,
        )
    )
    return 0


def info(options: Namespace) -> int:
    """Print versions, and for each backend its device and what that computes on matrix units, or
    why it is not available."""
    print(f"gpunet {__version__}, Python {sys.version.split()[0]}")
    for package in PACKAGES:
        if version := _version_of(package):
            print(f"{package} {version}")
    print(f"auto is {_auto()}")
    for name in NAMES:
        if why := why_unavailable(name):
            print(f"{name}: not available: {why}")
        else:
            try:
                backend = get_backend(name)
            except ValueError as error:  # a table of tiles that is not this device's
                print(f"{name}: not available: {error}")
                continue
            described = (f"{key} {value}" for key, value in backend.describe().items())
            print(f"{name}: {', '.join(described)}")
            print(f"{name}, on matrix units: {_on_matrix_units(backend)}")
    return 0


def _auto() -> str:
    """The name of the backend that "auto" is, or why it cannot be used."""
    try:
        return get_backend("auto").name
    except ValueError as error:
        return f"not available: {error}"


def _on_matrix_units(backend: Backend) -> str:
    """The precisions that a backend computes on matrix units; for none the reason."""
    if backend.matrix_units:
        return ", ".join(backend.matrix_units)
    if backend.narrow:
        return "none, because gpunet has no kernels for those of this device"
    return "none, because a CPU's products are computed in the dtype of the arrays"


def _version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _add_no_arguments(parser: ArgumentParser) -> None:
    """``gpunet info`` takes none."""


SUMMARY = Command(
    "summary",
    "Print layers, parameters and FLOPs of a network; or, with --plan, the kernels of one step.",
    _add_summary_arguments,
    summary,
)
INFO = Command("info", "Print versions, backends and devices; where there is no GPU, why.", _add_no_arguments, info)
