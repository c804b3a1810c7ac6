import numpy as np
import pytest
import tolerances
from helpers import same

import gpunet as gp
from gpunet import data, models, optim
from gpunet import functional as F
from gpunet.models.siamese import embed_views, one_shot_trials


def test_koch_has_the_parameters_of_the_paper():
    convolutions = (10 * 10 + 1) * 64 + (7 * 7 * 64 + 1) * 128 + (4 * 4 * 128 + 1) * 128 + (4 * 4 * 128 + 1) * 256
    model = models.koch()
    assert sum(p.size for p in model.parameters()) == convolutions + 9217 * 4096 + 4097 == 38_951_745


def test_conv4_has_the_parameters_of_the_paper():
    model = models.conv4()
    assert sum(p.size for p in model.parameters()) == 10 * 64 + 3 * (9 * 64 + 1) * 64 + 4 * 2 * 64 == 111_936
    assert model(np.zeros((3, 28, 28, 1), np.float32)).shape == (3, 64)


def test_siamese_logit_is_of_the_weighted_distance_of_both_embeddings(backend, rng):
    model = models.Siamese(gp.nn.Sequential(gp.nn.Flatten(), gp.nn.Linear(6, 4, activation="sigmoid")), 4).to(backend)
    a, b = rng.normal(size=(2, 5, 2, 3, 1)).astype(np.float32)
    ea, eb = (model.embedding(x).numpy().astype(float) for x in (a, b))
    expected = np.abs(ea - eb) @ model.head.weight.numpy()[:, 0] + model.head.bias.numpy()
    logits = model(a, b)
    assert logits.shape == (5,)
    same(logits.numpy(), expected, tolerances.BACKENDS)
    same(model(b, a).numpy(), logits.numpy(), tolerances.BACKENDS)


def test_both_images_give_the_shared_weights_their_gradient(backend, rng):
    model = models.Siamese(gp.nn.Sequential(gp.nn.Flatten(), gp.nn.Linear(4, 3)), 3).to(backend)
    a, b = rng.normal(size=(2, 5, 2, 2, 1)).astype(np.float32)
    F.binary_cross_entropy_with_logits(model(a, b), np.array([0, 1, 0, 1, 1])).backward()
    logits, t = model(a, b).numpy().astype(float), np.array([0, 1, 0, 1, 1])
    weight, alpha = model.embedding[1].weight.numpy().astype(float), model.head.weight.numpy()[:, 0]
    flat_a, flat_b = a.reshape(5, 4).astype(float), b.reshape(5, 4).astype(float)
    slope = (1 / (1 + np.exp(-logits)) - t)[:, None] / 5 * alpha * np.sign((flat_a - flat_b) @ weight)
    same(backend.to_numpy(model.embedding[1].weight.grad), (flat_a - flat_b).T @ slope, tolerances.BACKENDS)


@pytest.mark.parametrize("loss", ["koch", "all_pairs", "triplet", "contrastive"])
def test_it_learns_to_tell_classes_apart(rng, loss):
    """Classes are directions; images of one class are a direction and noise."""
    ways = 6
    directions = rng.normal(size=(ways, 4, 4, 1))
    labels = np.tile(np.arange(ways), 10)
    images = (directions[labels] + 0.8 * rng.normal(size=(60, 4, 4, 1))).astype(np.float32)
    train = data.ArrayDataset(images, labels)
    embedding = gp.nn.Sequential(gp.nn.Flatten(), gp.nn.Linear(16, 16, activation="relu"), gp.nn.Linear(16, 4))
    model = models.Siamese(embedding, 4) if loss == "koch" else embedding

    def step(model, batch):
        if loss == "koch":
            return F.binary_cross_entropy_with_logits(model(batch[0], batch[1]), batch[2])
        if loss == "all_pairs":
            return F.all_pairs_loss(embed_views(model, batch[0]), 3)
        if loss == "triplet":
            return F.triplet_loss(*(model(part) for part in batch))
        return F.contrastive_loss(model(batch[0]), model(batch[1]), batch[2])

    kinds = {
        "all_pairs": lambda: data.Episodes(train, ways, 30, views=3),
        "triplet": lambda: data.Triplets(train, 32, 30),
    }
    loader = kinds.get(loss, lambda: data.Pairs(train, 32, 30))()
    trainer = gp.Trainer(
        model, optim.Adam(model.parameters(), lr=0.01), loss_step=step, backend="numpy", progress=False
    )
    history = trainer.fit(loader, epochs=4)
    assert history.rows[-1]["loss"] < 0.6 * history.rows[0]["loss"]
    queries = (directions + 0.5 * rng.normal(size=directions.shape)).astype(np.float32)
    with gp.no_grad():
        e, q = embedding(images[:ways]).numpy(), embedding(queries).numpy()
    assert (np.square(q[:, None] - e[None]).sum(axis=2).argmin(axis=1) == labels[:ways]).mean() > 0.6


def test_embed_views_puts_the_classes_of_a_view_together(rng):
    views = gp.tensor(rng.normal(size=(3, 2, 2, 2, 1)).astype(np.float32))
    embedded = embed_views(gp.nn.Flatten(), views).numpy()
    np.testing.assert_array_equal(embedded.reshape(2, 3, 4), views.numpy().transpose(1, 0, 2, 3, 4).reshape(2, 3, 4))


def test_one_shot_trials_are_of_one_alphabet_and_two_drawers():
    alphabet = np.repeat([0, 1, 2], [25, 20, 7])
    characters, drawer = np.repeat(np.arange(52), 20), np.tile(np.arange(20), 52)
    queries, examples = one_shot_trials(alphabet, characters, drawer, trials=50)
    assert (queries.shape, examples.shape) == ((50,), (50, 20))
    np.testing.assert_array_equal(characters[queries], characters[examples[:, 0]])
    for query, shown in zip(queries, examples, strict=True):
        assert len(set(characters[shown])) == 20
        assert len(set(alphabet[characters[shown]])) == 1
        assert len(set(drawer[shown])) == 1
        assert drawer[query] != drawer[shown[0]]
    assert set(alphabet[characters[queries]]) == {0, 1}
    for one, other in zip(one_shot_trials(alphabet, characters, drawer, trials=50), (queries, examples), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_does_not_fit_raises():
    with pytest.raises(ValueError, match="conv4: images are 15x28 but must be at least 16x16"):
        models.conv4((15, 28, 1))
    with pytest.raises(ValueError, match="koch: images are 28x28, which is too small"):
        models.koch((28, 28, 1))
    with pytest.raises(ValueError, match="one_shot_trials: no alphabet has 20 characters"):
        one_shot_trials(np.zeros(5, int), np.arange(5), np.zeros(5, int))
