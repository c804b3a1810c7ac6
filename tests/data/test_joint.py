"""Masks and boxes stay on what they belong to: here on filled rectangles of the images themselves."""

import numpy as np
import pytest

from gpunet import data

PLACING = [
    data.RandomShift(3),
    data.RandomCrop((17, 14), padding=2, border="reflect"),
    data.CenterCrop((12, 20), padding=1),
    data.RandomHorizontalFlip(),
    data.AlternatingFlip(),
    data.RandomVerticalFlip(),
]
BETWEEN = [data.RandomAffine(translate=0.2), data.RandomResizedCrop((30, 31), scale=(0.4, 1))]
"""Transforms that take pixels from between pixels."""
CHOICES = {"epoch": 3, "seed": 7}
N, H, W = 40, 18, 22


@pytest.fixture
def scene(rng):
    """(images, masks, boxes): a white rectangle in each image, its mask, its box and a row that is no box."""
    boxes = np.zeros((N, 2, 4), np.float32)
    images, masks = np.zeros((N, H, W, 1), np.float32), np.zeros((N, H, W), np.int64)
    for n in range(N):
        x0, y0 = rng.integers(2, W - 8), rng.integers(2, H - 8)
        x1, y1 = x0 + rng.integers(3, 6), y0 + rng.integers(3, 6)
        boxes[n, 1] = x0, y0, x1, y1
        images[n, y0:y1, x0:x1], masks[n, y0:y1, x0:x1] = 1, 5
    return images, masks, boxes


def joint(transforms, scene, **places):
    return data.Joint(transforms, **{"masks": (1,), "boxes": (2,), **places})(scene, indices=np.arange(N), **CHOICES)


@pytest.mark.parametrize("transform", PLACING + BETWEEN, ids=lambda t: type(t).__name__)
def test_boxes_and_masks_lie_on_their_rectangles(transform, scene):
    images, masks, boxes = joint([transform], scene)
    seen = 0
    for image, mask, (none, box) in zip(images[..., 0], masks, boxes, strict=True):
        assert (none[2:] - none[:2]).prod() == 0
        x0, y0, x1, y1 = box.tolist()
        assert 0 <= x0 <= x1 <= image.shape[1]
        assert 0 <= y0 <= y1 <= image.shape[0]
        if getattr(transform, "border", "") == "reflect":  # a rectangle may be there twice
            inside = image[round(y0) : round(y1), round(x0) : round(x1)]
            assert inside.all()
            seen += inside.size > 0
            continue
        if transform not in BETWEEN:
            np.testing.assert_array_equal(mask == 5, image > 0.5)
        rows, columns = np.nonzero(image > 0.5)
        if not len(rows):
            assert min(x1 - x0, y1 - y0) <= 1
            continue
        seen += 1
        found = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        np.testing.assert_allclose(box, found, atol=0.51 if transform in BETWEEN else 1e-5)
    assert seen > N // 2


def test_a_rotated_box_is_the_smallest_upright_one_around_the_rectangle(scene):
    transform = data.RandomAffine(degrees=40, shear=10, scale=(0.9, 1.2))
    _, masks, boxes = joint([transform], scene)
    made = transform.matrices(H, W, np.arange(N), 3, 7)
    for n, (x0, y0, x1, y1) in enumerate(scene[2][:, 1].astype(float)):
        corners = (
            np.linalg.solve(
                made[n, :, :2], np.float64([[y, x] for y in (y0, y1) for x in (x0, x1)]).T - 0.5 - made[n, :, 2:]
            ).T
            + 0.5
        )
        expected = [*corners.min(axis=0)[::-1], *corners.max(axis=0)[::-1]]
        np.testing.assert_allclose(boxes[n, 1], np.clip(expected, 0, [W, H, W, H]), atol=1e-4)
        rows, columns = np.nonzero(masks[n])  # pixels whose centres are inside
        assert (np.array([columns.min(), rows.min()]) + 0.5 >= boxes[n, 1, :2] - 1e-4).all()
        assert (np.array([columns.max(), rows.max()]) + 0.5 <= boxes[n, 1, 2:] + 1e-4).all()


