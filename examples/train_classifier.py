"""Train a small network on a public data set, and print how many of the test images it gets right.

    python train_classifier.py --dataset digits
    python train_classifier.py --dataset fashion_mnist --model lenet --backend numpy

The data set's recipe (learning rate, epochs, augmentation, …) is in `gpunet.train.recipes`: print it, and change it.
"""

import argparse

import gpunet as gp
from gpunet import data, models, optim
from gpunet import functional as F
from gpunet.train import recipes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits", choices=recipes.DATASETS)
    parser.add_argument("--model", default="cnn", choices=recipes.MODELS)
    parser.add_argument("--backend", default="auto", help="numpy, cuda, reference or auto")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    gp.seed(arguments.seed)  # decides everything that is drawn from here on
    recipe = recipes.recipe(arguments.dataset, arguments.model, epochs=arguments.epochs)
    print(recipe)

    # Images (N, H, W, C) of uint8, and labels (N,)
    load = getattr(data, arguments.dataset)
    train_set, test_set = load(split="train"), load(split="test")
    input_shape = train_set[0][0].shape

    # Batches: augmented and shuffled to train, as they are to test. data.DeviceLoader(…, backend=arguments.backend) would
    # make the same ones on a GPU
    normalize = data.Normalize(recipe.mean, recipe.std)
    augment = [data.RandomShift(recipe.shift)] + [data.RandomHorizontalFlip()] * recipe.flip
    train_loader = data.DataLoader(
        train_set, recipe.batch_size, shuffle=True, transform=data.Compose([*augment, normalize])
    )
    test_loader = data.DataLoader(test_set, 256, transform=normalize)

    # The network, and how it learns
    options = {"dropout": recipe.dropout} if arguments.model == "cnn" else {}
    model = getattr(models, arguments.model)(input_shape, num_classes=10, **options)
    optimizer = optim.SGD(
        model.parameters(), lr=recipe.lr, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay
    )
    schedule = optim.OneCycleLR(optimizer, total=recipe.epochs * len(train_loader))
    print(model.summary(input_shape))

    def loss(logits: gp.Tensor, labels: gp.Tensor) -> gp.Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)

    trainer = gp.Trainer(
        model, optimizer, loss=loss, metrics=["accuracy"], schedule=schedule, backend=arguments.backend
    )
    trainer.fit(train_loader, epochs=recipe.epochs, valid=test_loader)

    print(f"test accuracy: {trainer.evaluate(test_loader)['accuracy']:.1%}")


if __name__ == "__main__":
    main()
