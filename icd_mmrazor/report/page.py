"""The report of a run, from its work folder to one file."""

import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from icd_mmrazor import compat
from icd_mmrazor.checkpoints.writing import atomic_write, check_writable
from icd_mmrazor.errors import SettingError
from icd_mmrazor.export.formats import FORMATS
from icd_mmrazor.report import sections
from icd_mmrazor.report.drawing import escape, number
from icd_mmrazor.report.material import Material, collect
from icd_mmrazor.report.robustness import sections as beyond_accuracy
from icd_mmrazor.report.run_folder import RunFolder, read_run
from icd_mmrazor.report.style import STYLE
from icd_mmrazor.version import __version__

DISTILLED, ALONE = 'distilled', 'student_alone'  # folders of tools/distill.py
EXPORTED = 'student.pth'  # its file
MAX_IMAGES = 5000
UNTELLING = ('num_classes', 'teacher_ckpt', 'pretrained', 'cache')  # in the name of a network


def write_report(
    work_dir: Path | str,
    baseline: Path | str | None = None,
    out: Path | str | None = None,
    max_images: int = MAX_IMAGES,
) -> Path:
    """Write the report of a distillation, one file of HTML that needs no other.

    Args:
        work_dir: The work folder of ``tools/train.py``, or that of ``tools/distill.py``, whose student alone is the
            baseline then.
        baseline: The work folder of the student trained without a teacher.
        out: The file; by default ``report.html`` in the work folder.
        max_images: The number of validation images to look at; of more, some are drawn with a fixed seed.

    Returns:
        The file.

    Raises:
        SettingError: The folder is not that of a distillation, or the file cannot be written.
    """
    folder = Path(work_dir)
    out = folder / 'report.html' if out is None else Path(out)
    within = folder / DISTILLED
    run_folder = within if within.is_dir() and not [*folder.glob('*/vis_data')] else folder
    if baseline is None and run_folder is within and (folder / ALONE).is_dir():
        baseline = folder / ALONE
    for each in filter(None, (run_folder, baseline)):
        if not Path(each).is_dir():
            raise SettingError(f'{each}: there is no such folder. Name the work folder of a training.')
    check_writable(out, '--out')
    compat.runtime()
    run = read_run(run_folder)
    if not {'teacher', 'teachers'} & {*(run.cfg.get('model') or {})}:
        raise SettingError(
            f'{run_folder} is of a training without a teacher (model.teacher). Name the work folder of a distillation, '
            'and this one with --baseline.'
        )
    exported = folder / EXPORTED
    whole = run_folder is within and exported.is_file() and exported.with_suffix('.py').is_file()
    checkpoint = exported if whole else run.checkpoint()
    material = Material(run, None if baseline is None else read_run(Path(baseline)), checkpoint)
    collect(material, max_images)
    failed = 'The results beyond accuracy could not be shown'
    beyond = material.attempt(failed, beyond_accuracy, [run_folder, folder]) or ''
    atomic_write(_page(material, _files(folder, material.checkpoint), beyond), out)
    return out


def _files(folder: Path, checkpoint: Path | None) -> dict[str, str]:
    exported = [file for file in sorted(folder.glob('student*')) if file.is_file() and file.suffix != '.py']
    files = [*exported, *([checkpoint] if checkpoint and checkpoint not in exported else [])]
    return {file.name: f'{file.stat().st_size / 1e6:.2f} MB' for file in files}


def _page(found: Material, files: Mapping[str, str], beyond: str) -> str:
    run = found.run
    teacher = _teachers(found)
    rows = [('teacher', teacher, ''), *_students(found)]
    boxes = [(number(value), name, remark) for name, value, remark in rows if value is not None]
    if len(found.costs) == 2:
        own, whole = (found.costs[name].parameters for name in ('student', 'teacher'))
        boxes.append((f'{100 * own / whole:.3g} %', "of the teacher's parameters", f'{own:,} of {whole:,}'))
    name = _names(found)
    parts = [
        f'<h1>{escape(name)}</h1>',
        f'<p class="soft">{escape(sections.metric_name(run.metric))} on the validation set · {escape(run.folder)}</p>'
        if run.metric
        else f'<p class="soft">{escape(run.folder)}</p>',
        *(f'<p class="note">{escape(note)}</p>' for note in [*_state(run), *found.notes]),
        sections.tiles(boxes),
        '<h2>What was distilled</h2>',
        sections.distilled(run, found.costs, found.images | _classes(found)),
        '<h2>Curves</h2>',
        sections.curves(run, teacher, found.baseline),
    ]
    if run.metric:
        heading = sections.metric_name(run.metric)
        parts += [f'<h2>{escape(heading[:1].upper() + heading[1:])}</h2>']
        parts += [sections.accuracies(rows, run.metric)]
    if found.predictions is not None:
        some = found.predictions
        drawn = f'<p class="soft">{len(some.images):,} of {some.total:,} validation images, drawn with seed 0.</p>'
        drawn = drawn if len(some.images) < some.total else ''
        parts += ['<h2>Confusion</h2>', drawn, sections.confusion(some)]
        title = 'Where teacher and student disagree' if some.teacher is not None else 'Mistakes of the student'
        parts += [f'<h2>{title}</h2>', sections.examples(some)]
    parts.append(beyond)
    parts += ['<h2>Cost</h2>', sections.costs(run, found.costs, found.shape, files)]
    parts += ['<h2>Use the student</h2>', _usage(found)]
    parts.append(f'<footer>Written by icd-mmrazor {__version__} on {date.today():%d %B %Y}.</footer>')
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(name)}</title><style>{STYLE}</style></head>\n<body>\n'
        + '\n'.join(parts)
        + '\n</body></html>\n'
    )


