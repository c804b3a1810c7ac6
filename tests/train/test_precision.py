"""Training that stores 16 bits is close to float32, and the device skips steps that overflow."""

import numpy as np
import pytest
import tolerances

import gpunet as gp
from gpunet import data, models, nn, optim
from gpunet import functional as F
from gpunet.backends import get_backend
from gpunet.cuda.naming import ELEMENTS
from gpunet.errors import BackendError
from gpunet.train import Callback, Trainer

pytestmark = pytest.mark.usefixtures("short_graphs")

NARROW = ["bfloat16", "float16"]
GENTLE = "small steps"
OPTIMIZERS = {
    "SGD": lambda parameters: optim.SGD(parameters, 0.01, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "clipped": lambda parameters: optim.SGD(parameters, 0.01, momentum=0.9, clip_norm=0.5),
    "AdamW": lambda parameters: optim.AdamW(parameters, 1e-3),
    "Muon": lambda parameters: optim.Muon(parameters, 0.01, max_norm=2.0),
    GENTLE: lambda parameters: optim.SGD(parameters, 1e-3, momentum=0.9),
}
NETS = {
    "lenet": lambda: models.lenet((12, 12, 1), 4),
    "cnn": lambda: models.cnn((8, 8, 1), 4, dropout=0.2),
    "normalised": lambda: nn.Sequential(
        nn.Conv2d(1, 8, 3, padding="same", bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3), nn.BatchNorm2d(12), nn.GELU(), nn.Flatten(), nn.Linear(48, 4),
    ),
}  # fmt: skip


def loader_of(size, count=112, batch=16):
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(count, size, size, 1)).astype(np.float32), rng.integers(0, 4, count)
    for i, label in enumerate(y):
        x[i, : size // 2, label * size // 4 : (label + 1) * size // 4] += 1.5
    return data.DataLoader(data.ArrayDataset(x, y), batch)


@pytest.fixture
def trainer_of(cuda_name):
    """Makes trainers on a CUDA backend."""

    def make(net="lenet", optimizer="SGD", seed=0, **options):
        gp.seed(seed)
        model = NETS[net]()
        made = OPTIMIZERS[optimizer](model.parameters())
        return Trainer(model, made, **{"backend": cuda_name, "progress": False, "capture": False, **options})

    return make


def size_of(net):
    return 12 if net == "lenet" else 8


def read(trainer, array):
    return trainer.optimizer.arena.backend.to_numpy(array)


def scaling_of(trainer):
    """(scale, good, skipped)."""
    return read(trainer, trainer.optimizer.arena.scaling).tolist()


class Losses(Callback):
    """Each step's loss, and whether the shadow was the parameters' rounding after it."""

    def __init__(self):
        self.losses, self.followed = [], []

    def after_step(self, trainer):
        so_far = trainer.running["loss"] * (trainer.step + 1)  # which is a mean
        self.losses.append(so_far - (sum(self.losses[-trainer.step :]) if trainer.step else 0))
        arena = trainer.optimizer.arena
        if arena.shadow is not None:
            shadow, masters = read(trainer, arena.shadow), read(trainer, arena.data)
            assert masters.dtype == np.float32
            self.followed.append(np.array_equal(shadow, masters.astype(shadow.dtype)))


def curve_of(trainer_of, net, precision, off_by=0.0):
    """Losses of 14 steps of a small rate, from parameters that are off by up to a share of themselves."""
    seen, loader = Losses(), loader_of(size_of(net))
    trainer = trainer_of(net, GENTLE, precision=precision, callbacks=[seen])
    rng, state = np.random.default_rng(5), trainer.model.state_dict()
    noise = {name: np.float32(1 + off_by * rng.uniform(-1, 1, value.shape)) for name, value in state.items()}
    trainer.model.load_state_dict({name: value * noise[name] for name, value in state.items()})
    trainer.fit(loader, 2)
    return np.array(seen.losses), seen.followed, trainer


@pytest.mark.parametrize("precision", NARROW)
@pytest.mark.parametrize("net", NETS)
def test_losses_are_near_those_of_float32(trainer_of, net, precision):
    single, _, _ = curve_of(trainer_of, net, "float32")
    disturbed, _, _ = curve_of(trainer_of, net, "float32", tolerances.NARROW[precision])
    narrow, followed, trainer = curve_of(trainer_of, net, precision)
    away, scale = (np.sqrt(np.mean(((curve - single) / single) ** 2)) for curve in (narrow, disturbed))
    assert 0 < away <= tolerances.NARROW_LOSS_CURVE * scale, (
        f"{away:.2g} from float32, which a rounding moves {scale:.2g}"
    )
    assert len(followed) == len(narrow) == 14
    assert all(followed), "an update left the shadow behind the parameters"
    if precision == "float16":
        assert scaling_of(trainer) == [2.0**16, 14, 0]


@pytest.mark.parametrize("net", ["lenet", "normalised"])  # the curve of cnn, which takes minutes, is compared above
def test_every_precision_learns(trainer_of, net):
    ends = {}
    for how in ("float32", *NARROW):
        trainer = trainer_of(net, precision=how, capture=True)
        trainer.fit(loader_of(size_of(net)), 6)
        ends[how] = trainer.history["loss"][-1]
        assert ends[how] < 0.5 * trainer.history["loss"][0]
    assert max(ends.values()) < 2 * min(ends.values())


@pytest.mark.parametrize("precision", NARROW)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_sums_have_32_bits_and_everything_else_has_16(trainer_of, optimizer, precision):
    trainer = trainer_of("normalised", optimizer, precision=precision)
    seen = []
    for module in trainer.model.layers:
        module.register_forward_hook(lambda module, inputs, y: seen.append(y.dtype.name))
    trainer.fit(loader_of(8), 1)
    assert set(seen) == {precision}
    assert {p.dtype.name for p in trainer.model.parameters()} == {"float32"}
    assert {p.grad.dtype.name for p in trainer.model.parameters()} == {"float32"}
    assert {a.dtype.name for a in trainer.model.state_dict().values()} == {"float32"}
    x = next(iter(loader_of(8)))[0]
    assert trainer.predict(x).dtype == np.float32


@pytest.mark.parametrize("precision", NARROW)
def test_evaluation_computes_in_the_same_precision(trainer_of, precision):
    outputs = {}
    for how in ("float32", precision):
        trainer = trainer_of(precision=how)
        outputs[how] = trainer.predict(next(iter(loader_of(12)))[0])
        measured = trainer.evaluate(loader_of(12))
    assert set(measured) == {"loss", "accuracy"}
    rounded = outputs[precision].astype(precision).astype(np.float32)
    np.testing.assert_array_equal(rounded, outputs[precision])
    error = np.linalg.norm(outputs[precision] - outputs["float32"]) / np.linalg.norm(outputs["float32"])
    assert 0 < error <= 4 * tolerances.NARROW[precision]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("precision", NARROW)
def test_captured_steps_equal_eager_ones_bit_for_bit(trainer_of, precision, optimizer):
    states = []
    for capture in (False, True):
        trainer = trainer_of(optimizer=optimizer, precision=precision, capture=capture)
        if precision == "float16":
            trainer.optimizer.scale_losses(2.0**40)  # so that the first steps overflow, some in a graph
        trainer.fit(loader_of(12, count=122), 2, valid=loader_of(12))
        state = trainer.optimizer.state_dict()
        rows = [[row["loss"], row["valid_loss"], row["accuracy"]] for row in trainer.history.rows]
        states.append((trainer.model.state_dict(), state["slots"], state.get("scaling"), state["steps"], rows))
    np.testing.assert_equal(*states)
    assert len(trainer._step.graphs) == 3
    if precision == "float16":
        assert states[0][2][2] > 3, "no step of a graph overflowed"


def test_16_bits_take_no_more_launches_except_for_those_of_the_scale_of_a_loss(trainer_of, graphs_of, monkeypatch):
    backend, graphs = graphs_of
    monkeypatch.setattr("gpunet.train.capture.replay.UPDATES_PER_GRAPH", 1)
    kernels = {}
    for how in ("float32", *NARROW):
        trainer_of(precision=how, capture=True, backend=backend).fit(loader_of(12), 1)
        names = (kernel.partition("<")[0] for kernel in graphs.pop())
        kernels[how] = [name.replace("_mma", "_tiled") for name in names]  # on tensor cores or not
        assert not graphs
    assert kernels["bfloat16"] == kernels["float32"]
    after = kernels["float32"].index("linear_cross_entropy") + 1
    # the gradient of the logits is not that of the loss's launch, so the gradient behind it is not either
    scaled = [*kernels["float32"][:after], "scale", "matmul_tiled", *kernels["float32"][after:]]
    assert kernels["float16"] == [*scaled[:-1], "gradient_norm", scaled[-1]]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_that_overflows_changes_nothing_and_halves_the_scale(trainer_of, optimizer):
    trainer = trainer_of(optimizer=optimizer, precision="float16")
    trainer.optimizer.scale_losses(2.0**40)
    arena, batch = trainer.optimizer.arena, next(iter(loader_of(12)))
    names = [name for name in arena.slots if (optimizer, name) != ("Muon", "square")]  # there the step's direction lies
    for _ in range(60):
        before = [read(trainer, a) for a in (arena.data, *(arena.slots[name] for name in names))]
        scale, _, skipped = scaling_of(trainer)
        list(trainer._step.run([batch], 0, 0))
        after = [read(trainer, a) for a in (arena.data, *(arena.slots[name] for name in names))]
        if scaling_of(trainer) == [scale, 1, skipped]:
            break
        assert scaling_of(trainer) == [scale / 2, 0, skipped + 1]
        np.testing.assert_equal(after, before)
    assert skipped > 5
    assert all(np.isfinite(a).all() for a in after)
    assert not np.array_equal(before[0], after[0])


def test_the_scale_doubles_after_2000_good_steps(trainer_of):
    trainer = trainer_of(precision="float16")
    state = trainer.optimizer.state_dict()
    trainer.optimizer.load_state_dict({**state, "scaling": [2.0**10, 1998, 3]})
    batch = next(iter(loader_of(12)))
    counts = []
    for _ in range(3):
        list(trainer._step.run([batch], 0, 0))
        counts.append(scaling_of(trainer))
    assert counts == [[2.0**10, 1999, 3], [2.0**11, 0, 3], [2.0**11, 1, 3]]


def test_adam_corrects_for_the_updates_that_were_made(trainer_of):
    batch, left = next(iter(loader_of(12))), []
    for skipped in (0, 7):
        trainer = trainer_of(optimizer="AdamW", precision="float16")
        state = trainer.optimizer.state_dict()
        steps = [skipped] * len(state["steps"])
        trainer.optimizer.load_state_dict({**state, "steps": steps, "scaling": [2.0**16, 0, skipped]})
        for _ in range(2):
            list(trainer._step.run([batch], 0, 0))
        left.append(read(trainer, trainer.optimizer.arena.data))
    np.testing.assert_allclose(left[1], left[0], rtol=1e-6, atol=1e-8)


def test_gradients_too_small_for_float16_are_not_lost(cuda_name):
    """The upstream gradients of a large batch lie below float16's smallest number, 6e-8, but for the loss's own gain."""
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(40_000, 4)).astype(np.float16), rng.integers(0, 4, 40_000)
    logits[np.arange(40_000), labels] += 7  # nearly sure: p - t is 1e-3 and less
    grads = []
    for backend, kind in (("reference", np.float64), (cuda_name, np.float16)):
        t = gp.tensor(logits.astype(kind), backend=backend, requires_grad=True)
        loss = F.cross_entropy(t, labels)
        loss.backward(t.backend.asarray(np.asarray(2.0**16, loss.dtype)))
        grads.append(t.backend.to_numpy(t.grad).astype(np.float64))
    assert np.linalg.norm(grads[1] - grads[0]) <= 2e-3 * np.linalg.norm(grads[0])
    assert np.median(np.abs(grads[0])) / 2**16 < 6e-8


