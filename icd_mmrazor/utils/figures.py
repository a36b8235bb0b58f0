"""The look of the figures that the tools draw, and the files that they become.

matplotlib is imported where it is used; its ``pyplot``, which looks for a display, never is.
"""

import argparse
import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from icd_mmrazor.checkpoints.writing import atomic_write
from icd_mmrazor.errors import SettingError

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

# of Okabe and Ito, Color Universal Design, 2008, but for black and a yellow too light for lines on white
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')
MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X')
LINES = ('-', (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)), (0, (9, 2)))
TEACHER_COLOUR = '#000000'
FONT_SIZE = 9
LABEL_WIDTH = 48
MADE_BY = 'icd-mmrazor/tools/analysis'
# what can be written, and where a file says who drew it
METADATA = {'.png': {'Software': MADE_BY}, '.svg': {'Creator': MADE_BY, 'Date': None}, '.pdf': {'Creator': MADE_BY}}


class Style(NamedTuple):
    """How one of several curves, or points, is drawn: to be told from its neighbours in grey, too.

    Attributes:
        color: A colour that the colour-blind tell from the others.
        marker: A marker's shape.
        linestyle: A line's dashes.
    """

    color: str
    marker: str
    linestyle: Any


def style(place: int) -> Style:
    """Return the style of one of several things; 210 follow each other until one comes again.

    Args:
        place: Its place among them, from 0.

    Returns:
        Its style; the names of the fields are those of matplotlib's arguments.
    """
    return Style(COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)], LINES[place % len(LINES)])


