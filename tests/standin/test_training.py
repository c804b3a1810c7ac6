"""Nets train through CuPy, eagerly and as graphs, with the numbers of the other backends."""

import numpy as np
import pytest
from helpers.small_nets import batches_of, normalised_net

import gpunet as gp
from gpunet import data, nn, optim
from gpunet import functional as F
from gpunet.errors import BackendError
from gpunet.train import Trainer


def trained(backend, capture, *, epochs=3, prefetch=0, optimizer=optim.AdamW, loss_step=None, transform=None):
    """Losses, weights and outputs of a small net."""
    gp.seed(0)
    model = nn.Sequential(normalised_net(), nn.Dropout(0.1))
    rng = np.random.default_rng(1)
    ((x, y),) = batches_of(rng, [52])
    loader = data.DataLoader(
        data.ArrayDataset(x, y), 8, shuffle=True, transform=transform or data.RandomShift(1), prefetch=prefetch
    )
    trainer = Trainer(
        model,
        optimizer(model.parameters(), lr=0.01),
        backend=backend,
        capture=capture,
        progress=False,
        loss_step=loss_step,
    )
    trainer.fit(loader, epochs, valid=loader)
    losses = [row["loss"] for row in trainer.history.rows]
    return losses, model.state_dict(), trainer


@pytest.fixture
def short_graphs(monkeypatch):
    monkeypatch.setattr("gpunet.train.capture.replay.UPDATES_PER_GRAPH", 3)


def assert_same(one, other):
    assert one[0] == other[0]
    for name, array in one[1].items():
        np.testing.assert_array_equal(array, other[1][name], err_msg=name)


@pytest.mark.usefixtures("cuda", "short_graphs")
@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("optimizer", [optim.AdamW, optim.Muon])
def test_a_captured_step_is_the_eager_one_bit_for_bit(optimizer, prefetch):
    eager, captured = (trained("cuda", capture, optimizer=optimizer, prefetch=prefetch) for capture in (False, True))
    assert_same(eager, captured)
    assert len(captured[2]._step.graphs) >= 2


@pytest.mark.usefixtures("cuda", "short_graphs")
def test_the_numbers_are_the_emulated_devices():
    assert_same(trained("cuda", True), trained("emulated", False))


@pytest.mark.usefixtures("cuda", "short_graphs")
def test_a_prompt_device_gives_the_numbers_of_a_late_one(machine):
    late = trained("cuda", True)
    machine.device.queue.late = False
    assert_same(trained("cuda", True), late)


@pytest.mark.usefixtures("cuda", "short_graphs")
def test_the_curve_is_the_references():
    np.testing.assert_allclose(trained("cuda", True)[0], trained("numpy", False)[0], rtol=1e-4)


def computes_on_the_host(model, batch):
    return F.cross_entropy(model(batch[0]), np.asarray(batch[1]) % 4)


@pytest.mark.usefixtures("cuda", "short_graphs")
def test_what_cannot_be_captured_names_the_users_line_not_cupys():
    with pytest.raises(BackendError, match=r"\(at test_training.py:\d+\): Implicit conversion to a NumPy array"):
        trained("cuda", True, loss_step=computes_on_the_host)


@pytest.mark.usefixtures("short_graphs")
def test_training_again_and_again_takes_no_more_device_memory(cuda, machine):
    """Without capture, since a graph keeps its memory."""
    import gc

    import cupy

    def used_after():
        trained("cuda", False, epochs=1)
        gc.collect()
        cupy.get_default_memory_pool().free_all_blocks()
        return machine.device.memory.used

    first = used_after()
    assert used_after() == first


class OnTheDevice:
    """A user's own transform makes batches with kernels, in the loader's thread if it
    prefetches."""

    def __init__(self, backend):
        self.backend = backend

    def __call__(self, batch, *, indices, epoch, seed):
        x, y = batch
        return gp.tensor(self.backend.binary("add", self.backend.asarray(x), self.backend.asarray(x))), y


@pytest.mark.usefixtures("short_graphs")
def test_batches_that_are_made_on_the_device_are_whole_when_they_are_read(cuda):
    transform = OnTheDevice(cuda)
    assert_same(trained("cuda", False, transform=transform), trained("cuda", True, transform=transform))


def test_batches_that_another_thread_makes_on_the_device_are_refused(cuda):
    with pytest.raises(TypeError, match=r"array 0 of a batch is on a device \(ndarray\), .* pass prefetch=0"):
        trained("cuda", True, transform=OnTheDevice(cuda), prefetch=2)
