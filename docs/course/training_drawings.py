"""Draws the pictures of the course's pages on training and on nets that were trained, as SVG files.

Run it by hand: ``python docs/course/training_drawings.py``. The shapes are those of drawings.py; the
numbers are those of the pages.
"""

from collections.abc import Callable
from math import cos, pi, sqrt
from pathlib import Path

from drawings import CELL, Matrix, Places, Point, arrow, box, grid, line, picture, window, words, write


def left_words(x: float, y: float, text: str, kind: str = "ink") -> str:
    """Text that begins at x."""
    return words(x, y, text, kind).replace("<text ", '<text style="text-anchor: start" ')


def axes(x: float, y: float, width: float, height: float) -> str:
    """The axes of a diagram whose lower left corner is (x, y)."""
    return line([(x, y - height), (x, y), (x + width, y)])


# ---- optimizers


def gradient(w: Point) -> Point:
    """That of the valley (w0^2 + 10 w1^2) / 2."""
    return w[0], 10 * w[1]


def sgd(lr: float, momentum: float) -> list[Point]:
    """Twenty steps from (4, 1)."""
    path, a = [(4.0, 1.0)], [0.0, 0.0]
    for _ in range(20):
        a = [momentum * old + g for old, g in zip(a, gradient(path[-1]), strict=True)]
        path.append((path[-1][0] - lr * a[0], path[-1][1] - lr * a[1]))
    return path


def adagrad(lr: float) -> list[Point]:
    """Twenty steps from (4, 1)."""
    path, squares = [(4.0, 1.0)], [0.0, 0.0]
    for _ in range(20):
        g = gradient(path[-1])
        squares = [old + each**2 for old, each in zip(squares, g, strict=True)]
        path.append((path[-1][0] - lr * g[0] / sqrt(squares[0]), path[-1][1] - lr * g[1] / sqrt(squares[1])))
    return path


def adam(lr: float) -> list[Point]:
    """Twenty steps from (4, 1)."""
    path, a, b = [(4.0, 1.0)], [0.0, 0.0], [0.0, 0.0]
    for t in range(1, 21):
        g = gradient(path[-1])
        a = [0.9 * old + 0.1 * each for old, each in zip(a, g, strict=True)]
        b = [0.999 * old + 0.001 * each**2 for old, each in zip(b, g, strict=True)]
        move = [lr * a[k] / (1 - 0.9**t) / (sqrt(b[k] / (1 - 0.999**t)) + 1e-8) for k in (0, 1)]
        path.append((path[-1][0] - move[0], path[-1][1] - move[1]))
    return path


def valley(x: float, y: float, path: list[Point], label: str, colour: str) -> str:
    """A path between lines of equal loss; (x, y) is the middle of the valley."""
    scale = 58
    rings = [
        f'<ellipse class="line" cx="{x:g}" cy="{y:g}" rx="{scale * sqrt(2 * loss):.4g}" '
        f'ry="{scale * sqrt(loss / 5):.4g}"/>'
        for loss in (0.5, 2, 5, 9.5)
    ]
    places = [(x + scale * w0, y - scale * w1) for w0, w1 in path]
    circles = [f'<circle class="ink" cx="{px:.4g}" cy="{py:.4g}" r="2.6"/>' for px, py in places]
    return "\n".join([*rings, line(places, colour, 2), *circles, words(x, y - 92, label)])


def optimizer_paths() -> str:
    """Twenty steps of four rules."""
    return picture(
        1100, 424, "Paths of SGD, momentum, Adagrad and Adam in a narrow valley",
        valley(280, 110, sgd(0.15, 0.0), "SGD, rate 0.15", "blue-line"),
        valley(820, 110, sgd(0.05, 0.7), "momentum 0.7, rate 0.05", "orange-line"),
        valley(280, 320, adagrad(1.0), "Adagrad, rate 1", "green-line"),
        valley(820, 320, adam(0.3), "Adam, rate 0.3", "blue-line"),
    )  # fmt: skip


