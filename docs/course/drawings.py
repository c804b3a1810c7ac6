"""Draws the pictures of the course, as SVG files beside this one: ``python docs/course/drawings.py``.

A picture brings its own background and follows the reader's choice of light or dark colours, so it
can be read on any page. The numbers are those of the pages.
"""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from math import sqrt
from pathlib import Path

Matrix = list[list[float]]
Point = tuple[float, float]
Places = dict[tuple[int, int], str]
"""The colour of some cells, by row and column: "blue", "orange", "green" or "violet"."""

CELL = 34
STYLE = """
  .back { fill: #ffffff } .ink { fill: #1f2328 } .faint { fill: #6e7781 } .cell { fill: #ffffff; stroke: #8c959f }
  .blue { fill: #cfe3ff } .orange { fill: #ffd9a8 } .green { fill: #c3ecd0 } .violet { fill: #e6d5fb }
  .line { stroke: #8c959f; fill: none } .frame { stroke: #1f2328; stroke-width: 2.5; fill: none }
  .blue-line { stroke: #1769d2 } .orange-line { stroke: #c05600 } .green-line { stroke: #1a7f3c }
  text { font-family: "DejaVu Sans", Verdana, sans-serif; font-size: 14px; text-anchor: middle }
  @media (prefers-color-scheme: dark) {
    .back { fill: #1b2028 } .ink { fill: #e6edf3 } .faint { fill: #9aa4af } .cell { fill: #1b2028; stroke: #76808b }
    .blue { fill: #1d4a86 } .orange { fill: #7d4a0c } .green { fill: #1c5e36 } .violet { fill: #573a85 }
    .line { stroke: #76808b } .frame { stroke: #e6edf3 }
    .blue-line { stroke: #6cb0ff } .orange-line { stroke: #ffa657 } .green-line { stroke: #5fd483 }
  }
"""


def picture(width: int, height: int, title: str, *parts: str) -> str:
    """A whole SVG file."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img">\n<title>{escape(title)}</title>\n<style>{STYLE}</style>\n'
        f'<rect class="back" width="{width}" height="{height}" rx="6"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def words(x: float, y: float, text: str, kind: str = "ink") -> str:
    """Text whose middle is at x and whose base line is at y."""
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{escape(text)}</text>'


def grid(x: int, y: int, values: Matrix, label: str, colours: Places | None = None, faint: Places | None = None) -> str:
    """A matrix of cells with its label above; the numbers of `faint` cells are gray."""
    parts = [words(x + len(values[0]) * CELL / 2, y - 10, label)] if label else []
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            colour = (colours or {}).get((i, j), "")
            left, top = x + j * CELL, y + i * CELL
            parts.append(f'<rect class="cell {colour}" x="{left}" y="{top}" width="{CELL}" height="{CELL}"/>')
            kind = "faint" if (i, j) in (faint or {}) else "ink"
            text = f"{value:g}".replace("-", "\N{MINUS SIGN}")
            parts.append(words(left + CELL / 2, top + CELL / 2 + 5, text, kind))
    return "\n".join(parts)


def frame(x: int, y: int, rows: int, columns: int) -> str:
    """A thick frame around cells."""
    return f'<rect class="frame" x="{x}" y="{y}" width="{columns * CELL}" height="{rows * CELL}"/>'


def window(top: int, left: int, rows: int, columns: int, colour: str) -> Places:
    """The cells of a window, in one colour."""
    return {(top + i, left + j): colour for i in range(rows) for j in range(columns)}


def line(points: Sequence[Point], colour: str = "", width: float = 1.5, dashes: str = "") -> str:
    """A line through points; `colour` is one of the style's lines, such as "blue-line"."""
    joined = " ".join(f"{x:.4g},{y:.4g}" for x, y in points)
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<polyline class="line {colour}" stroke-width="{width}"{dashed} points="{joined}"/>'


def arrow(start: Point, end: Point, colour: str = "", width: float = 1.5) -> str:
    """A line with a head at its end."""
    (x0, y0), (x1, y1) = start, end
    length = sqrt((x1 - x0) ** 2 + (y1 - y0) ** 2)
    along, across = ((x1 - x0) / length, (y1 - y0) / length), ((y0 - y1) / length, (x1 - x0) / length)
    head = [(x1 - 8 * along[0] + side * 4 * across[0], y1 - 8 * along[1] + side * 4 * across[1]) for side in (-1, 1)]
    return line([start, end], colour, width) + line([head[0], end, head[1]], colour, width)


