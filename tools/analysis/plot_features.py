#!/usr/bin/env python3
"""Draw the features of a teacher and of its students side by side: t-SNE of what their classifiers get.

t-SNE keeps neighbours together; distances between clusters and their sizes mean nothing, and each panel has a map of
its own.
"""

import argparse
import importlib.util
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from icd_mmrazor import compat  # noqa: F401 (first: it says what to install where the stack is missing)

# isort: split
import numpy as np

from icd_mmrazor.errors import SettingError
from icd_mmrazor.launch.command_line import run
from icd_mmrazor.utils.comparison import Comparison, add_comparison_arguments, compare
from icd_mmrazor.utils.figures import (
    COLOURS,
    FONT_SIZE,
    MARKERS,
    add_out_arguments,
    figure_files,
    new_figure,
    save_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# more classes are neither told apart by colour and marker nor listed
LEGEND_CLASSES = 20
# shown of datasets with more classes than that
SHOWN_CLASSES = 10
COLUMNS = 4
TITLE_WIDTH = 26  # characters
# for points, unlike lines, black and grey are as good
POINT_COLOURS = (*COLOURS, '#000000', '#999999')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = f'all; of more than {LEGEND_CLASSES}, {SHOWN_CLASSES} at equal distances'
    add_comparison_arguments(parser, max_images=2000, classes=default)
    parser.add_argument(
        '--perplexity', type=float, default=30.0, help='about how many neighbours an image has (default: 30)'
    )
    add_out_arguments(parser, 'features.png')
    return parser.parse_args()


def shown_classes(num_classes: int) -> Sequence[int]:
    """Return the classes that are shown where none are named."""
    if num_classes <= LEGEND_CLASSES:
        return range(num_classes)
    return [place * num_classes // SHOWN_CLASSES for place in range(SHOWN_CLASSES)]


def embed(features: np.ndarray, perplexity: float, seed: int) -> np.ndarray:
    """Map features to the plane with t-SNE (van der Maaten and Hinton, JMLR 2008).

    Args:
        features: ``N x D``.
        perplexity: About how many neighbours count, fewer than N.
        seed: Of what is random.

    Returns:
        ``N x 2``.
    """
    from sklearn.manifold import TSNE

    return TSNE(perplexity=perplexity, random_state=seed).fit_transform(features)


def draw(compared: Comparison, maps: Sequence[np.ndarray], settings: str) -> 'Figure':
    """Draw one panel for each network.

    Args:
        compared: The networks' names, the labels and the classes.
        maps: The places of the images, ``N x 2``, for each network.
        settings: What the figure says of them.

    Returns:
        The figure.
    """
    columns = min(COLUMNS, len(maps))
    figure, panels = new_figure(-(-len(maps) // columns), columns, panel_size=(3.2, 3.2))
    for panel in panels.flat[len(maps) :]:
        panel.set_axis_off()
    listed = len(compared.classes) <= LEGEND_CLASSES
    for panel, name, places in zip(panels.flat, compared.names, maps, strict=False):
        # the axes of a t-SNE have no meaning, only their ratio
        panel.set(title=textwrap.fill(name, TITLE_WIDTH), xticks=[], yticks=[])
        panel.set_aspect('equal', adjustable='datalim')
        panel.spines[:].set(visible=True, color='0.8')
        if listed:
            _draw_classes(panel, places, compared)
        else:
            # in an order in which no class covers the others
            order = np.random.default_rng(0).permutation(len(places))
            points = panel.scatter(*places[order].T, s=8, c=compared.labels[order], cmap='viridis', linewidths=0)
    if listed:
        handles, titles = panels.flat[0].get_legend_handles_labels()
        figure.legend(
            handles, titles, loc='outside right center', ncols=1 + (len(titles) > 12), markerscale=1.8, frameon=False
        )
    else:
        figure.colorbar(points, ax=panels, label='class', fraction=0.05)
    figure.supxlabel(f't-SNE of {compared.images}; {settings}', fontsize=FONT_SIZE)
    return figure


def _draw_classes(panel: 'Axes', places: np.ndarray, compared: Comparison) -> None:
    for number, (label, title) in enumerate(zip(compared.classes, compared.class_names, strict=True)):
        look = dict(color=POINT_COLOURS[number % len(POINT_COLOURS)], marker=MARKERS[number % len(MARKERS)])
        x, y = places[compared.labels == label].T
        panel.scatter(x, y, s=12, **look, alpha=0.8, linewidths=0, label=title)


def main() -> None:
    args = parse_args()
    figure_files(args.out, args.force)
    if importlib.util.find_spec('sklearn') is None:
        raise SettingError("t-SNE needs scikit-learn, which is not installed: pip install 'icd-mmrazor[analysis]'")
    if not args.perplexity >= 1:
        raise SettingError(f'--perplexity {args.perplexity:g}: give 1 or more, for example 30.')

    def check_count(count: int) -> None:
        if count <= args.perplexity:
            raise SettingError(
                f'--perplexity {args.perplexity:g}: t-SNE needs more images than that, and there are {count}. Give a '
                'smaller one, or choose more --classes or a larger --max-images.'
            )

    compared = compare(args, shown_classes, check_count)
    maps = []
    for name, output in zip(compared.names, compared.outputs, strict=True):
        print(f't-SNE of {name}: features of width {output.features.shape[1]}', flush=True)
        maps.append(embed(output.features, args.perplexity, args.seed))
    figure = draw(compared, maps, f'perplexity {args.perplexity:g}, seed {args.seed}')
    print('written:', *save_figure(figure, args.out, args.force))


if __name__ == '__main__':
    run(main)
