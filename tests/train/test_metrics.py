import numpy as np
import pytest

from gpunet.train import F1, Accuracy, ConfusionMatrix, Precision, Recall, TopK
from gpunet.train.meter import with_measurements
from gpunet.train.metrics import Mean, make_metrics
from gpunet.train.step import StepResult

LOGITS = np.array([[3.0, 1, 2], [0, 5, 1], [2, 2, 0], [1, 2, 4]])


def measure(metric, *batches):
    metric.reset()
    for logits, labels in batches:
        metric.update(np.asarray(logits), np.asarray(labels))
    return metric.value


def test_accuracy_weights_batches_by_rows():
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


def test_reset_forgets_earlier_batches():
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


@pytest.mark.parametrize(
    "make",
    [Accuracy, lambda **options: TopK(2, **options), ConfusionMatrix, lambda **options: F1(None, **options)],
    ids=["accuracy", "top2", "confusion", "f1"],
)
@pytest.mark.parametrize("ignore_index", [None, 1])
def test_parts_of_a_batch_measure_what_the_batch_measures(make, ignore_index, rng):
    logits, labels = rng.normal(size=(40, 3, 4)), rng.integers(0, 4, (40, 3))
    labels[10:20] = 1  # a part that may be ignored as a whole
    whole, parts = make(ignore_index=ignore_index), make(ignore_index=ignore_index)
    whole.update(logits, labels)
    for i in range(0, 40, 10):
        parts.add(parts.measure(logits[i : i + 10], labels[i : i + 10]).astype(np.float64))
    np.testing.assert_array_equal(parts.value, whole.value)


def test_parts_with_other_classes_are_refused():
    metric = ConfusionMatrix()
    metric.add(metric.measure(LOGITS, np.array([0, 1, 2, 0])))
    with pytest.raises(ValueError, match="confusion: logits have 2 classes, not 3"):
        metric.add(metric.measure(LOGITS[:, :2], np.array([0, 1, 1, 0])))


class WithinOne(Accuracy):
    """Another `update`, and the `measure` of its base, which does something else."""

    def update(self, logits, labels):
        self._mean.update(float((abs(logits.argmax(-1) - labels) <= 1).mean()), len(labels))


class Halved(WithinOne):
    def measure(self, logits, labels):
        return super().measure(logits, labels) / 2


@pytest.mark.parametrize(("metrics", "taken"), [([Accuracy(), F1()], True), ([WithinOne()], False), ([Halved()], True)])
def test_a_metric_that_overrides_update_alone_takes_logits(metrics, taken):
    result = StepResult(1.0, 4, logits=LOGITS, labels=np.array([0, 1, 2, 0]))
    found = with_measurements(metrics, result, 8)
    assert (found.logits is None, bool(found.measured)) == (taken, taken)


def test_logits_are_taken_where_they_are_fewer_numbers_than_measurements():
    result = StepResult(1.0, 4, logits=LOGITS, labels=np.array([0, 1, 2, 0]))
    metrics = [Accuracy(), F1(), Recall()]  # 2 + 9 + 9 numbers; 3 logits in a row
    assert [bool(with_measurements(metrics, result, rows).measured) for rows in (6, 7)] == [False, True]


def test_nan_is_never_a_hit():
    assert measure(TopK(2), ([[np.nan, 1.0, 2.0]], [0])) == 0
    assert measure(Accuracy(), ([[np.nan, 1.0, 2.0]], [2])) == 0


def test_top_k_of_fewer_classes_raises():
    with pytest.raises(ValueError, match="^top5: logits have only 3 classes$"):
        measure(TopK(5), (LOGITS, [0, 1, 0, 2]))


def test_confusion_has_a_row_for_each_label_and_a_column_for_each_guess():
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


# ---- precision, recall and F1


def counted(logits, labels, k):
    """(precision, recall, F1 of each class, classes that occur), by their definitions, a pair of label and guess at a time."""
    pairs = list(zip(labels.ravel().tolist(), logits.argmax(-1).ravel().tolist(), strict=True))
    rows = []
    for c in range(k):
        both = sum(label == guess == c for label, guess in pairs)
        guessed, there = sum(guess == c for _, guess in pairs), sum(label == c for label, _ in pairs)
        p, r = both / guessed if guessed else 0.0, both / there if there else 0.0
        rows.append((p, r, 2 * p * r / (p + r) if p + r else 0.0, guessed + there > 0))
    return np.array(rows).T


