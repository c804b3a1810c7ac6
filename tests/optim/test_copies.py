"""Copies and pickles of models, of optimizers and of both together are whole and independent of the original."""

import copy
import gc
import multiprocessing
import pickle
import weakref

import numpy as np
import pytest
from helpers.small_nets import batches_of, normalised_net, plain_net

import gpunet as gp
from gpunet import data, nn, optim
from gpunet import functional as F
from gpunet.autograd import parameter
from gpunet.backends import get_backend
from gpunet.train import Trainer

WAYS = {
    "deepcopy": copy.deepcopy,
    **{f"pickle {p}": lambda x, p=p: pickle.loads(pickle.dumps(x, p)) for p in (0, 2, pickle.HIGHEST_PROTOCOL)},
}
KINDS = {
    "SGD": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, clip_norm=1.0),
    "Adam": lambda p: optim.Adam(p, lr=0.01),
    "Muon": optim.Muon,
}


@pytest.fixture(params=WAYS)
def copied(request):
    """deepcopy, or a pickle by a protocol."""
    return WAYS[request.param]


@pytest.fixture
def batch(rng):
    return batches_of(rng, [8])[0]


def steps(model, optimizer, batch, count=1):
    for _ in range(count):
        optimizer.zero_grad()
        optimizer.backward(F.cross_entropy(model(batch[0]), batch[1]))
        optimizer.step()


