"""`matrix_precision`: which products it reaches, forward and backward, and where it ends."""

import asyncio
import threading

import numpy as np
import pytest
from helpers.multiplying import asked_of

import gpunet as gp
from gpunet import functional as F
from gpunet import nn
from gpunet.backends.contract import MATRIX_PRECISIONS, Conv, LinearGrad, Product
from gpunet.geometry import Geometry
from gpunet.modes import late_results, mode
from gpunet.optim.muon import orthogonal

FORWARD, INPUT, WEIGHT = "conv2d_forward", "conv2d_input_grad", "conv2d_weight_grad"


def precision():
    """What holds in this thread now."""
    return mode.matrix_precision


@pytest.fixture
def asked(backend, monkeypatch):
    """A list that takes (primitive, precision) of each call of the backend."""
    return asked_of(backend, monkeypatch)


@pytest.fixture
def leaf(backend, rng):
    """Makes tensors that take gradients."""
    return lambda *shape: gp.tensor(rng.normal(size=shape), dtype="float32", backend=backend, requires_grad=True)


OPERATIONS = {
    "conv2d": (
        lambda leaf: F.conv2d(leaf(2, 5, 5, 4), leaf(3, 3, 4, 4), leaf(4), padding=1, activation="relu"),
        {FORWARD, INPUT, WEIGHT},
    ),
    "conv2d with a fused pool": (
        lambda leaf: F.conv2d(leaf(2, 6, 6, 4), leaf(3, 3, 4, 4), padding=1, pool=2), {FORWARD, INPUT, WEIGHT},
    ),
    "conv2d with a pool behind it": (
        lambda leaf: F.conv2d(leaf(2, 6, 6, 4), leaf(3, 3, 4, 4), padding=1, pool=3), {FORWARD, INPUT, WEIGHT},
    ),
    "conv_transpose2d": (
        lambda leaf: F.conv_transpose2d(leaf(2, 3, 3, 4), leaf(2, 2, 4, 4), leaf(4), stride=2),
        {FORWARD, "conv_transpose2d", WEIGHT},
    ),
    "linear": (
        lambda leaf: F.linear(leaf(3, 4), leaf(4, 5), leaf(5)), {"linear_forward", "linear_weight_grads", "matmul"},
    ),
    "linear of images": (
        lambda leaf: F.linear(leaf(3, 2, 2, 4), leaf(4, 5), activation="relu"),
        {"linear_forward", "linear_weight_grads", "matmul"},
    ),
    "matmul": (lambda leaf: leaf(3, 4) @ leaf(4, 5), {"matmul"}),
    "products of batches": (lambda leaf: leaf(2, 3, 4) @ leaf(2, 4, 5), {"batched_matmul"}),
    "a product of rows": (lambda leaf: leaf(2, 3, 4) @ leaf(4), {"matmul"}),
}  # fmt: skip