def test_a_chain_is_its_parts_one_after_another(scene):
    parts = [data.RandomAffine(degrees=20), data.RandomCrop(16), data.RandomHorizontalFlip(), data.Normalize(0.5, 0.5)]
    whole = joint([data.Compose(parts[:2]), *parts[2:]], scene)
    for part in parts:
        scene = joint([part], scene)
    for mine, theirs in zip(whole, scene, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert whole[0].min() == -1
    assert set(np.unique(whole[1])) == {0, 5}  # masks are not blended


def test_what_changes_colours_leaves_masks_and_boxes(scene):
    parts = [data.Cutout(5), data.ColorJitter(0.5), data.GaussianNoise(0.1), data.Normalize(0.5, 0.5)]
    images, masks, boxes = joint(parts, scene)
    np.testing.assert_array_equal(masks, scene[1])
    np.testing.assert_array_equal(boxes, scene[2])
    assert not np.array_equal(images, scene[0])


def test_arrays_that_are_neither_pass_and_images_are_as_without_it(scene):
    labels = np.arange(N)
    parts = [data.RandomHorizontalFlip(), data.RandomAffine(degrees=20)]
    images, kept = data.Joint(parts)((scene[0], labels), indices=np.arange(N), **CHOICES)
    assert kept is labels
    np.testing.assert_array_equal(images, data.Compose(parts)((scene[0],), indices=np.arange(N), **CHOICES)[0])


def test_normalised_colours_leave_boxes_where_they_are(scene):
    colours = np.repeat(scene[0], 3, axis=3)
    _, masks, boxes = joint([data.Normalize((0.1, 0.2, 0.3), (0.1, 0.2, 0.3))], (colours, *scene[1:]))
    np.testing.assert_array_equal(masks, scene[1])
    np.testing.assert_array_equal(boxes, scene[2])


def test_boxes_without_area_stay_without_area_in_a_rotation(scene):
    """Neither lines nor boxes that are turned inside out; the box beside them moves as it does alone."""
    transform, alone = data.RandomAffine(degrees=40), scene[2][:, 1:]
    without = np.float32([[9, 4, 9, 12], [3, 8, 15, 8], [12, 12, 6, 6]])
    given = np.concatenate([alone, np.broadcast_to(without, (N, 3, 4))], axis=1)
    boxes = joint([transform], (*scene[:2], given))[2]
    np.testing.assert_array_equal(boxes[:, :1], joint([transform], (*scene[:2], alone))[2])
    assert not ((boxes[:, 1:, 2] > boxes[:, 1:, 0]) | (boxes[:, 1:, 3] > boxes[:, 1:, 1])).any()


def test_a_loader_takes_it(scene):
    loader = data.DataLoader(
        data.ArrayDataset(*scene), 16, transform=data.Joint(PLACING[:1], masks=[1], boxes=[2]), seed=7
    )
    loader.epoch = 3
    for mine, theirs in zip(map(np.concatenate, zip(*loader, strict=True)), joint(PLACING[:1], scene), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda s: data.Joint([len]), TypeError, "takes transforms of gpunet.data, .* got <built-in function len>"),
        (
            lambda s: data.Joint([], masks=[0]),
            ValueError,
            "images are array 0, so masks and boxes must be different",
        ),
        (
            lambda s: data.Joint([], masks=[1], boxes=[1]),
            ValueError,
            "images are array 0, so masks and boxes must be different",
        ),
        (lambda s: joint([], s, boxes=(3,)), ValueError, "a batch has 3 arrays but array 3 is asked for"),
        (lambda s: joint([], (s[0], s[1][1:], s[2])), ValueError, r"masks have shape \(39, 18, 22\) but the images"),
        (
            lambda s: joint([], (s[0], s[1], s[2][..., :3])),
            ValueError,
            r"boxes take floats \(40, K, 4\), got float32 \(40, 2, 3\)",
        ),
        (lambda s: joint([], (s[0], s[1], s[2].astype(int))), ValueError, "boxes take floats .* got int64"),
        (lambda s: joint([], (s[0], s[1], s[2] + np.nan)), ValueError, "boxes must be finite, got NaN or infinity"),
        (lambda s: joint([], (s[0], s[1], s[2] + np.inf)), ValueError, "boxes must be finite, got NaN or infinity"),
    ],
)
def test_what_does_not_fit_raises(scene, call, kind, message):
    with pytest.raises(kind, match=f"^Joint: {message}"):
        call(scene)
