import numpy as np
import pytest

import gpunet as gp
from gpunet import functional as F
from gpunet import nn, optim


class Block(nn.Module):
    """Parameters, buffers and modules in attributes, lists, tuples and dicts; no super().__init__()."""

    def __init__(self):
        self.scale = nn.parameter(np.ones(2, np.float32))
        self.running = nn.Buffer(np.zeros(2, np.float32))
        self.stack = [nn.Linear(2, 2), (nn.ReLU(), nn.Linear(2, 2, bias=False))]
        self.heads = {"a": nn.Linear(2, 1), "b": nn.parameter(np.zeros(3, np.float32))}
        self.note = "text"

    def forward(self, x):
        return self.heads["a"](self.stack[0](x) * self.scale)


NAMES = ["scale", "stack.0.weight", "stack.0.bias", "stack.1.1.weight", "heads.a.weight", "heads.a.bias", "heads.b"]


def test_parameters_are_found_in_attributes_lists_and_dicts():
    block = Block()
    assert [name for name, _ in block.named_parameters()] == NAMES
    assert [name for name, _ in block.named_buffers()] == ["running"]
    assert [name for name, _ in block.named_modules()] == ["", "stack.0", "stack.1.0", "stack.1.1", "heads.a"]
    assert len(block.parameters()) == len(NAMES)


def test_a_shared_module_or_parameter_counts_once():
    shared = nn.Linear(2, 2)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    assert [name for name, _ in model.named_parameters()] == ["0.weight", "0.bias"]
    assert [name for name, _ in model.named_modules()] == ["", "0", "1"]
    assert gp.summary(model, (2,)).parameters == 6
    tied = nn.Linear(2, 2)
    tied.weight = shared.weight
    assert [n for n, _ in nn.Sequential(shared, tied).named_parameters()] == ["0.weight", "0.bias", "1.bias"]


def test_modules_that_refer_to_each_other_are_visited_once():
    outer, inner = nn.Module(), nn.Module()
    outer.inner, inner.outer = inner, outer
    assert [name for name, _ in outer.named_modules()] == ["", "inner"]


def test_a_sequential_is_a_list_of_modules(rng):
    layers = nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)
    model = nn.Sequential(*layers)
    assert len(model) == 3
    assert list(model) == list(layers)
    assert model[0] is layers[0]
    assert model[-1] is layers[2]
    x = gp.tensor(rng.normal(size=(5, 3)).astype(np.float32))
    np.testing.assert_array_equal(model(x).numpy(), layers[2](F.relu(layers[0](x))).numpy())
    assert [name for name, _ in model.named_parameters()] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    with pytest.raises(TypeError, match="Sequential: layer 1 is function but takes a Module"):
        nn.Sequential(nn.ReLU(), F.relu)


def test_a_sequential_with_attributes_of_its_own_finds_them_too():
    class Net(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Linear(2, 3))
            self.head = nn.Linear(3, 1)
            self.scale = nn.parameter(np.ones(1, np.float32))

        def forward(self, x):
            return self.head(super().forward(x)) * self.scale

    names = [name for name, _ in Net().named_parameters()]
    assert names == ["0.weight", "0.bias", "head.weight", "head.bias", "scale"]


def test_train_and_eval_reach_every_module():
    model = nn.Sequential(nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.5)))
    assert model.training
    assert model.eval() is model
    assert not any(m.training for _, m in model.named_modules())
    assert all(m.training for _, m in model.train().named_modules())
    assert nn.Dropout().training  # the class itself has not changed


def test_a_module_without_forward_says_so():
    with pytest.raises(NotImplementedError, match=r"Module: write forward\(self, x\)"):
        nn.Module()(np.ones(2))


# ---- hooks


def test_forward_hooks_see_inputs_and_outputs_until_removed():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    seen = []
    first = model[1].register_forward_hook(lambda module, inputs, y: seen.append((module, inputs, y)))
    second = model[1].register_forward_hook(lambda *_: seen.append("second"))
    y = model(np.ones((1, 2), np.float32))
    (module, (x,), output), note = seen
    assert module is model[1]
    assert output is y
    assert isinstance(x, gp.Tensor)
    assert note == "second"
    first.remove()
    first.remove()
    model(np.ones((1, 2), np.float32))
    assert seen[2:] == ["second"]
    second.remove()
    model(np.ones((1, 2), np.float32))
    assert len(seen) == 3
    assert model[0].weight is model.parameters()[0]  # hooks are not parts


