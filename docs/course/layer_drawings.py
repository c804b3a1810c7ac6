"""Draws the pictures of the pages on layers, as `drawings.py` does: ``python docs/course/layer_drawings.py``."""

from collections.abc import Callable
from math import erf, exp, log, pi, sqrt, tanh
from pathlib import Path

from drawings import CELL, Matrix, Places, arrow, box, frame, grid, line, picture, window, words, write

COLOURS = ["blue", "orange", "green", "violet"]


def product(a: Matrix, b: Matrix) -> Matrix:
    """The product of two matrices."""
    return [[sum(p * q for p, q in zip(row, column, strict=True)) for column in zip(*b, strict=True)] for row in a]


def transposed(a: Matrix) -> Matrix:
    """The rows as columns."""
    return [list(column) for column in zip(*a, strict=True)]


# ---- layer.md


def layer() -> str:
    """Convolution, ReLU and max pool of a 5x5 image."""
    x: Matrix = [[3, 3, 3, 1, 3], [3, 3, 1, 1, 1], [0, 2, 3, 2, 1], [1, 2, 2, 1, 2], [1, 2, 0, 3, 1]]
    w: Matrix = [[1, -1], [-1, 1]]
    taps = [(i, j) for i in (0, 1) for j in (0, 1)]
    z: Matrix = [[sum(x[p + i][q + j] * w[i][j] for i, j in taps) - 1 for q in range(4)] for p in range(4)]
    a: Matrix = [[max(value, 0) for value in row] for row in z]
    y: Matrix = [[max(a[2 * p + i][2 * q + j] for i, j in taps) for q in range(2)] for p in range(2)]
    places: Places = {(p, q): COLOURS[p // 2 * 2 + q // 2] for p in range(4) for q in range(4)}
    quarters = [frame(512 + 2 * CELL * q, 57 + 2 * CELL * p, 2, 2) for p in (0, 1) for q in (0, 1)]
    return picture(
        800, 262, "The three steps of a layer: convolution, activation and pool",
        grid(20, 40, x, "x", window(1, 1, 2, 2, "blue")), frame(20 + CELL, 40 + CELL, 2, 2),
        words(251, 66, "∗ w − 1"), words(251, 96, "→"),
        grid(312, 57, z, "z", {(1, 1): "blue"}), frame(312 + CELL, 57 + CELL, 1, 1),
        words(479, 98, "ReLU"), words(479, 132, "→"), grid(512, 57, a, "a", places), *quarters,
        words(683, 98, "pool"), words(683, 132, "→"),
        grid(714, 91, y, "y", {(p, q): COLOURS[2 * p + q] for p in (0, 1) for q in (0, 1)}),
        words(105, 236, "5x5", "faint"), words(380, 236, "4x4", "faint"), words(580, 236, "4x4", "faint"),
        words(748, 236, "2x2", "faint"), grid(217, 140, w, "w"),
    )  # fmt: skip


def panel(x: int, y: int, label: str, f: Callable[[float], float], slope: Callable[[float], float]) -> str:
    """A function in blue and its slope in orange, from -4 to 4 across and from -2 to 2 down."""
    zs = [-4 + k / 10 for k in range(81)]
    shown = [
        line([(x + 26 * (z + 4), y + 64 - 30 * value(z)) for z in zs if abs(value(z)) <= 2.1], kind, 2)
        for value, kind in ((slope, "orange-line"), (f, "blue-line"))
    ]
    axes = [line([(x, y + 64), (x + 208, y + 64)]), line([(x + 104, y), (x + 104, y + 128)])]
    marks = [
        words(x + 96, y + 39, "1", "faint"),
        words(x + 4, y + 82, "−4", "faint"),
        words(x + 202, y + 82, "4", "faint"),
    ]
    return "\n".join([*axes, *shown, *marks, words(x + 46, y + 12, label)])


def activations() -> str:
    """Six activations and their slopes."""

    def sigmoid(z: float) -> float:
        return 1 / (1 + exp(-z))

    def cdf(z: float) -> float:
        return (1 + erf(z / sqrt(2))) / 2

    return picture(
        720, 330, "Activations in blue and their slopes in orange, for z from -4 to 4",
        panel(20, 20, "ReLU", lambda z: max(z, 0), lambda z: z > 0),
        panel(256, 20, "leaky ReLU", lambda z: max(z, 0.1 * z), lambda z: 1 if z > 0 else 0.1),
        panel(492, 20, "sigmoid", sigmoid, lambda z: sigmoid(z) * (1 - sigmoid(z))),
        panel(20, 170, "tanh", tanh, lambda z: 1 - tanh(z) ** 2),
        panel(256, 170, "ELU", lambda z: z if z > 0 else exp(z) - 1, lambda z: 1 if z > 0 else exp(z)),
        panel(492, 170, "GELU", lambda z: z * cdf(z), lambda z: cdf(z) + z * exp(-z * z / 2) / sqrt(2 * pi)),
        words(280, 322, "blue: f(z)", "ink"), words(430, 322, "orange: its slope", "ink"),
    )  # fmt: skip


def lenet() -> str:
    """The extents of LeNet-5; a stack has a sheet for each channel, six at most."""
    stages = [
        ("32x32x1", 64, 1, "5x5, 6"), ("28x28x6", 56, 6, "pool"), ("14x14x6", 32, 6, "5x5, 16"),
        ("10x10x16", 24, 6, "pool"), ("5x5x16", 14, 6, "5x5, 120"),
    ]  # fmt: skip
    parts, x = [], 20
    for k, (label, size, sheets, step) in enumerate(stages):
        left, top = x, 84 - size / 2
        parts += [
            box(left + 4 * s, top + 4 * s - 2 * sheets, size, size, f"cell {COLOURS[k % 3]}") for s in range(sheets)
        ]
        width = size + 4 * (sheets - 1)
        parts += [words(max(left + width / 2, 40), 160, label)]
        parts += [arrow((left + width + 10, 84), (left + width + 52, 84)), words(left + width + 30, 190, step, "faint")]
        x = left + width + 62
    for label, height, step in (("120", 110, "dense"), ("84", 84, "dense"), ("10", 30, "")):
        parts += [box(x, 84 - height / 2, 12, height, "cell violet"), words(x + 6, 160, label)]
        if step:
            parts += [arrow((x + 20, 84), (x + 56, 84)), words(x + 38, 190, step, "faint")]
        x += 66
    return picture(x + 4 - 30, 206, "LeNet-5, from an image of 32x32 pixels to 10 outputs", *parts)


# ---- linear.md


def linear() -> str:
    """The product of the forward pass and the two of the backward pass, which share their matrices."""
    x: Matrix = [[1, 2, 0], [3, -1, 1]]
    w: Matrix = [[1, -1], [2, 0], [0, 3]]
    dy: Matrix = [[1, 2], [-1, 1]]
    rows, columns = {(0, j): "blue" for j in range(3)}, {(i, 1): "orange" for i in range(3)}
    back_x, back_y = {(1, j): "blue" for j in range(2)}, {(j, 0): "orange" for j in range(2)}
    dx_row, dx_column = {(1, j): "blue" for j in range(2)}, {(j, 2): "orange" for j in range(2)}
    return picture(
        640, 460, "A dense layer is a product of matrices, and so are the gradients of its weights and its input",
        grid(180, 57, x, "x  (N, I)", rows), words(300, 96, "·"), grid(316, 40, w, "w  (I, O)", columns),
        words(402, 96, "="), grid(422, 57, product(x, w), "x w  (N, O)", {(0, 1): "green"}),
        words(90, 96, "forward", "faint"),
        grid(180, 187, transposed(x), "x transposed  (I, N)", back_x), words(266, 243, "·"),
        grid(290, 204, dy, "dy  (N, O)", back_y), words(386, 243, "="),
        grid(422, 187, product(transposed(x), dy), "dw  (I, O)", {(1, 0): "green"}), words(90, 243, "weights", "faint"),
        grid(180, 357, dy, "dy  (N, O)", dx_row), words(266, 396, "·"),
        grid(284, 357, transposed(w), "w transposed  (O, I)", dx_column), words(404, 396, "="),
        grid(422, 357, product(dy, transposed(w)), "dx  (N, I)", {(1, 2): "green"}), words(90, 396, "input", "faint"),
        words(320, 448, "a green number is the product of the blue row and the orange column", "faint"),
    )  # fmt: skip


# ---- batch-norm.md


def batch_norm() -> str:
    """How a number of the input reaches a number of the output, by three paths."""

    def node(x: int, y: int, text: str, colour: str) -> str:
        return box(x - 62, y - 20, 124, 40, f"cell {colour}") + "\n" + words(x, y + 5, text)

    return picture(
        754, 250, "One number of the input reaches each number of the output by three paths",
        node(84, 125, "x of one pixel", "blue"), node(330, 45, "mean", "orange"), node(330, 205, "variance", "orange"),
        node(500, 125, "h of a pixel", "green"), node(672, 125, "y of that pixel", "green"),
        arrow((146, 125), (436, 125)), arrow((562, 125), (608, 125)), arrow((120, 105), (266, 50)),
        arrow((120, 145), (266, 200)), arrow((392, 50), (470, 103)), arrow((392, 200), (470, 147)),
        arrow((330, 65), (330, 183)),
        words(250, 117, "1. directly", "faint"), words(170, 66, "2.", "faint"), words(170, 192, "3.", "faint"),
    )  # fmt: skip


def norms() -> str:
    """Which numbers share their moments in four normalisations: 3 samples of 4 channels with 2 positions each."""

    def colour(kind: str, sample: int, column: int) -> str:
        channel = column // 2
        if kind == "batch":
            return COLOURS[channel]
        if kind == "layer":
            return COLOURS[sample]
        if kind == "group":
            return COLOURS[(2 * sample + channel // 2) % 4]
        return COLOURS[(sample + channel) % 4]

    parts = []
    for k, kind in enumerate(("batch", "layer", "group", "instance")):
        x = 20 + 180 * k
        parts.append(words(x + 80, 28, f"{kind} norm"))
        for sample in range(3):
            for column in range(8):
                left, top = x + 18 * column + 6 * (column // 2), 44 + 34 * sample
                parts.append(box(left, top, 18, 28, f"cell {colour(kind, sample, column)}"))
    return picture(
        740, 196, "Batch norm takes the moments of a channel over all samples, the others those of parts of a sample",
        *parts, words(370, 166, "rows: samples · columns: 4 channels of 2 pixels each", "faint"),
        words(370, 186, "neighbours of one colour in a row or column are normalised together", "faint"),
    )  # fmt: skip


# ---- cross-entropy.md


def cross_entropy() -> str:
    """Softmax of three logits, the target, and their difference, as bars."""
    logits, target = [0.0, log(2), log(5)], [0.0, 1.0, 0.0]
    total = sum(map(exp, logits))
    p = [exp(z) / total for z in logits]
    gradient = [a - b for a, b in zip(p, target, strict=True)]
    parts = []
    for k, (label, values) in enumerate(
        (("logits z", logits), ("p", p), ("target t", target), ("gradient p − t", gradient))
    ):
        x, height = 20 + 170 * k, 46 if k == 0 else 80
        parts += [words(x + 70, 24, label), line([(x, 130), (x + 140, 130)])]
        for j, value in enumerate(values):
            top = 130 - max(height * value, 0)
            parts.append(box(x + 12 + 44 * j, top, 28, max(abs(height * value), 0.5), f"cell {COLOURS[j]}"))
            text = f"{value:.3g}".replace("-", "\N{MINUS SIGN}")
            parts.append(words(x + 26 + 44 * j, top - 6 if value >= 0 else 150 - height * value, text))
    return picture(
        700, 222, "Logits become probabilities; the gradient is the probabilities minus the target",
        *parts, words(180, 84, "→"),
    )  # fmt: skip


# ---- dropout.md


def dropout() -> str:
    """Elements dropped one by one, and channels dropped as wholes: pixels of 4 channels."""
    x: Matrix = [[1, 2, 3, 4], [5, 6, 7, 8], [2, 4, 6, 8], [1, 3, 5, 7]]
    own = [[0, 2, 2, 0], [2, 2, 0, 2], [0, 2, 0, 0], [2, 0, 2, 2]]
    whole = [[2, 0, 0, 2] for _ in range(4)]
    parts = []
    for left, label, factors in ((246, "dropout", own), (446, "dropout2d", whole)):
        y: Matrix = [[value * m for value, m in zip(*rows, strict=True)] for rows in zip(x, factors, strict=True)]
        kept: Places = {(i, j): COLOURS[j] for i in range(4) for j in range(4) if factors[i][j]}
        lost: Places = {(i, j): "" for i in range(4) for j in range(4) if not factors[i][j]}
        parts.append(grid(left, 60, y, label, kept, lost))
    columns: Places = {(i, j): COLOURS[j] for i in range(4) for j in range(4)}
    return picture(
        610, 234, "Dropout with p of a half sets single numbers to zero, spatial dropout whole channels, and doubles the rest",
        grid(20, 60, x, "x", columns), words(200, 133, "→"), *parts,
        words(305, 222, "rows: the pixels of one image · columns: its channels", "faint"),
    )  # fmt: skip


# ---- locally-connected.md


def locally_connected() -> str:
    """A 3x3 image, a filter for each of its four windows, and the output."""
    x: Matrix = [[1, 2, 0], [0, 1, 3], [2, 1, 1]]
    filters: list[Matrix] = [[[1, 0], [0, 1]], [[0, 1], [1, 0]], [[1, 1], [0, 0]], [[0, 0], [2, -1]]]
    taps = [(i, j) for i in (0, 1) for j in (0, 1)]
    y: Matrix = [[sum(x[p + i][q + j] * filters[2 * p + q][i][j] for i, j in taps) for q in (0, 1)] for p in (0, 1)]
    parts = []
    for k, w in enumerate(filters):
        left, top = 190 + 100 * (k % 2), 44 + 104 * (k // 2)
        parts.append(grid(left, top, w, f"w at {k // 2}, {k % 2}", window(0, 0, 2, 2, COLOURS[k])))
    return picture(
        540, 262, "Each output pixel of a locally connected layer has a filter of its own",
        grid(20, 88, x, "x", window(0, 1, 2, 2, "orange")), frame(20 + CELL, 88, 2, 2), words(154, 142, "∗"), *parts,
        words(396, 142, "="), grid(424, 105, y, "y", {(p, q): COLOURS[2 * p + q] for p, q in taps}),
        frame(424 + CELL, 105, 1, 1), words(384, 246, f"y at 0, 1:   2·0 + 0·1 + 1·1 + 3·0 = {y[0][1]:g}", "faint"),
    )  # fmt: skip


PICTURES = {
    "layer": layer,
    "activations": activations,
    "lenet": lenet,
    "linear": linear,
    "batch-norm": batch_norm,
    "norms": norms,
    "cross-entropy": cross_entropy,
    "dropout": dropout,
    "locally-connected": locally_connected,
}

if __name__ == "__main__":
    write(PICTURES, Path(__file__))
