import gc
import threading
import weakref

import numpy as np
import pytest
from helpers import host

import gpunet as gp
from gpunet import autograd, nn, optim
from gpunet import functional as F
from gpunet.autograd import Function, Parameter, parameter


def leaf(backend, data, dtype=np.float32):
    return gp.tensor(np.asarray(data, dtype), backend=backend, requires_grad=True)


def grad(t):
    return host(t.grad, t.backend)


def on(backend, *arrays):
    """Parameters on a backend."""
    made = [parameter(np.asarray(a, np.float32)) for a in arrays]
    for p in made:
        p.move(backend)
    return made


# ---- tensors


def test_a_tensor_without_an_attribute_says_what_pytorchs_name_is_here(backend):
    t = gp.tensor([1.0, 2.0], backend=backend)
    assert not hasattr(t, "view")
    with pytest.raises(AttributeError, match="a tensor has no 'view'; write reshape$"):
        t.view(1, 2)
    with pytest.raises(AttributeError, match="a tensor has no 'shapes'$"):
        _ = t.shapes


def test_tensor_keeps_float_dtypes_and_turns_the_rest_into_float32(backend, dtype):
    assert gp.tensor([1, 2], backend=backend).dtype == np.float32
    assert gp.tensor([1.5], backend=backend).dtype == np.float32
    assert gp.tensor(np.ones(2, dtype), backend=backend).dtype == dtype
    assert gp.tensor(np.arange(3), backend=backend).dtype == np.float32
    assert gp.tensor(np.array([True, False]), backend=backend).numpy().tolist() == [1, 0]
    assert gp.tensor([1], dtype=dtype, backend=backend).dtype == dtype
    t = gp.tensor(3.0, backend=backend)
    assert (t.shape, t.ndim, t.size, t.item()) == ((), 0, 1, 3.0)


def test_tensor_shares_host_memory_where_nothing_is_converted():
    data = np.ones((2, 3), np.float32)
    t = gp.tensor(data)
    assert np.shares_memory(t.numpy(), data)
    assert gp.tensor(t).backend is t.backend


def test_repr_names_values_shape_dtype_backend_and_gradient(backend):
    text = repr(leaf(backend, [1, 2]))
    assert text == f"tensor([1., 2.], shape=(2,), float32, {backend.name}, requires_grad=True)"


def test_to_copies_values_to_another_backend(backend):
    other = "numpy" if backend.name == "reference" else "reference"
    t = leaf(backend, [1, 2])
    assert t.to(backend) is t
    with pytest.raises(RuntimeError, match="to: gradients of an operation's result do not cross backends"):
        (t * 2).to(other)
    moved = (t * 2).detach().to(other)
    assert moved.backend is gp.get_backend(other)
    assert moved.numpy().tolist() == [2, 4]


# ---- backward


def test_a_tensor_used_twice_gets_the_sum(backend):
    x = leaf(backend, [1, 2, 3])
    y = x * x + 3 * x
    (y * x).backward(np.array([1, 10, 100], np.float32))  # x^3 + 3 x^2
    np.testing.assert_allclose(grad(x), [9, 240, 4500])


def test_a_second_backward_adds(backend):
    x = leaf(backend, [1, 2])
    for _ in range(2):
        (x * x).backward(np.array([1, 1], np.float32))
    np.testing.assert_allclose(grad(x), [4, 8])
    x.zero_grad()
    assert x.grad is None


def test_branches_join_in_the_right_order(backend):
    # c uses b early and e uses it late: its gradient may be passed on only after both contributions
    a = leaf(backend, [2.0])
    b = a * 3
    c = b * b
    d = c * 2
    e = d * b  # 2 b^3
    e.backward(np.array([1], np.float32))
    np.testing.assert_allclose(grad(a), [6 * 36 * 3])


def test_a_layer_used_twice_gets_the_sum(backend, dtype, rng):
    x = rng.normal(size=(3, 4)).astype(dtype)
    shared = nn.Linear(4, 4, activation="tanh").astype(dtype).to(backend)
    gp.seed(0)
    one, two = (nn.Linear(4, 4, activation="tanh").astype(dtype).to(backend) for _ in range(2))
    two.load_state_dict(one.state_dict())
    shared.load_state_dict(one.state_dict())
    upstream = rng.normal(size=(3, 4)).astype(dtype)
    shared(shared(x)).backward(upstream)
    two(one(x)).backward(upstream)
    for name in ("weight", "bias"):
        expected = grad(getattr(one, name)) + grad(getattr(two, name))
        np.testing.assert_allclose(grad(getattr(shared, name)), expected, rtol=1e-5, atol=1e-6)


