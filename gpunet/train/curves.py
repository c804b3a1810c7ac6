"""Curves of a history as SVG text, which a notebook shows without a drawing library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import isfinite

WIDTH, HEIGHT, LEFT, TOP = 320, 180, 56, 28
"""The size of the area in which curves are drawn, and the room beside and above it, in pixels."""
COLOURS = ("#00897b", "#e65100", "#5e35b1", "#c2185b")


def draw_curves(columns: Mapping[str, Sequence[float]]) -> str:
    """Curves of some columns over the epochs, in one picture -> an ``<svg>`` element.

    A number that is not finite leaves a gap. Text takes the colour of the page.
    """
    finite = [value for values in columns.values() for value in values if isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    count = max(map(len, columns.values()))

    def place(epoch: int, value: float) -> str:
        x = LEFT + WIDTH * (epoch / (count - 1) if count > 1 else 0.5)
        y = TOP + HEIGHT * (1 - (value - low) / (high - low) if high > low else 0.5)
        return f"{x:.1f},{y:.1f}"

    drawn = [
        f'<rect x="{LEFT}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="currentColor" opacity="0.3"/>'
    ]
    for i, (name, values) in enumerate(columns.items()):
        colour = COLOURS[i % len(COLOURS)]
        drawn.append(_text(LEFT + 150 * i, TOP - 10, name, f'fill="{colour}"'))
        for piece in _pieces(values):
            points = " ".join(place(epoch, value) for epoch, value in piece)
            x, y = place(*piece[-1]).split(",")
            drawn.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
            drawn.append(f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>')
    ends = 'text-anchor="end" fill="currentColor"'
    drawn += [_text(LEFT - 6, TOP + 10, f"{high:.4g}", ends), _text(LEFT - 6, TOP + HEIGHT, f"{low:.4g}", ends)]
    drawn += [_text(LEFT, TOP + HEIGHT + 18, "1", 'fill="currentColor"')]
    drawn += [_text(LEFT + WIDTH, TOP + HEIGHT + 18, f"epoch {count}", ends)]
    size = f'width="{LEFT + WIDTH + 8}" height="{TOP + HEIGHT + 26}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">{"".join(drawn)}</svg>'
    )


def _pieces(values: Sequence[float]) -> list[list[tuple[int, float]]]:
    """The (epoch from 0, value) of each run of finite numbers."""
    pieces: list[list[tuple[int, float]]] = [[]]
    for epoch, value in enumerate(values):
        if isfinite(value):
            pieces[-1].append((epoch, value))
        elif pieces[-1]:
            pieces.append([])
    return [piece for piece in pieces if piece]


def _text(x: float, y: float, text: str, style: str) -> str:
    return f'<text x="{x}" y="{y}" {style}>{escape(text)}</text>'
