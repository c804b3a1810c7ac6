"""Train a small network on a public data set, and print how many of the test images it classifies
correctly.

    python train_classifier.py --dataset digits
    python train_classifier.py --dataset fashion_mnist --model lenet --backend numpy

The learning rate, the number of epochs, the augmentation and so on come from the data set's recipe
in `gpunet.train.recipes`. The script prints the recipe, so that you can copy it and change it.
"""

import argparse

import gpunet as gp
from gpunet import data, models, optim
from gpunet import functional as F
from gpunet.distributed import world
from gpunet.train import recipes

DATASETS = {
    "digits": data.digits,
    "mnist": data.mnist,
    "fashion_mnist": data.fashion_mnist,
    "cifar10": data.cifar10,
}
NETWORKS = {
    "lenet": models.lenet,
    "cnn": models.cnn,
    "alexnet": models.alexnet,
    "vgg11": models.vgg11,
    "vgg16": models.vgg16,
    "resnet9": models.resnet9,
    "resnet18": models.resnet18,
    "resnet34": models.resnet34,
    "mobilenet": models.mobilenet,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits", choices=DATASETS)
    parser.add_argument("--model", default="cnn", choices=NETWORKS)
    parser.add_argument("--backend", default="auto", help="numpy, cuda, reference or auto")
    parser.add_argument("--epochs", type=int, help="passes over the training images; the recipe's number by default")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    world()  # Under mpirun the ranks meet here, and only rank 0 prints.
    # The seed decides everything that is drawn from here on: parameters, order of the images,
    # augmentation, dropout.
    gp.seed(arguments.seed)
    recipe = recipes.recipe(arguments.dataset, arguments.model, epochs=arguments.epochs)
    print(recipe)

    # The images are (N, H, W, C) of uint8, the labels (N,).
    load = DATASETS[arguments.dataset]
    train_set = load(split="train")
    test_set = load(split="test")
    first_image, _ = train_set[0]
    input_shape = first_image.shape

    # Training batches are shuffled and augmented, test batches are neither. On a GPU,
    # data.DeviceLoader(…, backend=arguments.backend) would make the same batches without the host.
    normalize = data.Normalize(recipe.mean, recipe.std)
    transforms = []
    if recipe.shift > 0:
        transforms.append(data.RandomShift(recipe.shift))
    if recipe.flip:
        transforms.append(data.RandomHorizontalFlip())
    transforms.append(normalize)
    train_loader = data.DataLoader(train_set, recipe.batch_size, shuffle=True, transform=data.Compose(transforms))
    test_loader = data.DataLoader(test_set, 256, transform=normalize)

    # Only cnn has dropout.
    if arguments.model == "cnn":
        model = models.cnn(input_shape, num_classes=10, dropout=recipe.dropout)
    else:
        model = NETWORKS[arguments.model](input_shape, num_classes=10)
    optimizer = optim.SGD(
        model.parameters(), lr=recipe.lr, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay
    )
    steps = recipe.epochs * len(train_loader)
    schedule = optim.OneCycleLR(optimizer, max_lr=recipe.lr, total_steps=steps, final_div_factor=400)
    print(gp.summary(model, input_shape))

    def loss(logits: gp.Tensor, labels: gp.Tensor) -> gp.Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)

    trainer = gp.Trainer(
        model, optimizer, loss=loss, metrics=["accuracy"], schedule=schedule, backend=arguments.backend
    )
    trainer.fit(train_loader, epochs=recipe.epochs, valid=test_loader)

    print(f"test accuracy: {trainer.evaluate(test_loader)['accuracy']:.1%}")


if __name__ == "__main__":
    main()