def test_gradients_that_are_never_finite_stop_training(cuda_name):
    gp.seed(0)
    model = nn.Linear(3, 2)

    def step(model, batch):  # it is finite, but its gradient is not
        return F.sqrt(F.mse_loss(model(batch[0]) * 0.0, np.zeros((8, 2), np.float32)))

    trainer = Trainer(
        model, optim.SGD(model.parameters(), 0.1), loss_step=step, backend=cuda_name, precision="float16",
        capture=False, progress=False,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    batches = [(rng.normal(size=(8, 3)).astype(np.float32),) for _ in range(20)]
    with pytest.raises(FloatingPointError, match="gradients overflow float16 at loss scale 0.0625"):
        trainer.fit(batches, 1)


@pytest.mark.parametrize("capture", [False, True])
@pytest.mark.parametrize("precision", NARROW)
def test_parameters_set_from_outside_take_effect(trainer_of, precision, capture):
    loader = loader_of(12)
    trainer = trainer_of(precision=precision, capture=capture)
    initial = trainer.model.state_dict()
    trainer.fit(loader, 1)
    trainer.model.load_state_dict(initial)
    trainer.optimizer.load_state_dict(trainer_of(precision=precision).optimizer.state_dict())
    trainer.fit(loader, 1)
    assert trainer.history["loss"][0] == trainer.history["loss"][1]


@pytest.mark.parametrize("precision", NARROW)
def test_training_goes_on_from_a_checkpoint_bit_for_bit(trainer_of, precision, tmp_path):
    loader = loader_of(12)
    whole = trainer_of(optimizer="AdamW", precision=precision)
    first = trainer_of(optimizer="AdamW", precision=precision)
    for trainer in (whole, first):
        if precision == "float16":
            trainer.optimizer.scale_losses(2.0**34)
    whole.fit(loader, 4)
    first.fit(loader, 2)
    first.save(tmp_path / "middle.safetensors")
    second = trainer_of(optimizer="AdamW", precision=precision, seed=9)
    second.load(tmp_path / "middle.safetensors")
    second.fit(loader, 2)
    np.testing.assert_equal(second.model.state_dict(), whole.model.state_dict())
    np.testing.assert_equal(second.optimizer.state_dict(), whole.optimizer.state_dict())
    assert second.history["loss"] == whole.history["loss"]


def test_a_checkpoint_serves_another_precision(trainer_of, tmp_path):
    half, single = trainer_of(precision="float16"), trainer_of(seed=4)
    half.fit(loader_of(12), 1)
    half.save(tmp_path / "half.safetensors")
    single.load(tmp_path / "half.safetensors")
    np.testing.assert_equal(single.model.state_dict(), half.model.state_dict())
    single.save(tmp_path / "single.safetensors")
    half.load(tmp_path / "single.safetensors")
    assert scaling_of(half) == [2.0**16, len(loader_of(12)), 0]


@pytest.mark.parametrize("precision", NARROW)
def test_a_device_loader_makes_its_batches_in_16_bits(trainer_of, graphs_of, precision):
    backend, graphs = graphs_of
    rng = np.random.default_rng(0)
    dataset = data.ArrayDataset(rng.integers(0, 256, (48, 12, 12, 1), dtype=np.uint8), rng.integers(0, 4, 48))
    losses = []
    for make in (data.DataLoader, lambda *args, **options: data.DeviceLoader(*args, backend=backend, **options)):
        graphs.clear()
        trainer = trainer_of(precision=precision, capture=True, backend=backend)
        trainer.fit(make(dataset, 16, shuffle=True, transform=data.Normalize(0.5, 0.25)), 2)
        losses.append(trainer.history["loss"])
    assert losses[0] == losses[1]
    kernels = [kernel for graph in graphs for kernel in graph]
    assert f"gather_augment<{ELEMENTS[precision]}>" in kernels
    assert not any(kernel.startswith("cast<") for kernel in kernels)


@pytest.mark.parametrize(
    ("precision", "backend", "message"),
    [
        ("tf32", "numpy", "'tf32' takes a CUDA backend with matrix units, got numpy, which computes nothing on them$"),
        ("3xtf32", "reference", "'3xtf32' takes a CUDA backend with matrix units, got reference"),
        ("bfloat16", "numpy", "precision='bfloat16' takes a CUDA backend, got numpy"),
        ("float16", "reference", "precision='float16' takes a CUDA backend, got reference"),
        ("double", None, "precision is 'double' but takes one of float32, tf32, 3xtf32, bfloat16, float16"),
    ],
)
def test_impossible_precisions_are_refused(trainer_of, cuda_name, precision, backend, message):
    with pytest.raises(ValueError, match=message):
        trainer_of(precision=precision, backend=backend or cuda_name)


def test_losses_are_scaled_where_float16_is_stored(cuda_name):
    model = nn.Linear(3, 2)
    optimizer = optim.SGD(model.parameters(), 0.1)
    with pytest.raises(BackendError, match="SGD: scaled losses take a CUDA backend, got numpy"):
        optimizer.scale_losses()
    model.to(cuda_name)
    with pytest.raises(ValueError, match="scale is 1000 but must be a power of two"):
        optimizer.scale_losses(1000)
    optimizer.scale_losses()
    with pytest.raises(BackendError, match="losses are scaled for float16, which numpy does not compute in"):
        model.to("numpy")
    assert model.weight.backend is get_backend(cuda_name)