def schedules() -> str:
    """Rates of five schedules over 100 steps."""

    def one_cycle(t: int) -> float:
        if t <= 29:
            return 1 / 25 + (1 - 1 / 25) * (1 - cos(pi * t / 29)) / 2
        return (1 + cos(pi * (t - 29) / 70)) / 2

    shapes: list[tuple[str, Callable[[int], float], str]] = [
        ("StepLR", lambda t: 0.5 ** (t // 25), "blue-line"),
        ("ExponentialLR", lambda t: 0.97**t, "blue-line"),
        ("CosineAnnealingLR", lambda t: (1 + cos(pi * t / 100)) / 2, "green-line"),
        ("OneCycleLR", one_cycle, "orange-line"),
        ("WarmupLR, cosine", lambda t: (t + 1) / 10 if t < 10 else (1 + cos(pi * (t - 10) / 90)) / 2, "green-line"),
    ]
    parts = []
    for k, (name, rate, colour) in enumerate(shapes):
        x = 24 + 176 * k
        parts += [axes(x, 150, 150, 104), words(x + 75, 30, name)]
        parts.append(line([(x + 1.5 * t, 150 - 100 * rate(t)) for t in range(100)], colour, 2.2))
    return picture(900, 188, "Learning rates over a training", *parts, words(99, 172, "steps →", "faint"))


# ---- regularisers


def shrinkage() -> str:
    """Where the minimum of a parabola around t moves with L2 and with L1."""
    parts = []
    for x, name, moved in (
        (30, "L2: in proportion", lambda t: t / 2),
        (330, "L1: by a fixed amount, down to 0", lambda t: t - max(-1, min(t, 1))),
    ):
        line_of = [(x + 120 + 3.6 * t, 150 - 36 * moved(t / 10)) for t in range(-30, 31)]
        parts += [line([(x, 150), (x + 240, 150)]), line([(x + 120, 40), (x + 120, 260)]), words(x + 120, 28, name)]
        parts += [line([(x + 12, 258), (x + 228, 42)], "", 1.2, "4 4"), line(line_of, "orange-line", 2.5)]
        parts += [words(x + 222, 170, "before", "faint"), words(x + 92, 58, "after", "faint")]
    return picture(600, 280, "The best weight with L2 and with L1, over the best weight without", *parts)


def augmentation() -> str:
    """One image of 4x4 pixels, flipped, moved, with a hole, and mixed with another."""
    x: Matrix = [[1, 2, 3, 4], [5, 6, 7, 8], [9, 8, 7, 6], [5, 4, 3, 2]]
    other: Matrix = [[4.0 * (i == j) for j in range(4)] for i in range(4)]
    moved: Matrix = [[0.0, *row[:3]] for row in x]
    holed: Matrix = [[0.0 if i in (1, 2) and j in (1, 2) else x[i][j] for j in range(4)] for i in range(4)]
    mixed: Matrix = [[(a + b) / 2 for a, b in zip(*rows, strict=True)] for rows in zip(x, other, strict=True)]
    step = 5 * CELL
    return picture(
        868, 196, "An image, and what augmentation makes of it",
        grid(16, 40, x, "image"), grid(16 + step, 40, [row[::-1] for row in x], "flipped", window(0, 0, 4, 4, "blue")),
        grid(16 + 2 * step, 40, moved, "moved to the right", window(0, 1, 4, 3, "blue")),
        grid(16 + 3 * step, 40, holed, "cutout", window(1, 1, 2, 2, "orange")),
        grid(16 + 4 * step, 40, mixed, "mixup", window(0, 0, 4, 4, "green")),
    )  # fmt: skip


# ---- one-shot verification


def siamese() -> str:
    """Two images, one embedding, a distance."""
    parts = []
    for y, image, name in ((60, "image a", "e(a)"), (180, "image b", "e(b)")):
        parts += [box(20, y - 30, 90, 60), words(65, y + 5, image), arrow((112, y), (168, y))]
        parts += [box(170, y - 34, 150, 68, "cell blue"), words(245, y + 5, "conv, pool, …")]
        parts += [arrow((322, y), (378, y)), box(380, y - 24, 70, 48, "cell green"), words(415, y + 5, name)]
        parts.append(arrow((452, y), (516, 120 + (y - 120) / 4)))
    return picture(
        700, 244, "A Siamese network: both images go through the same weights",
        *parts, line([(245, 96), (245, 144)], "orange-line", 2, "5 4"), left_words(256, 125, "the same weights w", "faint"),
        box(518, 90, 160, 60, "cell orange"), words(598, 117, "distance"), words(598, 137, "|e(a) − e(b)|"),
    )  # fmt: skip


def pair_losses() -> str:
    """The contrastive loss over the distance, for both kinds of pairs."""

    def place(d: float, loss: float) -> Point:
        return 50 + 200 * d, 200 - 120 * loss

    same = [place(d / 50, (d / 50) ** 2) for d in range(56)]
    different = [place(d / 50, max(1 - d / 50, 0) ** 2) for d in range(81)]
    return picture(
        430, 244, "The contrastive loss over the distance of a pair",
        axes(50, 200, 340, 170), line(same, "blue-line", 2.5), line(different, "orange-line", 2.5),
        line([place(1, 0), place(1, -0.05)]), words(250, 224, "margin"), words(372, 224, "distance", "faint"),
        words(46, 24, "loss", "faint"), words(330, 60, "one class"), left_words(76, 62, "two classes"),
    )  # fmt: skip


# ---- boxes


def iou() -> str:
    """Two boxes, their intersection and the smallest box around both."""
    unit, x, y = 46, 30, 40

    def rectangle(a: float, b: float, c: float, d: float, kind: str) -> str:
        return (
            f'<rect class="{kind}" x="{x + a * unit:g}" y="{y + b * unit:g}" width="{(c - a) * unit:g}" '
            f'height="{(d - b) * unit:g}"/>'
        )

    return picture(
        560, 280, "Two boxes, their intersection, their union and the box around both",
        rectangle(0, 0, 5, 4, "cell"), rectangle(0, 0, 4, 3, "cell blue"), rectangle(2, 1, 5, 4, "cell orange"),
        rectangle(2, 1, 4, 3, "cell green"),
        words(x + unit, y + 1.6 * unit, "a"), words(x + 4.5 * unit, y + 3 * unit, "b"),
        words(x + 3 * unit, y + 2 * unit, "I = 4"), words(x + unit, y + 3.6 * unit, "in neither", "faint"),
        left_words(300, 84, "a = 4 · 3 = 12"), left_words(300, 110, "b = 3 · 3 = 9"), left_words(300, 136, "I = 2 · 2 = 4"),
        left_words(300, 162, "U = 12 + 9 − 4 = 17"), left_words(300, 188, "A = 5 · 4 = 20, around both"),
        words(x + 2.5 * unit, y + 4.6 * unit, "IoU = 4 / 17 = 0.235"),
        left_words(300, 252, "GIoU = 4 / 17 − 3 / 20 = 0.085"),
    )  # fmt: skip


def precision_recall() -> str:
    """Precision over recall for five detections of four boxes."""
    curve = [(0.25, 1.0), (0.25, 0.5), (0.5, 2 / 3), (0.75, 0.75), (0.75, 0.6)]

    def place(recall: float, precision: float) -> Point:
        return 60 + 320 * recall, 230 - 180 * precision

    steps = [place(*p) for p in ((0, 1), (0.25, 1), (0.25, 0.75), (0.75, 0.75), (0.75, 0))]
    points = [place(*p) for p in curve]
    names = [words(px + 12, py + (-8 if k != 1 else 18), str(k + 1)) for k, (px, py) in enumerate(points)]
    marks = [f'<circle class="ink" cx="{px:.4g}" cy="{py:.4g}" r="4"/>' for px, py in points]
    ticks = [words(60 + 320 * r / 4, 250, f"{r / 4:g}", "faint") for r in range(5)]
    sides = [words(40, 235 - 180 * p / 4, f"{p / 4:g}", "faint") for p in range(5)]
    area = " ".join(f"{px:.4g},{py:.4g}" for px, py in [*steps, place(0, 0)])
    return picture(
        430, 290, "Precision over recall, and the area under its highest later values",
        f'<polygon class="blue" points="{area}"/>', axes(60, 230, 340, 200), line(points, "", 1.2, "4 4"),
        line(steps, "blue-line", 2.2), *marks, *names, *ticks, *sides, words(220, 276, "recall"), words(60, 22, "precision"),
    )  # fmt: skip


# ---- YOLO


def yolo_cell() -> str:
    """A grid of 4x4 cells, a box, the cell of its centre and the anchor that it is compared with."""
    scale, x, y = 4, 30, 44
    cell = 16 * scale
    cells = [
        f'<rect class="cell {"green" if (i, j) == (1, 1) else ""}" x="{x + j * cell}" y="{y + i * cell}" width="{cell}" '
        f'height="{cell}"/>'
        for i in range(4)
        for j in range(4)
    ]

    def outline(x0: float, y0: float, x1: float, y1: float, colour: str, dashes: str = "") -> str:
        corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]
        return line([(x + scale * px, y + scale * py) for px, py in corners], colour, 2.8, dashes)

    centre = x + scale * 30, y + scale * 22
    return picture(
        640, 320, "A box, the cell that contains its centre, and an anchor",
        words(x + 2 * cell, 26, "64x64 pixels, 4x4 cells"), *cells,
        outline(18, 14, 42, 30, "blue-line"), outline(14, 14, 46, 30, "orange-line", "7 5"),
        f'<circle class="ink" cx="{centre[0]}" cy="{centre[1]}" r="4.5"/>',
        left_words(318, 70, "the box: 24 wide, 16 high"), line([(300, 65), (312, 65)], "blue-line", 3),
        left_words(318, 100, "its centre: (30, 22)"), '<circle class="ink" cx="306" cy="95" r="4.5"/>',
        left_words(318, 130, "its cell: row 1, column 1"), box(300, 119, 12, 12, "cell green"),
        left_words(318, 160, "the best anchor: 32 wide, 16 high"), line([(299, 155), (313, 155)], "orange-line", 3, "5 3"),
        left_words(300, 206, "s(t_x) = 30 / 16 − 1 = 0.875"), left_words(300, 230, "s(t_y) = 22 / 16 − 1 = 0.375"),
        left_words(300, 254, "(2 s(t_w))² = 24 / 32 = 0.75"), left_words(300, 278, "(2 s(t_h))² = 16 / 16 = 1"),
    )  # fmt: skip


# ---- looking inside


def receptive_field() -> str:
    """What a unit sees through a convolution of 3, a pool of 2 and a convolution of 3."""
    x, parts = 150, []
    rows = [(10, 1, 0, 230), (8, 1, 1, 166), (4, 2, 1.5, 102), (2, 2, 3.5, 38)]  # count, step, first, y
    labels = ["image, 10 pixels", "after conv 3", "after pool 2", "after conv 3"]
    links = [(1, 8, 1, 3), (2, 4, 2, 2), (3, 2, 1, 3)]  # row above, its units, stride, window

    def place(row: int, unit: int) -> Point:
        _, step, first, y = rows[row]
        return x + CELL * (first + step * unit), y

    seen = [set(range(8)), set(range(6)), {0, 1, 2}, {0}]
    for above, units, stride, size in links:
        for unit in range(units):
            colour = "orange-line" if unit in seen[above] else ""
            taps = [place(above - 1, unit * stride + tap) for tap in range(size)]
            parts += [line([tap, place(above, unit)], colour, 2 if colour else 1) for tap in taps]
    for row, (count, _, _, y) in enumerate(rows):
        for unit in range(count):
            kind = "cell orange" if unit in seen[row] else "cell"
            parts.append(f'<circle class="{kind}" cx="{place(row, unit)[0]:g}" cy="{y}" r="9"/>')
        parts.append(left_words(12, y + 5, labels[row]))
    notes = ["n = 1, j = 1", "n = 3, j = 1", "n = 4, j = 2", "n = 8, j = 2"]
    parts += [left_words(486, rows[k][3] + 5, note) for k, note in enumerate(notes)]
    return picture(610, 262, "A unit of the third layer sees eight pixels", *parts)


def relu_backwards() -> str:
    """What three methods pass back through a ReLU."""
    x: Matrix = [[1, -1], [-2, 3]]
    dy: Matrix = [[-2, 4], [5, 6]]
    cells = [(i, j) for i in (0, 1) for j in (0, 1)]

    def result(keep: Callable[[float, float], bool]) -> Matrix:
        return [[dy[i][j] if keep(x[i][j], dy[i][j]) else 0 for j in (0, 1)] for i in (0, 1)]

    def shaded(m: Matrix) -> Places:
        return {(i, j): "green" for i, j in cells if m[i][j]}

    gradient_only, deconvnet, guided = (
        result(lambda a, g: a > 0),
        result(lambda a, g: g > 0),
        result(lambda a, g: min(a, g) > 0),
    )
    positive: Places = {(i, j): "blue" for i, j in cells if x[i][j] > 0}
    coming: Places = {(i, j): "orange" for i, j in cells if dy[i][j] > 0}
    return picture(
        660, 190, "What the gradient, the deconvnet and guided backpropagation pass back through a ReLU",
        grid(26, 60, x, "into the ReLU", positive), grid(160, 60, dy, "coming back", coming), words(264, 98, "→"),
        grid(306, 60, gradient_only, "gradient", shaded(gradient_only)),
        grid(432, 60, deconvnet, "deconvnet", shaded(deconvnet)), grid(558, 60, guided, "guided", shaded(guided)),
        words(60, 160, "blue: positive", "faint"), words(194, 160, "orange: positive", "faint"),
        words(340, 160, "where blue", "faint"), words(466, 160, "where orange", "faint"),
        words(592, 160, "where both", "faint"),
    )  # fmt: skip


PICTURES = {
    "optimizer-paths": optimizer_paths,
    "schedules": schedules,
    "shrinkage": shrinkage,
    "augmentation": augmentation,
    "siamese": siamese,
    "pair-losses": pair_losses,
    "iou": iou,
    "precision-recall": precision_recall,
    "yolo-cell": yolo_cell,
    "receptive-field": receptive_field,
    "relu-backwards": relu_backwards,
}

if __name__ == "__main__":
    write(PICTURES, Path(__file__))
