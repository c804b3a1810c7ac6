"""Twenty drawn shapes of every product, in every matrix precision; the campaign of this folder draws more."""

import pytest
from matrix_accuracy import ALLOWED, KERNELS, measure

SHAPES = 20


@pytest.mark.parametrize("precision", ALLOWED)
@pytest.mark.parametrize("kernel", KERNELS)
def test_drawn_shapes_are_as_accurate_as_their_precision_promises(cuda_backend, kernel, precision):
    found = measure(cuda_backend, kernel, precision, SHAPES, seed=1)
    assert found.shapes == SHAPES
    assert found.worst <= ALLOWED[precision], found.worst_case
    on_tensor_cores = {name.partition("<")[0] for name in found.instances if "_mma<" in name}
    assert on_tensor_cores == (set() if precision == "float32" else {f"{kernel}_mma"})


def test_an_accuracy_that_is_too_coarse_is_found(cuda_backend):
    assert measure(cuda_backend, "conv2d_forward", "tf32", 2, seed=1).worst > ALLOWED["3xtf32"]