def box(x: float, y: float, width: float, height: float, kind: str = "cell") -> str:
    """A rectangle with rounded corners."""
    return f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="4"/>'


def write(pictures: Mapping[str, Callable[[], str]], beside: Path) -> None:
    """Draw each picture, and store it under its name beside a file."""
    for name, draw in pictures.items():
        beside.with_name(f"{name}.svg").write_text(draw(), encoding="utf-8", newline="\n")


def convolution() -> str:
    """One window of a convolution of 4x4 pixels with a 2x2 filter."""
    x: Matrix = [[1, 2, 0, 1], [0, 1, 3, 1], [2, 1, 0, 0], [1, 0, 1, 2]]
    w: Matrix = [[1, 2], [3, 4]]
    y: Matrix = [[sum(x[p + i][q + j] * w[i][j] for i in (0, 1) for j in (0, 1)) for q in range(3)] for p in range(3)]
    return picture(
        462, 226, "A window of the image times the filter is one pixel of the output",
        grid(20, 40, x, "image x", window(1, 1, 2, 2, "blue")), frame(20 + CELL, 40 + CELL, 2, 2),
        words(184, 114, "∗"), grid(212, 74, w, "filter w", window(0, 0, 2, 2, "orange")), words(310, 114, "="),
        grid(340, 57, y, "output y", {(1, 1): "green"}), frame(340 + CELL, 57 + CELL, 1, 1),
        words(231, 208, f"y at row 1, column 1:   1·1 + 3·2 + 1·3 + 0·4 = {y[1][1]:g}"),
    )  # fmt: skip


