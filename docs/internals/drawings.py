"""Draws the picture of the layers beside this file: ``python -m docs.internals.drawings``, in the checkout.

Its style is that of the course's drawings, whose shapes it uses.
"""

from pathlib import Path

from docs.course.drawings import picture, words, write

Box = tuple[str, str, str]
"""(title, what stands below it, colour)."""

LEFT, RIGHT, HEIGHT, GAP = 136, 764, 46, 10
LAYERS: list[tuple[str, list[Box]]] = [
    ("commands", [("cli", "gpunet …", ""), ("bench", "times", ""), ("check", "asks a GPU", "")]),
    ("training", [("train", "Trainer, captured step", ""), ("report", "summary, plan", "")]),
    ("networks, data", [(name, "", "") for name in ("models", "optim", "data", "vision", "interop")]),
    ("layers", [("nn", "modules, which hold parameters", ""), ("arrays", "plain arrays, no tape", "")]),
    ("operations", [("functional", "each with a forward and a backward pass", "blue")]),
    ("the tape", [("autograd", "what ran", "blue"), ("tensors, parameters", "arrays", "blue"), ("arena", "memory", "blue")]),
    ("primitives", [("backends/contract", "formulas and shapes, in words", "green")]),
    ("three backends", [(f"backends/{name}", how, "green") for name, how in (
        ("reference", "plain NumPy"), ("numpy", "BLAS, threads"), ("cuda", "chooses kernels"),
    )]),
    ("launches", [("", "", "none"), ("cuda", "checks and launches", "orange")]),
    ("devices", [("", "", "none"), ("CuPy", "the GPU", "orange"), ("emulator", "the CPU", "orange")]),
    ("sources", [("", "", "none"), ("nvrtc", "reads, compiles", "orange"), ("kernels/*.cu", "CUDA C++", "violet")]),
]  # fmt: skip
WIDTHS = {"none": 418}
"""Below the two backends of a CPU, which are NumPy and nothing more, the drawing stays empty."""


def boxes(top: int, row: list[Box]) -> str:
    """The boxes of a layer, from the left to the right; those without a width of their own share the rest."""
    free = RIGHT - LEFT - sum(WIDTHS.get(colour, 0) for _, _, colour in row)
    others = sum(colour not in WIDTHS for _, _, colour in row)
    parts, x = [], float(LEFT)
    for title, below, colour in row:
        width = WIDTHS.get(colour, free / others)
        if colour not in WIDTHS:
            place = f'x="{x + 4:g}" y="{top}" width="{width - 8:g}" height="{HEIGHT}" rx="4"'
            parts.append(f'<rect class="cell {colour}" {place}/>')
            middle = x + width / 2
            parts.append(words(middle, top + (20 if below else 28), title))
            parts.append(f'<g transform="translate({middle:g} {top + 37}) scale(.8)">{words(0, 0, below, "faint")}</g>')
        x += width
    return "\n".join(parts)


def layers() -> str:
    """The layers of the package, the highest on top."""
    parts = []
    for i, (name, row) in enumerate(LAYERS):
        top = 16 + i * (HEIGHT + GAP)
        parts += [words(70, top + 28, name, "faint"), boxes(top, row)]
    return picture(780, 24 + len(LAYERS) * (HEIGHT + GAP), "The layers of gpunet: each uses only those below", *parts)


if __name__ == "__main__":
    write({"layers": layers}, Path(__file__))
