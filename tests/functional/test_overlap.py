"""Dice loss and GIoU: values by their definitions, gradients by finite differences."""

import numpy as np
import pytest
import tolerances
from helpers import apart, check_gradients, same

import gpunet as gp
from gpunet import functional as F
from gpunet.vision import boxes as box_arrays


def some_boxes(rng, shape):
    """Boxes and targets, no two edges of a pair close to one another: far from kinks."""
    edges = apart(rng, (*shape, 2, 2, 2), gap=0.3)
    edges.sort(axis=-1)  # (..., which, axis, start and end)
    return [edges[..., i, :, :].swapaxes(-1, -2).reshape(*shape, 4) for i in range(2)]


def test_dice_loss_is_one_minus_the_mean_coefficient(backend, dtype, rng):
    p, t = rng.uniform(size=(3, 4, 5, 2)).astype(dtype), rng.integers(0, 2, (3, 4, 5, 2))
    coefficients = [
        (2 * (p[n, ..., k] * t[n, ..., k]).sum() + 0.5) / (p[n, ..., k].sum() + t[n, ..., k].sum() + 0.5)
        for n in range(3)
        for k in range(2)
    ]
    loss = F.dice_loss(gp.tensor(p, backend=backend), t, smooth=0.5)
    same(loss.numpy(), 1 - np.mean(coefficients), tolerances.ORACLE)
    one_class = F.dice_loss(gp.tensor(p[..., 0].copy(), backend=backend), t[..., 0], smooth=0.5)
    same(one_class.numpy(), 1 - np.mean(coefficients[::2]), tolerances.ORACLE)


def test_dice_loss_of_the_target_itself_is_zero_and_of_its_opposite_near_one(backend):
    t = np.zeros((2, 4, 5, 1), np.float32)
    t[:, 1:3, 1:4] = 1
    assert F.dice_loss(gp.tensor(t, backend=backend), t).item() == pytest.approx(0, abs=1e-6)
    assert F.dice_loss(gp.tensor(1 - t, backend=backend), t).item() == pytest.approx(1 - 1 / 21)
    nothing = gp.tensor(np.zeros_like(t), backend=backend)
    assert F.dice_loss(nothing, np.zeros_like(t)).item() == 0


def test_dice_loss_gradient(backend, rng):
    t = rng.integers(0, 2, (2, 3, 4, 2))
    check_gradients(lambda p: F.dice_loss(p, t), [rng.uniform(0.1, 0.9, (2, 3, 4, 2))], backend=backend, rng=rng)


def giou_of_pairs(boxes, targets):
    return box_arrays.pairwise_giou(boxes[..., None, :].astype(float), targets[..., None, :].astype(float))[..., 0, 0]


def test_giou_is_that_of_the_arrays(backend, dtype, rng):
    boxes, targets = (a.astype(dtype) for a in some_boxes(rng, (3, 5)))
    found = F.giou(gp.tensor(boxes, backend=backend), targets)
    exact = giou_of_pairs(boxes, targets)
    assert found.shape == (3, 5)
    np.testing.assert_allclose(found.numpy(), exact, atol=1e-5)
    assert F.giou_loss(gp.tensor(boxes, backend=backend), targets).item() == pytest.approx(1 - exact.mean(), abs=1e-5)


def test_giou_gradient(backend, rng):
    boxes, targets = some_boxes(rng, (4, 3))
    check_gradients(lambda b: F.giou(b, targets), [boxes], backend=backend, rng=rng)


def test_giou_of_boxes_without_area_is_finite_and_so_is_its_gradient(backend):
    flat = np.array([[1, 2, 1, 5], [3, 3, 3, 3]], np.float32)
    boxes = gp.tensor(flat, backend=backend, requires_grad=True)
    y = F.giou(boxes, flat)
    y.backward(np.ones(2, np.float32))
    assert np.isfinite(y.numpy()).all()
    assert np.isfinite(backend.to_numpy(boxes.grad)).all()


