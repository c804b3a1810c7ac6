"""A plan lists what the emulated machine does, and a fused step writes no intermediate arrays."""

import subprocess
import sys
from functools import partial
from math import prod
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import needs_cuda, needs_emulator

import gpunet as gp
from gpunet import functional as F
from gpunet import models, nn, optim, random
from gpunet.backends import get_backend
from gpunet.backends.cuda.backend import CudaBackend
from gpunet.cuda.emulated import EmulatedLauncher
from gpunet.cuda.waves import counters_of
from gpunet.emulator.arrays import EmulatedArrays
from gpunet.emulator.launches import Settings
from gpunet.report import plan as planning

MOMENTUM = partial(optim.SGD, lr=0.1, momentum=0.9)
LENET_LAUNCHES, TARGET = 14, 20
"""Launches of a LeNet training step now, and the most that are wanted, at the batch sizes of the benchmarks."""
BATCH = 7
"""Number of images; a prime, so that no other array has as many elements as those that tests look for."""


def elements(plan, phases=("forward", "backward", "update")):
    """Number of elements of every array that the step makes or writes in these phases."""
    launches, made = ([x for x in each if x.label.phase in phases] for each in (plan.launches, plan.allocations))
    written = [a.shape for launch in launches for a in launch.arguments if a.written]
    return {prod(shape) for shape in [*written, *(a.shape for a in made)]}


def writers(plan, counts):
    """The kernels that write arrays of these numbers of elements."""
    written = [(x.kernel.split("<")[0], prod(a.shape)) for x in plan.launches for a in x.arguments if a.written]
    return [kernel for kernel, count in written if count in counts]


def places(plan):
    """(pass, layer or operation, kernel without its template arguments), each once where it repeats."""
    rows = [
        (p.phase, p.layer or p.operation, launch.kernel.split("<")[0])
        for launch in plan.launches
        for p in [launch.label]
    ]
    return list(dict.fromkeys(rows))


# ---- against the emulated machine, which counts


def regions(counts):
    """What was touched of each argument; one array that is passed twice is one region with two names."""
    return {name: region for region in counts.regions for name in region.name.split(", ")}


class Counting(EmulatedLauncher):
    """Keeps what each launch did."""

    def __init__(self, arrays):
        super().__init__(arrays, Settings(checked=True))
        self.counts = []

    def execute(self, work):
        super().execute(work)
        self.counts.append((work, self.last))


class Mixed(nn.Module):
    """What LeNet lacks: sums of two paths, layers used twice, batch norm, pools and activations by themselves, dropout."""

    def __init__(self):
        self.first = nn.Conv2d(3, 8, 3, padding=1, stride=2, activation="leaky_relu")
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding="same", groups=2), nn.Tanh(), nn.MaxPool2d(3, stride=1))
        self.pooled = nn.Conv2d(8, 12, (3, 2), pool=2)
        self.shared, self.norm = nn.Linear(12, 12, bias=False), nn.BatchNorm2d(12)
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.25), nn.Linear(48, 5))

    def forward(self, x):
        y = self.first(x)
        y = self.body(y) + F.avg_pool2d(y, 3, stride=1)
        y = self.norm(self.shared(self.pooled(y)))
        return self.head(F.relu(self.norm(self.shared(y), y)))


RUNS = {
    "LeNet, SGD": (models.lenet, (28, 28, 1), 10, MOMENTUM, "float32"),
    "LeNet, Adam with clipping": (models.lenet, (28, 28, 1), 10, partial(optim.Adam, clip_norm=1.0), "float32"),
    "LeNet, 16 bits": (models.lenet, (28, 28, 1), 10, MOMENTUM, "bfloat16"),
    "mixed": (Mixed, (15, 14, 3), 5, partial(optim.AdamW, clip_norm=0.1), "float32"),
}


