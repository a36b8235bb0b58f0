#!/usr/bin/env python3
"""Draw the features of a teacher and its students side by side: t-SNE of the inputs of their classifiers.

t-SNE keeps neighbours together; distances between clusters and their sizes mean nothing, and panels cannot be laid over
each other.
"""

import argparse
import importlib.util
from collections.abc import Sequence

from icd_mmrazor.errors import SettingError
from icd_mmrazor.launch.command_line import run

import numpy as np
from compare import FONT_SIZE, Comparison, add_arguments, compare, save_figure, title
from matplotlib.figure import Figure

LEGEND_CLASSES = 20  # more cannot be told apart by colour and marker
SHOWN_CLASSES = 10  # of datasets with more classes than that
COLUMNS = 4
# Okabe and Ito, Color Universal Design, 2008
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000', '#999999')
MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X')


def shown_classes(num_classes: int) -> Sequence[int]:
    """Return the classes to show if none are named."""
    if num_classes <= LEGEND_CLASSES:
        return range(num_classes)
    return [place * num_classes // SHOWN_CLASSES for place in range(SHOWN_CLASSES)]


def embed(features: np.ndarray, perplexity: float, seed: int) -> np.ndarray:
    """Map features, ``N x D``, to the plane, ``N x 2``, with t-SNE (van der Maaten and Hinton, JMLR 2008)."""
    from sklearn.manifold import TSNE

    return TSNE(perplexity=perplexity, random_state=seed).fit_transform(features)


def draw(compared: Comparison, maps: Sequence[np.ndarray], settings: str) -> Figure:
    """Draw a panel for each network from the positions of the images, ``N x 2``, in its map."""
    columns, listed = min(COLUMNS, len(maps)), len(compared.classes) <= LEGEND_CLASSES
    rows = -(-len(maps) // columns)
    figure = Figure(figsize=(3.2 * columns, 3.2 * rows), layout='constrained')
    panels = figure.subplots(rows, columns, squeeze=False)
    for panel in panels.flat[len(maps) :]:
        panel.set_axis_off()
    for panel, name, places in zip(panels.flat, compared.names, maps, strict=False):
        panel.set(xticks=[], yticks=[])  # the axes of a t-SNE have no meaning, only their ratio
        panel.set_aspect('equal', adjustable='datalim')
        panel.set_title(title(name), fontsize=FONT_SIZE + 1)
        panel.spines[:].set(color='0.8')
        if not listed:
            # in an order in which no class covers the others
            order = np.random.default_rng(0).permutation(len(places))
            points = panel.scatter(*places[order].T, s=8, c=compared.labels[order], cmap='viridis', linewidths=0)
            continue
        for number, (label, class_name) in enumerate(zip(compared.classes, compared.class_names, strict=True)):
            style = dict(color=COLOURS[number % len(COLOURS)], marker=MARKERS[number % len(MARKERS)])
            x, y = places[compared.labels == label].T
            panel.scatter(x, y, s=12, **style, alpha=0.8, linewidths=0, label=class_name)
    if listed:
        entries = panels.flat[0].get_legend_handles_labels()
        columns = 1 + (len(compared.classes) > 12)
        figure.legend(*entries, loc='outside right center', ncols=columns, markerscale=1.8, frameon=False)
    else:
        figure.colorbar(points, ax=panels, label='class', fraction=0.05)
    figure.supxlabel(f't-SNE of {compared.images}; {settings}', fontsize=FONT_SIZE)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    classes = f'all; if there are more than {LEGEND_CLASSES}, {SHOWN_CLASSES} at equal distances'
    add_arguments(parser, max_images=2000, classes=classes, out='features.png')
    parser.add_argument('--perplexity', type=float, default=30.0, help='about the number of neighbours (default: 30)')
    args = parser.parse_args()
    if importlib.util.find_spec('sklearn') is None:
        raise SettingError("t-SNE needs scikit-learn: pip install 'icd-mmrazor[analysis]'")
    if not args.perplexity >= 1:
        raise SettingError(f'--perplexity {args.perplexity:g} must be 1 or more, for example 30.')

    def check_count(count: int) -> None:
        if count <= args.perplexity:
            raise SettingError(f'--perplexity {args.perplexity:g} must be less than the number of images, {count}.')

    compared = compare(args, shown_classes, check_count)
    maps = []
    for name, output in zip(compared.names, compared.outputs, strict=True):
        print(f't-SNE of {name}: features of width {output.features.shape[1]}', flush=True)
        maps.append(embed(output.features, args.perplexity, args.seed))
    save_figure(draw(compared, maps, f'perplexity {args.perplexity:g}, seed {args.seed}'), args.out)


if __name__ == '__main__':
    run(main)
