"""A head waits for its loss, so that one launch computes both; whoever asks for its results gets them."""

import numpy as np
import pytest
from helpers import host, needs_cuda

import gpunet as gp
from gpunet import data, nn, optim
from gpunet import functional as F
from gpunet.backends.cuda.backend import recording_backend
from gpunet.modes import late_results
from gpunet.train import Trainer

ROWS, CLASSES = 6, 3
pytestmark = needs_cuda


@pytest.fixture
def recorded(cuda_backend):
    """(a backend, a recording of its launches)."""
    return recording_backend(cuda_backend)


def net(backend, **options):
    gp.seed(4)
    return nn.Sequential(nn.Linear(5, 8, activation="relu"), nn.Linear(8, CLASSES), **options).to(backend)


def images(backend, rng):
    return gp.tensor(rng.normal(size=(ROWS, 5)).astype(np.float32), backend=backend)


LABELS = np.arange(ROWS) % CLASSES


def heads(recording):
    """The head's launches: whether each computes the loss and the gradient of x."""
    made = [{a.name for a in x.arguments} for x in recording.launches if x.kernel.startswith("linear_cross_entropy")]
    return [("loss" in names, "dx" in names) for names in made]


def losses(recording):
    return sum(x.kernel.startswith("softmax_cross_entropy") for x in recording.launches)


def step(model, x, loss=F.cross_entropy, late=True):
    """(logits, loss, gradients) of a step."""
    if late:
        with late_results():
            logits = model(x)
            value = loss(logits, LABELS)
    else:
        logits = model(x)
        value = loss(logits, LABELS)
    value.backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    return [host(logits), host(value), *(host(grad, x.backend) for grad in grads)]


LOSSES = {
    "plain": F.cross_entropy,
    "smoothed": lambda y, t: F.cross_entropy(y, t, label_smoothing=0.1),
    "weighted": lambda y, t: F.cross_entropy(y, t, weight=[1, 2, 3], ignore_index=0),
    "sum": lambda y, t: F.cross_entropy(y, t, reduction="sum"),
    "of rows": lambda y, t: F.cross_entropy(y, t, reduction="none").mean(),
    "scaled": lambda y, t: F.cross_entropy(y, t) * 3.0,
    "with another term": lambda y, t: F.cross_entropy(y, t) + 0.1 * (y * y).mean(),
    "behind another term": lambda y, t: 0.1 * (y * y).mean() + F.cross_entropy(y, t),
    "twice": lambda y, t: F.cross_entropy(y, t) + F.cross_entropy(y, t, label_smoothing=0.5),
    "of logarithms": lambda y, t: F.nll_loss(F.log_softmax(y), t),
    "not of the logits": lambda y, t: F.cross_entropy(y * 2.0, t),
}
JOINED = {"plain", "smoothed", "weighted", "sum", "of rows", "scaled", "with another term", "twice"}


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_has_the_numbers_of_the_operations_one_by_one(recorded, rng, name):
    backend, recording = recorded
    x, results = images(backend, rng), []
    for fuse, late in ((True, True), (False, True), (True, False)):
        model = net(backend, fuse=fuse)
        recording.clear()
        results.append(step(model, x, LOSSES[name], late))
        joined = fuse and late and name in JOINED
        assert heads(recording) == [(joined, joined and name != "of rows")]  # whose gradient is multiplied first
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_result_that_no_loss_takes_is_computed_before_the_context_ends(recorded, rng):
    backend, recording = recorded
    model, x = net(backend), images(backend, rng)
    recording.clear()
    with late_results():
        y = model(x)
        assert heads(recording) == []
        assert (y.shape, y.ndim, y.size, y.dtype) == ((ROWS, CLASSES), 2, ROWS * CLASSES, np.float32)
        assert heads(recording) == []
    assert heads(recording) == [(False, False)]
    for p in model.parameters():
        p.data = np.zeros(p.shape, np.float32)
    assert np.abs(y.numpy()).max() > 0


def test_an_error_in_between_leaves_the_result_computed(recorded, rng):
    backend, _ = recorded
    model, x, kept = net(backend), images(backend, rng), []

    def fail():
        with late_results():
            kept.append(model(x))
            F.cross_entropy(kept[0], LABELS + 1)

    with pytest.raises(ValueError, match="labels must be from 0 to 2"):
        fail()
    expected = model(x).numpy()
    for p in model.parameters():
        p.data = np.zeros(p.shape, np.float32)
    np.testing.assert_array_equal(kept[0].numpy(), expected)


def test_a_hook_sees_the_values(recorded, rng):
    backend, recording = recorded
    model, x, seen = net(backend), images(backend, rng), []
    model[1].register_forward_hook(lambda module, inputs, y: seen.append(y.numpy().copy()))
    recording.clear()
    logits, *_ = step(model, x)
    np.testing.assert_array_equal(seen[0], logits)
    assert heads(recording) == [(False, False)]
    assert losses(recording) == 1


def test_without_gradients_the_loss_is_joined_too(recorded, rng):
    backend, recording = recorded
    model, x = net(backend), images(backend, rng)
    alone = F.cross_entropy(model(x), LABELS).item()
    recording.clear()
    with gp.no_grad(), late_results():
        value = F.cross_entropy(model(x), LABELS)
    assert heads(recording) == [(True, False)]
    assert value.item() == alone


def test_a_frozen_body_needs_no_gradient_of_x(recorded, rng):
    backend, recording = recorded
    model, x = net(backend), images(backend, rng)
    model[0].freeze()
    recording.clear()
    step(model, x)
    assert heads(recording) == [(True, False)]


def test_a_second_backward_pass_computes_the_gradient_of_x_itself(recorded, rng):
    backend, _ = recorded
    layer = net(backend)[1]
    grads = []
    for late in (True, False):
        x = gp.tensor(rng.normal(size=(ROWS, 8)).astype(np.float32), backend=backend, requires_grad=True)
        x.data = backend.full((ROWS, 8), 0.5, np.float32)
        with late_results():
            y = layer(x)
            y = y if late else y * 1.0
            value = F.cross_entropy(y, LABELS)
        for _ in range(3):
            value.backward(retain_graph=True)
        grads.append(host(x.grad, backend))
    np.testing.assert_allclose(*grads, rtol=1e-6)


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("capture", [False, True])
def test_a_trainer_has_the_same_numbers_with_and_without(recorded, rng, capture, precision):
    backend, recording = recorded
    x, y = rng.normal(size=(25, 5)).astype(np.float32), rng.integers(0, CLASSES, 25)
    results = []
    for fuse in (True, False):
        model = net(backend, fuse=fuse)
        optimizer = optim.Adam(model.parameters(), lr=0.01, clip_norm=1.0)
        trainer = Trainer(
            model,
            optimizer,
            metrics=["accuracy"],
            backend=backend,
            capture=capture,
            precision=precision,
            progress=False,
        )
        recording.clear()
        loader = data.DataLoader(data.ArrayDataset(x, y), 8)
        history = trainer.fit(loader, 2, valid=loader)
        joined = [loss for loss, _ in heads(recording)]
        assert all(joined) if fuse else not any(joined)
        rows = [[row["loss"], row["valid_loss"], row["accuracy"], row["valid_accuracy"]] for row in history.rows]
        results.append([rows, *model.state_dict().values()])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)
