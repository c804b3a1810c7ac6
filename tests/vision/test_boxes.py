"""Boxes as arrays: overlaps counted pixel by pixel, anchors, and suppression by its definition."""

import tracemalloc
from fractions import Fraction

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
    found = box_arrays.pairwise_iou(a, b)
    assert found.shape == (30, 20)
    for i, one in enumerate(a):
        for j, other in enumerate(b):
            common, union = (painted(one) & painted(other)).sum(), (painted(one) | painted(other)).sum()
            assert found[i, j] == pytest.approx(common / union if union else 0)


def test_giou_of_boxes_apart_grows_more_negative_with_their_distance():
    unit = np.array([[0, 0, 1, 1.0]])
    apart = np.array([[0, 0, 1, 1.0], [1, 0, 2, 1], [2, 0, 3, 1], [9, 0, 10, 1]])
    np.testing.assert_allclose(box_arrays.pairwise_giou(unit, apart)[0], [1, 0, -1 / 3, -0.8])
    assert box_arrays.pairwise_giou(np.zeros((1, 4)), np.zeros((1, 4))) == 0


def test_shape_iou_is_the_iou_of_boxes_on_one_corner(rng):
    a, b = rng.uniform(1, 9, (5, 2)), rng.uniform(1, 9, (4, 2))
    corner = [np.concatenate([np.zeros_like(x), x], axis=1) for x in (a, b)]
    np.testing.assert_allclose(box_arrays.shape_iou(a, b), box_arrays.pairwise_iou(*corner))


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


def test_anchors_refuse_shapes_that_cannot_be_clustered():
    with pytest.raises(ValueError, match="anchors: count is 3 but there are 2 different shapes"):
        box_arrays.anchors(np.array([[1, 2], [1, 2], [3, 4.0]]), 3)
    with pytest.raises(ValueError, match="anchors: shapes must be positive"):
        box_arrays.anchors(np.array([[1, 0.0]]), 1)


def test_suppression_keeps_a_box_unless_a_better_one_of_its_class_that_stays_covers_it():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [2, 0, 12, 10], [0, 0, 10, 10], [30, 0, 40, 10.0]])
    scores, labels = np.array([0.8, 0.9, 0.7, 0.6, 0.1]), np.array([0, 0, 0, 1, 0])
    assert box_arrays.nms(boxes, scores, labels, iou_threshold=0.5).tolist() == [1, 3, 4]
    # 0 and 1 overlap by 9/11, 1 and 2 too, but 0 and 2 by 8/12: without 1, the last stays at 0.7
    assert box_arrays.nms(boxes[[0, 2]], scores[[0, 2]], labels[[0, 2]], iou_threshold=0.7).tolist() == [0, 1]
    assert box_arrays.nms(boxes, scores, labels, iou_threshold=0.9).tolist() == [1, 0, 2, 3, 4]
    assert box_arrays.nms(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int)).tolist() == []


def test_suppressed_boxes_are_those_of_the_definition(rng):
    boxes, scores, labels = some_boxes(rng, 60), rng.permutation(60) / 60, rng.integers(0, 2, 60)
    kept = []
    for i in np.argsort(-scores):
        rivals = [j for j in kept if labels[j] == labels[i]]
        if not rivals or box_arrays.pairwise_iou(boxes[[i]], boxes[rivals]).max() <= 0.3:
            kept.append(i)
    assert box_arrays.nms(boxes, scores, labels, iou_threshold=0.3).tolist() == kept
    with pytest.raises(ValueError, match="nms: iou_threshold is 2 but must be from 0 to 1"):
        box_arrays.nms(boxes, scores, labels, iou_threshold=2)


WHOLE = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
OTHERS = ("float16", "float64", "longdouble", "bfloat16")