def _students(found: Material) -> list[tuple[str, float | None, str]]:
    """Return name, metric and remark of the student shown, of the student at the end, and of the student alone."""
    run, step = found.run, None
    last = run.validations[-1]['step'] if run.validations else None
    if found.student is not None:
        step = found.student.checkpoint['meta'].get('epoch' if run.by_epoch else 'iter')
    best = step is not None and found.checkpoint is not None and 'best' in found.checkpoint.name
    if last is not None and run.metric_at(step) is None:
        step, best = last, False
    remark = '' if step is None else f'{run.unit} {step}{", the best" if best else ""}'
    rows = [('student', run.metric_at(step), remark)]
    if last not in (None, step):
        rows.append(('student, at the end', run.metric_at(last), f'{run.unit} {last}'))
    if found.baseline is not None:
        rows.append(('student alone', *_of_baseline(found.baseline, run, best)))
    return rows


def _teachers(found: Material) -> float | None:
    """Return the teacher's metric: the log's, else that of its predictions for all validation images."""
    logged, some = found.run.metric_of_teacher(), found.predictions
    if logged is not None or some is None or some.teacher is None or some.labels is None:
        return logged
    whole = found.run.metric == sections.USUAL_METRIC and len(some.images) == some.total
    return 100 * float((some.teacher.argmax(1) == some.labels).mean()) if whole else None


def _of_baseline(baseline: RunFolder, run: RunFolder, at_best: bool) -> tuple[float | None, str]:
    """Return what the student alone reached, by the same rule as the student: at its best, else at its end."""
    rows = [row for row in baseline.validations if isinstance(row.get(run.metric), int | float)]
    if not rows:
        return None, 'not validated'
    steps = [int(file.stem.rpartition('_')[2]) for file in baseline.folder.glob('best_*_[0-9]*.pth')]
    best = [row for row in rows if at_best and row['step'] in steps]
    row = (best or rows)[-1]
    return row[run.metric], f'{baseline.unit} {row["step"]}{", the best" if best else ""}'


def _classes(found: Material) -> dict[str, str]:
    names = found.predictions.classes if found.predictions else found.student and found.student.classes
    if not names:
        return {}
    listed = ', '.join(names[:20]) + (', …' if len(names) > 20 else '')
    return {'classes': f'{len(names)}: {listed}'}


def _state(run: RunFolder) -> list[str]:
    if run.ended:
        return []
    if run.seconds is None:
        return ['Its log is missing, so what is known is from its config, numbers and checkpoints.']
    reached = f'{run.unit} {run.reached}' if run.reached is not None else f'no {run.unit} yet'
    planned = f' of {run.planned}' if run.planned and run.reached is not None else ''
    return [f'The training has not ended: {reached}{planned} when this was written.']


def _names(found: Material) -> str:
    """Name student and teachers."""
    said, model = found.run.described, found.run.cfg.model
    several = [(lines[0], None) for name, lines in said.items() if name.startswith('teacher ')]
    teachers = several or [(said.get('teacher', ['its teacher'])[0], model.get('teacher'))]
    student = _name(said.get('student', ['student'])[0], model.get('architecture'))
    return f'{student} distilled from {" and ".join(_name(*teacher) for teacher in teachers)}'


def _name(description: str, setting: Any) -> str:
    """Name a network as its config does, else by its class and what tells it from others of the class."""
    if isinstance(setting, str):
        return Path(setting).stem if setting.endswith('.py') else setting
    name = description.partition(', ')[0].partition('(')[0]
    inside = re.match(r'[^(]*\((.*?)\)(?:, [\d,]+ parameters|$)', description)
    settings = dict(each.partition('=')[::2] for each in (inside[1] if inside else '').split(', '))
    for key in ('teacher', 'model_name'):  # a network within
        if settings.get(key):
            return settings[key]
    kept = [f'{key}={value}' for key, value in settings.items() if value and key not in UNTELLING]
    return f'{name}({", ".join(kept)})' if kept else name


def _usage(found: Material) -> str:
    checkpoint = found.checkpoint
    config = None if checkpoint is None else checkpoint.with_name('student.py')
    if config is None or not checkpoint.name.startswith('student') or not config.is_file():
        source = checkpoint or found.run.folder / 'CHECKPOINT.pth'
        command = f'python tools/model_converters/export_student.py {source} student.pth'
        return f'<p>Export it first:</p><pre>{escape(command)}</pre>'
    usage = FORMATS['mmpretrain'].usage.format(file=str(checkpoint), config=str(config), call=None)
    return f'<pre>{escape(usage)}</pre>'
