"""Sections of a report on what accuracy does not tell, from the results of ``tools/analysis/robustness.py``."""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from icd_mmrazor.analysis.text import networks_in
from icd_mmrazor.checkpoints.reading import sha256
from icd_mmrazor.errors import SettingError
from icd_mmrazor.report.drawing import Line, escape, line_chart, number, table
from icd_mmrazor.report.reliability import reliability_diagram

RESULTS = 'robustness.json'

Result = Mapping[str, Any]


def read_results(folders: Sequence[Path]) -> dict[str, Any] | None:
    """Read the results that lie in the first of some folders; None if there are none.

    Raises:
        SettingError: The file is not one of them, or not of a checkpoint that lies in one of the folders.
    """
    file = next((folder / RESULTS for folder in folders if (folder / RESULTS).is_file()), None)
    if file is None:
        return None
    try:
        found = json.loads(file.read_text(encoding='utf-8'))
    except ValueError as error:
        raise SettingError(f'{file} is not JSON. Write it again with tools/analysis/robustness.py.') from error
    if not isinstance(found, dict) or 'checkpoint' not in found:
        raise SettingError(f'{file} is not of tools/analysis/robustness.py. Move it, or write it again.')
    name = str(found['checkpoint'])
    if not any((each / name).is_file() and sha256(each / name) == found.get('sha256') for each in folders):
        raise SettingError(
            f'{file} is of a {name} that the folder no longer has. Run tools/analysis/robustness.py again.'
        )
    return found


def sections(folders: Sequence[Path]) -> str:
    """Show the results that lie in the first of some folders, as HTML; empty if there are none.

    Raises:
        SettingError: The file is not one of ``tools/analysis/robustness.py``, or not of a checkpoint in one of
            the folders.
    """
    found = read_results(folders)
    if found is None:
        return ''
    of = f'{escape(found["checkpoint"])} on {found["images"]:,} of {found["total"]:,} test images.'
    shown = [each for name, section in SECTIONS.items() if name in found for each in section(found[name])]
    return '\n'.join(['<h2>Beyond accuracy</h2>', f'<p class="soft">{of}</p>', *shown]) if shown else ''


def _numbers(title: str, found: Result, rows: Mapping[str, str]) -> str:
    """Make a table of numbers, with a column for each network."""
    networks = networks_in(found)
    lines = [[escape(text), *(number(found[each][name]) for each in networks)] for name, text in rows.items()]
    return table([title, *networks], lines)


def _calibration(found: Result) -> Iterator[str]:
    networks = networks_in(found)
    yield '<h3>Calibration</h3>'
    yield (
        '<p>Of predictions with a confidence of 80 %, about 80 % should be right: the columns should reach the dashed '
        'line. Below it, a network is too confident. Dark columns have many images. The expected calibration error is '
        f'the mean distance over {found["bins"]} bins, weighted by their images.</p>'
    )
    drawn = [reliability_diagram(found[name]['reliability'], name, i) for i, name in enumerate(networks)]
    yield f'<div class="charts">{"".join(drawn)}</div>'
    rows = {'ece': 'expected calibration error', 'confidence': 'mean confidence', 'accuracy': 'accuracy'}
    yield _numbers('%', found, rows)


def _agreement(found: Result) -> Iterator[str]:
    yield '<h3>Agreement with the teacher</h3>'
    yield (
        f'<p>Student and teacher predict the same class for <b>{found["top1"]:.2f} %</b> of the images. The mean '
        f'Kullback-Leibler divergence of their probabilities is <b>{found["kl"]:.4f}</b>. Agreement is not accuracy: '
        'a student that repeats the mistakes of its teacher agrees with it.</p>'
    )


def _corruptions(found: Result) -> Iterator[str]:
    strengths, networks = found['strengths'], networks_in(found)
    yield '<h3>Corrupted images</h3>'
    yield (
        '<p>The accuracy on test images with noise, blur, fog and the like, in five strengths. The strengths are those '
        'of CIFAR-10-C; the corruptions are our own implementation, so do not compare the numbers with published '
        'ones.</p>'
    )
    lines = []
    for name in networks:
        columns = zip(*found[name]['accuracies'].values(), strict=True)
        means = [found[name]['clean'], *map(statistics.fmean, columns)]
        lines.append(Line(name, [0, *strengths], means))
    yield f'<div class="charts">{line_chart(lines, "strength (0: clean)", "mean accuracy (%)")}</div>'
    head = ['student (%)', *(f'strength {strength}' for strength in strengths), 'mean']
    teacher = found['teacher']['accuracies'] if 'teacher' in networks else {}
    rows = []
    for corruption, values in found['student']['accuracies'].items():
        cells = [*map(number, values), f'<b>{statistics.fmean(values):.2f}</b>']
        rows.append([escape(corruption.replace('_', ' ')), *cells])
        rows[-1] += [f'{statistics.fmean(teacher[corruption]):.2f}'] if teacher else []
    yield table([*head, *(['mean of the teacher'] if teacher else [])], rows)


def _attack(found: Result) -> str:
    return f'PGD of {found["steps"]} steps, changes of at most {found["eps"]:g} of the range of a pixel'


def _attacks(found: Result) -> Iterator[str]:
    (name,) = networks_in(found)
    yield '<h3>Adversarial examples</h3>'
    yield (
        f'<p>How many of {found["images"]:,} images does the {name} still classify correctly if they are changed to '
        f'fool it? The attack: {_attack(found)}.</p>'
    )
    yield _numbers('accuracy (%)', found, {'clean': 'clean images', 'robust': 'attacked images'})


def _transfer(found: Result) -> Iterator[str]:
    yield '<h3>Transfer of adversarial examples</h3>'
    fooled = (
        'No attack on the teacher could be counted.'
        if found['rate'] is None
        else f'<b>{found["rate"]:.2f} %</b> of the attacks that fool the teacher fool the student, too: of '
        f'{found["counted"]:,} images that both classify correctly without the attack.'
    )
    yield f'<p>The attack is on the teacher ({_attack(found)}), and the student gets the same images. {fooled}</p>'
    yield _numbers('accuracy (%)', found, {'clean': 'clean images', 'robust': 'attacked images'})


def _unknown(found: Result) -> Iterator[str]:
    yield '<h3>Unknown images</h3>'
    yield (
        f'<p>Does a score tell the test images from others, here {found["images"]:,} of {escape(found["source"])}? The '
        'area under the ROC curve is 50 % for a score that does not, and 100 % for one that always does. The scores '
        "are the highest probability, and the energy: the logarithm of the logits' summed exponentials.</p>"
    )
    yield _numbers('AUROC (%)', found, {'max_probability': 'highest probability', 'energy': 'energy'})


SECTIONS = {
    'calibration': _calibration,
    'agreement': _agreement,
    'corruptions': _corruptions,
    'attacks': _attacks,
    'transfer': _transfer,
    'ood': _unknown,
}
