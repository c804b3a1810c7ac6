import numpy as np
import pytest

import gpunet as gp
from gpunet.train import Trainer, recipes


@pytest.mark.parametrize("dataset", [*recipes.DATASETS, "some/folder"])
@pytest.mark.parametrize("model", recipes.MODELS)
def test_there_is_a_recipe_for_every_data_set_and_model(dataset, model):
    recipe = recipes.recipe(dataset, model)
    assert (recipe.dataset, recipe.model) == (dataset, model)
    shape = (32, 32, len(recipe.mean))
    made = recipes.make_model(recipe, shape, 10)
    optimizer = recipes.make_optimizer(recipe, made.parameters())
    schedule = recipes.make_schedule(recipe, optimizer, 10)
    assert schedule.base_rates == [recipe.lr]


def test_changes_replace_values_of_the_recipe_and_none_leaves_them():
    plain = recipes.recipe("digits")
    changed = recipes.recipe("digits", epochs=2, lr=None, flip=True)
    assert (changed.epochs, changed.lr, changed.flip) == (2, plain.lr, True)


def test_another_optimizer_brings_its_own_rates_unless_they_are_given():
    assert recipes.recipe("digits", optimizer="adam").lr < 0.01 < recipes.recipe("digits", optimizer="sgd").lr
    assert recipes.recipe("digits", optimizer="adam").weight_decay == 0
    assert recipes.recipe("digits", optimizer="adam", lr=0.5).lr == 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": "vgg"},
            "model is 'vgg' but takes lenet, cnn, alexnet, vgg11, vgg16, resnet9, resnet18, resnet34, mobilenet, or your own "
            "as MODULE:FUNCTION",
        ),
        ({"optimizer": "lbfgs"}, "optimizer is 'lbfgs' but takes sgd, adam, adamw, rmsprop, adagrad, lion, muon"),
        ({"schedule": "step"}, "schedule is 'step' but takes onecycle, cosine, constant"),
        ({"epochs": 0}, "epochs is 0 but must be at least 1"),
        ({"batch_size": 0}, "batch_size is 0 but must be at least 1"),
    ],
)
def test_an_impossible_recipe_raises(changes, message):
    with pytest.raises(ValueError, match=f"^recipe: {message}$"):
        recipes.recipe("digits", **changes)


def test_lenet_has_no_dropout():
    with pytest.raises(ValueError, match="^lenet takes no dropout option"):
        recipes.make_model(recipes.recipe("mnist", "lenet", dropout=0.5), (28, 28, 1), 10)


def test_only_training_images_are_augmented():
    train, test = recipes.load_dataset("digits")
    augmented, plain = recipes.make_loaders(recipes.recipe("digits"), train, test)
    assert augmented.shuffle
    assert not plain.shuffle
    for loader, changes in ((augmented, True), (plain, False)):
        epochs = []
        for epoch in (0, 1):
            loader.epoch, loader.shuffle = epoch, False
            epochs.append(next(iter(loader))[0])
        assert np.array_equal(*epochs) != changes


def test_a_device_makes_the_same_batches(backend):
    train, test = recipes.load_dataset("digits")
    on_host = recipes.make_loaders(recipes.recipe("digits"), train, test)
    on_device = recipes.make_loaders(recipes.recipe("digits"), train, test, backend=backend)
    for mine, theirs in zip(on_device, on_host, strict=True):
        (x, y), (images, labels) = next(iter(mine)), next(iter(theirs))
        assert x.backend is backend
        np.testing.assert_array_equal(x.numpy(), images)
        np.testing.assert_array_equal(backend.to_numpy(y), labels)


@pytest.mark.slow
def test_the_recipe_for_digits_reaches_its_accuracy():
    accuracies = []
    for seed in range(5):
        gp.seed(seed)
        recipe = recipes.recipe("digits")
        train, test = recipes.load_dataset("digits")
        train_loader, test_loader = recipes.make_loaders(recipe, train, test)
        model = recipes.make_model(recipe, (8, 8, 1), 10)
        optimizer = recipes.make_optimizer(recipe, model.parameters())
        schedule = recipes.make_schedule(recipe, optimizer, recipe.epochs * len(train_loader))
        trainer = Trainer(
            model, optimizer, loss=recipes.make_loss(recipe), schedule=schedule, backend="numpy", progress=False
        )
        trainer.fit(train_loader, recipe.epochs)
        accuracies.append(trainer.evaluate(test_loader)["accuracy"])
    assert np.mean(accuracies) >= 0.986, accuracies
