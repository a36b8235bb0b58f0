"""Tables of published accuracies and our own, side by side: ``docs/published.md`` and the pages of methods."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import icd_mmrazor  # noqa: F401

# isort: split
from method_facts import Method, methods, table
from mmengine.config import Config
from published_values import (
    LOGS,
    ROLES,
    STUDENT,
    Run,
    Value,
    alone,
    key_of,
    names_of,
    runs,
    sources,
    teacher_accuracies,
    values,
)

DATASETS = {'cifar100': 'CIFAR-100', 'in1k': 'ImageNet', 'cifar10': 'CIFAR-10'}
# pairs that papers compare on, though there is no config of them here
USUAL = ('resnet50_mobilenet-v1_in1k',)
# a table's groups, in which accuracies are sorted: the best epoch is higher than the last one
EPOCHS = {'last': 'last', 'best': 'best', '': 'not said'}
# quotes and older tables that agree with what they repeat are not rows of their own
REPEATED = ('second hand', 'older table')
# what is true of a method, not of a number
OF_METHODS = ('other student', 'two views')
STUDENT_ALONE = 'student alone'
HEADER = ['method', 'published', 'epoch', 'source', 'ours', 'seeds', 'command', 'log']


class Row(NamedTuple):
    """A method in the table of a pair: what was published, by one or several sources, and what we ran.

    ``apart`` is why it cannot be compared with the others; empty if it can.
    """

    method: str
    published: list[Value]
    runs: list[Run]
    apart: str


def dataset_of(pair: str) -> str:
    """Return the dataset of a pair: ``cifar10`` for ``res56_res20_cifar10-5k`` as well."""
    return pair.rpartition('_')[2].partition('-')[0]


def configured_pairs(root: Path) -> list[str]:
    """Return the pairs that have a config, by name."""
    return sorted(file.stem for file in (root / 'configs' / '_base_' / 'pairs').glob('*.py'))


def pairs_of(root: Path, dataset: str) -> list[str]:
    """Return the pairs of a dataset that have a table: with a config, and something published or run."""
    of_ours = [pair for _, pair in runs(root)]
    known = {*configured_pairs(root), *USUAL, *of_ours}
    found = dict.fromkeys([*(value.pair for value in values(root)), *of_ours])
    return [pair for pair in found if pair in known and dataset_of(pair) == dataset]


def other_pairs(root: Path) -> list[str]:
    """Return the pairs with published accuracies that have no table."""
    shown = {pair for dataset in DATASETS for pair in pairs_of(root, dataset)}
    return [pair for pair in dict.fromkeys(value.pair for value in values(root)) if pair not in shown]


def epoch_of(root: Path, value: Value) -> str:
    """Return which epoch a published accuracy counts."""
    return sources(root)[value.source].epoch


def apart_by_itself(root: Path, method: str) -> str:
    """Return why a method cannot be compared, whoever runs it: its student is another one, or sees two views."""
    names = {*names_of(method)}
    reasons = {value.apart for value in values(root) if names & {*names_of(value.method)}}
    return '; '.join(kind for kind in OF_METHODS if any(kind in reason for reason in reasons))


def rows_of(root: Path, pair: str) -> list[Row]:
    """Return the rows of a pair: those that can be compared, sorted within each kind of epoch; then the others."""
    cells: dict[tuple[str, str, str], list[Value]] = {}
    for value in values(root):
        if value.pair != pair or value.method == 'teacher' or value.source in LOGS.values():
            continue
        same = [key for key in cells if key[:2] == (value.method, value.accuracy)]
        repeats = value.apart.startswith(REPEATED) and same
        cells.setdefault(same[0] if repeats else (value.method, value.accuracy, value.apart), []).append(value)
    of_ours = {key: found for (key, of), found in runs(root).items() if of == pair}
    rows = []
    for (method, *_), found in cells.items():
        apart = found[0].apart
        # ours belong to the value that they repeat, not to one that somebody quotes
        rows.append(Row(method, found, [] if apart else of_ours.pop(key_of(method), []), apart))
    order = [method.name for method in methods(root)]
    ran = {found[0].methods: found for found in of_ours.values()}
    by_name = sorted(ran, key=lambda name: [order.index(each) if each in order else -1 for each in name.split('+')])
    rows += [Row(name, [], ran[name], apart_by_itself(root, name)) for name in by_name]

    def place(row: Row) -> tuple:
        if row.apart or not row.published:
            return (bool(row.apart), len(EPOCHS), 0.0)
        first = row.published[0]
        return (False, list(EPOCHS).index(epoch_of(root, first)), -float(first.accuracy))

    # the student alone comes first
    return sorted(rows, key=lambda row: (row.method != STUDENT or bool(row.apart), *place(row)))


def labels_of(method: str) -> list[str]:
    """Return the parts of a published method as they are written, without settings: ``['KD+LS', 'CRD']``."""
    return [part.replace('_LS', '+LS') for part in method.partition(' ')[0].replace('+LS', '_LS').split('+')]


def linked(root: Path, method: str, folder: Path) -> str:
    """Return a method, as published or by its configs, with links to the pages of those that have a config."""
    if method == STUDENT:
        return STUDENT_ALONE
    known = {each.name: each for each in methods(root)}
    _, space, settings = method.partition(' ')
    parts = []
    for label, name in zip(labels_of(method), names_of(method), strict=True):
        page = os.path.relpath(root / 'configs' / name / 'README.md', folder)
        parts.append(f'[{known[name].label}]({page})' if name in known else label)
    return '+'.join(parts) + space + settings


def log_note(root: Path, row: Row) -> str:
    """Return what the published log of a single run has for the best and the last epoch."""
    found = {
        kind: value
        for kind, source in LOGS.items()
        for value in values(root)
        if row.published and (value.method, value.pair, value.source) == (row.method, row.published[0].pair, source)
    }
    if not found or row.published[0].source != 'lskd':
        return ''
    detail = found['last'].detail
    settings = f' ({detail})' if detail else ''
    return f'; a log{settings}: best {found["best"].accuracy}, last {found["last"].accuracy}'


def line(root: Path, row: Row, folder: Path) -> list[str]:
    """Return the cells of a row, and why it is apart if it is."""
    published = epoch = source = ''
    if row.published:
        first = row.published[0]
        published = first.accuracy + (f' ± {first.spread}' if first.spread else '')
        epoch = EPOCHS[epoch_of(root, first)] + log_note(root, row)
        source = ', '.join(f'`{key}`' for key in dict.fromkeys(value.source for value in row.published))
    cells = [linked(root, row.method, folder), published, epoch, source, *our_cells(row.runs)]
    return [*cells, row.apart] if row.apart else cells


def our_cells(found: list[Run]) -> list[str]:
    """Return the cells of what we ran: accuracy, seeds, command, log."""
    columns = [
        [run.accuracy for run in found],
        [', '.join(map(str, run.seeds)) for run in found],
        [f'`{run.command}`' for run in found],
        [run.log or 'not kept' for run in found],
    ]
    return ['<br>'.join(column) for column in columns]


def count(root: Path, pairs: Iterable[str]) -> int:
    """Return the number of published accuracies of methods on pairs, without those that are not comparable."""
    kept = {*pairs}
    return sum(value.pair in kept and value.method not in ROLES and not value.apart for value in values(root))


def teacher_text(root: Path, pair: str) -> str:
    """Return the accuracies of the teacher: published, and of ours in each study."""
    parts = []
    if value := alone(root, 'teacher').get(pair):
        parts.append(f'{value.accuracy} (`{value.source}`)')
    file = root / 'configs' / '_base_' / 'pairs' / f'{pair}.py'
    studies = dict.fromkeys(run.study for (_, of), found in runs(root).items() if of == pair for run in found)
    if studies and file.is_file():
        name = Path(Config.fromfile(file).model.teacher_ckpt).parent.name
        of_ours = [teacher_accuracies(root)[study].get(name) for study in studies]
        parts += [f'{accuracy:.2f} (ours)' for accuracy in of_ours if accuracy is not None]
    return f'Teacher: {", ".join(parts)}.' if parts else ''


def ran_by_us(rows: list[Row]) -> int:
    """Return how many methods we ran, the student alone left out."""
    return sum(bool(row.runs) for row in rows if row.method != STUDENT)


def section(root: Path, pair: str, folder: Path) -> str:
    """Return the section of a pair: its teacher, and the tables of the methods, folded if nothing was run."""
    rows = rows_of(root, pair)
    compared = [line(root, row, folder) for row in rows if not row.apart]
    apart = [line(root, row, folder) for row in rows if row.apart]
    published, ran = count(root, [pair]), ran_by_us(rows)
    facts = [f'{published} published accuracies' if published else 'Nothing published']
    facts.append(f'{ran} method{"s" * (ran > 1)} run by us' if ran else 'nothing run by us')
    parts = [f'### {pair}\n', f'{", ".join(facts)}. {teacher_text(root, pair)}'.strip() + '\n']
    tables = [table(HEADER, compared)] if compared else []
    if apart:
        tables += ['Not comparable with these:\n', table([*HEADER, 'why'], apart)]
    if not ran:
        tables = ['<details><summary>Show them</summary>\n', *tables, '</details>\n']
    return '\n'.join([*parts, *tables])


def sections(root: Path, dataset: str, folder: Path) -> str:
    """Return the sections of the pairs of a dataset."""
    return '\n'.join(section(root, pair, folder) for pair in pairs_of(root, dataset))


def overview(root: Path) -> str:
    """Return the table of all pairs: the highest accuracy by kind of epoch, how many are published and run."""
    rows = []
    for pair in [pair for dataset in DATASETS for pair in pairs_of(root, dataset)]:
        of_pair = [row for row in rows_of(root, pair) if not row.apart and row.method != STUDENT]
        highest = []
        for epoch in EPOCHS:
            found = [row for row in of_pair if row.published and epoch_of(root, row.published[0]) == epoch]
            highest.append(f'{found[0].method} {found[0].published[0].accuracy}' if found else '')
        baseline = alone(root, STUDENT).get(pair)
        numbers = [str(count(root, [pair])), str(ran_by_us(rows_of(root, pair)))]
        rows.append([f'[`{pair}`](#{pair})', baseline.accuracy if baseline else '', *highest, *numbers])
    others = other_pairs(root)
    rows.append([f'[{len(others)} other pairs](#other-pairs)', '', '', '', '', str(count(root, others)), '0'])
    highest = ['highest, last epoch', 'highest, best epoch', 'highest, epoch not said']
    return table(['pair', STUDENT_ALONE, *highest, 'published', 'run by us'], rows, 2)


def source_table(root: Path) -> str:
    """Return the table of all sources."""
    used = dict.fromkeys(value.source for value in values(root))
    found = [sources(root)[key] for key in used]
    rows = [[f'`{each.source}`', each.link, EPOCHS[each.epoch], each.note] for each in found]
    return table(['source', 'where', 'epoch', 'note'], rows)


def other_table(root: Path, folder: Path) -> str:
    """Return the table of the pairs that have none of their own."""
    rows = []
    for pair in sorted(other_pairs(root), key=lambda pair: list(DATASETS).index(dataset_of(pair))):
        for row in rows_of(root, pair):
            cells = line(root, row, folder)[:4]
            rows.append([f'`{pair}`', *cells, row.apart])
    return table(['pair', *HEADER[:4], 'not comparable because'], rows)


def missing_methods(root: Path) -> str:
    """Return the published methods that have no config here."""
    known = {method.name for method in methods(root)}
    labels: dict[str, None] = {}
    for value in values(root):
        if value.method not in ROLES:
            parts = zip(labels_of(value.method), names_of(value.method), strict=True)
            labels |= dict.fromkeys(label for label, name in parts if name not in known)
    return f'Without a config here: {", ".join(labels)}.' if labels else 'Every method has a config here.'


def results_of(root: Path, method: Method, folder: Path) -> str:
    """Return the section ``Published results`` of a method's page; empty if there is nothing published or run."""
    found = [value for value in values(root) if value.method not in ROLES and names_of(value.method)[0] == method.name]
    ran = {key: each for key, each in runs(root).items() if each[0].methods.split('+')[0] == method.name}
    page = os.path.relpath(root / 'docs' / 'published.md', folder)
    parts = []
    if found:
        parts.append('## Published results\n')
        parts.append(f'Top-1 accuracy (%). All methods side by side: [published and reproduced]({page}).')
        if not {value.pair for value in found} & {pair for _, pair in ran}:
            parts.append('**We have not run any of these cells**: CIFAR-100 and ImageNet were not available to us.')
        parts += ['', published_matrix(root, found)]
        baselines = [alone(root, role).get(value.pair) for value in found for role in ROLES]
        for key in dict.fromkeys(value.source for value in [*found, *baselines] if value):
            source = sources(root)[key]
            epoch = f'{source.epoch} epoch' if source.epoch else 'best or last epoch: not said'
            parts.append(f'- `{key}`: {source.link}; {epoch}. {source.note}'.rstrip())
        parts.append('')
    if ran:
        rows = []
        for (_, pair), each in sorted(ran.items(), key=lambda item: item[0][1]):
            cells, baseline = our_cells(each), our_cells(runs(root).get((STUDENT, pair), []))
            rows.append([f'`{pair}`', linked(root, each[0].methods, folder), cells[0], baseline[0], *cells[1:]])
        header = ['pair', 'method', 'top-1 (%)', STUDENT_ALONE, *HEADER[5:]]
        results = os.path.relpath(root / 'docs' / 'results.md', folder)
        parts += ['## What we ran\n', f'Short trainings: see [results]({results}).\n', table(header, rows)]
    return '\n'.join(parts)


def published_matrix(root: Path, found: list[Value]) -> str:
    """Return the accuracies of a method by pair; a column for each form of it and source."""
    columns = list(dict.fromkeys((value.method, value.source, value.apart) for value in found))
    cells = {(value.pair, value.method, value.source, value.apart): value for value in found}
    rows = []
    of_method = {value.pair for value in found}
    for pair in dict.fromkeys(value.pair for value in values(root) if value.pair in of_method):
        baselines = [alone(root, role)[pair].accuracy if pair in alone(root, role) else '' for role in ROLES]
        of_pair = [cells.get((pair, *column)) for column in columns]
        rows.append([f'`{pair}`', *baselines, *(value.accuracy if value else '' for value in of_pair)])
    names = [f'{name}<br>`{source}`{f"<br>{apart}" if apart else ""}' for name, source, apart in columns]
    return table(['pair', 'teacher', STUDENT_ALONE, *names], rows, len(names) + 2)