def exact_overlap(a, b):
    """(IoU, GIoU) of two boxes as fractions, without rounding."""
    a, b = ([Fraction(float(v)) for v in box] for box in (a, b))

    def area(x0, y0, x1, y1):
        return max(x1 - x0, 0) * max(y1 - y0, 0)

    common = area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    union = area(*a) + area(*b) - common
    xs, ys = (a[0], a[2], b[0], b[2]), (a[1], a[3], b[1], b[3])
    around = area(min(xs), min(ys), max(xs), max(ys))
    share = common / union if union else Fraction(0)
    return float(share), float(share - (around - union) / around) if around else float(share)


def check_overlaps(a, b, tolerance):
    for function, place in ((box_arrays.pairwise_iou, 0), (box_arrays.pairwise_giou, 1)):
        found = function(a, b)
        expected = [[exact_overlap(one, other)[place] for other in b] for one in a]
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
    return found


@pytest.mark.parametrize("dtype", WHOLE)
def test_boxes_of_whole_numbers_do_not_wrap_around(rng, dtype):
    top = min(np.iinfo(dtype).max, 2**40)
    a, b = (some_boxes(rng, n, 100) * top // 100 for n in (12, 9))
    a, b = a.astype(dtype), b.astype(dtype)
    assert check_overlaps(a, b, 1e-12).dtype == np.float64
    areas = box_arrays.areas(a)
    assert areas.dtype == np.float64
    np.testing.assert_allclose(
        areas, [float((int(x1) - int(x0)) * (int(y1) - int(y0))) for x0, y0, x1, y1 in a], rtol=1e-12
    )
    shapes = (a[:, 2:] - a[:, :2]).clip(1), (b[:, 2:] - b[:, :2]).clip(1)
    wide = [np.concatenate([np.zeros_like(s), s], axis=1).astype(float) for s in shapes]
    np.testing.assert_allclose(box_arrays.shape_iou(*shapes), box_arrays.pairwise_iou(*wide), rtol=1e-12)
    np.testing.assert_allclose(box_arrays.anchors(shapes[0], 2), box_arrays.anchors(shapes[0].astype(float), 2))


def test_boxes_of_other_kinds_give_float64_and_float32_stays(rng):
    boxes = some_boxes(rng, 8)
    expected = [[exact_overlap(a, b)[0] for b in boxes] for a in boxes]
    kinds = [boxes.astype(kind) for kind in OTHERS] + [boxes.tolist(), tuple(map(tuple, boxes)), boxes > 0]
    for given in kinds[:-1]:
        assert box_arrays.pairwise_iou(given, given).dtype == box_arrays.areas(given).dtype == np.float64
        np.testing.assert_allclose(box_arrays.pairwise_iou(given, given), expected, rtol=1e-12)
        assert box_arrays.pairwise_iou(given, boxes.astype("float32")).dtype == np.float64
    assert box_arrays.pairwise_iou([[False, False, True, True]], [[0, 0, 2, 1]]) == 0.5
    narrow = boxes.astype("float32")
    for function in (box_arrays.pairwise_iou, box_arrays.pairwise_giou):
        assert function(narrow, narrow).dtype == np.float32
    assert box_arrays.areas(narrow).dtype == np.float32
    np.testing.assert_allclose(box_arrays.pairwise_iou(narrow, narrow), expected, rtol=1e-7)
    assert box_arrays.pairwise_iou(narrow, boxes.astype("int16")).dtype == np.float64


SCALES = [("float32", 10.0**e) for e in (-40, -30, -18, 18, 30, 38)]
SCALES += [("float64", x) for x in (1e-300, 1e-160, 1e-40, 1e30, 1e160, 1e300, 1.7e308)]


@pytest.mark.parametrize(("dtype", "scale"), SCALES)
def test_boxes_of_any_size_overlap_as_fractions_say(rng, dtype, scale):
    a, b = ((rng.uniform(-1, 1, (6, 2, 2)) * scale).astype(dtype) for _ in range(2))
    a, b = (np.sort(each, axis=1).reshape(6, 4) for each in (a, b))
    b[:2] = a[:2]
    check_overlaps(a, b, 1e-6 if dtype == "float32" else 1e-12)
    flat = np.array([[-scale, 0, scale, 0]], dtype)
    assert box_arrays.areas(flat) == 0
    assert box_arrays.pairwise_iou(flat, flat) == box_arrays.pairwise_giou(flat, flat) == 0


def test_boxes_of_very_different_sizes_overlap_as_fractions_say():
    boxes = np.array(
        [[0, 0, s, s] for s in (1e-200, 1e-30, 1, 1e30, 1e200)] + [[0, 0, 1e200, 1e-200], [0, 0, 1e-200, 1e200]]
    )
    check_overlaps(boxes, boxes, 1e-12)


def test_boxes_inside_out_have_no_area(rng):
    proper = some_boxes(rng, 5)
    for turned in (proper[:, [2, 1, 0, 3]], proper[:, [0, 3, 2, 1]], proper[:, [2, 3, 0, 1]]):
        turned[:, 0] += 1  # also those without extent
        turned = turned[(turned[:, 2] < turned[:, 0]) | (turned[:, 3] < turned[:, 1])]
        assert not box_arrays.areas(turned).any()
        assert not box_arrays.pairwise_iou(turned, proper).any()
        assert not box_arrays.pairwise_iou(turned, turned).any()
        found = check_overlaps(turned, proper, 1e-12)
        assert ((found >= -1) & (found <= 0)).all()


def test_shapes_without_area_are_like_none():
    np.testing.assert_array_equal(box_arrays.shape_iou([[0, 3], [0, 0], [-2, 3]], [[0, 3], [2, 2]]), np.zeros((3, 2)))


def test_none_and_one_box_and_batches(rng):
    boxes, one = some_boxes(rng, 5), some_boxes(rng, 1)[0]
    for function in (box_arrays.pairwise_iou, box_arrays.pairwise_giou):
        full = function(one[None], boxes)
        np.testing.assert_array_equal(function(one, boxes), full[0])
        np.testing.assert_array_equal(function(boxes, one), full[0])
        assert function(one, one).shape == ()
        batch = np.stack([boxes, boxes[::-1]])
        np.testing.assert_array_equal(function(batch, boxes)[1], function(boxes[::-1], boxes))
        assert function(one, batch).shape == (2, 5)
        for nothing in ([], np.zeros((0, 4)), np.zeros((0, 4), "int16")):
            assert function(nothing, boxes).shape == (0, 5)
            assert function(boxes, nothing).shape == (5, 0)
            assert function(nothing, nothing).shape == (0, 0)
    assert box_arrays.areas(one).shape == ()
    assert box_arrays.areas([]).shape == (0,)
    assert box_arrays.shape_iou([], [[1, 2]]).shape == (0, 1)
    assert box_arrays.nms([], [], []).dtype == np.int64
    assert box_arrays.nms(one, 0.5, 0).tolist() == [0]


@pytest.mark.parametrize(
    ("boxes", "error", "message"),
    [
        ([[0, 0, 1, np.nan]], ValueError, "must be finite, got NaN or infinity"),
        ([[0, 0, np.inf, 1]], ValueError, "must be finite, got NaN or infinity"),
        (np.array([[0, 0, np.inf, 1]], "float16"), ValueError, "must be finite, got NaN or infinity"),
        ([[0, 0, 1]], ValueError, r"have shape \(1, 3\) but take \(…, 4\)"),
        ([[0, 0, 1, 1, 1]], ValueError, r"have shape \(1, 5\) but take"),
        (3, ValueError, r"have shape \(\) but take"),
        ([[0, 0, 1, 1], [0, 0]], ValueError, "is of nested sequences of unequal lengths"),
        ([["0", "0", "1", "1"]], TypeError, "is of .*<U1.* but takes real numbers"),
        ([[0, 0, 1j, 1]], TypeError, "is of .*complex128.* but takes real numbers"),
        ([[0, 0, None, 1]], TypeError, "is of objects .* but takes real numbers"),
        ([[0, 0, 2**70, 1]], TypeError, "is of objects .* but takes real numbers"),
        (np.ma.array([[0, 0, 1, 1]], mask=[[0, 0, 0, 1]]), TypeError, "is a masked array"),
    ],
)
def test_invalid_boxes_raise(boxes, error, message):
    fine = [[0, 0, 1, 1]]
    for function in (box_arrays.pairwise_iou, box_arrays.pairwise_giou):
        with pytest.raises(error, match=f"^{function.__name__}: a {message}"):
            function(boxes, fine)
        with pytest.raises(error, match=f"^{function.__name__}: b {message}"):
            function(fine, boxes)
    with pytest.raises(error, match=f"^areas: boxes {message}"):
        box_arrays.areas(boxes)
    with pytest.raises(error, match=f"^nms: boxes {message}"):
        box_arrays.nms(boxes, [1], [0])


def test_other_numbers_of_batches_raise():
    with pytest.raises(
        ValueError, match=r"^pairwise_giou: a is \(2, 3, 4\) and b \(3, 3, 4\), whose batch axes differ"
    ):
        box_arrays.pairwise_giou(np.zeros((2, 3, 4)), np.zeros((3, 3, 4)))


def test_invalid_shapes_raise():
    for shapes in ([[1, np.nan]], [[np.inf, 1]], [[1, 2, 3]], [["1", "2"]]):
        for function in (lambda s: box_arrays.shape_iou(s, [[1, 2]]), lambda s: box_arrays.anchors(s, 1)):
            with pytest.raises(
                (ValueError, TypeError), match=r"^(shape_iou: a|anchors: shapes) (must|have|is of text)"
            ):
                function(shapes)
    with pytest.raises(ValueError, match="anchors: count is 1.0 but there are 1 different shapes"):
        box_arrays.anchors([[1, 2]], 1.0)


def test_anchors_of_shapes_of_any_size():
    for scale in (1e-250, 1e250):
        found = box_arrays.anchors(np.array([[3, 1], [1, 1], [2, 2.0]]) * scale, 3)
        np.testing.assert_array_equal(found, np.array([[1, 1], [3, 1], [2, 2.0]]) * scale)


def plain_suppression(boxes, scores, labels, threshold):
    """By the definition: Python's sort is stable, and falls without a minus."""
    kept = []
    for i in sorted(range(len(scores)), key=lambda i: scores[i], reverse=True):
        if all(labels[j] != labels[i] or exact_overlap(boxes[j], boxes[i])[0] <= threshold for j in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize("dtype", [*WHOLE, "bool", "float16", "float32", "float64", "longdouble", "bfloat16"])
def test_scores_and_labels_of_any_kind_are_in_their_order_and_ties_keep_theirs(rng, dtype):
    boxes = some_boxes(rng, 30)
    low = 0 if np.dtype(dtype).kind in "ub" else -100
    scores = rng.integers(low, 2 if dtype == "bool" else 100, 30) // 10 * 10  # with ties
    if np.dtype(dtype).kind in "iu":
        scores = scores.astype(dtype)
        scores[:4] = np.iinfo(dtype).max, np.iinfo(dtype).min, np.iinfo(dtype).max - 1, np.iinfo(dtype).min + 1
    given, labels = scores.astype(dtype), rng.integers(0, 2, 30)
    expected = plain_suppression(boxes, given.tolist(), labels, 0.25)
    for kinds in (labels, labels.astype("uint8"), labels.astype(float), labels.tolist(), labels > 0):
        assert box_arrays.nms(boxes, given, kinds, iou_threshold=0.25).tolist() == expected
    assert box_arrays.nms(boxes.astype("int16"), given.tolist(), labels, iou_threshold=0.25).tolist() == expected


def test_infinite_scores_are_the_first_and_the_last():
    far = np.arange(16).reshape(4, 4) * [[10, 10, 10, 10]] + [0, 0, 5, 5]
    assert box_arrays.nms(far, [0.0, -np.inf, np.inf, -0.0], np.zeros(4)).tolist() == [2, 0, 3, 1]


@pytest.mark.parametrize("threshold", [0, 0.5, 1, np.float32(0.5), np.float64(0.25)])
def test_suppression_at_its_thresholds(rng, threshold):
    boxes, scores, labels = some_boxes(rng, 25), rng.uniform(size=25), np.zeros(25, int)
    boxes[5:10] = boxes[:5]
    assert box_arrays.nms(boxes, scores, labels, iou_threshold=threshold).tolist() == plain_suppression(
        boxes, scores, labels, threshold
    )


@pytest.mark.parametrize(
    ("scores", "labels", "options", "error", "message"),
    [
        ([0.5, np.nan], [0, 0], {}, ValueError, "scores must not be NaN"),
        ([0.5, 0.4], [0, np.nan], {}, ValueError, "labels must not be NaN"),
        ([0.5], [0, 0], {}, ValueError, r"takes boxes \(K, 4\) and scores \(K,\), got \(2, 4\) and \(1,\)"),
        ([0.5, 0.4], [0], {}, ValueError, r"takes boxes \(K, 4\) and labels \(K,\)"),
        ([[0.5], [0.4]], [0, 0], {}, ValueError, r"takes boxes \(K, 4\) and scores \(K,\)"),
        (["a", "b"], [0, 0], {}, TypeError, "scores is of .*<U1.* but takes real numbers"),
        ([0.5, 1j], [0, 0], {}, TypeError, "scores is of .*complex128.* but takes real numbers"),
        ([0.5, 0.4], ["a", "b"], {}, TypeError, "labels is of .*<U1.* but takes real numbers"),
        (np.ma.array([0.5, 0.4], mask=[0, 1]), [0, 0], {}, TypeError, "scores is a masked array"),
        ([0.5, 0.4], [0, 0], {"iou_threshold": None}, ValueError, "iou_threshold is None"),
        ([0.5, 0.4], [0, 0], {"iou_threshold": "0.5"}, ValueError, "iou_threshold is 0.5 but must be from 0 to 1"),
        ([0.5, 0.4], [0, 0], {"iou_threshold": -0.1}, ValueError, "iou_threshold is -0.1"),
        ([0.5, 0.4], [0, 0], {"iou_threshold": 1.1}, ValueError, "iou_threshold is 1.1"),
        ([0.5, 0.4], [0, 0], {"iou_threshold": np.nan}, ValueError, "iou_threshold is nan"),
    ],
)
def test_invalid_scores_labels_and_thresholds_raise(scores, labels, options, error, message):
    with pytest.raises(error, match=f"^nms: {message}"):
        box_arrays.nms([[0, 0, 1, 1], [0, 0, 2, 2]], scores, labels, **options)


def test_suppression_of_many_boxes_takes_little_memory(rng):
    """20,000 boxes, of which 40 stay: a matrix of their overlaps would take 3.2 GB."""
    centres = np.repeat(rng.permutation(40) * 100.0, 500)
    boxes = np.stack([centres, centres, centres + 50, centres + 50], axis=1) + rng.uniform(0, 5, (20_000, 1))
    scores, labels = rng.uniform(size=20_000), np.zeros(20_000)
    tracemalloc.start()
    kept = box_arrays.nms(boxes, scores, labels, iou_threshold=0.5)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert kept.tolist() == sorted(
        (i * 500 + scores[i * 500 : i * 500 + 500].argmax() for i in range(40)), key=lambda k: -scores[k]
    )
    assert most < 100e6
