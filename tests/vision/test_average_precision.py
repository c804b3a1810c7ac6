import numpy as np
import pytest

from gpunet.vision.average_precision import Detections, mean_average_precision

pytest.importorskip("pycocotools")

TRUTH = [
    (np.array([[0, 0, 10, 10], [20, 20, 40, 30], [0, 0, 0, 0]], np.float32), np.array([0, 1, -1])),
    (np.array([[5, 5, 15, 25], [30, 0, 50, 10], [0, 20, 8, 28]], np.float32), np.array([0, 0, 1])),
]


def found(*rows):
    boxes, scores, labels = zip(*rows, strict=True) if rows else ((), (), ())
    return Detections(np.array(boxes).reshape(-1, 4), np.array(scores), np.array(labels, int))


def exact(image):
    boxes, labels = TRUTH[image]
    return [(box, 0.5 + 0.1 * i, label) for i, (box, label) in enumerate(zip(boxes, labels, strict=True)) if label >= 0]


def test_the_truth_itself_has_a_precision_of_one():
    figures = mean_average_precision([found(*exact(0)), found(*exact(1))], TRUTH, ["cat", "dog"])
    assert figures == {"mAP": pytest.approx(1), "mAP@0.5": pytest.approx(1), "AP@0.5 cat": pytest.approx(1),
                       "AP@0.5 dog": pytest.approx(1)}  # fmt: skip


def test_a_false_box_with_a_better_score_costs_precision_and_a_missed_one_recall():
    false = ([60, 60, 70, 70], 0.99, 1)
    figures = mean_average_precision([found(false, *exact(0)), found(*exact(1)[:1])], TRUTH, ["cat", "dog"])
    # cat: two of three, without a false one: precision 1 at recalls up to 2/3, of 101; dog: 1/2 up to recall 1/2
    assert figures["AP@0.5 cat"] == pytest.approx(67 / 101)
    assert figures["AP@0.5 dog"] == pytest.approx(0.5 * 51 / 101)
    assert figures["mAP@0.5"] == pytest.approx((67 / 101 + 0.5 * 51 / 101) / 2)


def test_a_box_a_little_off_counts_at_low_thresholds_only():
    off = [(box + np.array([0, 0, 0, -3]), score, label) for box, score, label in exact(0)[:1]]
    figures = mean_average_precision(
        [found(*off), found()], [TRUTH[0], (np.zeros((0, 4)), np.zeros(0))], ["cat", "dog"]
    )
    assert figures["AP@0.5 cat"] == pytest.approx(1)
    assert figures["AP@0.5 dog"] == 0
    assert figures["mAP"] == pytest.approx(0.5 * 5 / 10)  # an IoU of 0.7: 0.5, 0.55, 0.6, 0.65, 0.7


def test_nothing_found_gives_zero_and_a_class_without_truth_nan():
    figures = mean_average_precision([found(), found()], TRUTH, ["cat", "dog", "fish"])
    assert figures["mAP"] == figures["AP@0.5 cat"] == 0
    assert np.isnan(figures["AP@0.5 fish"])


def test_what_does_not_fit_raises():
    with pytest.raises(ValueError, match="mean_average_precision: found has 1 images but truth 2"):
        mean_average_precision([found()], TRUTH, ["cat", "dog"])
    with pytest.raises(ValueError, match="mean_average_precision: truth has no boxes"):
        mean_average_precision([found()], [(np.zeros((1, 4)), np.array([-1]))], ["cat"])


def plain_average_precision(scores, right, count):
    """At 101 recalls: the best precision at that recall or a higher one, of detections in their order."""
    hits = np.cumsum(np.array(right)[np.argsort([-s for s in scores], kind="stable")])
    precision, recall = hits / np.arange(1, len(hits) + 1), hits / count
    return np.mean([max(precision[recall >= r - 1e-12], default=0) for r in np.linspace(0, 1, 101)])


TRUE, FALSE = [0, 0, 10, 10], [50, 50, 60, 60]
BOTH = ([TRUE, [20, 0, 30, 10]], [0, 0])