def test_a_part_of_the_graph_without_gradient_is_left_out(backend):
    x, frozen = leaf(backend, [1, 2]), gp.tensor([3.0, 4.0], backend=backend)
    y = x * frozen
    y.backward(np.array([1, 1], np.float32))
    assert frozen.grad is None
    assert not (frozen * frozen).requires_grad
    z = (y.detach() * x).sum()
    x.zero_grad()
    z.backward()
    np.testing.assert_allclose(grad(x), [3, 8])


def test_an_upstream_gradient_may_be_a_list_an_array_or_a_tensor(backend):
    for upstream in ([1, 2], np.array([1, 2]), gp.tensor([1.0, 2.0], backend=backend)):
        x = leaf(backend, [1, 1])
        (x * 2).backward(upstream)
        assert grad(x).tolist() == [2, 4]
        assert x.grad.dtype == np.float32


def test_a_leaf_can_be_the_root(backend):
    x = leaf(backend, 3.0)
    x.backward()
    assert grad(x) == 1


def test_adding_to_one_leafs_gradient_leaves_the_other_leafs_as_it_is(backend):
    a, b = leaf(backend, [1, 2]), leaf(backend, [3, 4])
    upstream = np.array([1, 1], np.float32)
    (a + b).backward(upstream)
    (a * 5).backward(upstream)
    assert grad(a).tolist() == [6, 6]
    assert grad(b).tolist() == [1, 1]
    assert upstream.tolist() == [1, 1]


def test_backward_frees_the_graph_unless_it_is_retained(backend):
    x = leaf(backend, [1, 2])
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    np.testing.assert_allclose(grad(x), [4, 8])
    with pytest.raises(RuntimeError, match=r"saved arrays are gone; give the first call retain_graph=True"):
        y.backward()


def test_backward_through_a_shared_part_that_was_freed_raises(backend):
    x = leaf(backend, [1, 2])
    shared = x * x
    first, second = shared.sum(), (shared * 2).sum()
    first.backward()
    with pytest.raises(RuntimeError, match="retain_graph=True"):
        second.backward()


def test_no_grad_records_nothing_inside_and_everything_afterwards(backend):
    x = leaf(backend, [1, 2])
    with gp.no_grad():
        y = x * x
        with gp.no_grad():
            pass
        assert not (x + 1).requires_grad
    assert not y.requires_grad
    assert (x * x).requires_grad

    @gp.no_grad()
    def inference(t):
        return t * t

    assert not inference(x).requires_grad
    with pytest.raises(ZeroDivisionError), gp.no_grad():
        raise ZeroDivisionError
    assert (x * x).requires_grad
    with pytest.raises(RuntimeError, match="backward: the tensor needs no gradient; was it made under no_grad"):
        y.backward(np.ones(2))


def test_no_grad_holds_in_its_own_thread_alone(backend):
    seen = []
    with gp.no_grad():
        thread = threading.Thread(target=lambda: seen.append((leaf(backend, [1.0]) * 2).requires_grad))
        thread.start()
        thread.join()
    assert seen == [True]


def test_errors_name_the_shape_of_a_bad_upstream_gradient(backend):
    x = leaf(backend, [1, 2])
    with pytest.raises(
        ValueError, match=r"backward: a tensor of shape \(2,\) takes an upstream gradient of that shape"
    ):
        (x * 2).backward()
    with pytest.raises(ValueError, match=r"backward: grad has shape \(3,\) but the tensor \(2,\)"):
        (x * 2).backward(np.ones(3))


def test_errors_name_the_input_of_another_dtype():
    x = gp.tensor(np.ones((1, 4, 4, 1), np.float32))
    with pytest.raises(TypeError, match="conv2d: weight is float64 but the first tensor is float32"):
        F.conv2d(x, gp.tensor(np.ones((2, 2, 1, 1), np.float64)))
    with pytest.raises(TypeError, match="add: takes at least one tensor"):
        type((leaf("numpy", [1]) + 1).creator).apply(np.ones(2), np.ones(2))


def test_a_users_function_runs_on_every_backend(backend):
    class Cube(Function):
        name = "cube"

        def forward(self, x):
            self.save(x)
            return self.backend.binary("multiply", x, self.backend.binary("multiply", x, x))

        def backward(self, dy):
            (x,) = self.saved
            three = self.backend.full((), 3, dy.dtype)
            slope = self.backend.binary("multiply", three, self.backend.binary("multiply", x, x))
            return self.backend.binary("multiply", dy, slope)

    x = leaf(backend, [1, 2])
    y = Cube.apply(x)
    y.backward(np.ones(2))
    assert y.numpy().tolist() == [1, 8]
    assert grad(x).tolist() == [3, 12]