@pytest.fixture(scope="module", params=RUNS)
def run(request):
    """A plan, and what a checked machine did for it."""
    make_model, input_shape, classes, make_optimizer, precision = RUNS[request.param]
    arrays = EmulatedArrays(track=True)
    launcher = Counting(arrays)
    before = []

    def optimizer(parameters):
        made = make_optimizer(parameters)
        if precision != "float32":
            made.compute_in(precision)
        before.extend((arrays.allocations, arrays.allocated))
        return made

    backend = CudaBackend(arrays, launcher, name="emulated")
    plan = gp.plan(
        make_model(), input_shape, batch_size=BATCH, optimizer=optimizer, backend=backend, precision=precision
    )
    images_and_labels = BATCH * ((4 if precision == "float32" else 2) * prod(input_shape) + 4)
    allocated = arrays.allocations - before[0] - 2, arrays.allocated - before[1] - images_and_labels
    counts = launcher.counts[-len(plan.launches) :]
    return SimpleNamespace(plan=plan, counts=counts, allocated=allocated, classes=classes)


@needs_emulator
def test_the_launches_and_allocations_are_those_of_the_device(run):
    assert [work.kernel for work, _ in run.counts] == [launch.kernel for launch in run.plan.launches]
    assert [(work.grid, work.block) for work, _ in run.counts] == [(x.grid, x.block) for x in run.plan.launches]
    assert (len(run.plan.allocations), run.plan.allocated) == run.allocated


@needs_emulator
def test_a_launch_touches_the_arrays_that_are_listed_and_no_others(run):
    for launch, (_, counts) in zip(run.plan.launches, run.counts, strict=True):
        assert {a.name for a in launch.arguments} == set(regions(counts)), launch.kernel
        assert counts.loaded == sum(t.loaded for t in counts.regions), launch.kernel
        assert counts.stored == sum(t.stored for t in counts.regions), launch.kernel
        listed = {a.name: (a.read, a.written) for a in launch.arguments}
        assert {name: (t.loaded > 0, t.stored > 0) for name, t in regions(counts).items()} == listed, launch.kernel


@needs_emulator
def test_each_output_is_stored_once_and_loads_are_at_least_the_bytes_read(run):
    for launch, (_, counts) in zip(run.plan.launches, run.counts, strict=True):
        for argument in launch.arguments:
            touched = regions(counts)[argument.name]
            where = f"{launch.kernel}: {argument.name}"
            if argument.name == "arrivals":  # one more for each block and group of splits, then zero again
                counters, splits = argument.bytes // 4, launch.work.splits
                groups = counters - counters // (counters_of(splits) if splits > 1 else counters)
                arrived = launch.grid[0] + (groups if counters_of(splits) > 1 else 0)
                assert touched.stored == 4 * (arrived + counters), where
                continue
            if argument.name == "slots":  # the last of a group adds up into its first slot
                assert touched.written < touched.stored <= 2 * touched.written <= 2 * argument.bytes, where
                continue
            assert touched.stored == touched.written <= argument.bytes, where
            assert touched.loaded >= touched.read <= argument.bytes, where