def test_what_does_not_fit_raises():
    p = gp.tensor(np.ones((1, 2, 2, 1)))
    with pytest.raises(ValueError, match=r"dice_loss: target has shape \(1, 2, 2\) but the prediction"):
        F.dice_loss(p, np.ones((1, 2, 2)))
    with pytest.raises(ValueError, match="dice_loss: smooth is 0 but must be positive"):
        F.dice_loss(p, np.ones((1, 2, 2, 1)), smooth=0)
    with pytest.raises(ValueError, match=r"dice_loss: probabilities are \(4,\) but take \(N, H, W, K\)"):
        F.dice_loss(gp.tensor(np.ones(4)), np.ones(4))
    with pytest.raises(ValueError, match=r"giou: boxes have shape \(2, 3\) but take"):
        F.giou(gp.tensor(np.ones((2, 3))), np.ones((2, 3)))
    with pytest.raises(ValueError, match="giou: predictions of shape .* hold no elements"):
        F.giou(gp.tensor(np.ones((0, 4))), np.ones((0, 4)))


def test_iou_is_the_share_that_two_boxes_have_in_common(backend, dtype, rng):
    boxes, targets = (a.astype(dtype) for a in some_boxes(rng, (3, 5)))
    found = F.iou(gp.tensor(boxes, backend=backend), targets).numpy()
    for i in np.ndindex(3, 5):
        a, b = boxes[i].astype(float), targets[i].astype(float)
        common = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
        union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - common
        assert found[i] == pytest.approx(common / union, rel=1e-5, abs=1e-6)
    check_gradients(lambda b: F.iou_loss(b, targets), [boxes], backend=backend, rng=rng)
    assert F.iou_loss(gp.tensor(boxes, backend=backend), boxes).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e-4, 1e4, 1e10, 1e30])
@pytest.mark.parametrize("kind", ["widest", "float32"])
def test_overlaps_and_their_gradients_do_not_depend_on_the_unit(backend, dtype, kind, rng, scale):
    """Of normalised coordinates as of pixels: no constant is added to areas, and their products stay in range."""
    dtype = dtype if kind == "widest" else np.float32
    boxes, targets = (a.astype(dtype) for a in some_boxes(rng, (4, 3)))
    targets[0] = boxes[0]
    upstream = rng.normal(size=(4, 3)).astype(dtype)
    for function in (F.iou, F.giou):
        found = []
        for unit in (1, scale):
            x = gp.tensor((boxes * unit).astype(dtype), backend=backend, requires_grad=True)
            y = function(x, (targets * unit).astype(dtype))
            y.backward(upstream)
            found.append((y.numpy(), backend.to_numpy(x.grad) * unit))
        np.testing.assert_allclose(found[1][0], found[0][0], atol=1e-5)
        np.testing.assert_allclose(found[1][1], found[0][1], rtol=1e-3, atol=1e-4 * np.abs(found[0][1]).max())
    np.testing.assert_allclose(found[1][0], giou_of_pairs(boxes, targets), atol=1e-5)
    np.testing.assert_allclose(found[1][0][0], 1, atol=1e-6)


def test_boxes_turned_inside_out_have_no_area(backend):
    boxes = np.array([[3, 1, 1, 4], [3, 4, 1, 1], [1, 4, 3, 1]], np.float32)
    assert not F.iou(gp.tensor(boxes, backend=backend), boxes).numpy().any()
    assert not F.iou(gp.tensor(boxes, backend=backend), boxes[:, [2, 3, 0, 1]].copy()).numpy().any()
    whole = np.array([[0, 0, 5, 5]] * 3, np.float32)
    flat = np.concatenate([boxes[:, :2], np.maximum(boxes[:, :2], boxes[:, 2:])], axis=1)
    expected = giou_of_pairs(flat, whole)
    np.testing.assert_allclose(F.giou(gp.tensor(boxes, backend=backend), whole).numpy(), expected, atol=1e-6)


def test_targets_of_whole_numbers_do_not_wrap_around(backend):
    boxes, targets = np.array([[10, 10, 110, 110.0]], np.float32), np.array([[20, 0, 120, 120]])
    expected = F.giou(gp.tensor(boxes, backend=backend), targets.astype(np.float32)).numpy()
    for dtype in ("int8", "uint8", "int16", "int64"):
        found = F.giou(gp.tensor(boxes, backend=backend), targets.astype(dtype)).numpy()
        np.testing.assert_array_equal(found, expected)