def test_what_is_said_of_an_operation_may_be_class_arguments():
    class Same(Function, name="same", fresh=True, moves=True):
        def forward(self, x):
            return x

    class Still(Same, seeds=True):
        pass

    class Plain(Function):
        pass

    said = [(f.name, f.view, f.seeds, f.fresh, f.moves) for f in (Same, Still, Plain)]
    assert said[0] == ("same", False, False, True, True)
    assert said[1] == ("same", False, True, True, True)
    assert said[2] == ("Plain", False, False, False, False)
    with pytest.raises(TypeError, match="frehs"):
        type("Misspelt", (Function,), {}, frehs=True)


# ---- memory


def test_a_dropped_graph_is_released_without_the_cycle_collector(backend, rng):
    model = gp.models.lenet((12, 12, 1)).to(backend)
    gc.disable()
    try:
        for run_backward in (False, True):
            x = leaf(backend, rng.normal(size=(2, 12, 12, 1)))
            y = model(x)
            loss = F.cross_entropy(F.dropout(y, 0.5) + y * y, [1, 2])
            functions = [weakref.ref(y.creator), weakref.ref(loss.creator)]
            tensors = [weakref.ref(y), weakref.ref(x)]
            if run_backward:
                loss.backward()
            del x, y, loss
            assert [r() for r in functions + tensors] == [None] * 4
    finally:
        gc.enable()


def test_backward_releases_what_functions_saved(backend):
    x = leaf(backend, np.ones((4, 5)))
    y = F.relu(x * 2)
    product = weakref.ref(y.creator.inputs[0])
    loss = y.sum()
    del y
    loss.backward()
    assert product() is None  # though the loss is still held


def test_a_chain_of_5000_operations_is_walked_and_released(backend):
    x = leaf(backend, [1.0])
    y = x
    for _ in range(5000):
        y = y + 1
    y.backward([1.0])
    assert grad(x) == 1
    del y


# ---- the arena


def test_the_first_contribution_writes_the_arena_and_later_ones_add(backend, rng):
    x = rng.normal(size=(4, 3)).astype(np.float32)
    w, b = on(backend, rng.normal(size=(3, 5)), rng.normal(size=5))
    plain_w, plain_b = on(backend, w.numpy(), b.numpy())
    optimizer = optim.SGD([w, b], lr=0.1)
    upstream = rng.normal(size=(4, 5)).astype(np.float32)

    def run(w, b, times=1):
        for _ in range(times):
            F.linear(gp.tensor(x, backend=backend), w, b).backward(upstream)

    backend.copy(backend.full((optimizer.arena.size,), np.nan, np.float32), out=optimizer.arena.grad)
    run(w, b)
    run(plain_w, plain_b)
    np.testing.assert_allclose(grad(w), grad(plain_w), rtol=1e-6)  # the NaN that stood there is overwritten
    np.testing.assert_allclose(grad(b), grad(plain_b), rtol=1e-6)
    flat = host(optimizer.arena.grad, backend)
    start, stop = optimizer.arena.bounds[0]
    np.testing.assert_array_equal(flat[start:stop].reshape(3, 5), grad(w))
    run(w, b)
    np.testing.assert_allclose(grad(w), 2 * grad(plain_w), rtol=1e-6)
    np.testing.assert_allclose(grad(b), 2 * grad(plain_b), rtol=1e-6)
    optimizer.zero_grad()
    assert w.grad is None
    run(w, b, 3)
    np.testing.assert_allclose(grad(w), 3 * grad(plain_w), rtol=1e-6)


@pytest.mark.parametrize(
    "build", ["shared layer", "shared weight alone", "weight and data", "as data first", "only the bias", "same twice"]
)
def test_gradients_in_an_arena_are_those_outside_of_one(backend, rng, build):
    x = rng.normal(size=(3, 4)).astype(np.float32)

    def loss(w, v, b):
        t = gp.tensor(x, backend=backend)
        y = F.linear(t, w, b, activation="tanh")
        match build:
            case "shared layer":
                y = F.linear(y, w, b)
            case "shared weight alone":
                y = F.linear(y, w)  # so that the first layer finds a gradient in w, but none in b
            case "weight and data":
                y = F.linear(w, w) + F.matmul(w, v) + y.sum()
            case "as data first":
                y = F.linear(w, w) * y.sum()  # both gradients of one operation are of one parameter
            case "only the bias":
                y = F.linear(y, v, b)
            case _:
                y = F.linear(y, w * w, b) + w.sum() * b
        return (y * y).sum()

    arrays = [rng.normal(size=s).astype(np.float32) for s in ((4, 4), (4, 4), (4,))]
    outside, inside = on(backend, *arrays), on(backend, *arrays)
    optim.SGD(inside, lr=0.1)
    for _ in range(2):
        for parameters in (outside, inside):
            loss(*parameters).backward()
        for plain, held in zip(outside, inside, strict=True):
            assert (plain.grad is None) == (held.grad is None)
            if plain.grad is not None:
                np.testing.assert_allclose(grad(held), grad(plain), rtol=2e-5, atol=1e-5)


