"""Drawings of a report, as inline SVG or HTML."""

import base64
import html
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

WIDTH, HEIGHT = 480, 280
LEFT, RIGHT, TOP, BOTTOM = 52, 20, 12, 40
MARKED = 25  # lines of so few points have markers
POINTS = 400  # more cannot be told apart
COLOURS = 7
LONG_NAME = 4  # letters
DASHES = ('', '7 3', '2 3', '9 3 2 3', '12 4', '4 2', '1 3')


class Line(NamedTuple):
    """A line of a chart: its name and points; a level has one ``y`` and no ``x``, and is as long as the other lines."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    level: bool = False


def escape(text: object) -> str:
    """Escape text for HTML, also within quotes."""
    return html.escape(str(text))


def number(value: float | None) -> str:
    """Write a number, a long one with commas; ``'-'`` for none."""
    if value is None:
        return '-'
    return f'{value:,}' if isinstance(value, int) else f'{value:.2f}'


def line_chart(lines: Sequence[Line], x_label: str, y_label: str) -> str:
    """Draw lines over a common axis, with a legend below that has the last value of each.

    Points that are not finite are left out, and the line has a gap there. Returns HTML; empty if there is no point.
    """
    lines = [line for line in lines if any(map(math.isfinite, line.y))]
    xs = [x for line in lines if not line.level for x in line.x]
    ys = [y for line in lines for y in line.y if math.isfinite(y)]
    if not xs or not ys:
        return ''
    x_ticks, y_ticks = ticks(min(xs), max(xs), whole=True), ticks(min(ys), max(ys))
    x_range = (min(xs), max(xs)) if min(xs) < max(xs) else (min(xs) - 1, max(xs) + 1)
    y_range = (y_ticks[0], y_ticks[-1])

    def across(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (x - x_range[0]) / (x_range[1] - x_range[0])

    def down(y: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (y - y_range[0]) / (y_range[1] - y_range[0])

    parts = [
        f'<path class="grid" d="M{LEFT} {down(y):.1f}H{WIDTH - RIGHT}"/>'
        f'<text x="{LEFT - 6}" y="{down(y) + 4:.1f}" text-anchor="end">{y:g}</text>'
        for y in y_ticks
    ]
    parts += [
        f'<text x="{across(x):.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{x:,.0f}</text>' for x in x_ticks
    ]
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 5}" text-anchor="middle">{escape(x_label)}</text>'
    )
    legend, told = [], []
    for place, line in enumerate(lines):
        style = f'class="line c{place % COLOURS}" stroke-dasharray="{DASHES[place % len(DASHES)]}"'
        points = list(zip(x_range if line.level else line.x, line.y * 2 if line.level else line.y, strict=True))
        step = -(-len(points) // POINTS)
        points = [*points[:-1:step], points[-1]]
        parts.append(f'<path {style} d="{_path([(across(x), down(y)) for x, y in points])}"/>')
        if len(points) <= MARKED and not line.level:
            parts += [
                f'<circle class="dot c{place % COLOURS}" cx="{across(x):.1f}" cy="{down(y):.1f}" r="3"/>'
                for x, y in points
                if math.isfinite(y)
            ]
        last = f'{escape(line.name)} <b>{line.y[-1]:.4g}</b>'
        sample = f'<svg class="sample" viewBox="0 0 26 8" aria-hidden="true"><path {style} d="M0 4H26"/></svg>'
        legend.append(f'<li>{sample}{last}</li>')
        told.append(
            f'{line.name} {line.y[0]:.4g} to {line.y[-1]:.4g}' if not line.level else f'{line.name} {line.y[0]:g}'
        )
    alt = escape(f'{y_label} against {x_label}: {"; ".join(told)}')
    return (
        f'<figure><figcaption>{escape(y_label)}</figcaption>'
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{alt}">{"".join(parts)}</svg>'
        f'<ul class="legend">{"".join(legend)}</ul></figure>'
    )


def _path(points: Sequence[tuple[float, float]]) -> str:
    """Return the commands of a path; a point that is not finite is a gap."""
    commands, pen = [], 'M'
    for x, y in points:
        if math.isfinite(y):
            commands.append(f'{pen}{x:.1f} {y:.1f}')
            pen = 'L'
        else:
            pen = 'M'
    return ''.join(commands)


def ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Return about five round numbers that enclose a range, or lie within it if they must be whole."""
    span = (high - low) or abs(high) or 1.0
    size = 10 ** math.floor(math.log10(span / 4))
    step = next(size * factor for factor in (1, 2, 5, 10) if span / (size * factor) <= 5)
    if whole:
        step = max(1, round(step))
        return [*range(math.ceil(low / step) * step, math.floor(high) + 1, step)] or [low]
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last += first == last
    return [round(i * step, 12) for i in range(first, last + 1)]


def bar(value: float, colour: str) -> str:
    """Draw a fraction as a bar, followed by its percentage."""
    return (
        f'<div class="bar"><span class="track"><span class="{colour}" style="width:{100 * value:.1f}%"></span></span>'
        f'<span>{100 * value:.1f}</span></div>'
    )


def confusion_table(counts: np.ndarray, classes: Sequence[str], rows: str, columns: str) -> str:
    """Draw a matrix of counts, ``C x C``, as a table; the shade of a cell is its part of its row.

    Names of columns stand upright if one of them is long.
    """
    kind = 'confusion upright' if max(map(len, classes)) > LONG_NAME else 'confusion'
    parts = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    head = ''.join(f'<th scope="col"><span>{escape(name)}</span></th>' for name in classes)
    body = []
    for i, name in enumerate(classes):
        cells = [
            f'<td class="{"right" if i == j else "wrong"}" style="--part:{parts[i, j]:.3f}">{count or ""}</td>'
            for j, count in enumerate(counts[i].tolist())
        ]
        body.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>')
    caption = f'rows: {rows}; columns: {columns}'
    return (
        f'<div class="wide"><table class="{kind}"><caption>{escape(caption)}</caption>'
        f'<thead><tr><td></td>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Make a table; its cells are HTML."""
    titles = ''.join(f'<th scope="col">{escape(title)}</th>' for title in head)
    body = ''.join(f'<tr>{"".join(f"<td>{cell}</td>" for cell in row)}</tr>' for row in rows)
    return f'<div class="wide"><table class="plain"><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'


def picture(png: bytes, alt: str) -> str:
    """Put the content of a PNG file into the page."""
    return f'<img src="data:image/png;base64,{base64.b64encode(png).decode()}" alt="{escape(alt)}">'
