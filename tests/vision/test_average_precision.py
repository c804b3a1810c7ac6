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


def test_nothing_found_is_zero_and_a_class_without_truth_is_no_number():
    figures = mean_average_precision([found(), found()], TRUTH, ["cat", "dog", "fish"])
    assert figures["mAP"] == figures["AP@0.5 cat"] == 0
    assert np.isnan(figures["AP@0.5 fish"])


def test_what_does_not_fit_raises():
    with pytest.raises(ValueError, match="mean_average_precision: found has 1 images but truth 2"):
        mean_average_precision([found()], TRUTH, ["cat", "dog"])
    with pytest.raises(ValueError, match="mean_average_precision: truth has no boxes"):
        mean_average_precision([found()], [(np.zeros((1, 4)), np.array([-1]))], ["cat"])
