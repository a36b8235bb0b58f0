"""The sections of a report, as HTML; all text of files is escaped."""

from collections.abc import Mapping, Sequence
from datetime import timedelta

import numpy as np

from icd_mmrazor.report.drawing import Line, bar, confusion_table, escape, line_chart, number, picture, table
from icd_mmrazor.report.predictions import Cost, Predictions
from icd_mmrazor.report.run_folder import USUAL_METRIC, RunFolder

MATRIX_CLASSES = 20  # a larger matrix cannot be read
PAIRS, EXAMPLES = 15, 24
MINUS = '\N{MINUS SIGN}'
TERM_ORDER = ('loss', 'student.loss')


def metric_name(name: str | None) -> str:
    """Return the name of a metric in words, if it is a usual one."""
    return {USUAL_METRIC: 'accuracy (%)', None: 'metric'}.get(name, name)


def facts(rows: Mapping[str, str | None]) -> str:
    """List facts by their names; those that are not known are left out. The values are HTML."""
    return f'<dl>{"".join(f"<dt>{escape(name)}</dt><dd>{value}</dd>" for name, value in rows.items() if value)}</dl>'


def tiles(rows: Sequence[tuple[str, str, str]]) -> str:
    """Show the main numbers: value, name, remark."""
    shown = [f'<div><b>{escape(v)}</b>{escape(n)}<span>{escape(r)}</span></div>' for v, n, r in rows]
    return f'<div class="tiles">{"".join(shown)}</div>'