@pytest.mark.parametrize("shape", [(40,), (3, 4, 5)])
@pytest.mark.parametrize("occur", [5, 3])
def test_precision_recall_and_f1_follow_their_definitions(rng, shape, occur):
    logits, labels = rng.normal(size=(*shape, 5)), rng.integers(0, occur, shape)
    logits[..., occur:] -= 10  # classes beyond occur neither as labels nor as guesses
    logits[..., 1] -= 5  # and one is hardly ever guessed
    *expected, occurs = counted(logits, labels, 5)
    for kind, values in zip((Precision, Recall, F1), expected, strict=True):
        half = len(labels) // 2
        batches = (logits[:half], labels[:half]), (logits[half:], labels[half:])
        np.testing.assert_allclose(measure(kind(None), *batches), values)
        assert measure(kind(), *batches) == pytest.approx(values[occurs == 1].mean())
        assert measure(kind("micro"), *batches) == pytest.approx((logits.argmax(-1) == labels).mean())


@pytest.mark.parametrize("average", ["macro", "micro", None])
def test_precision_recall_and_f1_agree_with_scikit_learn(rng, average):
    sklearn = pytest.importorskip("sklearn.metrics")
    logits, labels = rng.normal(size=(60, 6)), rng.integers(0, 4, 60)
    logits[:, 5] -= 10
    guesses = logits.argmax(-1)
    classes = {"labels": np.arange(6)} if average is None else {}
    for kind, score in ((Precision, "precision_score"), (Recall, "recall_score"), (F1, "f1_score")):
        expected = getattr(sklearn, score)(labels, guesses, average=average, zero_division=0, **classes)
        np.testing.assert_allclose(measure(kind(average), (logits, labels)), expected)


def test_a_share_of_nothing_is_zero_and_an_average_without_labels_is_nan():
    for kind in (Precision, Recall, F1):
        assert np.isnan(measure(kind()))
        assert np.isnan(measure(kind("micro", ignore_index=1), (LOGITS, [1, 1, 1, 1])))
        assert measure(kind(None, num_classes=3)).tolist() == [0, 0, 0]
        assert measure(kind(), (LOGITS[:1], [1])) == 0


def test_precision_recall_and_f1_have_names():
    names = ["precision", "recall", "f1", "precision_micro", "recall_by_class", "f1_by_class", "f1_micro"]
    made = make_metrics(names)
    assert [metric.name for metric in made] == names
    kinds = [Precision, Recall, F1, Precision, Recall, F1, F1]
    assert [type(metric) for metric in made] == kinds
    with pytest.raises(ValueError, match="^F1: average is 'weighted' but takes 'macro', 'micro' or None$"):
        F1("weighted")
    with pytest.raises(ValueError, match="^recall: logits have 3 classes, not 4$"):
        measure(Recall(num_classes=4), (LOGITS, [0, 0, 0, 0]))


def test_f1_is_a_column_and_the_array_by_class_a_result(task):
    trainer = task.trainer(metrics=["f1", "f1_by_class"])
    history = trainer.fit(task.train, 1, valid=task.valid)
    assert {"f1", "valid_f1"} <= set(history.columns)
    assert "f1_by_class" not in history.columns
    result = trainer.evaluate(task.valid)
    assert result["f1"] == pytest.approx(result["f1_by_class"].mean()) == history["valid_f1"][-1]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_a_metric_may_have_no_value_before_its_first_reset():
    class Batches:
        name = "batches"

        def reset(self):
            self.count = 0

        def update(self, logits, labels):
            self.count += 1

        @property
        def value(self):
            return self.count

    class Passing:
        def __init__(self, metric):
            self.metric = metric

        def __getattr__(self, name):
            return getattr(self.metric, name)

    for metric in (Batches(), Passing(Batches())):
        assert make_metrics([metric]) == [metric]

    class Method(Batches):
        def value(self):
            return self.count

    with pytest.raises(TypeError, match="has a method value, which must be a property"):
        make_metrics([Method()])