@pytest.mark.parametrize(
    ("rows", "right"),
    [
        ([(TRUE, 0.9), (TRUE, 0.9)], [1, 0]),  # the second of one box is false
        ([(FALSE, 0.9), (TRUE, 0.9)], [0, 1]),  # equal scores keep their order
        ([(TRUE, 0.9), (FALSE, 0.9)], [1, 0]),
        ([(FALSE, 0), (TRUE, 0), ([20, 0, 30, 10], 0)], [0, 1, 1]),
        ([(TRUE, 0.2), (FALSE, 0.5), ([20, 0, 30, 10], 0.9)], [1, 0, 1]),
        ([([10, 10, 0, 0], 0.9), ([5, 5, 5, 5], 0.8), (TRUE, 0.5)], [0, 0, 1]),  # inside out, without area
    ],
)
def test_ties_duplicates_and_boxes_without_area_count_as_by_the_definition(rows, right):
    boxes, scores = zip(*rows, strict=True)
    figures = mean_average_precision(
        [Detections(np.array(boxes), np.array(scores), np.zeros(len(rows), int))], [BOTH], ["x"]
    )
    assert figures["mAP@0.5"] == pytest.approx(plain_average_precision(scores, right, 2))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int64", "uint64", "float16", "float32"])
def test_boxes_and_scores_of_any_kind_have_the_figures_of_floats(dtype):
    truth = [(boxes.astype(dtype), labels.astype("int8")) for boxes, labels in TRUTH]
    boxes, scores = [[0, 0, 10, 9], [20, 20, 40, 30], [60, 60, 70, 70]], [30, 20, 100]
    given = Detections(np.array(boxes, dtype), np.array(scores, dtype), np.array([0, 1, 0], "uint8"))
    lists = Detections(boxes, scores, [0.0, 1.0, 0.0])
    exact = Detections(np.array(boxes, float), np.array(scores, float), np.array([0, 1, 0]))
    expected = mean_average_precision([exact, found()], TRUTH, ["cat", "dog"])
    assert mean_average_precision([given, found()], truth, ["cat", "dog"]) == expected
    assert mean_average_precision([lists, found()], TRUTH, ["cat", "dog"]) == expected
    assert 0.2 < expected["mAP"] < 0.8


@pytest.mark.parametrize("scale", [1e-30, 1e6, 1e30])
def test_figures_do_not_depend_on_the_unit(scale):
    def scaled(each):
        return each._replace(boxes=each.boxes * scale)

    given = [found(*exact(0), ([0, 0, 9, 9], 0.99, 1)), found(*exact(1)[:2])]
    expected = mean_average_precision(given, TRUTH, ["cat", "dog"])
    truth = [(boxes.astype(float) * scale, labels) for boxes, labels in TRUTH]
    assert mean_average_precision(list(map(scaled, given)), truth, ["cat", "dog"]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("boxes", "scores", "labels", "error", "message"),
    [
        ([TRUE], [np.nan], [0], ValueError, "has scores that are NaN"),
        ([[0, 0, 1, np.nan]], [1], [0], ValueError, "boxes must be finite"),
        ([[0, 0, np.inf, 1]], [1], [0], ValueError, "boxes must be finite"),
        ([[0, 0, 1]], [1], [0], ValueError, r"boxes have shape \(1, 3\)"),
        ([TRUE], [1, 2], [0], ValueError, r"takes scores \(K,\) and labels \(K,\), got \(2,\) and \(1,\)"),
        ([TRUE], [1], [0, 0], ValueError, r"takes boxes \(K, 4\) and labels \(K,\), got \(1, 4\) and \(2,\)"),
        ([TRUE], [1], [2], ValueError, r"takes labels that are whole numbers from 0 to 1, got \[2\]"),
        ([TRUE], [1], [-1], ValueError, r"takes labels that are whole numbers from 0 to 1, got \[-1\]"),
        ([TRUE], [1], [0.5], ValueError, r"takes labels that are whole numbers from 0 to 1, got \[0.5\]"),
        ([TRUE], [1], ["cat"], ValueError, r"takes labels that are whole numbers from 0 to 1"),
        ([["0", "0", "1", "1"]], [1], [0], TypeError, "boxes is of .* but takes real numbers"),
    ],
)
def test_invalid_detections_raise_with_their_image(boxes, scores, labels, error, message):
    with pytest.raises(error, match=rf"^mean_average_precision: found\[1\]:? {message}"):
        mean_average_precision([found(), Detections(boxes, scores, labels)], TRUTH, ["cat", "dog"])
    if "scores" not in message:
        with pytest.raises(error, match=r"^mean_average_precision: truth\[1\]"):
            mean_average_precision(
                [found(), found()], [TRUTH[0], (boxes, [-2 if k == -1 else k for k in labels])], ["cat", "dog"]
            )


def test_classes_of_one_name_raise():
    with pytest.raises(ValueError, match="mean_average_precision: classes must be different names, got cat, cat"):
        mean_average_precision([found(), found()], TRUTH, ["cat", "cat"])
