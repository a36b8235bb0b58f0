"""Job arrays for a Slurm cluster: each training of a study is an element."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from icd_mmrazor.checkpoints.writing import atomic_write
from icd_mmrazor.errors import SettingError

BENCHMARKS = Path(__file__).resolve().parent
ARRAY = """#!/usr/bin/env bash
# Train what a line of a list says: sbatch --array=1 array.sbatch students.txt
# Written by {run}, which keeps what you change here.
#SBATCH --output=%x_%a.log --open-mode=append
#SBATCH --ntasks=1 --cpus-per-task={cpus}{gres}
#SBATCH --time=4:00:00 --signal=USR1@120 --requeue
set -u
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
eval "training=($(sed -n "${{SLURM_ARRAY_TASK_ID}}p" "$1"))"
cd {here} || exit
srun {python} {run} "${{training[@]}}" {common}
status=$?
# time is up: the training has written a checkpoint, and resumes
if ((status == 138)); then
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
fi
exit "$status"
"""
SUBMIT = """#!/usr/bin/env bash
# Submit the trainings that had not finished when this was written: submit.sh [OPTIONS OF sbatch]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
"""


def write_arrays(args: argparse.Namespace, students: Sequence[Any], missing: Sequence[str], processes: int) -> None:
    """Write the lists and scripts of a study (``StudentTraining``) for the arguments of run.py.

    Args:
        args: The arguments.
        students: All trainings of students, whose lines stay the same when some have finished.
        missing: Names of the teachers that must be trained before.
        processes: The most that a training has.

    Raises:
        SettingError: The folder has the lists of other trainings.
    """
    folder, name = args.slurm, args.study or 'own'
    taught = {student.teacher: student for student in reversed(students) if student.teacher}
    lists = {
        'teachers': [([*words_of(taught[each], args), '--teachers-only'], each in missing) for each in sorted(taught)],
        'students': [(words_of(student, args), student.result is None) for student in students],
    }
    texts = {kind: ''.join(f'{shlex.join(words)}\n' for words, _ in lines) for kind, lines in lists.items()}
    for kind, text in texts.items():
        if (file := folder / f'{kind}.txt').is_file() and file.read_text() != text:
            raise SettingError(f'--slurm {folder}: {file.name} there lists other trainings. Give another folder.')
    common = ['--work-dir', args.work_dir.resolve(), '--max-cache-size', args.max_cache_size]
    common += ['--no-teacher-cache'] * args.no_teacher_cache + (['--gpus', args.gpus] if args.gpus else ['--jobs', 1])
    gres = f' --gres=gpu:{args.gpus.count(",") + 1}' if args.gpus else ''
    paths = dict(run=BENCHMARKS / 'run.py', table=BENCHMARKS / 'table.py', here=Path.cwd(), python=sys.executable)
    quoted = {key: shlex.quote(str(path)) for key, path in paths.items()}
    if not (folder / 'array.sbatch').exists():
        script = ARRAY.format(cpus=4 * processes, gres=gres, common=shlex.join(map(str, common)), **quoted)
        atomic_write(script, folder / 'array.sbatch')
    commands, after = [], ''
    for kind, lines in lists.items():
        if waiting := [number for number, (_, todo) in enumerate(lines, 1) if todo]:
            atomic_write(texts[kind], folder / f'{kind}.txt')
            array = f'--job-name={name}-{kind} --array={ranges_of(waiting)}' + (f'%{args.jobs}' if args.jobs else '')
            commands.append(f'{kind}=$(sbatch --parsable {array}{after} "$@" array.sbatch {kind}.txt)')
            after = f' --dependency="afterok:${{{kind}%;*}}" --kill-on-invalid-dep=yes'
    table = f'cd {quoted["here"]} && {quoted["python"]} {quoted["table"]} {shlex.quote(str(common[1]))}'
    after = '--dependency="afterany:${students%;*}"'
    commands.append(f'sbatch --job-name={name}-table --output=table.txt {after} "$@" --wrap {shlex.quote(table)}')
    atomic_write(SUBMIT + '\n'.join(commands) + '\n', folder / 'submit.sh')
    print(f'{len(students)} trainings, {len(students) - len(waiting)} finished before. Submit the others:')
    print(f'  bash {folder / "submit.sh"} [OPTIONS OF sbatch, such as --partition=NAME]')


def words_of(student: Any, args: argparse.Namespace) -> list[str]:
    """Return the arguments of run.py for this student alone."""
    cell, options = student.cell, [] if args.study else student.cell.options
    words = [args.study, '--points', cell.point] if args.study else ['--processes', str(cell.processes)]
    words += ['--methods', cell.methods, '--pairs', cell.pair, '--seeds', str(student.facts['seed'])]
    return [*words, *(['--cfg-options', *options] if options else [])]


def ranges_of(numbers: Sequence[int]) -> str:
    """Format ascending numbers as Slurm does: ``1-3,7``."""
    firsts = [number for number in numbers if number - 1 not in numbers]
    lasts = [number for number in numbers if number + 1 not in numbers]
    ranges = zip(firsts, lasts, strict=True)
    return ','.join(str(first) if first == last else f'{first}-{last}' for first, last in ranges)