@needs_emulator
def test_the_bytes_are_exactly_those_of_the_machine(run):
    # The arena is padded to 128 bytes after the last bias, where an update ends; of (norm, scale) it reads the scale.
    spare = dict.fromkeys(("data", "grad", "a_slot", "b_slot"), 128 - 4 * run.classes)
    spare |= {"shadow": spare["data"] // 2, "clip": 4}
    for launch, (_, counts) in zip(run.plan.launches, run.counts, strict=True):
        less = spare if launch.label.phase == "update" else {}
        for argument in launch.arguments:
            touched = regions(counts)[argument.name]
            whole = argument.bytes - less.get(argument.name, 0)
            reads = argument.read and argument.name != "arrivals"  # an atomic update counts as a write
            expected = whole * reads, whole * argument.written
            assert (touched.read, touched.written) == expected, f"{launch.kernel}: {argument.name}"


# ---- what is launched


@pytest.fixture(scope="module")
def plan_of(cuda_name):
    """The plan of a model on a CUDA backend."""
    return partial(gp.plan, backend=cuda_name)


@pytest.fixture(scope="module")
def lenet(plan_of):
    return plan_of(models.lenet(), (28, 28, 1), batch_size=BATCH, optimizer=MOMENTUM)


@pytest.mark.parametrize("batch_size", [128, 512])
def test_launches_of_a_lenet_step(plan_of, batch_size):
    plan = plan_of(models.lenet(), (28, 28, 1), batch_size=batch_size, optimizer=MOMENTUM)
    launches = len(plan.launches)
    assert launches == LENET_LAUNCHES, f"{launches} launches, {LENET_LAUNCHES} before; the target is at most {TARGET}"


def test_every_launch_belongs_to_a_layer_or_an_operation(lenet):
    conv, grads = "conv2d", ["max_pool2d_backward", "conv2d_weight_grad_tiled"]
    first, second = "0 Conv2d + relu + pool", "2 Conv2d + relu + pool"
    layers = [(first, f"{conv}_depthwise_forward"), (second, f"{conv}_forward_tiled")]
    heads = ["5 Linear + relu", "6 Linear + relu", "7 Linear"]
    assert places(lenet) == [
        *(("forward", *pair) for pair in layers),
        *(("forward", name, "matmul_tiled") for name in heads[:-1]),
        ("forward", heads[-1], "linear_cross_entropy"),
        *(("backward", name, "matmul_tiled") for name in reversed(heads[:-1])),
        *(("backward", second, kernel) for kernel in (*grads, "conv2d_input_grad_tiled")),
        *(("backward", first, kernel) for kernel in (grads[0], "conv2d_depthwise_weight_grad")),
        ("backward", ", ".join(reversed(heads)), "linear_weight_grads_tiled"),
        ("update", "SGD", "update"),
    ]


def test_flops_are_those_of_the_products(lenet):
    convolutions = [28 * 28 * 6 * 5 * 5, 10 * 10 * 16 * 5 * 5 * 6]
    forward = [*convolutions, 400 * 120, 120 * 84, 84 * 10]
    launched = [*forward[:-1], 2 * forward[-1]]  # the last one with the gradient of its input
    assert [x.flops for x in lenet.launches if x.flops and x.label.phase == "forward"] == [
        2 * BATCH * n for n in launched
    ]
    weights_and_inputs = 2 * sum(forward) - forward[0]  # the images need no gradient
    assert lenet.flops == 2 * BATCH * (sum(forward) + weights_and_inputs)


def test_inference_is_the_forward_pass_alone(plan_of):
    plan = plan_of(models.lenet(), (28, 28, 1), batch_size=2, training=False, optimizer=MOMENTUM)
    assert {launch.label.phase for launch in plan.launches} == {"forward"}
    assert len(plan.launches) == 5
    dropping = nn.Sequential(nn.Linear(3, 2), nn.Dropout())
    assert len(plan_of(dropping, (3,), training=False).launches) == 1


def test_without_an_optimizer_nothing_is_updated(plan_of):
    plan = plan_of(models.lenet(), (28, 28, 1), batch_size=2)
    assert len(plan.launches) == LENET_LAUNCHES - 1 + 2  # gradients outside of an arena are not put off
    assert {launch.label.phase for launch in plan.launches} == {"forward", "backward"}


def test_in_16_bits_an_optimizer_has_rounded_the_parameters_before(plan_of):
    plan = partial(plan_of, models.lenet(), (28, 28, 1), batch_size=BATCH, precision="float16")
    kernels = [launch.kernel for launch in plan(optimizer=MOMENTUM).launches]
    assert sum("<half" in kernel for kernel in kernels) >= 10
    assert not any(kernel.startswith("cast") for kernel in kernels)
    rounded = [launch for launch in plan().launches if launch.kernel == "cast<float, half>"]
    assert len(rounded) == len(models.lenet().parameters())


def test_another_loss_takes_the_place_of_cross_entropy(plan_of):
    model = nn.Sequential(nn.Linear(3, 2))
    plan = plan_of(model, (3,), batch_size=4, loss=lambda y, labels: F.mse_loss(y, np.zeros(y.shape)))
    assert "cross_entropy" not in {launch.label.operation for launch in plan.launches}
    seen = []
    plan_of(model, (3,), batch_size=4, loss=lambda y, labels: seen.append(labels.shape) or y.mean())
    assert seen == [(4,)]


# ---- what a fused pattern never writes


@pytest.fixture(scope="module")
def training(plan_of):
    """The plan of a training step of some layers."""

    def plan(*layers, shape, fuse=True, images_need_gradients=False):
        first = [nn.Linear(shape[-1], shape[-1], bias=False)] if images_need_gradients else []
        model = nn.Sequential(*first, *layers, nn.Flatten(), fuse=fuse)
        return plan_of(model, shape, batch_size=BATCH, loss=lambda y, labels: y.mean())

    return plan


def test_conv_activation_pool_never_writes_the_convolutions_output_and_its_gradient_once(plan_of, lenet):
    unpooled = {BATCH * 28 * 28 * 6, BATCH * 10 * 10 * 16}
    assert not elements(lenet, ["forward"]) & unpooled
    assert writers(lenet, unpooled) == ["max_pool2d_backward"] * 2
    apart = models.lenet()
    apart.fuse = False
    assert unpooled < elements(plan_of(apart, (28, 28, 1), batch_size=BATCH))


def test_a_pool_without_an_activation_does_the_same(training):
    layers = nn.Conv2d(2, 5, 3), nn.MaxPool2d(2)
    plan = training(*layers, shape=(9, 8, 2), images_need_gradients=True)
    assert BATCH * 7 * 6 * 5 not in elements(plan, ["forward"])
    assert BATCH * 7 * 6 * 5 in elements(training(*layers, shape=(9, 8, 2), fuse=False), ["forward"])


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh])
def test_conv_bias_activation_is_one_launch_that_writes_its_output_alone(training, activation):
    plan = training(nn.Conv2d(2, 5, 3), activation(), shape=(9, 8, 2), images_need_gradients=True)
    (forward,) = (x for x in plan.launches if x.label.phase == "forward" and "Conv2d" in x.label.layer)
    assert [a.shape for a in forward.arguments if a.written] == [(BATCH, 7, 6, 5)]
    gradients = [x for x in plan.launches if x.label.phase == "backward" and "Conv2d" in x.label.layer]
    written = [a.shape for x in gradients for a in x.arguments if a.written]
    assert BATCH * 7 * 6 * 5 not in map(prod, written)  # the gradient before the activation
    apart = training(nn.Conv2d(2, 5, 3), activation(), shape=(9, 8, 2), fuse=False)
    assert any("activation_backward" in launch.kernel for launch in apart.launches)