def assert_states(one, other, equal=True):
    assert list(one) == list(other)
    assert all(np.array_equal(one[name], other[name]) for name in one) == equal


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_and_an_optimizer_copied_together_train_as_the_originals(backend, copied, kind, batch):
    model = normalised_net().to(backend)
    optimizer = KINDS[kind](model.parameters())
    average = optim.ExponentialMovingAverage(model, optimizer, 0.8)
    schedule = optim.StepLR(optimizer, 1, 0.5)
    steps(model, optimizer, batch, 2)
    schedule.step()
    before, averaged = model.state_dict(), average.state_dict()
    twin = copied({"model": model, "parts": (optimizer, average, schedule)})
    twin_model, (twin_optimizer, twin_average, twin_schedule) = twin["model"], twin["parts"]
    assert twin_optimizer.holds(twin_model.parameters())
    assert twin_model[0].weight.arena is twin_optimizer.arena is not optimizer.arena
    assert twin_average.optimizer is twin_schedule.optimizer is twin_optimizer
    assert twin_model[0].weight.backend is backend
    steps(twin_model, twin_optimizer, batch, 3)
    assert_states(model.state_dict(), before)
    assert_states(average.state_dict(), averaged)
    assert_states(twin_model.state_dict(), before, equal=False)
    steps(model, optimizer, batch, 3)
    assert_states(twin_model.state_dict(), model.state_dict())
    assert_states(twin_average.state_dict(), average.state_dict())
    twin_schedule.step()
    assert twin_optimizer.groups[0]["lr"] < optimizer.groups[0]["lr"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_pickle_protocol_is_supported(protocol, batch):
    model = normalised_net()
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    steps(model, optimizer, batch)
    twin, other = pickle.loads(pickle.dumps((model, optimizer), protocol))
    for one, held in ((model, optimizer), (twin, other)):
        steps(one, held, batch)
    assert_states(twin.state_dict(), model.state_dict())


def test_a_model_copied_alone_is_free(backend, copied, batch):
    model = normalised_net().to(backend)
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    steps(model, optimizer, batch)
    before = model.state_dict()
    twin = copied(model)
    assert_states(twin.state_dict(), before)
    second = optim.Adam(twin.parameters(), lr=0.01)
    steps(twin, second, batch, 2)
    assert_states(model.state_dict(), before)
    assert_states(twin.state_dict(), before, equal=False)
    twin.load_state_dict(before)
    twin.to("reference" if backend.name != "reference" else "numpy")
    assert_states(twin.state_dict(), before)
    assert model[0].weight.backend is backend
    twin.zero_grad()
    assert model[0].weight.grad is not None


def test_an_optimizer_copied_alone_holds_copies_of_the_parameters(backend, copied, batch):
    model = normalised_net().to(backend)
    optimizer = optim.SGD([{"params": model[0].parameters(), "lr": 0.5}, {"params": model[5].parameters()}], lr=0.1)
    steps(model, optimizer, batch)
    before = model.state_dict()
    twin = copied(optimizer)
    parameters = [p for group in twin.groups for p in group["params"]]
    assert not {id(p) for p in parameters} & {id(p) for p in model.parameters()}
    assert all(p.arena is twin.arena for p in parameters)
    twin.step()  # with the gradients that were there
    assert_states(model.state_dict(), before)
    optimizer.step()
    held = [*model[0].parameters(), *model[5].parameters()]
    for one, other in zip(parameters, held, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_a_copy_between_backward_and_step_brings_the_gradients(backend, copied, batch):
    model = plain_net().to(backend)
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    model[0].requires_grad_(False)
    optimizer.backward(F.cross_entropy(model(batch[0]), batch[1]))
    twin, second = copied((model, optimizer))
    assert [p.requires_grad for p in twin.parameters()] == [p.requires_grad for p in model.parameters()]
    optimizer.step()
    second.step()
    assert second.steps.tolist() == optimizer.steps.tolist() == [0, 0, 1, 1]
    assert_states(twin.state_dict(), model.state_dict())


def test_a_copied_tensor_or_free_parameter_has_memory_of_its_own(backend, copied):
    for made in (
        gp.tensor(np.ones(3, np.float32), backend=backend, requires_grad=True),
        nn.Linear(3, 2).to(backend).weight,
        nn.BatchNorm2d(3).to(backend).running_mean,
    ):
        twin = copied(made)
        assert type(twin) is type(made)
        assert twin.backend is backend
        assert twin.requires_grad == made.requires_grad
        assert getattr(twin, "matrix", None) == getattr(made, "matrix", None)
        np.testing.assert_array_equal(twin.numpy(), made.numpy())
        backend.copy(backend.full(twin.shape, 7, np.float32), out=twin.data)
        assert (made.numpy() != 7).all()


def test_a_result_of_an_operation_is_not_copied_with_its_tape(backend, copied):
    x = gp.tensor(np.ones(3, np.float32), backend=backend, requires_grad=True)
    with pytest.raises(
        RuntimeError, match=r"^copy: the result of an operation cannot be copied; copy \.detach\(\) instead$"
    ):
        copied(x * 2)
    np.testing.assert_array_equal(copied((x * 2).detach()).numpy(), [2, 2, 2])


def test_a_deep_copy_keeps_a_gradient_and_a_pickle_leaves_it_out(backend, batch):
    model = plain_net().to(backend)
    F.cross_entropy(model(batch[0]), batch[1]).backward()
    twin = copy.deepcopy(model)
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        np.testing.assert_array_equal(backend.to_numpy(one.grad), backend.to_numpy(other.grad))
    twin.zero_grad()
    assert model[0].weight.grad is not None
    assert pickle.loads(pickle.dumps(model))[0].weight.grad is None


def test_a_shallow_copy_of_a_parameter_shares_its_memory_and_is_free(backend):
    layer = nn.Linear(3, 2).to(backend)
    optimizer = optim.SGD(layer.parameters(), lr=0.1)
    twin = copy.copy(layer.weight)
    assert twin.arena is None
    layer.weight.data = backend.full((3, 2), 7, np.float32)
    assert (twin.numpy() == 7).all()
    with pytest.raises(TypeError, match=r"^SGD: only one optimizer may hold the parameters; use copy\.deepcopy"):
        copy.copy(optimizer)


def test_tied_parameters_stay_tied(backend, copied):
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    model = nn.Sequential(first, second, first).to(backend)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    twin, other = copied((model, optimizer))
    assert twin[0].weight is twin[1].weight is twin[2].weight
    assert twin[0] is twin[2]
    assert len(other.arena) == len(optimizer.arena) == 3
    before = twin[0].weight.numpy().copy()
    twin(np.ones((1, 3), np.float32)).sum().backward()
    other.step()
    assert (twin[1].weight.numpy() != before).any()
    np.testing.assert_array_equal(model[0].weight.numpy(), before)


def test_backends_are_never_copied(backend, copied):
    assert copied(backend) is backend is copy.copy(backend)
    assert copied({"b": [backend]})["b"][0] is backend


def test_the_size_of_a_pickle_is_that_of_what_it_holds():
    model = nn.Sequential(nn.Linear(300, 400), nn.ReLU(), nn.Linear(400, 10))
    values = sum(p.numpy().nbytes for p in model.parameters())
    optimizer = optim.Adam(model.parameters())
    steps(model, optimizer, (np.ones((2, 300), np.float32), np.array([1, 2])))
    assert len(pickle.dumps(model)) < 1.02 * values
    assert len(pickle.dumps(model[:1])) < 1.02 * model[0].weight.numpy().nbytes + 4000
    assert len(pickle.dumps(model[0].weight)) < 1.02 * model[0].weight.numpy().nbytes
    assert len(pickle.dumps((model, optimizer))) < 1.02 * 4 * values  # with the gradients and two slots


def test_a_buffer_outside_of_the_pickle_can_be_written_to():
    model, buffers = nn.BatchNorm2d(3), []
    pickled = pickle.dumps(model, 5, buffer_callback=buffers.append)
    twin = pickle.loads(pickled, buffers=[bytes(b.raw()) for b in buffers])
    twin(np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32))
    assert (twin.running_mean.numpy() != 0).all()
    assert (model.running_mean.numpy() == 0).all()


# ---- which object keeps which alive


def test_a_deleted_optimizer_frees_its_parameters(backend, batch):
    model = plain_net().to(backend)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    steps(model, optimizer, batch)
    before, gone = model.state_dict(), weakref.ref(optimizer)
    del optimizer
    assert gone() is None  # without the garbage collector
    second = optim.Adam(model.parameters(), lr=0.01)
    assert_states(model.state_dict(), before)
    steps(model, second, batch)
    with pytest.raises(ValueError, match="SGD: another optimizer holds a parameter"):
        optim.SGD(model.parameters(), lr=0.1)


def test_an_optimizer_with_references_only_from_its_averages_is_freed(backend):
    model = plain_net().to(backend)
    gc.disable()
    try:
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        average = optim.ExponentialMovingAverage(model, optimizer)
        del optimizer, average
        assert optim.SGD(model.parameters(), lr=0.1).holds(model.parameters())
    finally:
        gc.enable()


def test_released_parameters_can_be_copied(backend, copied, batch):
    model = plain_net().to(backend)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    steps(model, optimizer, batch)
    optimizer.release()
    twin, released = copied((model, optimizer))
    assert released.groups == []
    assert_states(twin.state_dict(), model.state_dict())
    steps(twin, optim.SGD(twin.parameters(), lr=0.1), batch)


def test_inside_applied_a_model_is_copied_as_it_is_and_an_optimizer_is_not(backend, copied, batch):
    model = normalised_net().to(backend)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    average = optim.ExponentialMovingAverage(model, optimizer, 0.5)
    steps(model, optimizer, batch, 2)
    averaged = average.state_dict()
    with average.applied():
        twin = copied(model)
        with pytest.raises(RuntimeError, match=r"^SGD: a copy inside applied\(\)"):
            copied(optimizer)
    assert_states(twin.state_dict(), averaged)
    assert_states(model.state_dict(), averaged, equal=False)


def test_a_shadow_of_16_bits_is_made_anew(cuda_backend, copied, batch):
    model = plain_net().to(cuda_backend)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    optimizer.compute_in("float16")
    steps(model, optimizer, batch)
    twin, other = copied((model, optimizer))
    assert other.arena.scaling is not optimizer.arena.scaling
    x = gp.tensor(batch[0].astype(np.float16), dtype=np.float16, backend=cuda_backend)
    for _ in range(2):
        for one, held in ((model, optimizer), (twin, other)):
            held.zero_grad()
            held.backward(F.cross_entropy(one(x), batch[1]))
            held.step()
    assert_states(twin.state_dict(), model.state_dict())
    assert other.state_dict()["scaling"] == optimizer.state_dict()["scaling"]


# ---- trainers, loaders, processes


def fitted(trainers, loader, epochs):
    """Weights after the epochs of each trainer, which take turns."""
    for _ in range(epochs):
        for trainer in trainers:
            trainer.fit(loader, 1, valid=loader)
    return [trainer.model.state_dict() for trainer in trainers]


def trainer_of(model, optimizer, backend):
    schedule = optim.StepLR(optimizer, 3, 0.5)
    average = optim.ExponentialMovingAverage(model, optimizer, 0.9)
    return Trainer(model, optimizer, schedule=schedule, average=average, backend=backend, progress=False)


def test_trainers_over_copies_train_as_if_each_were_alone(backend, copied, rng):
    loader = batches_of(rng, [8, 8, 5])
    model = nn.Sequential(normalised_net(), nn.Dropout(0.1)).to(backend)
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    pairs = [copied((model, optimizer)) for _ in range(3)]
    pairs[2][1].groups[0]["lr"] = 0.03
    (alone,) = fitted([trainer_of(*copied((model, optimizer)), backend)], loader, 2)
    together = fitted([trainer_of(*pair, backend) for pair in pairs], loader, 2)
    assert_states(together[0], alone)
    assert_states(together[1], alone)
    assert_states(together[2], alone, equal=False)


def test_a_copied_trainer_continues_independently(backend, copied, rng):
    loader = batches_of(rng, [8, 8, 5])
    model = normalised_net()
    trainer = trainer_of(model, optim.SGD(model.parameters(), lr=0.1), backend)
    fitted([trainer], loader, 1)
    before = model.state_dict()
    twin = copied(trainer)
    (went_on,) = fitted([twin], loader, 2)
    assert_states(model.state_dict(), before)
    assert_states(fitted([trainer], loader, 2)[0], went_on)
    assert [row["loss"] for row in twin.history.rows] == [row["loss"] for row in trainer.history.rows]


def test_a_device_loader_is_copied(backend, copied, rng):
    images = rng.integers(0, 256, (10, 6, 6, 1)).astype(np.uint8)
    loader = data.DeviceLoader(data.ArrayDataset(images, np.arange(10) % 4), 4, shuffle=True, backend=backend)
    twin = copied(loader)
    assert twin.backend is backend
    for (x, y), (u, v) in zip(loader, twin, strict=True):
        np.testing.assert_array_equal(backend.to_numpy(x), backend.to_numpy(u))
        np.testing.assert_array_equal(backend.to_numpy(y), backend.to_numpy(v))


def test_a_model_that_is_held_goes_to_another_process_and_back(batch):
    model = normalised_net()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    steps(model, optimizer, batch)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        state = pool.apply(nn.Module.state_dict, (model,))
        back = pool.apply(nn.Module.eval, (model,))
    assert_states(state, model.state_dict())
    assert_states(back.state_dict(), model.state_dict())
    assert not back.training
    assert back[0].weight.backend is get_backend("numpy")
    assert model.training


def test_a_parameter_with_an_attribute_of_the_users_keeps_it(copied):
    weight = parameter(np.ones((2, 2), np.float32), matrix=False)
    weight.note = ["kept"]
    twin = copied(weight)
    assert twin.note == ["kept"]
    assert twin.note is not weight.note
    assert not twin.matrix


def test_a_parameter_may_refer_to_its_optimizer(copied, batch):
    model = plain_net()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    model[0].weight.owner = model.trained_by = optimizer
    twin = copied(model)
    assert twin[0].weight.owner is twin.trained_by is not optimizer
    assert twin[0].weight.arena is twin.trained_by.arena
    steps(twin, twin.trained_by, batch)
    assert_states(twin.state_dict(), model.state_dict(), equal=False)
