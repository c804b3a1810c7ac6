"""Names of a module's parts, modules that refer to each other, and hooks that replace an output."""

import copy
import pickle
from types import MappingProxyType

import numpy as np
import pytest

import gpunet as gp
from gpunet import functional as F
from gpunet import nn, optim


class Net(nn.Module):
    """Whatever attributes a test wants."""

    def __init__(self, **parts):
        vars(self).update(parts)

    def forward(self, x):
        return self.layer(x)


def layer():
    return nn.Linear(2, 2)


def weight():
    return nn.parameter(np.ones(2, np.float32))


COLLISIONS = {
    "keys 1 and '1'": lambda: Net(heads={1: layer(), "1": layer()}),
    "keys None and 'None'": lambda: Net(heads={None: weight(), "None": weight()}),
    "keys 1.5 and '1.5'": lambda: Net(heads={1.5: layer(), "1.5": layer()}),
    "a dot in a key": lambda: Net(heads={"a.b": weight(), "a": {"b": weight()}}),
    "an attribute like a position": lambda: Net(**{"stack": [weight()], "stack.0": weight()}),
    "a key and a module's own": lambda: Net(heads={"a": layer(), "a.weight": weight()}),
    "two buffers": lambda: Net(heads={2: nn.Buffer(np.zeros(2)), "2": nn.Buffer(np.zeros(2))}),
    "a parameter and a buffer": lambda: Net(heads={2: weight(), "2": nn.Buffer(np.zeros(2))}),
}


@pytest.mark.parametrize("case", COLLISIONS)
def test_two_parts_of_one_name_raise(case):
    model = COLLISIONS[case]()
    for use in (model.state_dict, lambda: model.load_state_dict({})):
        with pytest.raises(ValueError, match=r"^Net: two of its parameters, buffers or modules are named '\w+\."):
            use()


def test_a_sequentials_own_attribute_may_not_take_a_layers_name():
    class Named(nn.Sequential):
        pass

    model = Named(layer())
    vars(model)["0"] = layer()
    with pytest.raises(ValueError, match=r"^Named: two of its .* are named '0\.weight'"):
        optim.SGD(model.parameters(), lr=0.1)


def test_odd_keys_that_differ_as_text_are_names():
    model = Net(heads={(0, 1): weight(), 2: weight(), None: weight(), "a.b": weight(), "a": weight()})
    assert list(model.state_dict()) == ["heads.(0, 1)", "heads.2", "heads.None", "heads.a.b", "heads.a"]
    twin = copy.deepcopy(model)
    twin.load_state_dict(model.state_dict())


def test_one_part_under_two_names_counts_once():
    shared = layer()
    assert list(Net(heads={1: shared, "1": shared}).state_dict()) == ["heads.1.weight", "heads.1.bias"]


@pytest.mark.parametrize("kind", [set, frozenset])
def test_parts_in_a_set_raise(kind):
    with pytest.raises(ValueError, match="^Module: heads is a set, which has no order; keep parameters"):
        Net(heads=kind([layer()])).parameters()
    assert Net(heads=kind([1, "a"]), layer=layer()).state_dict()


def test_parts_are_found_in_any_mapping():
    assert list(Net(heads=MappingProxyType({"a": weight()})).state_dict()) == ["heads.a"]


def test_an_attribute_replaced_or_deleted_later_is_gone():
    model = Net(layer=layer(), head=weight(), heads=[layer(), layer()])
    model.layer = nn.Linear(2, 3, bias=False)
    del model.head, model.heads[0]
    assert {name: value.shape for name, value in model.state_dict().items()} == {
        "layer.weight": (2, 3), "heads.0.weight": (2, 2), "heads.0.bias": (2,),
    }  # fmt: skip


# ---- modules that refer to each other


def family():
    """A parent whose child refers to it, as does a list; it contains itself, too."""
    parent = Net(layer=layer())
    parent.child, parent.self = Net(parent=parent, layer=layer()), parent
    parent.all = [parent.child, parent]
    parent.all.append(parent.all)
    parent.table = {}
    parent.table["table"] = parent.table
    return parent


def test_a_module_that_refers_to_its_parent_counts_once():
    parent = family()
    names = ["layer.weight", "layer.bias", "child.layer.weight", "child.layer.bias"]
    assert [name for name, _ in parent.named_modules()] == ["", "layer", "child", "child.layer"]
    assert list(parent.state_dict()) == names
    assert list(parent.child.state_dict()) == [
        "parent.layer.weight", "parent.layer.bias", "layer.weight", "layer.bias"
    ]  # fmt: skip
    parent.eval().to("reference").freeze().unfreeze().load_state_dict(parent.state_dict())
    assert gp.summary(parent, (2,)).parameters == 12
    for twin in (copy.deepcopy(parent), pickle.loads(pickle.dumps(parent))):
        assert twin.child.parent is twin.self is twin.all[1] is twin
        assert list(twin.state_dict()) == names


def test_repr_ends_where_a_module_stands_around_itself():
    shown = repr(family())
    assert shown.startswith(
        "Net(\n  (layer): Linear(2, 2)\n  (child): Net(\n    (parent): Net(…)\n    (layer): Linear(2, 2)\n  )"
    )
    assert shown.count("\n") < 12


def test_repr_of_modules_that_all_refer_to_each_other_stays_short():
    nets = [Net(layer=layer()) for _ in range(12)]
    for net in nets:
        net.others = nets
    assert len(repr(nets[0])) < 10000


def test_a_layer_of_a_sequential_may_be_the_sequential():
    model = nn.Sequential(layer())
    model.layers.append(model)
    assert repr(model) == "Sequential(\n  (0): Linear(2, 2)\n  (1): Sequential(…)\n)"
    assert list(model.state_dict()) == ["0.weight", "0.bias"]


# ---- hooks


def test_the_result_of_a_forward_hook_replaces_the_output(backend, rng):
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).to(backend)
    x = rng.normal(size=(5, 3)).astype(np.float32)
    plain = model(x).numpy()
    seen = []
    handles = [
        model[1].register_forward_hook(lambda module, inputs, y: y * 2),
        model[1].register_forward_hook(lambda module, inputs, y: seen.append(y.numpy())),
        model[1].register_forward_hook(lambda module, inputs, y: y + 1),
    ]
    hidden = F.relu(model[0](x)).numpy()
    y = model(x)
    w, b = model[2].weight.numpy(), model[2].bias.numpy()
    np.testing.assert_allclose(seen[0], 2 * hidden, rtol=1e-6)
    np.testing.assert_allclose(y.numpy(), (2 * hidden + 1) @ w + b, rtol=1e-5, atol=1e-5)
    dy = rng.normal(size=(5, 2)).astype(np.float32)
    y.backward(dy)
    expected = x.T @ (2 * (hidden > 0) * (dy @ w.T))
    np.testing.assert_allclose(backend.to_numpy(model[0].weight.grad), expected, rtol=1e-4, atol=1e-5)
    for handle in handles:
        handle.remove()
    np.testing.assert_array_equal(model(x).numpy(), plain)


def test_a_hook_may_return_any_object_and_a_copied_model_keeps_its_hook():
    model = Net(layer=layer())
    handle = model.register_forward_hook(lambda module, inputs, y: (y, 0))
    twin = copy.deepcopy(model)
    handle.remove()
    x = gp.tensor(np.ones((1, 2), np.float32))
    assert isinstance(model(x), gp.Tensor)
    assert twin(x)[1] == 0