def test_a_convolution_never_writes_its_windows(training):
    plan = training(nn.Conv2d(2, 5, 3), shape=(9, 8, 2), images_need_gradients=True)
    windows = {BATCH * 7 * 6 * 9 * 2, BATCH * 9 * 8 * 9 * 5}  # of x, and of dy for the input's gradient
    assert not elements(plan) & windows


def test_a_dense_layers_activation_is_applied_as_its_gradient_is_loaded(training):
    plan = training(nn.Linear(6, 11), nn.ReLU(), shape=(6,), images_need_gradients=True)
    gradients = [x for x in plan.launches if x.label.phase == "backward" and x.label.layer == "1 Linear + relu"]
    assert [x.kernel.split("<")[0] for x in gradients] == [
        "linear_weight_grads_tiled", "matmul_tiled",
    ]  # fmt: skip
    assert BATCH * 11 not in [prod(a.shape) for x in gradients for a in x.arguments if a.written]


def test_batch_norm_keeps_no_normalised_input_and_applies_its_activation_on_the_way(training):
    plan = training(nn.BatchNorm2d(5), nn.ReLU(), shape=(4, 3, 5), images_need_gradients=True)
    norm = [x for x in plan.launches if "BatchNorm2d" in x.label.layer]
    assert [x.kernel.split("<")[0] for x in norm] == [
        "batch_norm_moments", "batch_norm_moments_merge", "batch_norm_forward",
        "batch_norm_sums", "batch_norm_sums_merge", "batch_norm_input_grad",
    ]  # fmt: skip
    whole = [(x.label.phase, a.name) for x in norm for a in x.arguments if a.written and prod(a.shape) == BATCH * 60]
    assert whole == [("forward", "y"), ("backward", "dx")]


def test_dropout_keeps_no_mask(training):
    plan = training(nn.Dropout(0.5), shape=(6,), images_need_gradients=True)
    dropout = [x for x in plan.launches if x.label.operation == "dropout"]
    assert [[a.shape for a in x.arguments] for x in dropout] == [[(BATCH, 6)] * 2] * 2
    assert [a.dtype for a in plan.allocations if a.label.operation == "dropout"] == [np.float32] * 2


def test_an_update_is_one_launch_whatever_the_number_of_parameters(plan_of):
    for optimizer in (MOMENTUM, optim.Adam, optim.AdamW):
        plan = plan_of(models.cnn((8, 8, 1)), (8, 8, 1), batch_size=2, optimizer=optimizer)
        assert sum(launch.label.phase == "update" for launch in plan.launches) == 1


