import numpy as np
import pytest
import tolerances
from helpers import check_gradients, host, relative_error

import gpunet as gp
from gpunet import data, models, optim
from gpunet.models.yolo import BOX, CLASSES, NOTHING, OBJECT, AssignTargets
from gpunet.vision.boxes import pairwise_giou

ANCHORS = np.array([[10, 8], [24, 30], [50, 20.0]])
SIZE = 64, 96


@pytest.fixture
def model():
    return models.YOLO(ANCHORS, 2, base_channels=4)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def logit(p):
    return np.log(p / (1 - p))


def raw_of(targets, confidence=6.0):
    """Raw predictions whose boxes, objectness and classes are those of the targets (4, 6, 3, 6 + 2)."""
    raw = np.zeros((1, *targets.shape[:3], 7), np.float32)
    raw[..., 4] = -confidence
    for row, column, a in np.argwhere(targets[..., OBJECT] == 1):
        x0, y0, x1, y1 = targets[row, column, a, BOX]
        place = np.array([(x0 + x1) / 2 / 16 - column, (y0 + y1) / 2 / 16 - row])
        extent = np.sqrt(np.array([x1 - x0, y1 - y0]) / ANCHORS[a]) / 2
        raw[0, row, column, a, :4] = logit(np.concatenate([place, extent]))
        raw[0, row, column, a, 4] = confidence
        raw[0, row, column, a, 5:] = confidence * targets[row, column, a, CLASSES]
    return raw


def test_a_box_goes_to_the_cell_of_its_centre_and_the_anchor_of_its_shape(model):
    boxes = np.array([[10, 20, 34, 49], [70, 2, 80, 11], [0, 0, 0, 0]], np.float32)
    targets = model.targets(SIZE).assign(boxes, np.array([1, 0, -1]))
    assert targets.shape == (4, 6, 3, 8)
    np.testing.assert_array_equal(np.argwhere(targets[..., OBJECT]), [[0, 4, 0], [2, 1, 1]])
    np.testing.assert_array_equal(targets[2, 1, 1], [1, 0, *boxes[0], 0, 1])
    np.testing.assert_array_equal(targets[0, 4, 0], [1, 0, *boxes[1], 1, 0])


def test_two_boxes_of_one_place_go_to_two_anchors_and_a_last_one_without_any_is_left_out(model):
    boxes = np.array([[10, 20, 34, 49]] * 4, np.float32)
    targets = model.targets(SIZE).assign(boxes, np.array([0, 1, 1, 1]))
    assert targets[2, 1, :, OBJECT].tolist() == [1, 1, 1]
    assert targets[..., OBJECT].sum() == 3
    np.testing.assert_array_equal(targets[2, 1, 1, CLASSES], [1, 0])


def test_anchors_that_overlap_a_box_of_another_are_neither_object_nor_nothing():
    assign = AssignTargets(np.array([[24, 30], [25, 29.0]]), 2, 16, SIZE)
    targets = assign.assign(np.array([[12, 25, 36, 55]], np.float32), np.array([0]))
    np.testing.assert_array_equal(targets[2, 1, 0, :2], [1, 0])
    np.testing.assert_array_equal(targets[2, 1, 1, :2], [0, 0])
    np.testing.assert_array_equal(targets[0, 5, :, NOTHING], [1, 1])


def test_image_without_boxes_and_one_class_only_are_targets_too(model):
    targets = model.targets(SIZE).assign(np.zeros((2, 4), np.float32), np.array([-1, -1]))
    assert not targets[..., OBJECT].any()
    assert targets[..., NOTHING].all()
    single = models.YOLO(ANCHORS, 1, base_channels=2)
    targets = single.targets(SIZE).assign(np.array([[3, 4, 30, 40.0]], np.float32), np.array([0]))
    loss = single.loss(single(np.zeros((1, *SIZE, 3), np.float32)), targets[None])
    assert np.isfinite(loss.item())


def test_predictions_of_the_targets_have_next_to_no_loss_and_are_detected(model, rng):
    boxes = np.array([[10, 20, 34, 49], [70, 2, 80, 11], [30, 40, 70, 62]], np.float32)
    labels = np.array([1, 0, 1])
    targets = model.targets(SIZE).assign(boxes, labels)
    raw = raw_of(targets, confidence=12.0)
    assert model.loss(gp.tensor(raw), targets[None]).item() < 1e-3
    ((found, scores, classes),) = model.detect(raw)
    order = found[:, 0].argsort()
    np.testing.assert_allclose(found[order], boxes[[0, 2, 1]], atol=1e-3)
    np.testing.assert_array_equal(classes[order], labels[[0, 2, 1]])
    assert (scores > 0.99).all()