def new_figure(
    rows: int = 1, columns: int = 1, panel_size: tuple[float, float] = (3.6, 2.8), **options: Any
) -> tuple['Figure', 'np.ndarray']:
    """Make a figure of panels whose parts do not cover each other.

    A legend, or a title, of the whole figure goes beside the panels: ``figure.legend(loc='outside upper center')``.

    Args:
        rows: Number of rows of panels.
        columns: Number of columns.
        panel_size: Width and height of one panel in inches. At 10 inches a page shows a figure about as large as its
            text.
        options: As of matplotlib's ``Figure.subplots``: ``sharex=True``.

    Returns:
        The figure and its panels, rows x columns.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    sizes = dict.fromkeys(('axes.labelsize', 'xtick.labelsize', 'ytick.labelsize'), FONT_SIZE)
    look = {'axes.titlesize': FONT_SIZE + 1, 'axes.spines.top': False, 'axes.spines.right': False}
    with rc_context({**sizes, **look}):
        figure = Figure(figsize=(columns * panel_size[0], rows * panel_size[1]), layout='constrained')
        panels = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, panels


def labels_of(folders: Sequence[Path], labels: Sequence[str] | None = None) -> list[str]:
    """Return names of folders: those given, or the part of their paths that tells them apart.

    Args:
        folders: Work folders.
        labels: A name for each.

    Returns:
        For example ``['icd', 'kd']`` of ``runs/icd/seed_0`` and ``runs/kd/seed_0``.

    Raises:
        SettingError: Other than one label a folder, or the same label or folder twice.
    """
    if labels and len(labels) != len(folders):
        raise SettingError(f'--labels: {len(labels)} names for {len(folders)} curves or points. Give one for each.')
    parts = [folder.resolve().parts for folder in folders]
    for name, values in (('--labels', labels or []), ('work folders', parts)):
        if len({*values}) < len(values):
            raise SettingError(f'{name} {" ".join(map(str, labels or folders))}: two are the same. Give each once.')
    if labels:
        return list(labels)
    while len(parts) > 1 and len({path[-1] for path in parts}) == 1:
        parts = [path[:-1] for path in parts]
    length = 1
    while len({path[-length:] for path in parts}) < len(parts):
        length += 1
    return [str(Path(*path[-length:])) for path in parts]


def add_legend(figure: 'Figure', entries: Mapping[str, 'Artist']) -> None:
    """Put one legend for all panels above them, and make the figure higher by it; long names are wrapped.

    Args:
        figure: The figure.
        entries: What is drawn by its name, ``{name: panel.plot(...)[0]}``.
    """
    labels = [textwrap.fill(name, LABEL_WIDTH) for name in entries]
    lines = [line for label in labels for line in label.splitlines()]
    # in inches: a letter's mean width, and the marker with its margins
    width = max(map(len, lines)) * 0.6 * FONT_SIZE / 72 + 0.6
    columns = max(1, min(len(labels), int(figure.get_figwidth() / width)))
    figure.set_figheight(figure.get_figheight() + math.ceil(len(lines) / columns) * 1.6 * FONT_SIZE / 72)
    legend = dict(loc='outside upper center', ncols=columns, frameon=False, fontsize=FONT_SIZE, handlelength=2.8)
    figure.legend(list(entries.values()), labels, **legend)


def without_formulas(figure: 'Figure') -> None:
    """Let every text of a figure stand as it is: a folder's name may hold ``$``, and matplotlib would typeset it.

    :func:`save_figure` does it. Before, it is for who measures texts.

    Args:
        figure: The figure, with all its texts.
    """
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)


def add_out_arguments(parser: argparse.ArgumentParser, default: str) -> None:
    """Add ``--out`` and ``--force``, for :func:`figure_files`.

    Args:
        parser: A tool's parser; gets the arguments.
        default: The figure's file where none is named.
    """
    parser.add_argument(
        '--out',
        type=Path,
        default=Path(default),
        metavar='FILE',
        help=f'the figure, written as .png and as .svg beside it; .pdf is written too if named (default: {default})',
    )
    parser.add_argument('--force', action='store_true', help='replace files that were not drawn by these tools, too')


def figure_files(out: Path, force: bool = False, setting: str = '--out') -> list[Path]:
    """Return the files that a figure becomes; a tool asks before its long work.

    Args:
        out: One of them: PNG, SVG or PDF. PNG and SVG are always written, side by side.
        force: Whether to replace files that are no figures of ours.
        setting: What named the file, for the message.

    Returns:
        The files, the named one first.

    Raises:
        SettingError: The name has another ending, its folder is a file, or a file is there that is not one of our
            figures.
    """
    if out.suffix not in METADATA:
        raise SettingError(f'{setting} {out}: name a file that ends in {", ".join(METADATA)}.')
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    if not parent.is_dir():
        raise SettingError(f'{setting} {out}: {parent} is a file, not a folder. Name another file.')
    files = [out.with_suffix(suffix) for suffix in dict.fromkeys((out.suffix, '.png', '.svg'))]
    for file in files:
        if file.is_dir():
            raise SettingError(f'{setting} {out}: {file} is a folder. Name another file.')
        # an earlier figure may be drawn anew
        if file.exists() and not force and MADE_BY.encode() not in file.read_bytes():
            raise SettingError(
                f'{setting} {out}: {file} exists and was not drawn by this tool. Name another, or --force.'
            )
    return files


def save_figure(figure: 'Figure', out: Path, force: bool = False) -> list[Path]:
    """Write a figure as PNG (150 dpi) and as SVG, each whole or not at all; their folder is made.

    Args:
        figure: The figure; its texts are no formulas afterwards.
        out: One of the files.
        force: As of :func:`figure_files`.

    Returns:
        The files, the named one first.

    Raises:
        SettingError: As of :func:`figure_files`.
    """
    from matplotlib import rc_context

    files = figure_files(out, force)
    without_formulas(figure)
    out.parent.mkdir(parents=True, exist_ok=True)
    for file in files:
        content = io.BytesIO()
        # the same figure is the same file
        with rc_context({'svg.hashsalt': MADE_BY}):
            figure.savefig(content, format=file.suffix[1:], dpi=150, metadata=METADATA[file.suffix])
        atomic_write(content.getvalue(), file)
    return files
