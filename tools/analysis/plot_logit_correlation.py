#!/usr/bin/env python3
"""Draw how a network's logits of different classes correlate, and how far each student is from its teacher.

A student that has learned which classes its teacher finds alike has small differences everywhere.
"""

import argparse
from collections.abc import Sequence

from icd_mmrazor.errors import SettingError
from icd_mmrazor.launch.command_line import run

import numpy as np
from compare import FONT_SIZE, Comparison, add_arguments, compare, save_figure, title
from matplotlib.figure import Figure

TICKED_CLASSES = 20
# what the figure calls a matrix, its columns and its rows
WORDS = {
    'correlation': ('correlation of logits', 'class', 'class'),
    'mean-logits': ('mean standardised logit', 'logit of class', 'images of class'),
}


def correlations(logits: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Correlate the logits, ``N x C``, of each pair of K classes (Pearson) over the images: ``K x K``."""
    chosen = logits[:, list(classes)].astype(np.float64)
    if min(chosen.shape) < 2:
        raise SettingError(
            f'--classes: {chosen.shape[0]} images of {chosen.shape[1]} classes; a correlation needs 2 of each.'
        )
    constant = np.ptp(chosen, axis=0) == 0
    if constant.any():
        number = np.asarray(classes)[constant][0]
        raise SettingError(f'class {number} has the same logit for all {len(chosen)} images. Choose other --classes.')
    return np.corrcoef(chosen, rowvar=False)


def mean_logits(logits: np.ndarray, labels: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Average the logits of the images of each class, as the paper's authors do for their figure.

    Those of each image get mean 0 and (sample) deviation 1 first. The result, ``K x K``, has a row for the images of a
    class and a column for a logit.
    """
    logits = logits.astype(np.float64)
    if missing := sorted(set(classes) - set(labels.tolist())):
        raise SettingError(
            f'--measure mean-logits: there is no test image of class {missing[0]}. Choose other --classes.'
        )
    standardised = logits - logits.mean(axis=1, keepdims=True)
    standardised /= logits.std(axis=1, ddof=1, keepdims=True)
    return np.stack([standardised[labels == number].mean(axis=0) for number in classes])[:, list(classes)]


def differences(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """Return the absolute differences of two matrices, ``K x K``; the diagonal is set to 0."""
    difference = np.abs(student - teacher)
    np.fill_diagonal(difference, 0.0)
    return difference


def draw(
    compared: Comparison, matrices: Sequence[np.ndarray], measure: str, max_difference: float | None = None
) -> Figure:
    """Draw the matrix of each network, ``K x K``, and, below each student, its differences from the teacher."""
    name, columns, rows = WORDS[measure]
    apart = [differences(student, matrices[0]) for student in matrices[1:]]
    figure = Figure(figsize=(2.9 * len(matrices), 5.8), layout='compressed')
    panels = figure.subplots(2, len(matrices), squeeze=False, sharex=True, sharey=True)
    largest = 1.0 if measure == 'correlation' else np.abs(matrices).max()
    for panel, network, matrix in zip(panels[0], compared.names, matrices, strict=True):
        panel.set_title(title(network), fontsize=FONT_SIZE + 1)
        shown = panel.imshow(matrix, cmap='RdBu_r', vmin=-largest, vmax=largest)
    figure.colorbar(shown, ax=panels[0], label=name)
    end = max_difference or max(difference.max() for difference in apart) or 1.0
    for panel, difference in zip(panels[1, 1:], apart, strict=True):
        panel.set_title(f'mean difference {difference.mean():.3f}', fontsize=FONT_SIZE + 1)
        shown = panel.imshow(difference, cmap='viridis', vmin=0, vmax=end)
    over = any(difference.max() > end for difference in apart)
    figure.colorbar(shown, ax=panels[1], label='|student \u2212 teacher|', extend='max' if over else 'neither')
    few = len(compared.classes) <= TICKED_CLASSES
    places = range(0, len(compared.classes), 1 if few else len(compared.classes) // 5)
    names = compared.class_names if few else [str(compared.classes[place]) for place in places]
    for panel in panels.flat:
        panel.set_xticks(places, names, rotation=90 if max(map(len, names)) > 2 else 0, fontsize=FONT_SIZE)
        panel.set_yticks(places, names, fontsize=FONT_SIZE)
    # panels share their axes; those next to the empty one need labels, too
    panels[0, 0].tick_params(labelbottom=True)
    panels[1, 1].tick_params(labelleft=True)
    for panel in (panels[0, 0], *panels[1, 1:]):
        panel.set_xlabel(columns)
    panels[0, 0].set_ylabel(rows)
    panels[1, 1].set_ylabel(rows)
    panels[1, 0].set_axis_off()
    text = f'{name},\n{compared.images}'.replace(' images of ', ' images\nof ')
    panels[1, 0].text(0.5, 0.5, text, transform=panels[1, 0].transAxes, ha='center', va='center', fontsize=FONT_SIZE)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, max_images=None, classes='all', out='logit_correlation.png')
    measures = "mean-logits is that of the paper's authors (default: correlation)"
    parser.add_argument('--measure', choices=WORDS, default='correlation', help=measures)
    parser.add_argument('--max-difference', type=float, metavar='X', help='the end of the scale of differences')
    args = parser.parse_args()
    if args.max_difference is not None and not args.max_difference > 0:
        raise SettingError(f'--max-difference {args.max_difference:g} must be more than 0.')
    compared = compare(args)
    classes, labels, logits = compared.classes, compared.labels, [output.logits for output in compared.outputs]
    matrices = [
        correlations(each, classes) if args.measure == 'correlation' else mean_logits(each, labels, classes)
        for each in logits
    ]
    print(f'{WORDS[args.measure][0]}, mean absolute difference from the teacher:')
    for name, matrix in zip(compared.names[1:], matrices[1:], strict=True):
        print(f'  {name}: {differences(matrix, matrices[0]).mean():.4f}')
    save_figure(draw(compared, matrices, args.measure, args.max_difference), args.out)


if __name__ == '__main__':
    run(main)