def test_loss_is_that_of_its_formula(model, rng):
    boxes = np.array([[10, 20, 34, 49], [70, 2, 80, 11]], np.float32)
    targets = np.stack([model.targets(SIZE).assign(boxes, np.array([1, 0]))] * 2)
    raw = rng.normal(size=(2, 4, 6, 3, 7))
    p, expected = sigmoid(raw[..., 4]), 0.0
    for index in np.ndindex(2, 4, 6, 3):
        t = targets[index]
        if t[NOTHING]:
            expected -= 0.3 * np.log(1 - p[index])
        if t[OBJECT]:
            shares = np.exp(raw[index][5:]) / np.exp(raw[index][5:]).sum()
            cell, (w, h) = np.array(index[2:0:-1]), ANCHORS[index[3]]
            (x, y), (sw, sh) = 16 * (cell + sigmoid(raw[index][:2])), (2 * sigmoid(raw[index][2:4])) ** 2
            box = np.array([[x - w * sw / 2, y - h * sh / 2, x + w * sw / 2, y + h * sh / 2]])
            overlap = pairwise_giou(box, t[BOX][None].astype(float))[0, 0]
            expected += -np.log(p[index]) - np.log(shares @ t[CLASSES]) + 1.5 * (1 - overlap)
    loss = model.loss(gp.tensor(raw), targets, background=0.3, box=1.5)
    assert loss.item() == pytest.approx(expected / 4, rel=1e-5)


def test_loss_gradient_is_the_references_on_every_backend(backend, model, rng):
    boxes = np.array([[10, 20, 34, 49], [70, 2, 80, 11]], np.float32)
    targets = model.targets(SIZE).assign(boxes, np.array([1, 0]))[None]
    check_gradients(lambda raw: model.loss(raw, targets), [rng.normal(size=(1, 4, 6, 3, 7))], backend=backend, rng=rng)


def test_loss_of_no_object_and_of_huge_predictions_is_finite(backend, model):
    targets = np.zeros((1, 4, 6, 3, 8), np.float32)
    targets[..., NOTHING] = 1
    for size in (-80.0, 80.0):
        raw = gp.tensor(np.full((1, 4, 6, 3, 7), size, np.float32), backend=backend, requires_grad=True)
        loss = model.loss(raw, targets)
        loss.backward()
        assert np.isfinite(host(loss)).all()
        assert np.isfinite(backend.to_numpy(raw.grad)).all()


def test_detect_suppresses_cuts_off_and_sorts(model):
    raw = np.full((2, 4, 6, 3, 7), -9, np.float32)
    raw[0, 0, 0, 2] = [0, -3, 0, 0, 3, 5, 0]  # centre near the upper edge: cut off there
    raw[0, 0, 0, 1] = [0, -3, np.log(2), -0.3, 2, 5, 0]
    raw[0, 3, 5, 1] = [0, 0, 0, 0, 5, 0, 5]
    first, second = model.detect(raw, iou_threshold=0.3)
    assert len(second.scores) == 0
    assert first.labels.tolist() == [1, 0]
    assert first.scores[0] > first.scores[1]
    assert (first.boxes[:, :2] >= 0).all()
    assert (first.boxes[:, 2:] <= [96, 64]).all()
    assert len(model.detect(raw, iou_threshold=0.99)[0].scores) == 3
    assert len(model.detect(raw, iou_threshold=0.99, max_detections=1)[0].scores) == 1


def test_it_learns_to_find_squares(rng):
    size, count = (32, 48), 24
    images, boxes = np.zeros((count, *size, 3), np.float32), np.zeros((count, 1, 4), np.float32)
    labels = rng.integers(0, 2, (count, 1))
    for i in range(count):
        x, y = rng.integers(0, 32), rng.integers(0, 16)
        boxes[i, 0] = x, y, x + 14, y + 14
        images[i, y : y + 14, x : x + 14, labels[i, 0]] = 1
    model = models.YOLO([[14, 14]], 2, base_channels=4)
    loader = data.DataLoader(data.ArrayDataset(images, boxes, labels), 8, shuffle=True, transform=model.targets(size))
    optimizer = optim.Adam(model.parameters(), lr=5e-3)
    trainer = gp.Trainer(model, optimizer, loss=model.loss, metrics=[], backend="numpy", progress=False)
    trainer.fit(loader, epochs=60)
    found = model.detect(trainer.predict(images))
    best = [
        pairwise_giou(each.boxes[:1], box)[0, 0] if len(each.boxes) else 0
        for each, box in zip(found, boxes, strict=True)
    ]
    assert np.mean(np.array(best) > 0.5) > 0.8


def test_a_captured_step_trains_as_an_eager_one(cuda_name, rng):
    images = rng.normal(size=(4, 32, 32, 3)).astype(np.float32)
    boxes, labels = np.array([[[2, 3, 16, 18.0]]] * 4, np.float32), np.array([[0], [1], [0], [1]])
    losses = []
    for capture in (False, True):
        gp.seed(0)
        model = models.YOLO([[14, 14]], 2, base_channels=2)
        loader = data.DataLoader(
            data.ArrayDataset(images, boxes, labels), 2, transform=model.targets((32, 32)), prefetch=0
        )
        trainer = gp.Trainer(
            model, optim.SGD(model.parameters(), lr=0.01), loss=model.loss, metrics=[], backend=cuda_name,
            capture=capture, progress=False,
        )  # fmt: skip
        losses.append([row["loss"] for row in trainer.fit(loader, epochs=2).rows])
    assert losses[0] == losses[1]


