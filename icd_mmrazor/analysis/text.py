"""Results of an analysis as lines of text."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from icd_mmrazor.analysis.subject import STUDENT, TEACHER

Result = Mapping[str, Any]


def describe(name: str, found: Result) -> str:
    """Describe the result of a check, from :func:`icd_mmrazor.analysis.robustness.measure`."""
    return '\n'.join(LINES[name](found))


def networks_in(found: Result) -> list[str]:
    """Return the networks that a result is of, the student first."""
    return [name for name in (STUDENT, TEACHER) if name in found]


def _table(title: str, rows: Mapping[str, Sequence[float | None]], heads: Sequence[str]) -> Iterator[str]:
    wide = max(len(title), *(len(name) + 2 for name in rows))
    yield f'{title:{wide}}' + ''.join(f'{head:>10}' for head in heads)
    for name, values in rows.items():
        cells = ('-' if value is None else f'{value:.2f}' for value in values)
        yield f'  {name:{wide - 2}}' + ''.join(f'{cell:>10}' for cell in cells)


def _classes(found: Result) -> Iterator[str]:
    networks = networks_in(found)
    names = found['names']
    # two classes may have one name
    names = names if len({*names}) == len(names) else [f'{i} {name}' for i, name in enumerate(names)]
    rows = {name: [found[each][i] for each in networks] for i, name in enumerate(names)}
    yield from _table('accuracy of each class (%)', rows, networks)


def _calibration(found: Result) -> Iterator[str]:
    networks = networks_in(found)
    names = {'ece': 'calibration error', 'confidence': 'mean confidence', 'accuracy': 'accuracy'}
    rows = {text: [found[each][name] for each in networks] for name, text in names.items()}
    yield from _table(f'calibration (%), {found["bins"]} bins', rows, networks)


def _agreement(found: Result) -> Iterator[str]:
    yield f'agreement with the teacher: {found["top1"]:.2f} % of the predictions, divergence {found["kl"]:.4f}'


def _corruptions(found: Result) -> Iterator[str]:
    for name in networks_in(found):
        title = f'accuracy of the {name} on corrupted images (%)'
        yield from _table(title, found[name]['accuracies'], [f'{strength}' for strength in found['strengths']])
        yield f'  clean {found[name]["clean"]:.2f}, mean of all {found[name]["mean"]:.2f}'


def _attacks(found: Result) -> Iterator[str]:
    (name,) = networks_in(found)
    rows = {kind: [found[name][kind]] for kind in ('clean', 'robust')}
    attack = f'PGD-{found["steps"]}, eps {found["eps"]:g}, {found["images"]} images'
    yield from _table(f'attack on the {name} ({attack}): accuracy (%)', rows, [name])


def _transfer(found: Result) -> Iterator[str]:
    yield from _attacks(found)
    rate = 'none to count' if found['rate'] is None else f'{found["rate"]:.2f} % of them fool the student, too'
    yield f'  {found["counted"]} attacks fool the teacher on images that both classify correctly: {rate}'


def _ood(found: Result) -> Iterator[str]:
    networks = networks_in(found)
    names = {'max_probability': 'by the highest probability', 'energy': 'by the energy'}
    rows = {text: [found[each][name] for each in networks] for name, text in names.items()}
    yield from _table(f'AUROC of unknown images (%), {found["images"]} of {found["source"]}', rows, networks)


LINES: dict[str, Callable[[Result], Iterator[str]]] = {
    'classes': _classes,
    'calibration': _calibration,
    'agreement': _agreement,
    'corruptions': _corruptions,
    'attacks': _attacks,
    'transfer': _transfer,
    'ood': _ood,
}
