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
# Written by tools/benchmarks/run.py, which keeps what you change here.
#SBATCH --output=%x_%a.log --open-mode=append
#SBATCH --ntasks=1 --cpus-per-task={cpus}{gres}
#SBATCH --time=4:00:00 --signal=USR1@120 --requeue
eval "training=($(sed -n "${{SLURM_ARRAY_TASK_ID}}p" "$1"))"
cd {here} || exit
# shellcheck disable=SC2154 # eval sets it
srun --cpus-per-task="${{SLURM_CPUS_PER_TASK:-1}}" {python} {run} "${{training[@]}}"
status=$?
# Time is up: the training has written a checkpoint, and resumes. The number of the job may be that of the whole array
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
    """Write the lists of a study's trainings, and scripts for sbatch, into the folder ``--slurm``.

    Args:
        args: The arguments of run.py.
        students: All trainings of students (``StudentTraining``); finished ones stay in the list, so that lines keep
            their numbers, and are left out of the array.
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
    texts = {folder / f'{kind}.txt': ''.join(f'{shlex.join(w)}\n' for w, _ in lines) for kind, lines in lists.items()}
    if any(file.is_file() and file.read_text() != text for file, text in texts.items()):
        raise SettingError(f'--slurm {folder} has the lists of other trainings. Give another folder.')
    python, here = (shlex.quote(str(path)) for path in (sys.executable, Path.cwd()))
    if not (script := folder / 'array.sbatch').exists():
        gres = f' --gres=gpu:{args.gpus.count(",") + 1}' if args.gpus else ''
        runner = shlex.quote(str(BENCHMARKS / 'run.py'))
        atomic_write(ARRAY.format(cpus=4 * processes, gres=gres, here=here, python=python, run=runner), script)
    commands, first, limit = [], '', f'%{args.jobs}' if args.jobs else ''
    for (kind, lines), (file, text) in zip(lists.items(), texts.items(), strict=True):
        if waiting := [number for number, (_, todo) in enumerate(lines, 1) if todo]:
            atomic_write(text, file)
            options = f'--job-name={name}-{kind} --array={ranges_of(waiting)}{limit}{first}'
            commands.append(f'{kind}=$(sbatch --parsable {options} "$@" array.sbatch {file.name})')
            first = f' --dependency="afterok:${{{kind}%;*}}" --kill-on-invalid-dep=yes'
    table = f'cd {here} && {python} {shlex.join(map(str, (BENCHMARKS / "table.py", args.work_dir.resolve())))}'
    options = f'--job-name={name}-table --output=table.txt --dependency="afterany:${{students%;*}}"'
    commands.append(f'sbatch {options} "$@" --wrap {shlex.quote(table)}')
    atomic_write(SUBMIT + '\n'.join(commands) + '\n', folder / 'submit.sh')
    print(f'{len(students)} trainings, {len(students) - len(waiting)} finished before. Submit the others:')
    print(f'  bash {shlex.quote(str(folder / "submit.sh"))} [OPTIONS OF sbatch, such as --partition=NAME]')


def words_of(student: Any, args: argparse.Namespace) -> list[str]:
    """Return the arguments of run.py for this student alone."""
    cell, options = student.cell, [] if args.study else student.cell.options
    words = [args.study, '--points', cell.point] if args.study else ['--processes', cell.processes]
    words += ['--methods', cell.methods, '--pairs', cell.pair, '--seeds', student.facts['seed']]
    words += ['--work-dir', args.work_dir.resolve(), *(['--gpus', args.gpus] if args.gpus else ['--jobs', 1])]
    words += ['--no-teacher-cache'] if args.no_teacher_cache else ['--max-cache-size', args.max_cache_size]
    return [*map(str, words), *(['--cfg-options', *options] if options else [])]


def ranges_of(numbers: Sequence[int]) -> str:
    """Format ascending numbers as Slurm does: ``1-3,7``."""
    firsts = [number for number in numbers if number - 1 not in numbers]
    lasts = [number for number in numbers if number + 1 not in numbers]
    ranges = zip(firsts, lasts, strict=True)
    return ','.join(str(first) if first == last else f'{first}-{last}' for first, last in ranges)
