"""Reliability diagrams, as inline SVG."""

from collections.abc import Sequence

from icd_mmrazor.report.drawing import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, escape

# images, mean confidence and accuracy (%) of a bin; the last two None for a bin without images
Bin = tuple[int, float | None, float | None]
TICKS = (0, 20, 40, 60, 80, 100)


def reliability_diagram(bins: Sequence[Bin], title: str, colour: int = 0) -> str:
    """Draw the accuracy of predictions against their confidence, a column for each bin, and the diagonal.

    The darker a column, the more images it has. Returns HTML.

    Args:
        bins: The bins, of equal width, from 0 to 100 % of confidence.
        title: What is shown above.
        colour: The number of the colour.
    """
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - BOTTOM - TOP

    def across(percent: float) -> float:
        return LEFT + wide * percent / 100

    def down(percent: float) -> float:
        return HEIGHT - BOTTOM - high * percent / 100

    parts = [
        f'<path class="grid" d="M{LEFT} {down(tick):.1f}H{WIDTH - RIGHT}"/>'
        f'<text x="{LEFT - 6}" y="{down(tick) + 4:.1f}" text-anchor="end">{tick}</text>'
        f'<text x="{across(tick):.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{tick}</text>'
        for tick in TICKS
    ]
    most, told = max(number for number, _, _ in bins), []
    for place, (number, confidence, accuracy) in enumerate(bins):
        if not number:
            continue
        left, right = (across(100 * edge / len(bins)) for edge in (place, place + 1))
        said = f'{number:,} images, confidence {confidence:.1f} %, accuracy {accuracy:.1f} %'
        parts.append(
            f'<rect class="column c{colour}" style="opacity:{0.35 + 0.65 * number / most:.2f}" x="{left + 1:.1f}" '
            f'y="{down(accuracy):.1f}" width="{right - left - 2:.1f}" height="{down(0) - down(accuracy):.1f}">'
            f'<title>{escape(said)}</title></rect>'
        )
        told.append(said)
    parts.append(f'<path class="line c6" stroke-dasharray="7 3" d="M{across(0)} {down(0)}L{across(100)} {down(100)}"/>')
    middle = f'x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 5}" text-anchor="middle"'
    parts.append(f'<text {middle}>confidence (%)</text>')
    alt = escape(f'{title}, accuracy of predictions by their confidence: {"; ".join(told)}')
    return (
        f'<figure><figcaption>{escape(title)}: accuracy (%)</figcaption>'
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{alt}">{"".join(parts)}</svg>'
        '</figure>'
    )
