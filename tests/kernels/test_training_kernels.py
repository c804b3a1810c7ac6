from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from recording import recording_backend

from gpunet import random
from gpunet.backends.contract import RULES, Activation, CrossEntropy, Guard, InputActivation, Segments, StepReport
from gpunet.random import Stream

ACTIVATIONS = [
    Activation("relu"), Activation("leaky_relu", 0.2), Activation("sigmoid"), Activation("tanh"), Activation("elu", alpha=0.7),
    Activation("relu6"), Activation("hard_tanh", min_val=-0.5, max_val=0.8), Activation("hard_sigmoid"),
]  # fmt: skip
INPUT_ACTIVATIONS = [
    InputActivation("gelu"), InputActivation("silu"), InputActivation("softplus", 2.5), InputActivation("hard_swish"),
    InputActivation("sigmoid"), InputActivation("tanh"), InputActivation("elu", 0.7),
]  # fmt: skip
STREAM = Stream(seed=2**63 - 5, purpose=1, step=7, call=2**40, epoch=3)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_activations_agree_with_the_reference(device_backend, reference, activation, rng, agrees):
    x = np.resize(np.array([0, -0.0, 1, -2, 90, -90, np.nan, np.inf, -np.inf, 0.1], np.float32), (7, 41))
    dy = rng.normal(size=x.shape).astype(np.float32)
    y = reference.activation_forward(x, activation)
    agrees(device_backend.activation_forward(device_backend.asarray(x), activation), y)
    got = device_backend.activation_backward(device_backend.asarray(dy), device_backend.asarray(y), activation)
    with np.errstate(invalid="ignore"):
        agrees(got, reference.activation_backward(dy, y, activation))


@pytest.mark.parametrize("activation", INPUT_ACTIVATIONS, ids=str)
def test_activations_of_their_input_agree_with_the_reference(device_backend, reference, activation, rng, agrees):
    x = np.resize(np.array([0, -0.0, 1, -2, 3, -3, 90, -90, np.nan, np.inf, -2.999, 2.999, 0.1], np.float32), (7, 41))
    x[1:] += rng.normal(size=(6, 41)).astype(np.float32)
    dy, on = rng.normal(size=x.shape).astype(np.float32), device_backend.asarray
    with np.errstate(invalid="ignore"):
        agrees(
            device_backend.input_activation_forward(on(x), activation),
            reference.input_activation_forward(x.astype(np.float64), activation),
        )
        expected = reference.input_activation_backward(dy.astype(np.float64), x.astype(np.float64), activation)
    agrees(device_backend.input_activation_backward(on(dy), on(x), activation), expected)


@pytest.mark.parametrize("shape", [(1, 1), (5, 10), (19, 33), (2, 3, 1000), (7,)])
@pytest.mark.parametrize("log", [False, True])
def test_softmax_agrees_with_the_reference(device_backend, reference, shape, log, normal, agrees):
    x, dy = 5 * normal(*shape), normal(*shape)
    y = reference.softmax_forward(x.astype(np.float64), log=log)
    agrees(device_backend.softmax_forward(device_backend.asarray(x), log=log), y)
    y32 = y.astype(np.float32)
    got = device_backend.softmax_backward(device_backend.asarray(dy), device_backend.asarray(y32), log=log)
    expected = reference.softmax_backward(dy.astype(np.float64), y32.astype(np.float64), log=log)
    difference = np.abs(device_backend.to_numpy(got) - expected).max()
    assert difference <= 2e-6 * np.abs(expected).max() + 1e-7  # of one class the gradient is 0, a difference of ones


@pytest.mark.parametrize("columns", [40, 700])
def test_softmax_passes_nan_in_its_row(device_backend, reference, columns, normal, agrees):
    x = normal(9, columns)
    x[4, columns - 3] = np.nan
    x[6, :] = -np.inf
    x[7, 3] = -np.inf
    with np.errstate(invalid="ignore"):
        expected = reference.softmax_forward(x)
    agrees(device_backend.softmax_forward(device_backend.asarray(x)), expected)


