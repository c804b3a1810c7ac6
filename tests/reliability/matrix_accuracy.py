"""Computes convolutions, their gradients and products of drawn shapes in every matrix precision.

    python tests/reliability/matrix_accuracy.py --shapes 200 --backend emulated

Each result is compared with that of the reference backend in float64, on the same inputs. Those are
rounded to 16 bits where they are stored so; for TF32 they are not. Prints rows of a Markdown table;
the exit status is 1 if an error is larger than its precision allows.
"""

import argparse
import sys
from collections import Counter
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np

from gpunet.backends.contract import FUSED_POOL, Activation, Conv, Gate, Product
from gpunet.backends.cuda.backend import recording_backend
from gpunet.backends.reference.backend import ReferenceBackend
from gpunet.backends.registry import get_backend
from gpunet.cuda.naming import ELEMENTS
from gpunet.cuda.tile_lists import TERMS, mma_tiles
from gpunet.geometry import Geometry

ALLOWED = {"float32": 1e-5, "3xtf32": 1e-5, "tf32": 1e-3, "float16": 2e-3, "bfloat16": 1e-2}
"""The largest ‖a - b‖ / ‖b‖, by precision."""
KERNELS = ("conv2d_forward", "conv2d_input_grad", "conv2d_weight_grad", "matmul")
PRODUCTS = ((False, False, False), (True, False, False), (False, True, False), (False, True, True))
"""Whether a product takes the transposes of its matrices, and the first of them through a gate."""
RELU = Activation("relu")


@dataclass
class Found:
    """What came of the shapes of one kernel in one precision."""

    shapes: int = 0
    worst: float = 0.0
    worst_case: str = ""
    instances: Counter[str] = field(default_factory=Counter)


def stored(precision):
    """The dtype in which operands are stored."""
    narrow = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
    return np.dtype(narrow.get(precision, np.float32))


def drawn_geometry(rng, chunk):
    """A convolution whose groups have whole chunks of channels and of filters."""
    while True:
        groups = int(rng.choice([1, 1, 2, 3]))
        taken, made = (chunk * int(n) for n in rng.integers(1, 1 + 96 // chunk // groups, 2))
        window, stride, dilation = (tuple(map(int, rng.integers(1, most + 1, 2))) for most in (5, 3, 2))
        x_shape = (int(rng.integers(1, 5)), *map(int, rng.integers(2, 15, 2)), taken * groups)
        padding = tuple(tuple(map(int, rng.integers(0, n, 2))) for n in window)
        try:
            return Geometry.conv(
                x_shape,
                (*window, taken, made * groups),
                stride=stride,
                padding=padding,
                dilation=dilation,
                groups=groups,
            )
        except ValueError:  # the window is larger than the image
            continue


def convolution(rng, kernel, precision, chunk):
    """(a call of a convolution's kernel, its arrays, what it is)."""
    g = drawn_geometry(rng, chunk)
    even = all(n > 1 for n in g.y_shape[1:3])
    pool = Geometry.pool(g.y_shape, FUSED_POOL) if kernel == "conv2d_forward" and even and rng.random() < 0.3 else None
    activation = RELU if rng.random() < 0.5 else None
    matrix = precision if precision in TERMS else "float32"
    conv = Conv(g, activation, pool, matrix)
    normal = rng.normal
    arrays = {"x": normal(size=g.x_shape), "w": normal(size=g.w_shape), "b": normal(size=g.filters)}
    arrays |= {"dy": normal(size=g.y_shape), "y": normal(size=g.y_shape)}

    def run(on, a):
        gate = None if activation is None else Gate(a["y"], activation)
        if kernel == "conv2d_forward":
            return on.conv2d_forward(a["x"], a["w"], a["b"], conv)[:1]
        if kernel == "conv2d_input_grad":
            return (on.conv2d_input_grad(a["dy"], a["w"], conv, gate),)
        return on.conv2d_weight_grad(a["dy"], a["x"], conv, gate)

    described = f"x {g.x_shape}, w {g.w_shape}, stride {g.stride}, dilation {g.dilation}, {g.groups} groups"
    return run, arrays, described


def product(rng, precision, chunk):
    """(a matrix product, its arrays, what it is)."""
    m, k, p = (chunk * int(n) for n in rng.integers(1, 1 + 320 // chunk, 3))
    ta, tb, gated = PRODUCTS[int(rng.integers(len(PRODUCTS)))]
    arrays = {"a": rng.normal(size=(k, m) if ta else (m, k)), "b": rng.normal(size=(p, k) if tb else (k, p))}
    arrays |= {"y": rng.normal(size=arrays["a"].shape), "bias": rng.normal(size=p)}
    matrix = precision if precision in TERMS else "float32"

    def run(on, a):
        gate = Gate(a["y"], RELU) if gated else None
        return (on.matmul(a["a"], a["b"], Product(ta, tb, a["bias"], RELU, gate, precision=matrix)),)

    return run, arrays, f"{m}x{k} by {k}x{p}, transposed {ta}, {tb}{', gated' * gated}"


def error_of(got, expected):
    """‖got - expected‖ / ‖expected‖."""
    return float(np.linalg.norm(got.astype(np.float64) - expected) / max(np.linalg.norm(expected), 1e-30))


def measure(backend, kernel, precision, shapes, seed):
    """Compute a kernel on drawn shapes, with a tile that is drawn for each of them."""
    rng, reference, found = np.random.default_rng([seed, KERNELS.index(kernel)]), ReferenceBackend(), Found()
    dtype = stored(precision)
    tiles = mma_tiles(kernel, ELEMENTS[dtype.name], TERMS.get(precision, 1))
    for _ in range(shapes):
        chunk = 16 // dtype.itemsize
        make = product(rng, precision, chunk) if kernel == "matmul" else convolution(rng, kernel, precision, chunk)
        run, arrays, described = make
        tile = tiles[int(rng.integers(len(tiles)))]
        arrays = {name: a.astype(dtype) for name, a in arrays.items()}
        recorded, recording = recording_backend(backend.twin(tile=tile[:2]))
        got = run(recorded, {name: backend.asarray(a) for name, a in arrays.items()})
        expected = run(reference, {name: a.astype(np.float64) for name, a in arrays.items()})
        worst = max(error_of(backend.to_numpy(a), b) for a, b in zip(got, expected, strict=True) if a is not None)
        found.shapes += 1
        found.instances.update(launch.kernel for launch in recording.launches)
        if worst >= found.worst:
            found.worst, found.worst_case = worst, described
    return found


def main():
    """Measure all kernels in all precisions, and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", type=int, default=200, help="shapes of each kernel and precision")
    parser.add_argument("--backend", default="emulated")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kernels", nargs="+", choices=KERNELS, default=KERNELS)
    options = parser.parse_args()
    backend, failed = get_backend(options.backend), False
    print(
        "| kernel | precision | shapes | instances | largest error | allowed | where |\n|---|---|---|---|---|---|---|"
    )
    for kernel in options.kernels:
        for precision, allowed in ALLOWED.items():
            found = measure(backend, kernel, precision, options.shapes, options.seed)
            failed |= found.worst > allowed
            row = f"| `{kernel}` | {precision} | {found.shapes} | {len(found.instances)} | {found.worst:.2g} | {allowed:g} |"
            print(f"{row} {found.worst_case} |", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