def pooling() -> str:
    """Max pooling of 4x4 pixels, its mask, and the gradient's way back."""
    x: Matrix = [[1, 4, 2, 0], [3, 2, 1, 5], [0, 1, 6, 2], [7, 2, 3, 4]]
    dy: Matrix = [[10, 20], [30, 40]]
    y, mask, dx, winners = [[0.0] * 2, [0.0] * 2], [[0.0] * 2, [0.0] * 2], [[0.0] * 4 for _ in x], {}
    colours = [["blue", "orange"], ["green", "violet"]]
    for p in range(2):
        for q in range(2):
            taps = [x[2 * p + k // 2][2 * q + k % 2] for k in range(4)]
            y[p][q], mask[p][q] = max(taps), taps.index(max(taps))
            row, column = 2 * p + int(mask[p][q]) // 2, 2 * q + int(mask[p][q]) % 2
            dx[row][column], winners[row, column] = dy[p][q], colours[p][q]
    small = {(p, q): colours[p][q] for p in range(2) for q in range(2)}
    frames = [frame(x0 + 2 * CELL * q, 40 + 2 * CELL * p, 2, 2) for x0 in (20, 464) for p in range(2) for q in range(2)]
    return picture(
        620, 246, "Max pooling keeps the largest pixel of each window, and its position for the way back",
        grid(20, 40, x, "x", winners), words(186, 112, "→"),
        grid(216, 40, y, "y", small), grid(216, 138, mask, "mask", small),
        grid(336, 40, dy, "dy", small), grid(336, 138, mask, "the same mask", small), words(436, 112, "→"),
        grid(464, 40, dx, "dx", winners, {(i, j): "" for i in range(4) for j in range(4) if (i, j) not in winners}),
        words(152, 232, "forward", "faint"), words(468, 232, "backward", "faint"),
        *frames,
    )  # fmt: skip


def full_convolution() -> str:
    """dx as the full convolution of dy with the rotated filter."""
    dy: Matrix = [[1, 2], [-1, 3]]
    w: Matrix = [[1, 2], [3, 4]]
    rotated = [row[::-1] for row in w[::-1]]
    padded: Matrix = [[0.0] * 4 for _ in range(4)]
    for p in range(2):
        for q in range(2):
            padded[p + 1][q + 1] = dy[p][q]
    taps = [(i, j) for i in (0, 1) for j in (0, 1)]
    dx: Matrix = [[sum(padded[u + i][v + j] * rotated[i][j] for i, j in taps) for v in range(3)] for u in range(3)]
    zeros = {(i, j): "" for i in range(4) for j in range(4) if not (0 < i < 3 and 0 < j < 3)}
    return picture(
        554, 226, "The full convolution of dy with the rotated filter is dx",
        grid(20, 57, w, "filter w"), words(54, 150, "turned by", "faint"), words(54, 168, "180° →", "faint"),
        grid(122, 57, rotated, "rotated", window(0, 0, 2, 2, "orange")), words(214, 112, "∗"),
        grid(240, 40, padded, "dy between zeros", window(0, 1, 2, 2, "blue"), zeros), frame(240 + CELL, 40, 2, 2),
        words(404, 112, "="), grid(432, 57, dx, "dx", {(0, 1): "green"}), frame(432 + CELL, 57, 1, 1),
        words(277, 208, f"dx at row 0, column 1:   0·4 + 0·3 + 1·2 + 2·1 = {dx[0][1]:g}"),
    )  # fmt: skip


def stride_zeros() -> str:
    """dy spread by a stride of 2, and how many taps of a 3x3 filter meet a number of it at each pixel."""
    dy: Matrix = [[1, 2], [-1, 3]]
    spread: Matrix = [[0.0] * 7 for _ in range(7)]
    kept: Places = {}
    for p in range(2):
        for q in range(2):
            spread[2 + 2 * p][2 + 2 * q], kept[2 + 2 * p, 2 + 2 * q] = dy[p][q], "blue"
    taps: Matrix = [[(2 - u % 2) * (2 - v % 2) for v in range(5)] for u in range(5)]
    names = {(0, 0): "green", (0, 1): "orange", (1, 0): "violet", (1, 1): "blue"}
    coloured = {(u, v): names[u % 2, v % 2] for u in range(5) for v in range(5)}
    zeros = {(i, j): "" for i in range(7) for j in range(7) if (i, j) not in kept}
    return picture(
        620, 300, "A stride of 2 puts zeros between the numbers of dy; the parity of a pixel says which taps meet them",
        grid(20, 40, dy, "dy", window(0, 0, 2, 2, "blue")), words(118, 78, "→"),
        grid(148, 40, spread, "zeros between and around", kept, zeros),
        grid(420, 40, taps, "taps that the parity leaves", coloured),
        words(505, 236, "even row, even column: 4"), words(505, 256, "one of them odd: 2"), words(505, 276, "both odd: 1"),
    )  # fmt: skip


def dots(x: int, y: int, count: int, label: str) -> str:
    """A row of units."""
    circles = [f'<circle class="cell" cx="{x + CELL * k}" cy="{y}" r="8"/>' for k in range(count)]
    return "\n".join([*circles, words(x - 32, y + 5, label)])


def joined(x: int, below: int, above: int, colour: str) -> str:
    """A connection from unit `below` of the lower row to unit `above` of the upper row."""
    return f'<line class="line {colour}" x1="{x + CELL * below}" y1="138" x2="{x + CELL * (above + 1)}" y2="62"/>'


def parameter_sharing() -> str:
    """Weights of a dense layer, a locally connected one and a convolution of 6 pixels to 4."""
    names = ["blue-line", "orange-line", "green-line"]
    dense = [joined(54, i, p, "") for p in range(4) for i in range(6)]
    local = [joined(304, p + k, p, "") for p in range(4) for k in range(3)]
    shared = [joined(554, p + k, p, names[k]) for p in range(4) for k in range(3)]
    rows = [dots(x, 146, 6, "x") + dots(x + CELL, 54, 4, "") + words(x - 32, 59, "y") for x in (54, 304, 554)]
    return picture(
        760, 208, "A dense layer, a locally connected layer and a convolution from 6 pixels to 4",
        *dense, *local, *(line.replace('class="', 'stroke-width="2.2" class="') for line in shared), *rows,
        words(139, 28, "dense"), words(389, 28, "locally connected"), words(639, 28, "convolution"),
        words(139, 190, "24 weights, all different"), words(389, 190, "12 weights, all different"),
        words(639, 190, "3 weights: one per colour"),
    )  # fmt: skip


PICTURES = {
    "convolution": convolution,
    "pooling": pooling,
    "full-convolution": full_convolution,
    "stride-zeros": stride_zeros,
    "parameter-sharing": parameter_sharing,
}

if __name__ == "__main__":
    write(PICTURES, Path(__file__))
