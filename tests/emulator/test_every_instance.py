"""Every kernel instance runs, checked, at sizes with remainders; and how much of the kernels' source that executes.

This file launches all it needs itself, so that it says the same whichever other tests are selected.
"""

from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import tolerances
from helpers import needs_emulator

from gpunet.augmentation import Augmentation
from gpunet.backends import cuda, cuda_training
from gpunet.backends.base import BINARY, FUSED_POOL, UNARY, Activation, Gate, InputActivation, Moments, Note, Segments
from gpunet.backends.cuda import CudaBackend, emulated_backend
from gpunet.backends.gather import Clock
from gpunet.backends.reference import ReferenceBackend
from gpunet.backends.rules import RULES, columns
from gpunet.cuda.emulator.launcher import EmulatedLauncher, Settings
from gpunet.cuda.instantiations import ELEMENTS, MOVED, instantiations
from gpunet.cuda.signature import parameters
from gpunet.geometry import Geometry
from gpunet.random import Stream
from gpunet.resampling import linear, padded

pytestmark = needs_emulator

LINES = 0.95
"""Share of the kernels' lines that must execute."""
ACTIVATIONS = [
    Activation("relu"), Activation("leaky_relu", 0.2), Activation("sigmoid"), Activation("tanh"), Activation("elu", alpha=0.7),
    Activation("relu6"), Activation("hard_tanh", low=-0.5, high=0.8), Activation("hard_sigmoid"),
]  # fmt: skip
INPUT_ACTIVATIONS = [
    InputActivation("gelu"), InputActivation("silu"), InputActivation("softplus", 2.5), InputActivation("hard_swish"),
]  # fmt: skip
STREAM = Stream(7, 1, 2, 3, 4)


class Noting(EmulatedLauncher):
    """Notes the arguments, as (kernel, name), that are read and those that are written."""

    def __init__(self, arrays):
        super().__init__(arrays, Settings(checked=True))
        self.read, self.written = set(), set()

    def execute(self, work):
        super().execute(work)
        kernel = work.kernel.split("<")[0]
        self.read |= {(kernel, region.name) for region in self.last.regions if region.loaded}
        self.written |= {(kernel, region.name) for region in self.last.regions if region.stored}


@pytest.fixture(scope="module")
def launcher():
    """A checked launcher that has launched every primitive in every variant."""
    fast = emulated_backend(Settings(checked=True))
    fast.launcher = Noting(fast.arrays)
    simple = CudaBackend(fast.arrays, fast.launcher, simple=True, name=fast.name)
    with pytest.MonkeyPatch.context() as patch:
        for busy, backend in ((cuda.BUSY, fast), (1, fast), (cuda.BUSY, simple)):
            patch.setattr(cuda, "BUSY", busy)  # 1: the largest tile that fits, at small sizes
            run_everything(Runs(backend))
            for dtype in tolerances.NARROW:
                run_narrow(Runs(backend, dtype))
    return fast.launcher


class Runs:
    """Calls a primitive here, on arrays of one dtype, and on the reference, on the same numbers, and compares."""

    def __init__(self, backend, dtype="float32"):
        self.backend, self.reference, self.rng = backend, ReferenceBackend(), np.random.default_rng(0)
        self.dtype = np.dtype(dtype)
        self.error = 2e-4 + 2 * tolerances.NARROW.get(dtype, 0)  # one digit more where a float32 error crossed a tie

    def normal(self, *shape):
        return self.rounded(self.rng.normal(size=shape))

    def rounded(self, a):
        """float32 numbers that the dtype holds."""
        return a.astype(self.dtype).astype(np.float32)

    def on(self, a):
        """An array on the device; of float32 numbers in the dtype."""
        return self.backend.asarray(a.astype(self.dtype) if a.dtype == np.float32 else a)

    def agrees(self, got, expected, message=""):
        """Assert that an array on the device holds what is expected."""
        host = self.backend.to_numpy(got)
        host, expected = (a.astype(np.float32) if a.dtype == self.dtype else a for a in (host, expected))
        np.testing.assert_allclose(host, expected, rtol=self.error, atol=2e-4, err_msg=message)

    def __call__(self, primitive, *args, single=(), **options):
        """`single`: positions and names of arrays that stay float32."""

        def on(value, where):
            if isinstance(value, np.ndarray):
                return self.backend.asarray(value) if where in single else self.on(value)
            if isinstance(value, Clock):
                return value._replace(counters=self.on(value.counters))
            if isinstance(value, Moments):
                return Moments(*map(self.backend.asarray, value))
            if isinstance(value, Gate):
                return value._replace(y=on(value.y, ""), mask=on(value.mask, ""))
            return value

        with np.errstate(invalid="ignore", divide="ignore"):
            expected = getattr(self.reference, primitive)(*args, **options)
        given = [on(value, i) for i, value in enumerate(args)]
        got = getattr(self.backend, primitive)(*given, **{name: on(value, name) for name, value in options.items()})
        for mine, theirs in zip(*(r if isinstance(r, tuple) else (r,) for r in (got, expected)), strict=True):
            assert (mine is None) == (theirs is None)
            if mine is not None:
                self.agrees(mine, theirs, f"{primitive} {options}")
        return expected