@pytest.mark.parametrize("within", ["float32", "3xtf32"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_gradients_have_the_precision_of_the_forward_pass_wherever_they_are_computed(asked, leaf, operation, within):
    make, primitives = OPERATIONS[operation]
    with gp.matrix_precision("tf32"):
        total = make(leaf).sum()
    with gp.matrix_precision(within):
        total.backward(retain_graph=True)
        first = len(asked)
        total.backward()
    assert {name for name, _ in asked} == primitives
    assert len(asked) > first >= 3
    assert {found for _, found in asked} == {"tf32"}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_float32_is_what_holds_outside_even_for_a_pass_back_inside(asked, leaf, operation):
    total = OPERATIONS[operation][0](leaf).sum()
    with gp.matrix_precision("tf32"):
        total.backward()
    assert {found for _, found in asked} == {"float32"}


def test_a_layer_that_waits_for_its_loss_keeps_its_precision(asked, leaf):
    with late_results():
        with gp.matrix_precision("tf32"):
            logits = F.linear(leaf(3, 4), leaf(4, 5), leaf(5))
        loss = F.cross_entropy(logits, np.array([0, 1, 2]))
    loss.backward()
    assert len(asked) >= 2
    assert {found for _, found in asked} == {"tf32"}


def test_a_layer_that_waits_in_vain_for_its_loss_keeps_its_precision_too(asked, leaf):
    with late_results():
        with gp.matrix_precision("tf32"):
            logits = F.linear(leaf(3, 4), leaf(4, 5), leaf(5))
        (logits * 2).sum().backward()
    assert ("linear_forward", "tf32") in asked
    assert {found for _, found in asked} == {"tf32"}


def test_each_layer_of_a_model_has_the_precision_of_its_own_call(backend, asked):
    first, second = nn.Conv2d(3, 4, 3).to(backend), nn.Conv2d(4, 4, 3).to(backend)
    x = gp.tensor(np.ones((1, 6, 6, 3)), dtype="float32", backend=backend)
    with gp.matrix_precision("3xtf32"):
        y = first(x)
    second(y).sum().backward()
    assert asked == [
        (FORWARD, "3xtf32"), (FORWARD, "float32"), (WEIGHT, "float32"), (INPUT, "float32"), (WEIGHT, "3xtf32"),
    ]  # fmt: skip


def test_an_operation_of_ones_own_reads_the_precision_in_both_passes(leaf):
    seen = []

    class Double(gp.Function):
        def forward(self, x):
            seen.append(self.matrix_precision)
            return self.backend.binary("add", x, x)

        def backward(self, dy):
            seen.append(self.matrix_precision)
            return self.backend.binary("add", dy, dy)

    with gp.matrix_precision("tf32"):
        y = Double.apply(leaf(3))
    y.sum().backward()
    assert seen == ["tf32", "tf32"]


def test_plain_arrays_are_multiplied_in_the_precision_of_the_call_and_not_of_an_earlier_one(monkeypatch, rng):
    asked = asked_of(gp.get_backend("numpy"), monkeypatch)
    x, w, a = (rng.normal(size=shape).astype(np.float32) for shape in ((1, 5, 5, 4), (3, 3, 4, 6), (5, 6)))
    image, dy = rng.normal(size=(1, 4, 5, 5)).astype(np.float32), rng.normal(size=(1, 3, 3, 6)).astype(np.float32)

    def all_of_them():
        gp.arrays.conv2d(x, w)
        gp.arrays.conv2d(image, w.transpose(3, 2, 0, 1), layout="NCHW")
        gp.arrays.depthwise_conv2d(x, w[:, :, :1, :4])
        gp.arrays.conv2d_input_grad(dy, w, x.shape)
        gp.arrays.conv2d_weight_grad(dy, x, 3)
        gp.arrays.conv_transpose2d(dy, w)
        gp.arrays.matmul(a, a, transpose_b=True)
        gp.arrays.matmul(a[None], a[None], transpose_b=True)

    all_of_them()
    assert len(asked) == 8
    assert {found for _, found in asked} == {"float32"}
    asked.clear()
    with gp.matrix_precision("tf32"):
        all_of_them()
    assert len(asked) == 8
    assert {found for _, found in asked} == {"tf32"}


def test_muon_makes_matrices_orthogonal_in_the_precision_of_the_update(backend, asked, rng):
    x = backend.asarray(rng.normal(size=(6, 4)), np.float32)
    with gp.matrix_precision("tf32"):
        orthogonal(backend, x, 5)
    assert asked == [("matmul", "tf32")] * 15


def test_a_permission_changes_no_number_on_a_cpu(rng):
    x, w = rng.normal(size=(2, 6, 6, 8)), rng.normal(size=(3, 3, 8, 8))
    for name in ("reference", "numpy"):
        t = gp.tensor(x, dtype="float32", backend=name)
        exact = F.conv2d(t, w).numpy()
        for each in MATRIX_PRECISIONS:
            with gp.matrix_precision(each):
                np.testing.assert_array_equal(F.conv2d(t, w).numpy(), exact)


# ---- where it begins and ends


def test_contexts_nest_and_end_with_errors_too():
    assert precision() == "float32"
    with gp.matrix_precision("tf32"):
        assert precision() == "tf32"
        with gp.matrix_precision("float32"):
            assert precision() == "float32"
        with pytest.raises(ZeroDivisionError):
            gp.matrix_precision("3xtf32")(lambda: 1 / 0)()
        with pytest.raises(ZeroDivisionError), gp.matrix_precision("3xtf32"):
            _ = 1 / 0
        assert precision() == "tf32"
    assert precision() == "float32"
    again = gp.matrix_precision("tf32")
    with again, gp.matrix_precision("3xtf32"), again:
        assert precision() == "tf32"
    assert precision() == "float32"


def test_another_thread_multiplies_in_float32():
    found = []
    with gp.matrix_precision("tf32"):
        thread = threading.Thread(target=lambda: found.append(precision()))
        thread.start()
        thread.join()
        assert precision() == "tf32"
    assert found == ["float32"]


def test_a_thread_can_leave_only_what_it_has_entered():
    entered = gp.matrix_precision("tf32")
    with pytest.raises(RuntimeError, match="matrix_precision: left in a thread that has not entered it"):
        entered.__exit__(None, None, None)


def test_functions_methods_generators_and_coroutines_are_decorated():
    @gp.matrix_precision("tf32")
    def fall(n):
        """Says so."""
        return fall(n - 1) if n else precision()

    @gp.matrix_precision("tf32")
    def steps():
        while True:
            yield precision()

    @gp.matrix_precision("3xtf32")
    async def work():
        before = precision()
        await asyncio.sleep(0)
        return before, precision()

    assert (fall(3), fall.__name__, fall.__doc__) == ("tf32", "fall", "Says so.")
    running = steps()
    with gp.matrix_precision("3xtf32"):
        assert (next(running), precision(), next(running)) == ("tf32", "3xtf32", "tf32")
    assert asyncio.run(work()) == ("3xtf32", "3xtf32")
    assert precision() == "float32"
    with pytest.raises(TypeError, match="matrix_precision: takes a function"):
        gp.matrix_precision("tf32")(3)


# ---- bad input


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("TF32", "precision is 'TF32' but takes one of float32, tf32, 3xtf32$"),
        ("float64", "precision is 'float64' but takes one of float32"),
        (None, "precision is None but takes one of float32"),
        (
            "bfloat16",
            r"takes one .*, got 'bfloat16', in which arrays are stored: .*Trainer\(precision=…\).*functional.cast$",
        ),
        ("float16", "takes one of float32, tf32, 3xtf32, got 'float16', in which arrays are stored"),
    ],
)
def test_other_words_are_refused_in_one_line_before_anything_is_changed(word, message):
    with pytest.raises(ValueError, match=f"^matrix_precision: {message}") as caught:
        gp.matrix_precision(word)
    assert "\n" not in str(caught.value)
    assert precision() == "float32"


def test_a_primitive_takes_no_other_word_either():
    geometry = Geometry.conv((1, 3, 3, 1), (3, 3, 1, 1))
    for name, made in (
        ("conv2d", lambda: Conv(geometry, precision="half")),
        ("matmul", lambda: Product(precision="half")),
    ):
        with pytest.raises(ValueError, match=f"^{name}: precision is 'half' but takes one of float32, tf32, 3xtf32$"):
            made()
    layer = LinearGrad(np.ones((3, 5), np.float32), np.ones((3, 4), np.float32), precision="tf32")
    assert layer.as_conv()[2].precision == "tf32"
