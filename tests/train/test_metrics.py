import numpy as np
import pytest

from gpunet.train import Accuracy, ConfusionMatrix, TopK
from gpunet.train.metrics import Mean

LOGITS = np.array([[3.0, 1, 2], [0, 5, 1], [2, 2, 0], [1, 2, 4]])


def measure(metric, *batches):
    metric.reset()
    for logits, labels in batches:
        metric.update(np.asarray(logits), np.asarray(labels))
    return metric.value


def test_accuracy_weighs_batches_by_rows():
    assert measure(Accuracy(), (LOGITS[:3], [0, 1, 2]), (LOGITS[3:], [2])) == pytest.approx(3 / 4)


def test_accuracy_of_equal_logits_takes_the_first():
    assert measure(Accuracy(), (LOGITS[2:3], [0])) == 1
    assert measure(Accuracy(), (LOGITS[2:3], [1])) == 0


def test_accuracy_counts_pixels(rng):
    logits, labels = rng.normal(size=(2, 3, 4, 5)), rng.integers(0, 5, (2, 3, 4))
    assert measure(Accuracy(), (logits, labels)) == pytest.approx((logits.argmax(-1) == labels).mean())


def test_ignored_labels_do_not_count():
    assert measure(Accuracy(ignore_index=255), (LOGITS, [0, 255, 1, 255])) == 0.5
    assert measure(TopK(2, ignore_index=-1), (LOGITS, [-1, -1, 2, 2])) == 0.5
    assert np.isnan(measure(Accuracy(ignore_index=1), (LOGITS, [1, 1, 1, 1])))


def test_reset_starts_anew():
    metric = Accuracy()
    measure(metric, (LOGITS, [1, 0, 2, 0]))
    assert measure(metric, (LOGITS, [0, 1, 0, 2])) == 1


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_top_k_agrees_with_a_stable_sort(k, rng):
    logits, labels = rng.integers(0, 4, (50, 6)).astype(float), rng.integers(0, 6, 50)  # with many ties
    order = np.argsort(-logits, axis=-1, kind="stable")[:, :k]
    assert measure(TopK(k), (logits[:30], labels[:30]), (logits[30:], labels[30:])) == pytest.approx(
        (order == labels[:, None]).any(axis=1).mean()
    )


def test_top_1_is_the_accuracy():
    labels = [0, 1, 1, 2]
    assert measure(TopK(1), (LOGITS, labels)) == measure(Accuracy(), (LOGITS, labels)) == 0.75


def test_nan_is_no_hit():
    assert measure(TopK(2), ([[np.nan, 1.0, 2.0]], [0])) == 0
    assert measure(Accuracy(), ([[np.nan, 1.0, 2.0]], [2])) == 0


def test_top_k_of_fewer_classes_raises():
    with pytest.raises(ValueError, match="^top5: logits have only 3 classes$"):
        measure(TopK(5), (LOGITS, [0, 1, 0, 2]))


def test_confusion_has_a_row_a_label_and_a_column_a_guess():
    matrix = measure(ConfusionMatrix(), (LOGITS[:2], [0, 0]), (LOGITS[2:], [2, 2]))
    np.testing.assert_array_equal(matrix, [[1, 1, 0], [0, 0, 0], [1, 0, 1]])


def test_confusion_of_another_number_of_classes_raises():
    with pytest.raises(ValueError, match="^confusion: logits have 3 classes, not 4$"):
        measure(ConfusionMatrix(4), (LOGITS, [0, 0, 0, 0]))


@pytest.mark.parametrize("metric", [Accuracy(), TopK(2), ConfusionMatrix()])
def test_labels_that_do_not_fit_raise(metric):
    with pytest.raises(ValueError, match=r"labels have shape \(3,\) but logits \(4, 3\) take \(4,\)"):
        metric.update(LOGITS, np.zeros(3, int))
    with pytest.raises(TypeError, match="takes integer labels, got float64"):
        metric.update(LOGITS, np.zeros(4))


def test_a_mean_of_nothing_is_nan():
    assert np.isnan(Mean().value)


@pytest.fixture
def rng():
    return np.random.default_rng(0)
