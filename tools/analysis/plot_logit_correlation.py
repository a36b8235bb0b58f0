#!/usr/bin/env python3
"""Draw how a network's logits of different classes go together, and how far each student is from its teacher in that.

A student that has learned what its teacher knows of the classes' likeness has small differences everywhere.
"""

import argparse
import io
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from icd_mmrazor import compat  # noqa: F401 (first: it says what to install where the stack is missing)

# isort: split
import numpy as np

from icd_mmrazor.checkpoints.writing import atomic_write
from icd_mmrazor.errors import SettingError
from icd_mmrazor.launch.command_line import run
from icd_mmrazor.utils.comparison import Comparison, add_comparison_arguments, compare
from icd_mmrazor.utils.figures import FONT_SIZE, add_out_arguments, figure_files, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TICKED_CLASSES = 20
TITLE_WIDTH = 24  # characters


def correlations(logits: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Correlate the logits of each two classes (Pearson) over the images.

    Args:
        logits: ``N x C``.
        classes: Those of the C that are wanted, K of them.

    Returns:
        ``K x K``, from -1 to 1.

    Raises:
        SettingError: There are fewer than two images or classes, or a logit is the same for all images.
    """
    chosen = logits[:, list(classes)].astype(np.float64)
    if min(chosen.shape) < 2:
        raise SettingError(
            f'a correlation needs two images and two classes; there are {chosen.shape[0]} and {chosen.shape[1]}. '
            'Choose more --classes.'
        )
    constant = np.ptp(chosen, axis=0) == 0
    if constant.any():
        raise SettingError(
            f'class {np.asarray(classes)[constant][0]} has the same logit for all {len(chosen)} images: no correlation '
            'is defined. Choose other --classes, or a checkpoint that was trained.'
        )
    return np.corrcoef(chosen, rowvar=False)


def mean_logits(logits: np.ndarray, labels: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Average the logits of the images of each class, as the paper's authors do for their figure.

    Each image's logits are first standardised: to mean 0 and (sample) deviation 1 over all C.

    Args:
        logits: ``N x C``.
        labels: ``N``.
        classes: Those of the C that are wanted, K of them.

    Returns:
        ``K x K``: a row for the images of a class, a column for a logit.

    Raises:
        SettingError: A class has no image.
    """
    logits = logits.astype(np.float64)
    missing = sorted(set(classes) - set(labels.tolist()))
    if missing:
        raise SettingError(
            f'--measure mean-logits: there is no test image of class {missing[0]}. Choose other --classes, or a larger '
            '--max-images.'
        )
    standardised = logits - logits.mean(axis=1, keepdims=True)
    standardised /= logits.std(axis=1, ddof=1, keepdims=True)
    return np.stack([standardised[labels == number].mean(axis=0) for number in classes])[:, list(classes)]


def differences(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """Return how far two matrices are apart off the diagonal, which is set to 0.

    Args:
        student: ``K x K``.
        teacher: ``K x K``.
    """
    difference = np.abs(student - teacher)
    np.fill_diagonal(difference, 0.0)
    return difference


class Measure(NamedTuple):
    """What is compared.

    Attributes:
        matrix: From logits, labels and classes to a matrix, ``K x K``.
        name: What the figure calls an entry.
        axes: What its columns and rows are.
        largest: The largest absolute value that an entry can have, if there is one.
    """

    matrix: Callable[[np.ndarray, np.ndarray, Sequence[int]], np.ndarray]
    name: str
    axes: tuple[str, str]
    largest: float | None


MEASURES = {
    'correlation': Measure(
        lambda logits, _, classes: correlations(logits, classes), 'correlation of logits', ('class', 'class'), 1.0
    ),
    'mean-logits': Measure(mean_logits, 'mean standardised logit', ('logit of class', 'images of class'), None),
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_comparison_arguments(parser, max_images=None, classes='all')
    parser.add_argument(
        '--measure',
        choices=MEASURES,
        default='correlation',
        help="Pearson's correlation of logits over the images, or, as the paper's authors do, the standardised logits "
        'averaged over the images of each class (default: correlation)',
    )
    parser.add_argument(
        '--max-difference',
        type=float,
        metavar='X',
        help='the end of the scale of differences, for figures to be compared (default: the largest difference)',
    )
    parser.add_argument('--npz', type=Path, metavar='FILE', help='keep the matrices in this file')
    add_out_arguments(parser, 'logit_correlation.png')
    return parser.parse_args()


def draw(compared: Comparison, matrices: np.ndarray, measure: Measure, max_difference: float | None = None) -> 'Figure':
    """Draw each network's matrix and below each student's its differences from the teacher's.

    Args:
        compared: The networks' names and the classes.
        matrices: One ``K x K`` for each network; the first is the teacher's.
        measure: What the matrices are.
        max_difference: The end of the scale of differences; None: the largest of all students.

    Returns:
        The figure.
    """
    teacher, *students = matrices
    apart = [differences(student, teacher) for student in students]
    figure, panels = new_figure(2, len(matrices), panel_size=(2.9, 2.9), sharex=True, sharey=True)
    # the layout for panels that keep their ratio
    figure.set_layout_engine('compressed')
    largest = measure.largest or np.abs(matrices).max()
    for panel, name, matrix in zip(panels[0], compared.names, matrices, strict=True):
        panel.set_title(textwrap.fill(name, TITLE_WIDTH))
        shown = panel.imshow(matrix, cmap='RdBu_r', vmin=-largest, vmax=largest)
    figure.colorbar(shown, ax=panels[0], label=measure.name)
    end = max_difference or max(difference.max() for difference in apart) or 1.0
    for panel, difference in zip(panels[1, 1:], apart, strict=True):
        panel.set_title(f'mean difference {difference.mean():.3f}')
        shown = panel.imshow(difference, cmap='viridis', vmin=0, vmax=end)
    over = any(difference.max() > end for difference in apart)
    figure.colorbar(shown, ax=panels[1], label='|student \u2212 teacher|', extend='max' if over else 'neither')
    _label(panels, compared, measure)
    panels[1, 0].set_axis_off()
    text = f'{measure.name},\n{compared.images}'.replace(' images of ', ' images\nof ')
    panels[1, 0].text(0.5, 0.5, text, transform=panels[1, 0].transAxes, ha='center', va='center', fontsize=FONT_SIZE)
    return figure


def _label(panels: np.ndarray, compared: Comparison, measure: Measure) -> None:
    """Name the classes along the axes where there is room."""
    few = len(compared.classes) <= TICKED_CLASSES
    places = range(0, len(compared.classes), 1 if few else len(compared.classes) // 5)
    names = compared.class_names if few else [str(compared.classes[place]) for place in places]
    turned = 90 if max(map(len, names)) > 2 else 0
    for panel in panels.flat:
        panel.set_xticks(places, names, rotation=turned)
        panel.set_yticks(places, names)
        panel.spines[:].set_visible(False)
    # panels share their axes; beside the empty one they are named, too
    panels[0, 0].tick_params(labelbottom=True)
    panels[1, 1].tick_params(labelleft=True)
    for panel in (panels[0, 0], *panels[1, 1:]):
        panel.set_xlabel(measure.axes[0])
    for panel in (panels[0, 0], panels[1, 1]):
        panel.set_ylabel(measure.axes[1])


def write_npz(compared: Comparison, matrices: np.ndarray, file: Path) -> None:
    """Write the matrices and what they are of; the file appears whole.

    Args:
        compared: The networks' names and the classes.
        matrices: One ``K x K`` for each network.
        file: The file; its folder is made if need be.
    """
    content = io.BytesIO()
    np.savez_compressed(content, matrices=matrices, names=compared.names, classes=compared.classes)
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(content.getvalue(), file)


def main() -> None:
    args = parse_args()
    figure_files(args.out, args.force)
    if args.max_difference is not None and not args.max_difference > 0:
        raise SettingError(f'--max-difference {args.max_difference:g}: give a number above 0.')
    if args.npz and (args.npz.suffix != '.npz' or (args.npz.exists() and not args.force)):
        raise SettingError(f'--npz {args.npz}: name a new file that ends in .npz, or replace this one with --force.')
    measure = MEASURES[args.measure]
    compared = compare(args)
    matrices = np.stack(
        [measure.matrix(output.logits, compared.labels, compared.classes) for output in compared.outputs]
    )
    print(f'{measure.name}, mean absolute difference from the teacher:')
    for name, matrix in zip(compared.names[1:], matrices[1:], strict=True):
        print(f'  {name}: {differences(matrix, matrices[0]).mean():.4f}')
    if args.npz:
        write_npz(compared, matrices, args.npz)
    figure = draw(compared, matrices, measure, args.max_difference)
    print('written:', *save_figure(figure, args.out, args.force), *([args.npz] if args.npz else []))


if __name__ == '__main__':
    run(main)