# ---- the model, the backend, the table


@needs_cuda
def test_the_model_stays_as_it_was(backend):
    gp.seed(3)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Dropout(), nn.Flatten(), nn.Linear(72, 4)).to(backend).eval()
    held = optim.SGD(model.parameters(), lr=0.1)
    before = model.state_dict()
    stream = random.next_stream("dropout")
    gp.plan(model, (8, 8, 1), batch_size=2, optimizer=MOMENTUM)
    assert random.next_stream("dropout").call == stream.call + 1
    assert not model.training
    assert "forward" not in vars(model)
    for name, parameter in model.named_parameters():
        assert parameter.backend is backend
        assert parameter.arena is held.arena
        assert parameter.grad is None
        np.testing.assert_array_equal(backend.to_numpy(parameter.data), before[name])


def test_a_plan_does_not_depend_on_what_ran_before(plan_of):
    model = models.lenet()
    first, second = (plan_of(model, (28, 28, 1), batch_size=2, optimizer=MOMENTUM) for _ in range(2))
    assert str(first) == str(second)


def test_buffers_are_copied_too(plan_of):
    class Shifted(nn.Module):
        def __init__(self):
            self.offset = nn.Buffer([1.0, 2.0])

        def forward(self, x):
            return x + self.offset

    model = Shifted()
    (launch,) = plan_of(model, (2,), training=False).launches
    assert launch.label == ("forward", "Shifted", "add")
    assert model.offset.backend is get_backend("numpy")


def test_a_hooked_layer_is_planned_as_it_runs(plan_of):
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    model[0].register_forward_hook(lambda module, inputs, y: None)
    plan = plan_of(model, (3,), training=False)
    assert [launch.label.layer for launch in plan.launches] == ["0 Linear", "1 ReLU"]


def test_a_model_on_a_device_is_planned_there(cuda_backend):
    fresh = CudaBackend(cuda_backend.arrays, cuda_backend.launcher, simple=True, name="of its own")
    plan = gp.plan(nn.Sequential(nn.Linear(3, 2)).to(fresh), (3,), training=False)
    assert plan.backend == "of its own"
    assert [launch.kernel for launch in plan.launches] == ["matmul_simple<float>"]


def test_importing_gpunet_loads_no_cuda_backend_until_a_plan_is_asked_for():
    code = """
import sys, gpunet
assert "plan" in gpunet.__all__ and "gpunet.backends.cuda.backend" not in sys.modules
gpunet.plan
assert "gpunet.backends.cuda.backend" in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="module 'gpunet' has no attribute 'plans'"):
        gp.plans  # noqa: B018


def test_errors_name_the_argument_and_what_it_takes(monkeypatch):
    model = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(
        gp.BackendError, match="plan: backend is numpy, which launches no kernels; use cuda or emulated"
    ):
        gp.plan(model, (3,), backend="numpy")
    with pytest.raises(TypeError, match="plan: input_shape is 3 but takes extents without the batch"):
        gp.plan(model, 3)
    with pytest.raises(ValueError, match="plan: batch_size must be at least 1, got 0"):
        gp.plan(model, (3,), batch_size=0)
    monkeypatch.setattr(planning, "why_unavailable", lambda name: f"no {name} here")
    with pytest.raises(gp.BackendError, match=r"none works here \(cuda: no cuda here; emulated: no emulated here\)"):
        gp.plan(model, (3,))


def test_it_prints_as_a_table(lenet, cuda_backend):
    head, rule, *rows, last, total, note = str(lenet).splitlines()
    assert head.split() == ["pass", "layer", "or", "operation", "kernel", "grid", "read", "written", "FLOPs"]
    assert set(rule) == set(last) == {"-"}
    assert len(rows) == LENET_LAUNCHES
    assert rows[0].split()[:6] == ["forward", "0", "Conv2d", "+", "relu", "+"]
    assert total.split()[:3] == ["total", str(LENET_LAUNCHES), "launches"]
    assert note.startswith(
        f"a step of {BATCH} inputs 28x28x1 on {cuda_backend.name}, with {len(lenet.allocations)} allocations of "
    )
