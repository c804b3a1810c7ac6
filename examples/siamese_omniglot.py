"""Learn from 30 alphabets to tell characters apart, and recognise the characters of 20 others from
one example each.

    python siamese_omniglot.py --root path/to/data     # the folder that holds omniglot
    python siamese_omniglot.py --epochs 2 --loss triplet --output runs/omniglot

One net embeds all images, and learns to place the drawings of one character close together. A test
drawing is placed at the mean of slightly warped copies of it. In a trial, a person has drawn 20
characters of one alphabet, and another person one of them; the trial succeeds if the closest of the
20 is the same character. The script prints the share of successes in 400 fixed trials, draws some
trials, OUTPUT/trials.png, and saves the net, OUTPUT/net.safetensors.
"""

import argparse
from pathlib import Path

import numpy as np

import gpunet as gp
from gpunet import data, models, optim
from gpunet import functional as F
from gpunet.distributed import world
from gpunet.models.siamese import embed_views, one_shot_trials


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder that holds omniglot; default: the folder that GPUNET_DATA names")
    parser.add_argument("--loss", default="all_pairs", choices=("all_pairs", "triplet", "contrastive"))
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--steps", type=int, default=120, help="batches per epoch")
    parser.add_argument("--batch", type=int, default=20, help="characters, pairs or triplets per batch")
    parser.add_argument("--views", type=int, default=4, help="drawings of each character in a batch of all_pairs")
    parser.add_argument(
        "--warps", type=int, default=8, help="slightly warped copies of a test drawing, averaged with it"
    )
    parser.add_argument("--size", type=int, default=28, help="height and width that drawings are scaled to, in pixels")
    parser.add_argument("--backend", default="auto", help="numpy, cuda, reference or auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/omniglot"))
    return parser.parse_args()


def main() -> None:
    arguments = options()
    leads = world().leads  # under mpirun the ranks meet here, and only rank 0 prints and writes files
    gp.seed(arguments.seed)
    train_set, test_set = (data.omniglot(arguments.root, split, size=arguments.size) for split in ("train", "test"))
    drawings, alphabets = with_rotations(train_set)
    normalize = data.Normalize(0.0825, 0.22)
    warp = data.RandomAffine(degrees=10, translate=0.07, scale=(0.8, 1.2), shear=15)
    transform = data.Compose([warp, normalize])
    model = models.conv4((arguments.size, arguments.size, 1), channels=(32, 64, 64, 128))
    print(gp.summary(model, (arguments.size, arguments.size, 1)))

    # The characters that a batch compares come from one alphabet, which makes them harder to tell
    # apart.
    if arguments.loss == "all_pairs":
        loader = data.Episodes(
            drawings,
            arguments.batch,
            arguments.steps,
            views=arguments.views,
            groups=alphabets,
            transform=transform,
        )
    elif arguments.loss == "triplet":
        loader = data.Triplets(drawings, arguments.batch, arguments.steps, groups=alphabets, transform=transform)
    else:
        loader = data.Pairs(drawings, arguments.batch, arguments.steps, groups=alphabets, transform=transform)

    def step(model: gp.nn.Module, batch: tuple) -> gp.Tensor:
        if arguments.loss == "all_pairs":
            (views,) = batch
            return F.all_pairs_loss(embed_views(model, views), arguments.views)
        if arguments.loss == "triplet":
            anchor, positive, negative = batch
            return F.triplet_loss(model(anchor), model(positive), model(negative), margin=1.0)
        first, second, same = batch
        return F.contrastive_loss(model(first), model(second), same, margin=2.0)

    optimizer = optim.Adam(model.parameters(), lr=2e-3)
    schedule = optim.OneCycleLR(optimizer, max_lr=2e-3, total_steps=arguments.epochs * len(loader))
    trainer = gp.Trainer(model, optimizer, loss_step=step, schedule=schedule, backend=arguments.backend)
    trainer.fit(loader, epochs=arguments.epochs)

    images, characters = test_set.arrays
    embedded = trainer.predict(data.DataLoader(test_set, 256, transform=normalize))
    small_warp = data.RandomAffine(degrees=8, translate=0.05, scale=(0.9, 1.1), shear=8)
    warped = data.DataLoader(test_set, 256, transform=data.Compose([small_warp, normalize]))
    for _ in range(arguments.warps):  # each pass is a new epoch, which has other warps
        embedded += trainer.predict(warped)
    embedded /= 1 + arguments.warps
    queries, examples = one_shot_trials(test_set.alphabet, characters, test_set.drawer)
    distances = np.square(embedded[queries][:, None] - embedded[examples]).sum(axis=2)
    answers = distances.argmin(axis=1)

    trainer.save(arguments.output / "net.safetensors")  # it makes the folder
    if leads:
        draw_trials(arguments.output / "trials.png", images[..., 0], queries, examples, answers)
    print(f"trials: {len(queries)}; written: {arguments.output}/trials.png, {arguments.output}/net.safetensors")
    print(f"one-shot accuracy, 20-way within alphabets: {(answers == 0).mean():.1%}")


def with_rotations(train_set: data.Omniglot) -> tuple[data.ArrayDataset, np.ndarray]:
    """The drawings as they are and turned by quarters, and the alphabet of each character.

    Turned drawings count as characters of further alphabets (Snell et al. 2017, section 3.1).
    """
    images, characters = train_set.arrays
    character_count, alphabet_count = len(train_set.alphabet), int(train_set.alphabet.max()) + 1
    all_images, all_characters, all_alphabets = [], [], []
    for quarter in range(4):
        all_images.append(np.rot90(images, quarter, axes=(1, 2)))
        all_characters.append(characters + quarter * character_count)
        all_alphabets.append(train_set.alphabet + quarter * alphabet_count)
    turned = data.ArrayDataset(np.concatenate(all_images), np.concatenate(all_characters))
    return turned, np.concatenate(all_alphabets)


def draw_trials(path: Path, images: np.ndarray, queries: np.ndarray, examples: np.ndarray, answers: np.ndarray) -> None:
    """Draw eight trials as rows: the query, and its 20 examples, of which the first is right. The
    answer is framed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(8, 21, figsize=(14, 5.9))
    for axis in axes.ravel():
        axis.set_xticks([])
        axis.set_yticks([])
    for row, query, shown, answer in zip(axes, queries, examples, answers, strict=False):
        for axis, i in zip(row, [query, *shown], strict=True):
            axis.imshow(255 - images[i], cmap="gray", vmin=0, vmax=255)
            axis.patch.set_visible(False)
        for spine in row[answer + 1].spines.values():
            spine.set(color="green" if answer == 0 else "red", linewidth=3)
    axes[0, 0].set_title("query", fontsize=9)
    axes[0, 1].set_title("right", fontsize=9)
    figure.suptitle("One-shot trials: the answer is framed, green where it is right")
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