def distilled(run: RunFolder, cost: Mapping[str, Cost], images: Mapping[str, str]) -> str:
    """Say what was distilled, from config and log."""
    model, said = run.cfg.model, run.described
    distiller = model.get('distiller') or {}
    several = model.get('teachers') or ()
    several = several.values() if isinstance(several, Mapping) else several  # mmrazor's have names
    weights = model.get('teacher_ckpt') or ', '.join(
        str(each.get('teacher_ckpt') or each.get('ckpt_path') or 'as published') for each in several
    )
    optimizer = (run.cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    machine = '; '.join(f'{name} {value}' for name, value in run.machine.items() if name != 'numpy_random_seed')
    rows: dict[str, str | None] = {}
    for name, lines in said.items():
        if name.startswith(('teacher', 'student')):
            rows[name] = '<br>'.join(map(escape, lines))
    for name in ('teacher', 'student'):
        if name not in rows and name in cost:
            rows[name] = f'{cost[name].parameters:,} parameters'
    rows['weights of the teacher'] = escape(weights) if weights and 'teacher' not in said else None
    rows['method'] = escape(_method(distiller))
    rows['loss'] = '<br>+ '.join(map(escape, said.get('loss', ())))
    rows['gradients'] = '<br>'.join(map(escape, said.get('gradients', ())))
    rows.update({name: escape(value) for name, value in images.items()})
    planned = '' if run.planned is None else f' of {run.planned:,}'
    rows[f'{run.unit}s'] = None if run.reached is None else f'{run.reached:,}{planned}'
    settings = ', '.join(f'{key} {value}' for key, value in optimizer.items() if key in ('lr', 'weight_decay'))
    rows['optimizer'] = escape(f'{optimizer.get("type", "")} {settings}'.strip())
    rows['seed'] = escape(run.seed or (run.cfg.get('randomness') or {}).get('seed', 'not set'))
    rows['machine'] = escape(machine) or 'the log does not say'
    return facts(rows)


def _method(distiller: Mapping) -> str:
    inside = distiller.get('distillers')
    names = [str(distiller.get('type', 'unknown'))]
    if kd := distiller.get('kd'):
        names.append(f'KD (temperature {kd["tau"]})' if isinstance(kd, Mapping) and 'tau' in kd else 'KD')
    if isinstance(inside, Mapping):
        names = [_method(each) for each in inside.values() if isinstance(each, Mapping)]
    names += [str(each.get('type')) for each in (distiller.get('losses') or {}).values() if isinstance(each, Mapping)]
    return ' + '.join(dict.fromkeys(names))


def curves(run: RunFolder, teacher: float | None, baseline: RunFolder | None) -> str:
    """Draw the losses, and the metric of student, teacher and baseline against epochs."""
    names = {name for row in run.training for name in row if 'loss' in name.rpartition('.')[2]}
    names = sorted(names, key=lambda name: (TERM_ORDER.index(name) if name in TERM_ORDER else 9, name))
    lines = [Line(name, *_points(run.training, name)) for name in names]
    charts = [line_chart(lines, 'iteration', 'losses')]
    if run.metric:
        compared = [Line('student', *_points(run.validations, run.metric))]
        if teacher is not None:
            compared.append(Line('teacher', (), (teacher,), level=True))
        if baseline is not None:
            compared.append(Line('student alone', *_points(baseline.validations, run.metric)))
        charts.append(line_chart(compared, run.unit, metric_name(run.metric)))
    drawn = ''.join(filter(None, charts))
    return f'<div class="charts">{drawn}</div>' if drawn else '<p>The log has no numbers yet.</p>'


def _points(rows: Sequence[Mapping], name: str) -> tuple[list[float], list[float]]:
    found = [(row['step'], float(row[name])) for row in rows if isinstance(row.get(name), int | float)]
    return [x for x, _ in found], [y for _, y in found]


def confusion(found: Predictions) -> str:
    """Show which classes the student confuses, and its accuracy of each class next to the teacher's."""
    if found.labels is None:
        if found.teacher is None:
            return '<p>The validation images have no labels, and the teacher no classes: there is nothing to count.</p>'
        truth, rows = found.teacher.argmax(1), "the teacher's class (the images have no labels)"
    else:
        truth, rows = found.labels, 'label'
    count = len(found.classes)
    counts = _counts(truth, found.student.argmax(1), count)
    if count <= MATRIX_CLASSES:
        shown = confusion_table(counts, found.classes, rows, "student's class")
    else:
        shown = _pairs(found, truth, counts, rows)
    if found.labels is None:
        return shown
    return f'{shown}<h3>Accuracy of each class (%)</h3>{_of_classes(found)}'


def _counts(truth: np.ndarray, predicted: np.ndarray, count: int) -> np.ndarray:
    inside = (truth >= 0) & (truth < count)
    return np.bincount(truth[inside] * count + predicted[inside], minlength=count * count).reshape(count, count)


def _pairs(found: Predictions, truth: np.ndarray, counts: np.ndarray, rows: str) -> str:
    wrong = counts * (1 - np.eye(len(counts), dtype=int))
    order = [place for place in np.argsort(-wrong, axis=None, kind='stable')[:PAIRS] if wrong.flat[place]]
    if not order:
        return '<p>The student confuses no classes.</p>'
    pairs = [divmod(int(place), len(counts)) for place in order]
    with_teacher = found.labels is not None and found.teacher is not None
    of_teacher = _counts(truth, found.teacher.argmax(1), len(counts)) if with_teacher else None
    lines = [
        [escape(found.classes[i]), escape(found.classes[j]), f'{wrong[i, j]} of {counts[i].sum()}']
        + ([str(of_teacher[i, j])] if with_teacher else [])
        for i, j in pairs
    ]
    return f'<p>The most confused of {len(counts)} classes.</p>' + table(
        [rows, "student's class", 'images', *(['by the teacher'] if with_teacher else [])], lines
    )


def _of_classes(found: Predictions) -> str:
    right = found.student.argmax(1) == found.labels
    of_teacher = None if found.teacher is None else found.teacher.argmax(1) == found.labels
    present = [i for i in range(len(found.classes)) if (found.labels == i).any()]
    rows = []
    for i in present:
        of_class = found.labels == i
        teacher = None if of_teacher is None else float(of_teacher[of_class].mean())
        rows.append((float(right[of_class].mean()), teacher, i, int(of_class.sum())))
    remark = ''
    if len(rows) > MATRIX_CLASSES:
        # where the student falls behind most, or is worst
        rows = sorted(rows, key=lambda row: row[0] - (row[1] or 0))[:MATRIX_CLASSES]
        than = 'farthest behind the teacher' if found.teacher is not None else 'with the lowest accuracy'
        remark = f'<p>The {MATRIX_CLASSES} of {len(present)} classes {than}.</p>'
    head = ['class', 'images', 'student', *(['teacher', 'difference'] if of_teacher is not None else [])]
    lines = [
        [escape(found.classes[i]), str(images), bar(own, 'student')]
        + ([] if teacher is None else [bar(teacher, 'teacher'), _difference(100 * (own - teacher))])
        for own, teacher, i, images in rows
    ]
    return remark + table(head, lines)


def _difference(points: float) -> str:
    return f'{points:+.1f}'.replace('-', MINUS) if abs(points) >= 0.05 else '0.0'


def examples(found: Predictions) -> str:
    """Show images on which teacher and student disagree; without a teacher's classes, mistakes of the student."""
    if found.teacher is not None:
        rows, differ = found.disagreements(EXAMPLES), int((found.teacher.argmax(1) != found.student.argmax(1)).sum())
        text = f'They disagree on {differ:,} of {len(found.images):,} images.'
        text += f' These are the {len(rows)} on which both are most confident.' if differ > len(rows) else ''
    elif found.labels is not None:
        rows, wrong = found.mistakes(EXAMPLES), int((found.student.argmax(1) != found.labels).sum())
        text = (
            f'The teacher has no classes to compare. The student is wrong on {wrong:,} of {len(found.images):,} images.'
        )
        text += f' These are the {len(rows)} on which it is most confident.' if wrong > len(rows) else ''
    else:
        return '<p>Neither labels nor classes of a teacher can be compared with the student.</p>'
    return f'<p>{text}</p><div class="examples">{"".join(_example(found, row) for row in rows)}</div>'


def _example(found: Predictions, row: int) -> str:
    said = {'label': None if found.labels is None else found.classes[int(found.labels[row])]}
    for name, scores in (('teacher', found.teacher), ('student', found.student)):
        if scores is not None:
            best = int(scores[row].argmax())
            said[name] = f'{found.classes[best]} ({100 * scores[row, best]:.0f} %)'
    said = {name: text for name, text in said.items() if text is not None}
    place = found.images[row]
    alt = f'Validation image {place}: {", ".join(f"{name} {text}" for name, text in said.items())}'
    lines = ''.join(f'<span>{name}: <b>{escape(text)}</b></span>' for name, text in said.items())
    return f'<figure>{picture(found.thumbnail(place), alt)}<figcaption>{lines}</figcaption></figure>'


def costs(run: RunFolder, cost: Mapping[str, Cost], shape: Sequence[int] | None, files: Mapping[str, str]) -> str:
    """Show what the networks cost, and what the training took."""
    lines = [
        [escape(', '.join(filter(None, (name, each.change)))), f'{each.parameters:,}', _millions(each.multiply_adds)]
        for name, each in cost.items()
    ]
    if len(cost) == 2:
        own, whole = cost['student'], cost['teacher']
        ratio = f'1 : {whole.multiply_adds / own.multiply_adds:.1f}' if own.multiply_adds else '-'
        lines.append(['student to teacher', f'1 : {whole.parameters / own.parameters:.1f}', ratio])
    head = ['', 'parameters', 'multiply-adds of an image']
    shown = table(head, lines) if cost else ''
    rows = {
        'image': f'{" x ".join(map(str, shape))} (channels, height, width)' if shape else None,
        'time of training': None if run.seconds is None else escape(duration(run.seconds)),
        **{f'size of {name}': escape(size) for name, size in files.items()},
    }
    return shown + facts(rows)


def _millions(count: int | None) -> str:
    return '-' if count is None else f'{count / 1e6:,.2f} M'


def duration(seconds: float) -> str:
    """Write a time as hours, minutes, seconds."""
    return str(timedelta(seconds=round(seconds)))


def accuracies(rows: Sequence[tuple[str, float | None, str]], metric: str | None) -> str:
    """Compare the metric of teacher, student, and the student alone."""
    return table(['', metric_name(metric), ''], [[escape(n), f'<b>{number(v)}</b>', escape(r)] for n, v, r in rows])