def test_a_handle_removes_its_own_registration_alone_and_once():
    layer, calls = nn.ReLU(), []

    def twice(*_):
        calls.append("twice")

    first = layer.register_forward_hook(twice)
    layer.register_forward_hook(lambda *_: calls.append("between"))
    last = layer.register_forward_hook(twice)
    last.remove()
    last.remove()
    layer([1.0])
    assert calls == ["twice", "between"]
    first.remove()
    layer([1.0])
    assert calls[2:] == ["between"]


@pytest.mark.parametrize("hook", [None, 3, "relu"])
def test_a_hook_that_cannot_be_called_is_refused(hook):
    layer = nn.ReLU()
    with pytest.raises(TypeError, match="register_forward_hook: hook is"):
        layer.register_forward_hook(hook)
    assert not layer.hooked


def test_a_hook_may_remove_itself():
    layer, calls = nn.ReLU(), []
    handle = layer.register_forward_hook(lambda *_: (calls.append(1), handle.remove()))
    layer.register_forward_hook(lambda *_: calls.append(2))
    layer([1.0])
    layer([1.0])
    assert calls == [1, 2, 2]


# ---- state


def test_a_loaded_state_is_the_saved_one_and_shares_no_memory(backend, rng):
    one, other = Block().to(backend), Block().to(backend)
    one.running.data = backend.asarray(np.array([3, 4], np.float32))
    state = one.state_dict()
    assert set(state) == {*NAMES, "running"}
    other.load_state_dict(state)
    for name, value in other.state_dict().items():
        np.testing.assert_array_equal(value, state[name])
        assert value is not state[name]
    kept = {name: value.copy() for name, value in state.items()}
    for p in one.parameters():
        p.data = backend.full(p.shape, 5, np.float32)
    for name, value in state.items():
        np.testing.assert_array_equal(value, kept[name])  # a copy


def test_loading_copies_and_converts(backend):
    layer = nn.Linear(2, 3).to(backend)
    weight = np.arange(6, dtype=np.float64).reshape(2, 3)
    layer.load_state_dict({"weight": weight, "bias": np.array([1, 2, 3], np.float16)})
    weight[...] = 0
    assert layer.weight.dtype == np.float32
    assert layer.weight.numpy().tolist() == [[0, 1, 2], [3, 4, 5]]
    assert layer.bias.numpy().tolist() == [1, 2, 3]


def test_loading_is_strict_and_changes_nothing_when_it_fails(backend):
    block = Block().to(backend)
    before = block.state_dict()
    state = {name: np.full_like(value, 9) for name, value in before.items()}
    del state["scale"], state["running"]
    state["extra"] = state["other.extra"] = np.zeros(2)
    state["heads.a.weight"] = np.zeros((1, 2))
    state["heads.b"] = np.zeros((3, 1))
    with pytest.raises(ValueError, match="^load_state_dict: ") as caught:
        block.load_state_dict(state)
    for fault in (
        "missing scale", "missing running", "unexpected extra", "unexpected other.extra",
        "heads.a.weight is (1, 2) but takes (2, 1)", "heads.b is (3, 1) but takes (3,)",
    ):  # fmt: skip
        assert fault in str(caught.value)
    for name, value in block.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_loading_something_that_is_no_number_changes_nothing(backend):
    block = Block().to(backend)
    before = block.state_dict()
    state = {**{name: np.full_like(value, 9) for name, value in before.items()}, "heads.b": np.array(["a", "b", "c"])}
    with pytest.raises(
        TypeError, match=r"^load_state_dict: heads\.b is <U1 but takes float32, or another dtype of its kind$"
    ):
        block.load_state_dict(state)
    for name, value in block.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_loading_writes_through_the_arena(backend):
    layer = nn.Linear(2, 3).to(backend)
    optimizer = optim.SGD(layer.parameters(), lr=0.1)
    layer.load_state_dict({"weight": np.full((2, 3), 7.0), "bias": np.zeros(3)})
    assert (backend.to_numpy(optimizer.arena.views[0]) == 7).all()


