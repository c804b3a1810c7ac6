"""``gpunet shards``, which turns a folder of images into tar files that are read one after another."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from contextlib import nullcontext
from pathlib import Path

from gpunet.cli.arguments import Command, add_strict, when_unreadable
from gpunet.data import ImageFolder, index_shards, write_shards
from gpunet.data.readers.folders import checked_folder, split_folders
from gpunet.data.readers.shard_writing import SHARD_BYTES
from gpunet.files import whole_folder

MEGABYTE = 10**6


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "folder",
        type=Path,
        metavar="FOLDER",
        help="a folder of CLASS/ folders of images, or of train/, valid/ and test/",
    )
    parser.add_argument(
        "output",
        type=Path,
        nargs="?",
        metavar="OUTPUT",
        help="the folder to write; without it, FOLDER holds tar files, whose indices are written beside them",
    )
    parts = parser.add_mutually_exclusive_group()
    parts.add_argument(
        "--shard-size", type=float, metavar="MB", help=f"megabytes of a tar file; default {SHARD_BYTES // MEGABYTE}"
    )
    parts.add_argument("--samples", type=int, metavar="N", help="images in a tar file, instead of a size")
    parser.add_argument("--seed", type=int, help="decides the order of the images; default 0")
    add_strict(parser)


def shards(options: Namespace) -> int:
    """Write a folder's images as shards, or the indices of shards."""
    if options.output is None:
        given = {"--shard-size": options.shard_size, "--samples": options.samples, "--seed": options.seed}
        if wrong := [name for name, value in given.items() if value is not None]:
            raise ValueError(f"{', '.join(wrong)} and no OUTPUT: name the folder to write")
        print(f"{options.folder}: indices of {index_shards(options.folder):,} images")
        return 0
    root = checked_folder("shards", "FOLDER", options.folder)
    if options.output.exists():  # before images are read, which may take long
        raise FileExistsError(f"{options.output} exists, and is not overwritten: name another folder, or remove it")
    size = SHARD_BYTES if options.shard_size is None else int(options.shard_size * MEGABYTE)
    seed = 0 if options.seed is None else options.seed
    parts = split_folders(root)
    # Those to train on come first: the others take their classes.
    folders = sorted(parts.items(), key=lambda item: item[0] != "train") or [("", root)]
    classes: tuple[str, ...] | None = None
    said = []
    with whole_folder(options.output) if parts else nullcontext(options.output) as made:
        for split, part in folders:
            images = ImageFolder(part, classes=classes, unreadable=when_unreadable(options))
            classes = images.classes
            written = write_shards(images, made / split, shard_bytes=size, samples=options.samples, seed=seed)
            total = sum(path.stat().st_size for path in written)
            count = f"{len(images):,} images of {len(classes)} classes"
            said.append(f"{options.output / split}: {count}, tar files: {len(written):,}, bytes: {total:,}")
    print("\n".join(said))
    return 0


SHARDS = Command(
    "shards",
    "Write a folder of images as tar files, for data that are larger than memory; or index tar files.",
    _add_arguments,
    shards,
)
