"""Makes the pictures of a page: runs its programs, and keeps the PNG files that they write.

    python docs/tutorials/pictures.py docs/start/first-net.md
    python docs/tutorials/pictures.py docs/tutorials/cifar10.md --folder FOLDER --no-shell

The programs run in full, not in the smaller settings of the tests, in an empty folder or in the one
that is given. They write pictures as NAME.png; those that the page shows are kept beside it as
pictures/NAME.png, with a palette of few colours, which makes them a third as large.
"""

import argparse
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageChops, ImageOps

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from helpers import page_runs, pages  # noqa: E402 - it stands in the folder of the line above

COLOURS = 128
"""Entries of a picture's palette."""
MARGIN = 8
"""Pixels of white that are left around a picture."""


def keep(folder: Path, page: Path) -> None:
    """Store the pictures that a page shows, from the folder in which its programs ran."""
    shown = re.findall(r"^!\[[^\]]*\]\(pictures/(\S+)\.png\)", page.read_text(encoding="utf-8"), re.MULTILINE)
    for name in shown:
        made = folder / f"{name}.png"
        if not made.exists():
            print(f"no program of {page.name} wrote {made.name}")
            continue
        target = page.parent / "pictures" / made.name
        target.parent.mkdir(exist_ok=True)
        cropped(Image.open(made).convert("RGB")).quantize(COLOURS).save(target, optimize=True)
        print(f"wrote {target.relative_to(ROOT)}, {target.stat().st_size / 1000:.0f} KB")


def cropped(picture: Image.Image) -> Image.Image:
    """The picture without most of the white around it."""
    box = ImageChops.difference(picture, Image.new("RGB", picture.size, "white")).getbbox()
    return ImageOps.expand(picture.crop(box), MARGIN, "white")


def main() -> None:
    """Run the page that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--folder", type=Path, help="where the programs run; default: an empty folder")
    parser.add_argument("--no-shell", action="store_true", help="run the Python blocks alone")
    arguments = parser.parse_args()
    page = arguments.page.resolve()
    os.environ.setdefault("MPLBACKEND", "Agg")
    with tempfile.TemporaryDirectory() as empty:
        folder = (arguments.folder or Path(empty)).resolve()
        if pages.in_a_checkout(page):
            shutil.copytree(ROOT / "examples", folder / "examples", dirs_exist_ok=True)
        os.chdir(folder)
        found = pages.blocks(page)
        page_runs.run_in_full(
            [block for block in found if block.language == "python" or not arguments.no_shell], folder
        )
        keep(folder, page)
        os.chdir(ROOT)


if __name__ == "__main__":
    main()