def test_backward_through_values_that_an_update_overwrote_raises(backend, rng):
    w = on(backend, rng.normal(size=(3, 3)))[0]
    optimizer = optim.SGD([w], lr=0.1)
    x = gp.tensor(rng.normal(size=(2, 3)), dtype=np.float32, backend=backend)
    late = F.linear(x, w).sum()
    F.linear(x, w).sum().backward()
    optimizer.step()
    with pytest.raises(
        RuntimeError, match=r"backward: linear saved a parameter \(3, 3\) that an update has overwritten"
    ):
        late.backward()
    optimizer.zero_grad()
    F.linear(x, w).sum().backward()  # a fresh forward pass is fine
    late = F.linear(x, w).sum()
    w.data = w.data  # written by hand
    with pytest.raises(RuntimeError, match="overwritten"):
        late.backward()


def test_backward_through_views_of_overwritten_values_raises_as_well(backend, rng):
    for view in (lambda w: w.reshape(9).reshape(3, 3), lambda w: w.detach()):
        w = on(backend, rng.normal(size=(3, 3)))[0]
        optimizer = optim.SGD([w], lr=0.1)
        x = gp.tensor(rng.normal(size=(2, 3)), dtype=np.float32, backend=backend, requires_grad=True)
        late = F.matmul(x, view(w)).sum()
        (w * w).sum().backward()
        optimizer.step()
        with pytest.raises(RuntimeError, match="overwritten"):
            late.backward()


def test_backward_through_values_that_loading_replaced_raises(backend, rng):
    layer = nn.Linear(3, 3).to(backend)
    late = layer(leaf(backend, rng.normal(size=(2, 3)))).sum()
    layer.load_state_dict(layer.state_dict())
    with pytest.raises(RuntimeError, match="linear saved a parameter"):
        late.backward()


def test_a_parameter_is_a_tensor_that_needs_a_gradient(backend):
    (p,) = on(backend, [1, 2])
    assert isinstance(p, Parameter)
    assert p.requires_grad
    (p * p).backward(np.ones(2))
    assert grad(p).tolist() == [2, 4]
    p.grad = None
    assert p.grad is None


def test_a_parameter_is_made_as_a_tensor_is(backend):
    for made in (Parameter([[1.0, 2.0]], backend.name), Parameter(np.float32([[1, 2]]), backend=backend.name)):
        assert made.backend is backend
        assert (made.dtype, made.matrix, made.requires_grad) == (np.float32, True, True)
        assert made.numpy().tolist() == [[1, 2]]
    assert Parameter([1.0]).backend.name == "numpy"
    assert Parameter(gp.tensor([1.0], backend=backend)).backend is backend


def test_a_loss_starts_backward_without_an_array_that_holds_1(backend, rng, monkeypatch):
    x = gp.tensor(rng.normal(size=(4, 3)), dtype="float32", backend=backend, requires_grad=True)
    F.cross_entropy(x, [0, 1, 2, 0]).backward(np.float32(1))
    expected, x.grad = x.grad, None
    monkeypatch.setattr(backend, "full", None)
    monkeypatch.setattr(backend, "binary", None)
    F.cross_entropy(x, [0, 1, 2, 0]).backward()
    np.testing.assert_array_equal(backend.to_numpy(x.grad), backend.to_numpy(expected))


def test_a_watcher_is_called_before_each_operation_and_before_its_gradient(backend):
    heard, functions = [], {}

    def watch(function, direction):
        heard.append((function.name, direction))
        functions.setdefault(function.name, function)
        assert functions[function.name] is function

    x = leaf(backend, [1.0, 2.0])
    with gp.autograd.watching(watch):
        (x.exp().reshape(1, 2).sum()).backward()
    names = [function.name for function in functions.values()]
    assert heard == [*((name, "forward") for name in names), *((name, "backward") for name in reversed(names))]
    assert names == ["unary", "reshape", "sum"]
    x.exp()
    assert len(heard) == 6


def test_an_error_ends_the_watching(backend):
    heard = []
    with pytest.raises(KeyError), gp.autograd.watching(lambda *call: heard.append(call)):
        raise KeyError
    leaf(backend, [1.0]).exp()
    assert heard == []


def test_a_rule_sees_whole_gradients_and_may_change_what_goes_back(backend):
    x = gp.tensor([1.0, 2.0], backend=backend, requires_grad=True)
    y = x * 3
    z = (y * y + y).sum()
    seen = []

    def rule(function, dy):
        if function is y.creator:
            seen.append(host(dy, backend))
        return function.run_backward(backend.binary("add", dy, dy) if function is y.creator else dy)

    autograd.backward(z, rule=rule)
    assert x.creator is None
    assert [grad.tolist() for grad in seen] == [[7, 13]]  # 2 y + 1, of both uses
    assert host(x.grad, backend).tolist() == [42, 78]