def run_everything(run):
    convolutions(run)
    products(run)
    pools(run)
    resampling(run)
    local_convolutions(run)
    normalisation(run)
    groups(run)
    rows(run)
    cross_entropy(run)
    elementwise(run)
    movement(run)
    random_numbers(run)
    batches(run)
    updates(run)


def run_narrow(run):
    """What 16-bit numbers are computed with."""
    convolutions(run)
    products(run)
    pools(run)
    resampling(run)
    local_convolutions(run)
    normalisation(run)
    groups(run)
    cross_entropy(run)
    elementwise(run)
    run("dropout_forward", run.normal(5, 37), 0.3, stream=STREAM)
    batches(run)
    updates(run)


def convolutions(run):
    for channels, filters, groups in (
        (4, 68, 1),
        (3, 70, 1),
        (18, 70, 1),
        (5, 10, 1),
        (8, 12, 2),
        (20, 68, 1),
        (9, 18, 9),
    ):
        options = {"padding": ((1, 1), (2, 0)), "stride": (2, 1), "groups": groups}
        g = Geometry.conv((2, 9, 7, channels), (3, 3, channels // groups, filters), **options)
        x, w, b, dy = run.normal(*g.x_shape), run.normal(*g.w_shape), run.normal(filters), run.normal(*g.y_shape)
        gate = Gate(run.rounded(np.tanh(run.normal(*g.y_shape))), ACTIVATIONS[3])
        run("conv2d_forward", x, w, b, geometry=g, activation=ACTIVATIONS[channels % 8])
        run("conv2d_input_grad", dy, w, geometry=g, gate=gate)
        run("conv2d_weight_grad", dy, x, geometry=g, gate=gate)
        run("conv2d_weight_grad", dy, x, geometry=g, bias=False)
        pool = Geometry.pool(g.y_shape, FUSED_POOL)
        dy, gate_y = run.normal(*pool.y_shape), run.rounded(np.tanh(run.normal(*pool.y_shape)))
        _, mask = run("conv2d_forward", x, w, b, geometry=g, activation=ACTIVATIONS[channels % 8], pool=pool)
        gate = Gate(gate_y, ACTIVATIONS[3], mask, pool)
        run("conv2d_input_grad", dy, w, geometry=g, gate=gate)
        run("conv2d_weight_grad", dy, x, geometry=g, gate=gate)


def products(run):
    for p, ta, tb in product((68, 66, 10), (False, True), (False, True)):
        m, k = (68, 20) if p % 4 == 0 else (67, 19)
        a, b = run.normal(*((k, m) if ta else (m, k))), run.normal(*((p, k) if tb else (k, p)))
        gate = Gate(run.rounded(np.tanh(run.normal(*a.shape))), ACTIVATIONS[3])
        run("matmul", a, b, transpose_a=ta, transpose_b=tb, bias=run.normal(p), activation=ACTIVATIONS[1], gate=gate)
        out = run.normal(m, p)
        got = run.backend.matmul(run.on(a), run.on(b), transpose_a=ta, transpose_b=tb, out=run.on(out), accumulate=True)
        run.agrees(got, out + (a.T if ta else a) @ (b.T if tb else b))


def pools(run):
    for window, (h, w), channels in product((3, (17, 16), (258, 256)), ((9, 8),), (3, 4)):
        extents = (h, w) if window == 3 else (window[0] + 1, window[1] + 2)
        g = Geometry.pool((1, *extents, channels), window, stride=2, padding=1 if window == 3 else 0)
        x = run.rng.integers(0, 9, g.x_shape).astype(np.float32)
        x[0, 1, 1, 0] = np.nan
        _, mask = run("max_pool2d_forward", x, geometry=g)
        run("max_pool2d_backward", run.normal(*g.y_shape), mask, geometry=g)
        if window == 3:
            for count_padding in (False, True):
                run("avg_pool2d_forward", x, geometry=g, count_padding=count_padding)
                run("avg_pool2d_backward", run.normal(*g.y_shape), geometry=g, count_padding=count_padding)


def resampling(run):
    for channels in (3, 4):
        rows, columns = linear(5, 11), padded(7, 2, 1, "zero")
        run("resample2d", run.normal(2, 5, 7, channels), rows, columns)
        run("resample2d", run.normal(2, 11, 10, channels), rows.transposed, columns.transposed)


def local_convolutions(run):
    g = Geometry.conv((3, 7, 6, 2), (3, 2, 2, 5), stride=(2, 1), padding=((1, 0), (0, 1)))
    places = g.y_shape[1:3]
    x, w, dy = run.normal(*g.x_shape), run.normal(*places, *g.w_shape), run.normal(*g.y_shape)
    run("local_conv2d_forward", x, w, run.normal(*places, 5), geometry=g)
    run("local_conv2d_forward", x, w, geometry=g)
    run("local_conv2d_input_grad", dy, w, geometry=g)
    run("local_conv2d_weight_grad", dy, x, geometry=g)
    dw, db = run("local_conv2d_weight_grad", dy, x, geometry=g, bias=False), run.normal(*places, 5)
    out, bias_out = run.backend.asarray(w), run.backend.asarray(db)
    run.backend.local_conv2d_weight_grad(run.on(dy), run.on(x), geometry=g, out=out, bias_out=bias_out, accumulate=True)
    run.agrees(out, w + dw[0])
    run.agrees(bias_out, db + dy.sum(axis=0))


def normalisation(run):
    cases = ((2, 9, 7, 8), None, True), ((33, 35), ACTIVATIONS[3], True), ((3, 5), None, False)
    for shape, activation, training in cases:
        gamma, beta, mean, x = (run.normal(*extents) for extents in (shape[-1:], shape[-1:], shape[-1:], shape))
        options = {"eps": 1e-3, "training": training, "activation": activation}
        arrays, residual = (gamma, beta, mean, mean**2 + 1), run.normal(*shape)
        y, saved = run.reference.batch_norm_forward(
            x, *(a.copy() for a in arrays), momentum=0.1, residual=residual, **options
        )
        of_channels = map(run.backend.asarray, arrays)
        got, _ = run.backend.batch_norm_forward(
            run.on(x), *of_channels, momentum=0.1, residual=run.on(residual), **options
        )
        run.agrees(got, y)
        y = run.rounded(y)
        run("batch_norm_backward", run.normal(*shape), x, y, gamma, saved, residual=True, single=(3,), **options)


def groups(run):
    for shape, each, affine in (
        ((2, 9, 7, 16), 2, True),
        ((33, 35), 5, True),
        ((3, 5), 1, False),
        ((70, 4, 8), 2, True),
    ):
        gamma, beta = (run.normal(shape[-1]) if affine else None for _ in range(2))
        x, dy, options = run.normal(*shape), run.normal(*shape), {"groups": each, "eps": 1e-2}
        _, saved = run.reference.group_norm_forward(x, gamma, beta, **options)
        on = [None if a is None else run.backend.asarray(a) for a in (gamma, beta)]
        y, moments = run.backend.group_norm_forward(run.on(x), *on, **options)
        run.agrees(y, run.reference.group_norm_forward(x, gamma, beta, **options)[0])
        for mine, theirs in zip(moments, saved, strict=True):
            np.testing.assert_allclose(run.backend.to_numpy(mine), theirs, rtol=1e-5, atol=1e-6)
        run("group_norm_backward", dy, x, gamma, saved, single=(2,), **options)
        out = [run.backend.asarray(np.ones(shape[-1], np.float32)) for _ in range(2)]
        given = run.on(dy), run.on(x), on[0], Moments(*map(run.backend.asarray, saved))
        run.backend.group_norm_backward(*given, gamma_out=out[0], beta_out=out[1], accumulate=True, **options)
        expected = run.reference.group_norm_backward(dy, x, gamma, saved, **options)[1:]
        for mine, theirs in zip(out, expected, strict=True):
            np.testing.assert_allclose(run.backend.to_numpy(mine), theirs + 1, rtol=1e-4, atol=1e-4)


def rows(run):
    for shape, axes in (((3, 700), (1,)), ((700, 3), (0,)), ((4, 5, 6), (0, 2))):
        a = run.rng.integers(-9, 9, shape).astype(np.float32)
        run("sum", a, axes)
        y, index = run("max", a, axes)
        run("max_backward", run.normal(*y.shape), index, shape=shape, axes=axes)
    logits, dy = run.normal(19, 33), run.normal(19, 33)
    for log in (False, True):
        run("softmax_backward", dy, run("softmax_forward", logits, log=log), log=log)
    run("sigmoid_cross_entropy", logits, run.rng.uniform(size=(19, 33)).astype(np.float32))


def cross_entropy(run):
    logits, labels = run.normal(19, 33), run.rng.integers(0, 33, 19).astype(np.int32)
    options = {"weight": run.rng.uniform(0.5, 2, 33).astype(np.float32), "smoothing": 0.1}
    run("softmax_cross_entropy", logits, labels, ignore_index=int(labels[3]), single=("weight",), **options)
    run("softmax_cross_entropy", logits, labels, weight=None, smoothing=0.0, ignore_index=None)
    options["weight"], many = (
        options["weight"][:3],
        run.rng.integers(0, 3, cuda_training.SMALL_ROWS + 1).astype(np.int32),
    )
    run("softmax_cross_entropy", run.normal(len(many), 3), many, ignore_index=1, single=("weight",), **options)


def elementwise(run):
    special = np.resize(np.float32([0.5, -2, 0, 3, np.nan, np.inf]), (3, 5))
    for activation in ACTIVATIONS:
        y = run.rounded(run("activation_forward", special, activation))
        run("activation_backward", run.normal(3, 5), y, activation)
    for activation in INPUT_ACTIVATIONS:
        run("input_activation_forward", 3 * special[:, :-1].copy(), activation)
        run("input_activation_backward", run.normal(3, 40), run.rounded(3 * run.normal(3, 40)), activation)
    for name in UNARY:
        run("unary", name, special)
    for name in BINARY:
        run("binary", name, run.rounded(run.rng.uniform(0.5, 2, (4, 1, 5))), run.normal(3, 1))
    for dtype in ELEMENTS:
        run.agrees(run.backend.cast(run.on(special), dtype), special)
    run("scale", special, np.float32([0.5]), 3.0, single=(1,))
    run("scale", special, None, 3.0)


def movement(run):
    taken = np.int64([2, 0, 2])
    for dtype in MOVED:
        a = run.rng.integers(0, 2, (3, 5)).astype(dtype)
        run("full", (3, 5), 1, dtype)
        run("transpose", a, (1, 0))
        run("take", a, taken)
    run("take_backward", run.normal(3, 5), taken, length=4)


def random_numbers(run):
    run("random_words", STREAM, 1027)
    run("random_uniform", STREAM, (37,), np.float32)
    run("random_normal", STREAM, (5, 37), np.float32)
    run("dropout_forward", run.normal(5, 37), 0.3, stream=STREAM)
    run("permutation", STREAM, 1027)
    clock = run.backend.asarray(np.uint64([5, 6]))  # added to the stream's own step and epoch
    x, placed = run.normal(5, 37), replace(STREAM, step=STREAM.step + 5, epoch=STREAM.epoch + 6)
    for primitive, *args in (
        ("random_words", 9),
        ("random_uniform", (9,), np.float32),
        ("random_normal", (9,), np.float32),
        ("dropout_forward", 0.3),
    ):
        drops = primitive == "dropout_forward"
        expected, got = (
            getattr(on, primitive)(on.asarray(x), *args, stream=stream)
            if drops
            else getattr(on, primitive)(stream, *args)
            for on, stream in ((run.reference, placed), (run.backend, replace(STREAM, clock=clock)))
        )
        np.testing.assert_array_equal(run.backend.to_numpy(got), expected)


def batches(run):
    images, labels = run.rng.integers(0, 256, (5, 41, 37, 3), dtype=np.uint8), np.arange(5, dtype=np.int32)
    order, drawn = np.int32([3, 0, 4, 4, 1, 2]), Augmentation((40, 39), 2, "reflect", True, "alternate", True, 9)
    run("gather_augment", images, labels, order, drawn, seed=7, epoch=3, start=1)
    clock, normalized = np.uint64([6, 3]), replace(drawn, mean=(0.5,), std=(0.25,), cutout_last=True)
    run("gather_augment", images, None, order, normalized, seed=7, rows=2, clock=Clock(clock, 3, 2), dtype=run.dtype)


def updates(run):
    bounds, narrow = np.array([[0, 5], [32, 300]], np.int64), run.dtype != np.float32

    def arenas():
        flat = {name: np.abs(run.normal(320)) for name in ("data", "grad", "momentum", "mean", "square")}
        for backend in (run.reference, run.backend):
            arrays = {name: backend.asarray(a.copy()) for name, a in flat.items()}
            data, grad = arrays.pop("data"), arrays.pop("grad")
            yield backend, SimpleNamespace(data=data, grad=grad, slots=arrays, shadow=None, scaling=None)

    def step(rule):
        segments, left = Segments(bounds, np.full((2, columns(rule)), 0.1)), []
        for backend, arena in arenas():
            if narrow and backend is run.backend:  # the same gradients, four times as large
                arena.scaling, arena.shadow = run.backend.asarray(np.float32([4, 0, 0])), run.on(run.normal(320))
                arena.grad = run.backend.binary("multiply", arena.grad, run.backend.full((1,), 4, np.float32))
            clip = backend.gradient_norm(arena, segments, max_norm=1.0)
            loss, last = (backend.asarray(a) for a in (np.float32([0.5]), np.zeros(3)))
            note = Note(loss, backend.asarray(np.int32(4)), last, backend.full((3,), 9, np.float64))
            backend.update(rule, arena, segments, clip=clip, note=note)
            left.append([backend.to_numpy(a) for a in (clip, arena.data, note.row, *arena.slots.values())])
            if narrow and backend is run.backend:
                data, shadow = (backend.to_numpy(a)[0:5] for a in (arena.data, arena.shadow))
                np.testing.assert_array_equal(shadow.astype(np.float32), run.rounded(data))
        left[1][0][1] *= 4 if narrow else 1
        for expected, got in zip(*left, strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)

    for rule in RULES:
        step(rule)
    for limit in (1.0, 1e9):
        shadow = run.on(run.normal(33 * 40)).reshape(33, 40) if narrow else None
        left = []
        for backend in (run.reference, run.backend):
            w = backend.asarray(np.linspace(-1, 1, 33 * 40, dtype=np.float32).reshape(33, 40))
            there = shadow if backend is run.backend else None
            held, clip = backend.asarray(np.zeros(3)), backend.asarray(np.float32([1, 1]))
            backend.clip_units(w, limit, shadow=there, clip=clip, held=held)
            average = backend.asarray(np.ones((33, 40), np.float32))
            backend.average_update(average, w, 0.9, clip=clip, held=held)
            left.append([backend.to_numpy(a) for a in (w, average)])
        for expected, got in zip(*left, strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
        if narrow and limit == 1.0:
            written = run.backend.to_numpy(shadow).astype(np.float32)
            np.testing.assert_array_equal(written, run.rounded(left[1][0]))


def test_every_instance_is_launched(launcher):
    listed = {e for expressions in instantiations().values() for e in expressions}
    assert sorted(listed - set(launcher.totals)) == [], "no test launches these on the emulated device"


def test_the_marks_of_pointers_say_what_is_read_and_written(launcher):
    listed = {(p.name, e.split("<")[0]): p for f, es in instantiations().items() for e in es for p in parameters(f, e)}
    pointers = {(kernel, name): p for (name, kernel), p in listed.items() if p.is_pointer}
    always = {key for key, p in pointers.items() if p.is_const or p.is_updated}
    sometimes = {key for key, p in pointers.items() if p.is_added_to}
    apart = {key for key in launcher.read | launcher.written if ", " in key[1]}  # arguments that overlap are one region
    assert always <= launcher.read - apart <= always | sometimes
    outputs = {key for key, p in pointers.items() if not p.is_const}
    assert {key for key in outputs if not pointers[key].may_be_null} <= launcher.written - apart <= outputs


def test_the_kernels_lines_are_executed(launcher, record_property):
    lines = launcher.lines()
    missed = sorted(lines - launcher.covered)
    share = 1 - len(missed) / len(lines)
    record_property("kernel lines executed", f"{share:.1%} of {len(lines)}")
    print(f"\nkernel lines executed: {share:.1%} of {len(lines)}; missed: {missed}")
    assert share >= LINES, f"{share:.1%} of {len(lines)} lines; not executed: {missed}"
