"""Boxes as arrays: overlaps counted pixel by pixel, anchors, and suppression by its definition."""

import numpy as np
import pytest

from gpunet.vision import boxes as box_arrays


def some_boxes(rng, count, extent=20):
    edges = np.sort(np.stack([rng.choice(extent, (2, 2)) for _ in range(count)]), axis=2).astype(float)
    return edges.transpose(0, 2, 1).reshape(count, 4)  # two corners each, in whole pixels; some without area


def painted(box, extent=20):
    grid = np.zeros((extent, extent), bool)
    x0, y0, x1, y1 = box.astype(int)
    grid[y0:y1, x0:x1] = True
    return grid


def test_iou_counts_pixels(rng):
    a, b = some_boxes(rng, 30), some_boxes(rng, 20)
    found = box_arrays.iou(a, b)
    assert found.shape == (30, 20)
    for i, one in enumerate(a):
        for j, other in enumerate(b):
            common, union = (painted(one) & painted(other)).sum(), (painted(one) | painted(other)).sum()
            assert found[i, j] == pytest.approx(common / union if union else 0)


def test_giou_of_boxes_apart_grows_more_negative_with_their_distance():
    unit = np.array([[0, 0, 1, 1.0]])
    apart = np.array([[0, 0, 1, 1.0], [1, 0, 2, 1], [2, 0, 3, 1], [9, 0, 10, 1]])
    np.testing.assert_allclose(box_arrays.giou(unit, apart)[0], [1, 0, -1 / 3, -0.8])
    assert box_arrays.giou(np.zeros((1, 4)), np.zeros((1, 4))) == 0


def test_shape_iou_is_the_iou_of_boxes_on_one_corner(rng):
    a, b = rng.uniform(1, 9, (5, 2)), rng.uniform(1, 9, (4, 2))
    corner = [np.concatenate([np.zeros_like(x), x], axis=1) for x in (a, b)]
    np.testing.assert_allclose(box_arrays.shape_iou(a, b), box_arrays.iou(*corner))


def test_anchors_find_the_clusters_that_shapes_form(rng):
    centres = np.array([[10, 10], [20, 60], [80, 30.0]])
    shapes = np.concatenate([centre * rng.uniform(0.9, 1.1, (50, 2)) for centre in centres])
    found = box_arrays.anchors(rng.permutation(shapes), 3)
    np.testing.assert_allclose(found, centres[[0, 1, 2]], rtol=0.05)
    assert (np.diff(found.prod(axis=1)) > 0).all()
    np.testing.assert_array_equal(box_arrays.anchors(shapes, 1), [shapes.mean(axis=0)])


def test_each_anchor_is_the_mean_of_the_shapes_nearest_to_it(rng):
    shapes = rng.uniform(5, 50, (200, 2))
    found = box_arrays.anchors(shapes, 4)
    nearest = box_arrays.shape_iou(shapes, found).argmax(axis=1)
    for k in range(4):
        np.testing.assert_allclose(found[k], shapes[nearest == k].mean(axis=0))


def test_anchors_refuse_what_makes_no_clusters():
    with pytest.raises(ValueError, match="anchors: count is 3 but there are 2 different shapes"):
        box_arrays.anchors(np.array([[1, 2], [1, 2], [3, 4.0]]), 3)
    with pytest.raises(ValueError, match="anchors: shapes must be positive"):
        box_arrays.anchors(np.array([[1, 0.0]]), 1)


def test_suppression_keeps_a_box_unless_a_better_one_of_its_class_that_stays_covers_it():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [2, 0, 12, 10], [0, 0, 10, 10], [30, 0, 40, 10.0]])
    scores, labels = np.array([0.8, 0.9, 0.7, 0.6, 0.1]), np.array([0, 0, 0, 1, 0])
    assert box_arrays.suppress(boxes, scores, labels, threshold=0.5).tolist() == [1, 3, 4]
    # 0 and 1 overlap by 9/11, 1 and 2 too, but 0 and 2 by 8/12: without 1, the last stays at 0.7
    assert box_arrays.suppress(boxes[[0, 2]], scores[[0, 2]], labels[[0, 2]], threshold=0.7).tolist() == [0, 1]
    assert box_arrays.suppress(boxes, scores, labels, threshold=0.9).tolist() == [1, 0, 2, 3, 4]
    assert box_arrays.suppress(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int)).tolist() == []


def test_suppressed_boxes_are_those_of_the_definition(rng):
    boxes, scores, labels = some_boxes(rng, 60), rng.permutation(60) / 60, rng.integers(0, 2, 60)
    kept = []
    for i in np.argsort(-scores):
        rivals = [j for j in kept if labels[j] == labels[i]]
        if not rivals or box_arrays.iou(boxes[[i]], boxes[rivals]).max() <= 0.3:
            kept.append(i)
    assert box_arrays.suppress(boxes, scores, labels, threshold=0.3).tolist() == kept
    with pytest.raises(ValueError, match="suppress: threshold is 2 but must be from 0 to 1"):
        box_arrays.suppress(boxes, scores, labels, threshold=2)