def test_to_moves_buffers_and_gradients(backend):
    target = gp.get_backend("reference" if backend.name != "reference" else "numpy")
    block = Block().to(backend)
    block(np.ones((1, 2), np.float32)).sum().backward()
    expected = backend.to_numpy(block.scale.grad).copy()
    block.to(target)
    assert all(v.backend is target for _, v in [*block.named_parameters(), *block.named_buffers()])
    np.testing.assert_array_equal(target.to_numpy(block.scale.grad), expected)
    block(np.ones((1, 2), np.float32)).sum().backward()
    np.testing.assert_allclose(target.to_numpy(block.scale.grad), 2 * expected)
    block.zero_grad()
    assert all(p.grad is None for p in block.parameters())


def test_astype_converts_before_an_optimizer_holds_the_parameters(backend, dtype):
    block = Block().to(backend)
    assert block.astype(dtype) is block
    assert {v.dtype for v in block.parameters()} == {dtype}
    assert block.running.dtype == dtype
    optimizer = optim.SGD(block.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="astype: parameter scale is held by an optimizer already"):
        block.astype(np.float32)
    del optimizer
    assert {v.dtype for v in block.astype(np.float32).parameters()} == {np.dtype(np.float32)}


# ---- description


def test_repr_shows_the_tree():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding="same"), nn.Sequential(nn.MaxPool2d(2), nn.Dropout(0.3)))
    assert repr(model) == (
        "Sequential(\n"
        "  (0): Conv2d(3, 4, (3, 3), stride=(1, 1), padding='same')\n"
        "  (1): Sequential(\n"
        "    (0): MaxPool2d((2, 2), stride=(2, 2), padding=0)\n"
        "    (1): Dropout(0.3)\n"
        "  )\n"
        ")"
    )
    assert repr(nn.Linear(3, 4)) == "Linear(3, 4)"
    assert repr(nn.Linear(3, 4, activation="tanh")) == "Linear(3, 4, activation='tanh')"
    assert repr(nn.LeakyReLU(0.2)) == "LeakyReLU(0.2)"


def test_a_model_can_be_copied(rng):
    import copy
    import pickle

    model = gp.models.lenet()
    x = rng.normal(size=(1, 28, 28, 1)).astype(np.float32)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(twin(x).numpy(), model(x).numpy())
        assert twin.layers[0].weight is not model.layers[0].weight
        assert twin.layers[0].weight.backend is model.layers[0].weight.backend


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Conv2d(1, 2, 2.5), "Conv2d: kernel_size must be an integer"),
        (lambda: nn.Conv2d(1, 2, (3, 3, 3)), "Conv2d: kernel_size must be one integer or two"),
        (lambda: nn.Conv2d(1, 2, 3, stride=-1), "Conv2d: stride must be at least 1"),
        (lambda: nn.Conv2d(1, 2, 3, padding="smae"), "Conv2d: padding is 'smae'"),
        (lambda: nn.MaxPool2d(0), "MaxPool2d: kernel_size must be at least 1"),
    ],
)
def test_a_wrong_layer_is_refused_when_it_is_made(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()
    nn.Conv2d(np.int64(1), np.int64(2), np.int64(3))
    nn.Linear(np.prod((2, 3)), 10)


def test_a_slice_of_a_sequential_is_one_that_shares_its_layers():
    model = nn.Sequential(nn.Linear(2, 3), nn.Identity(), nn.ReLU(), nn.Linear(3, 1), fuse=False)
    head = model[:3]
    assert isinstance(head, nn.Sequential)
    assert (len(head), head.fuse, head[0] is model[0]) == (3, False, True)
    x = gp.tensor([[1.0, -2.0]])
    np.testing.assert_array_equal(model[3](head(x)).numpy(), model(x).numpy())
    assert nn.Identity()(x) is x