def test_predictions_are_the_same_on_every_backend(backend, model, rng):
    x = rng.normal(size=(2, 32, 48, 3)).astype(np.float32)
    expected = models.YOLO(ANCHORS, 2, base_channels=4)
    expected.load_state_dict(model.state_dict())
    raw = model.to(backend)(x)
    assert raw.shape == (2, 2, 3, 3, 7)
    assert relative_error(raw.numpy(), expected.to("reference")(x).numpy()) <= tolerances.BACKENDS["float32"]


def test_what_does_not_fit_raises(model):
    with pytest.raises(
        ValueError, match=r"YOLO: takes \(N, H, W, C\) with H and W multiples of 16, got \(1, 30, 48, 3\)"
    ):
        model(np.zeros((1, 30, 48, 3), np.float32))
    for anchors in ([[1, 0]], [], [[[1, 2]]]):
        with pytest.raises(ValueError, match="YOLO: anchors must be positive"):
            models.YOLO(anchors, 2)
    with pytest.raises(ValueError, match="YOLO: anchors must be finite"):
        models.YOLO([[1, np.inf]], 2)
    with pytest.raises(ValueError, match=r"YOLO.loss: targets have shape \(1, 4, 6, 3, 6\) but predictions"):
        model.loss(gp.tensor(np.zeros((1, 4, 6, 3, 7))), np.zeros((1, 4, 6, 3, 6)))
    with pytest.raises(ValueError, match=r"AssignTargets: images are \(32, 32\) but targets are made for \(64, 96\)"):
        model.targets(SIZE)(
            (np.zeros((1, 32, 32, 3)), np.zeros((1, 1, 4)), np.zeros((1, 1))), indices=[0], epoch=0, seed=0
        )


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int64", "float16", "float64", "list"])
def test_boxes_and_labels_of_any_kind_have_the_same_targets(model, dtype):
    boxes, labels = [[70, 20, 94, 49], [60, 2, 90, 30]], [1, 0]
    expected = model.targets(SIZE).assign(np.array(boxes, np.float32), np.array(labels))
    given = (boxes, [1.0, 0.0]) if dtype == "list" else (np.array(boxes, dtype), np.array(labels, dtype))
    np.testing.assert_array_equal(model.targets(SIZE).assign(*given), expected)
    assert not model.targets(SIZE).assign([], [])[..., OBJECT].any()


def test_a_box_beyond_the_image_is_clipped_and_one_outside_ignored(model):
    """Not those of the opposite edge, to which negative cells would lead."""
    boxes = np.array([[-60, -40, -2, -3], [90, 50, 400, 300], [-30, 4, 10, 14], [200, 200, 300, 300]], np.float32)
    targets = model.targets(SIZE).assign(boxes, np.array([0, 1, 0, 1]))
    places = np.argwhere(targets[..., OBJECT])
    np.testing.assert_array_equal(places[:, :2], [[0, 0], [3, 5]])
    found = [targets[tuple(place)][BOX].tolist() for place in places]
    assert found == [[0, 4, 10, 14], [90, 50, 96, 64]]


@pytest.mark.parametrize(
    ("boxes", "labels", "message"),
    [
        ([[0, 0, np.nan, 3]], [0], "boxes must be finite"),
        ([[0, 0, np.inf, 3]], [0], "boxes must be finite"),
        ([[0, 0, 3, 3]], [2], r"takes labels that are whole numbers from -1 to 1, got \[2\]"),
        ([[0, 0, 3, 3]], [-2], "takes labels that are whole numbers from -1 to 1"),
        ([[0, 0, 3, 3]], [0.5], "takes labels that are whole numbers from -1 to 1"),
        ([[0, 0, 3, 3]], ["a"], "takes labels that are whole numbers from -1 to 1"),
        ([[0, 0, 3, 3]], [0, 1], "takes boxes .* and labels"),
        ([[0, 0, 3]], [0], "boxes have shape"),
    ],
)
def test_invalid_boxes_and_labels_raise(model, boxes, labels, message):
    with pytest.raises(ValueError, match=f"^AssignTargets: {message}"):
        model.targets(SIZE).assign(np.array(boxes), np.array(labels))


def test_detections_of_huge_predictions_are_likely_or_not_and_of_none_raise(model):
    raw = np.zeros((1, 1, 2, 3, 7), np.float32)
    raw[..., 4], raw[0, 0, 0, 0, 4] = -1e30, 1e30
    raw[..., 5] = 1e30
    (found,) = model.detect(raw)
    np.testing.assert_array_equal(found.scores, [1])
    for bad in (np.nan, np.inf):
        raw[0, 0, 0, 0, 0] = bad
        with pytest.raises(ValueError, match="YOLO.detect: raw must be finite"):
            model.detect(raw)
    with pytest.raises(ValueError, match=r"YOLO.detect: raw has shape \(1, 2, 3, 7\) but takes \(N, GH, GW, 3, 7\)"):
        model.detect(np.zeros((1, 2, 3, 7)))
    with pytest.raises(ValueError, match=r"YOLO.detect: raw have shape \(1, 2, 3, 3, 6\)"):
        model.detect(np.zeros((1, 2, 3, 3, 6)))