@pytest.mark.parametrize(("rows", "classes"), [(1, 2), (9, 10), (300, 7), (3000, 3), (33, 1000)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("smoothing", "ignore_index"), [(0.0, None), (0.1, 1), (0.0, -100)])
def test_softmax_cross_entropy_agrees_with_the_reference(
    device_backend, reference, rows, classes, weighted, smoothing, ignore_index, rng, agrees
):
    logits = np.round(3 * rng.normal(size=(rows, classes))).astype(np.float32)  # ties: the first counts
    labels = rng.integers(0, classes, size=rows).astype(np.int32)
    if ignore_index == -100:
        labels[::3] = -100
    weight = rng.uniform(0.2, 2, size=classes).astype(np.float32)
    options = CrossEntropy(smoothing=smoothing, ignore_index=ignore_index)
    on = device_backend.asarray
    here, there = options, options
    if weighted:
        here, there = options._replace(weight=on(weight)), options._replace(weight=weight.astype(np.float64))
    got = device_backend.softmax_cross_entropy(on(logits), on(labels), here)
    expected = reference.softmax_cross_entropy(logits.astype(np.float64), labels, there)
    agrees(got[0], expected[0])
    agrees(got[1], expected[1])
    assert device_backend.to_numpy(got[2]) == expected[2]


@pytest.mark.parametrize(
    ("rows", "classes", "team"), [(64, 1000, 256), (2047, 256, 256), (2048, 1000, 32), (64, 255, 32)]
)
def test_few_long_rows_take_a_block_each(rows, classes, team):
    backend = recording_backend()
    logits = backend.empty((rows, classes), np.float32)
    backend.softmax_backward(logits, backend.softmax_forward(logits))
    backend.softmax_cross_entropy(logits, backend.empty((rows,), np.int32))
    kernels = [f"softmax_forward<float, {team}>", f"softmax_backward<float, {team}>", "softmax_cross_entropy_total"]
    assert backend.launcher.kernels[:4] == [*kernels, f"softmax_cross_entropy_rows<float, {team}>"]
    assert [grid[0] for _, grid, _ in backend.launcher.launches[:2]] == [-(-rows * team // 256)] * 2


def test_cross_entropy_of_odd_rows(device_backend, reference, normal, agrees):
    on = device_backend.asarray
    logits, labels = normal(12, 5), np.zeros(12, np.int32)
    logits[3, 2] = np.nan
    logits[5, 1] = -np.inf
    got = device_backend.softmax_cross_entropy(on(logits), on(labels))
    with np.errstate(invalid="ignore"):
        expected = reference.softmax_cross_entropy(logits, labels)
    for mine, theirs in zip(got, expected, strict=True):
        agrees(mine, theirs)
    nothing = CrossEntropy(ignore_index=0)  # which leaves out every row
    loss, dlogits, correct = device_backend.softmax_cross_entropy(on(normal(12, 5)), on(labels), nothing)
    assert (device_backend.to_numpy(loss), device_backend.to_numpy(correct)) == (0, 0)
    assert not device_backend.to_numpy(dlogits).any()
    labels[7] = 5  # outside: not read, not hidden
    loss, _, _ = device_backend.softmax_cross_entropy(on(normal(12, 5)), on(labels))
    assert np.isnan(device_backend.to_numpy(loss))


@pytest.mark.parametrize("shape", [(1,), (7, 9), (300, 301)])
def test_sigmoid_cross_entropy_agrees_with_the_reference(device_backend, reference, shape, rng, agrees):
    logits, targets = 20 * rng.normal(size=shape), rng.uniform(size=shape)
    logits, targets = logits.astype(np.float32), targets.astype(np.float32)
    got = device_backend.sigmoid_cross_entropy(device_backend.asarray(logits), device_backend.asarray(targets))
    expected = reference.sigmoid_cross_entropy(logits.astype(np.float64), targets.astype(np.float64))
    agrees(got[0], expected[0])
    agrees(got[1], expected[1])
    logits.ravel()[0] = np.nan
    loss, _ = device_backend.sigmoid_cross_entropy(device_backend.asarray(logits), device_backend.asarray(targets))
    assert np.isnan(device_backend.to_numpy(loss))


@pytest.mark.parametrize("offset", [(0, 0), (2, 3)])
def test_a_clock_on_the_device_places_the_draws(device_backend, reference, normal, offset):
    clock = device_backend.asarray(np.array([STREAM.step - offset[0], STREAM.epoch - offset[1]], np.uint64))
    told = replace(STREAM, step=offset[0], epoch=offset[1], clock=clock)
    x = normal(5, 333)
    for got, expected in (
        (device_backend.random_words(told, 9), reference.random_words(STREAM, 9)),
        (device_backend.random_normal(told, (9,), np.float32), reference.random_normal(STREAM, (9,), np.float32)),
        (
            device_backend.dropout_forward(device_backend.asarray(x), 0.5, stream=told),
            reference.dropout_forward(x, 0.5, stream=STREAM),
        ),
    ):
        np.testing.assert_array_equal(device_backend.to_numpy(got), expected)


@pytest.mark.parametrize("count", [1, 4, 5, 4099])
@pytest.mark.parametrize("stream", [Stream(0, 0), STREAM, Stream(2**64 - 1, 5, 2**64 - 1, 2**64 - 2, 2**63)])
def test_words_are_those_of_numpys_philox(device_backend, stream, count):
    got = device_backend.to_numpy(device_backend.random_words(stream, count))
    key, counter = np.array(stream.key, np.uint64), np.array(stream.counter, np.uint64)
    np.testing.assert_array_equal(got, np.random.Philox(key=key, counter=counter).random_raw(count))


@pytest.mark.parametrize("shape", [(3,), (4, 129), (7, 33), (16, 4099)])
def test_normal_numbers_are_the_reference_s(device_backend, reference, shape):
    got = device_backend.random_normal(STREAM, shape, np.float32)
    np.testing.assert_array_equal(device_backend.to_numpy(got), reference.random_normal(STREAM, shape, np.float32))
    with pytest.raises(TypeError, match="float64"):
        device_backend.random_normal(STREAM, shape, np.float64)


@pytest.mark.parametrize("p", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(5,), (16,), (4, 1283), (7, 333)])
def test_dropout_drops_the_same_elements_twice(device_backend, reference, p, shape, rng):
    x = rng.normal(size=shape).astype(np.float32)
    x.ravel()[2:4] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        expected = reference.dropout_forward(x, p, stream=STREAM)
    for call in (device_backend.dropout_forward, device_backend.dropout_backward):
        np.testing.assert_array_equal(
            device_backend.to_numpy(call(device_backend.asarray(x), p, stream=STREAM)), expected
        )
    assert random.drop_threshold(0.3)[0] == 19661


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(("shift", "count"), [(0, 1284), (0, 1283), (1, 1284), (2, 1284), (4, 1284)])
def test_dropout_of_a_view_drops_the_same_elements(device_backend, reference, dtype, shift, count, normal):
    """Of any alignment, of each dtype; what is kept is rounded once."""
    flat = normal(shift + count).astype(dtype)
    got = device_backend.dropout_forward(device_backend.asarray(flat)[shift:], 0.5, stream=STREAM)
    expected = reference.dropout_forward(flat[shift:].astype(np.float64), 0.5, stream=STREAM)
    assert got.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(device_backend.to_numpy(got), expected.astype(np.float32).astype(dtype))


@pytest.mark.parametrize(("shift", "count", "vector"), [(0, 64, 4), (0, 63, 1), (1, 64, 1), (4, 64, 4)])
def test_dropout_takes_four_elements_at_once_where_it_can(shift, count, vector):
    backend = recording_backend()
    x = backend.asarray(np.ones(shift + count, np.float32))
    backend.dropout_forward(x[shift:], 0.5, stream=STREAM)
    backend.random_normal(STREAM, (count,), np.float32)
    assert backend.launcher.kernels == [f"dropout<float, {vector}>", f"random_normal<{4 if count % 4 == 0 else 1}>"]


def arena_of(backend, rng, slots):
    """Flat arrays of 4,000 elements on the host and on the device, and the same segments."""
    host = SimpleNamespace(data=rng.normal(size=4000).astype(np.float32), grad=rng.normal(size=4000).astype(np.float32))
    host.slots = {name: np.abs(rng.normal(size=4000)).astype(np.float32) for name in slots}
    device = SimpleNamespace(data=backend.asarray(host.data.copy()), grad=backend.asarray(host.grad.copy()))
    device.slots = {name: backend.asarray(slot.copy()) for name, slot in host.slots.items()}
    host.shadow = host.scaling = device.shadow = device.scaling = None
    return host, device


BOUNDS = np.array([[0, 1], [32, 1000], [1024, 1281], [2048, 4000]], np.int64)


ADAM = [0.9, 0.999, 1e-8, 0.1, 0.001]
OWN = {  # rows of the rules' own hyper-parameters, of which the segments take turns
    "sgd": [[0.9, 0], [0.5, 1], [0, 0]],
    "adam": [ADAM, [0.8, 0.99, 1e-6, 0.36, 0.0199]],
    "rmsprop": [[0.99, 1e-8, 0], [0.9, 1e-3, 0.9]],
    "adagrad": [[1e-10], [0.1]],
    "lion": [[0.9, 0.99], [0.5, 0.8]],
    "muon": [[0.95, 0, 1, 1, 1, 1], [*ADAM, 0]],
}
SHARED = [[0.1, 0, 0, 0], [0.2, 0.01, 0, 0], [0.3, 0, 0.02, 0.5], [0.1, 0.1, 0.1, 0.1]]


def segments_of(rule):
    return Segments(BOUNDS, np.array([[*SHARED[m], *OWN[rule][m % len(OWN[rule])]] for m in range(4)]))


CASES = [(rule, RULES[rule].slots[:count]) for rule in RULES for count in range(len(RULES[rule].slots) + 1)]
NEEDED = {"sgd": 0, "rmsprop": 1}


@pytest.mark.parametrize(("rule", "slots"), [c for c in CASES if len(c[1]) >= NEEDED.get(c[0], len(RULES[c[0]].slots))])
@pytest.mark.parametrize("clipped", [False, True])
def test_updates_agree_with_the_reference(device_backend, reference, rule, slots, clipped, rng, agrees):
    host, device = arena_of(device_backend, rng, slots)
    segments = segments_of(rule)
    for _ in range(2):
        clip = reference.gradient_norm(host, segments, max_norm=1.0) if clipped else None
        device_clip = device_backend.gradient_norm(device, segments, max_norm=1.0) if clipped else None
        if clipped:
            agrees(device_clip, clip)
        reference.update(rule, host, segments, Guard(clip))
        device_backend.update(rule, device, segments, Guard(device_clip))
    agrees(device.data, host.data)
    untouched = np.concatenate([np.arange(a, b) for a, b in [(1, 32), (1000, 1024), (1281, 2048)]])
    np.testing.assert_array_equal(device_backend.to_numpy(device.data)[untouched], host.data[untouched])
    for name in slots:
        agrees(device.slots[name], host.slots[name])


@pytest.mark.parametrize("shape", [(1, 1), (9, 5), (300, 33), (7, 64)])
def test_max_norm_agrees_with_the_reference(device_backend, reference, shape, normal, agrees):
    w = normal(*shape)
    limit = float(np.median(np.sqrt((w * w).sum(axis=0))))
    w[0, -1] = np.nan  # all of the last unit becomes, and the others stay numbers
    expected = w.copy()
    reference.clip_units(expected, limit, shadow=None)
    assert (expected != w).any()
    got = device_backend.asarray(w.copy())
    device_backend.clip_units(got, limit, shadow=None)
    agrees(got, expected)


def test_averages_agree_with_the_reference(device_backend, reference, normal, agrees):
    average, value = normal(1000), normal(1000)
    value[3] = np.nan
    got = device_backend.asarray(average.copy())
    device_backend.average_update(got, device_backend.asarray(value), 0.9)
    reference.average_update(average, value, 0.9)
    agrees(got, average)


@pytest.mark.parametrize("why", ["skipped", "overflowed"])
def test_what_follows_an_update_that_changed_nothing_changes_nothing(device_backend, reference, why, normal):
    for backend in (reference, device_backend):
        clip = backend.asarray(np.float32([np.inf, 0])) if why == "overflowed" else None
        written = backend.asarray(np.array([0.0, 0, 3]))
        guard = Guard(clip, StepReport(written, None, written, written) if why == "skipped" else None)
        w = normal(5, 4)
        there = backend.asarray(w.copy())
        backend.clip_units(there, 0.1, None, guard)
        backend.average_update(there, backend.asarray(normal(5, 4)), 0.5, guard)
        np.testing.assert_array_equal(backend.to_numpy(there), w)


SKIPPED_UPDATES = [  # losses, and the last entry of each step's report: how many updates in a row changed nothing
    ([1.0, 2.0, 3.0], [0, 0, 0]),
    ([1.0, np.nan, 2.0], [0, 1, 2]),
    ([np.inf, 1.0, np.nan], [1, 2, 3]),
    ([1.0, 2.0, -np.inf], [0, 0, 1]),
]


@pytest.mark.parametrize(("losses", "skipped_updates"), SKIPPED_UPDATES)
@pytest.mark.parametrize("rule", RULES)
def test_nothing_is_updated_from_a_loss_that_is_not_finite_on(
    device_backend, reference, rule, losses, skipped_updates, rng
):
    segments, slots = segments_of(rule), RULES[rule].slots
    for backend, arena in zip((reference, device_backend), arena_of(device_backend, rng, slots), strict=True):
        rows = [backend.asarray(np.zeros(3))] + [backend.full((3,), 9, np.float64) for _ in losses]
        arrays = arena.data, arena.slots[slots[0]]
        for i, loss in enumerate(losses):
            before = [backend.to_numpy(a).copy() for a in arrays]
            correct = backend.asarray(np.int32(5 + i)) if i else None
            report = StepReport(backend.asarray(np.float32(loss)), correct, rows[i], rows[i + 1])
            backend.update(rule, arena, segments, Guard(report=report))
            for old, array in zip(before, arrays, strict=True):
                assert np.array_equal(old, backend.to_numpy(array)) == bool(skipped_updates[i])
            np.testing.assert_array_equal(backend.to_numpy(rows[i + 1]), [loss, 5 + i if i else 0, skipped_updates[i]])


def test_updates_pass_nan_and_take_no_segments(device_backend, reference, rng, agrees):
    host, device = arena_of(device_backend, rng, ("momentum",))
    host.grad[40] = np.nan
    device.grad = device_backend.asarray(host.grad)
    none = Segments(np.zeros((0, 2), np.int64), np.zeros((0, 6)))
    device_backend.update("sgd", device, none)
    agrees(device.data, host.data)
    agrees(device_backend.gradient_norm(device, none, max_norm=1.0), np.array([0, 1], np.float32))
    segments = Segments(BOUNDS, np.full((4, 6), 0.1))
    assert np.isnan(device_backend.to_numpy(device_backend.gradient_norm(device, segments, max_norm=1.0))[0])
    reference.update("sgd", host, segments)
    device_backend.update("sgd", device, segments)
    agrees(device.data, host.data)


def test_segments_outside_the_arena_are_refused(device_backend, rng):
    _, device = arena_of(device_backend, rng, ("momentum",))
    segments = Segments(np.array([[3990, 4001]], np.int64), np.zeros((1, 6)))
    with pytest.raises(ValueError, match="segments reach from 3990 to 4001 in an arena of 4000"):
        device_backend.update("sgd", device, segments)
