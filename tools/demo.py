#!/usr/bin/env python3
"""Distil on scikit-learn's digits in a few minutes of CPU: a teacher, and students alone, with ICD and with ICD+KD.

Everything is trained by tools/train.py from the configs in configs/demo. What an earlier call finished is reused, what
it left unfinished is resumed.
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

from icd_mmrazor.checkpoints.reading import read_checkpoint
from icd_mmrazor.checkpoints.weights import weights_of

# isort: split
import numpy as np
from mmengine.config import Config

from icd_mmrazor.errors import UserError
from icd_mmrazor.launch.command_line import run as run_tool
from icd_mmrazor.utils.progress import Progress
from icd_mmrazor.utils.trial_pool import run_trials
from icd_mmrazor.utils.trials import Trial

ROOT = Path(__file__).resolve().parent.parent
# where the configs look for it
DATA = Path('work_dirs/demo/digits.npz')
TEACHER = 'res20_digits'
STUDENTS = {'student alone': 'res8_digits', 'ICD': 'icd_res20_res8_digits', 'ICD+KD': 'icd-kd_res20_res8_digits'}


class Run(Trial):
    """One training: a row of the table with a seed."""

    def __init__(self, name: str, config: str, seed: int, folder: Path, options: dict[str, object]) -> None:
        options = {**options, 'randomness.seed': seed, 'randomness.deterministic': True}
        self.config = f'configs/demo/{config}.py'
        self.cfg = Config.fromfile(ROOT / self.config)
        self.cfg.merge_from_dict(options)
        command = [sys.executable, ROOT / 'tools' / 'train.py', ROOT / self.config, '--work-dir', folder, '--resume']
        command += ['--cfg-options', *(f'{name}={value}' for name, value in options.items())]
        super().__init__(f'{name} (seed {seed})', folder, command, self.cfg.train_cfg.max_epochs)

    @property
    def checkpoint(self) -> Path:
        return self.folder / f'epoch_{self.max_epochs}.pth'

    @property
    def result(self) -> dict | None:
        """Accuracy and seconds of a finished run that is still there to be tested."""
        return super().result if self.checkpoint.is_file() else None

    @property
    def network(self) -> str:
        model = self.cfg.model.get('architecture', self.cfg.model)
        return f'ResNet-{model.backbone.depth}'

    @property
    def images(self) -> int:
        dataset = self.cfg.train_dataloader.dataset
        return dataset.get('indices') or len(np.load(dataset.data_file)[dataset.labels_key])

    @property
    def parameters(self) -> int:
        weights = weights_of(read_checkpoint(self.checkpoint), self.checkpoint)
        buffers = ('running_mean', 'running_var', 'num_batches_tracked')
        return sum(weight.numel() for name, weight in weights.items() if not name.endswith(buffers))


def train_all(runs: list[Run], workers: int) -> None:
    """Train those runs that are not finished, several at a time.

    Raises:
        UserError: A training failed; the message has the end of its log.
    """
    slots = [{'OMP_NUM_THREADS': str(max(1, (os.cpu_count() or 1) // workers))}] * workers
    failed = run_trials(runs, slots, Progress(runs, workers, eta=False), keep_going=False)
    if failed:
        raise UserError(failed[0].failure)


def print_table(rows: dict[str, list[Run]]) -> None:
    print(f'\n{"":15} {"network":10} {"images":>6} {"accuracy (%)":>14} {"parameters":>10} {"seconds":>8}')
    for name, runs in rows.items():
        accuracies = [run.result['accuracy'] for run in runs]
        spread = f' ± {statistics.stdev(accuracies):3.1f}' if len(runs) > 1 else ''
        accuracy = f'{statistics.mean(accuracies):.1f}{spread:6}'
        seconds = statistics.mean(run.result['seconds'] for run in runs)
        first = runs[0]
        print(f'{name:15} {first.network:10} {first.images:6} {accuracy:>14} {first.parameters:10,} {seconds:8.0f}')
    seeds = len(rows['ICD'])
    print(f'on 500 test images; students: mean and standard deviation of {seeds} seeds; seconds: of one run')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--work-dir', type=Path, default=DATA.parent, help=f'default: {DATA.parent}')
    parser.add_argument('--seeds', type=int, default=5, help='runs of each student (default: 5)')
    parser.add_argument('--epochs', type=int, help='train everything for so many, a multiple of 4; for a quick look')
    args = parser.parse_args()
    folder = args.work_dir.resolve()
    data = folder / DATA.name
    if not data.is_file():
        converter = ROOT / 'tools' / 'dataset_converters' / 'digits_to_npz.py'
        subprocess.run([sys.executable, str(converter), str(data)], check=True)

    options: dict[str, object] = {f'{split}_dataloader.dataset.data_file': data for split in ('train', 'val', 'test')}
    if args.epochs:
        options['train_cfg.max_epochs'] = args.epochs
    teacher = Run('teacher', TEACHER, 0, folder / 'teacher', options)
    rows: dict[str, list[Run]] = {'teacher': [teacher]}
    for name, config in STUDENTS.items():
        taught = {'model.teacher_ckpt': teacher.checkpoint} if 'icd' in config else {}
        seeds = range(args.seeds)
        rows[name] = [
            Run(name, config, seed, folder / config / f'seed_{seed}', {**options, **taught}) for seed in seeds
        ]
    students = [run for seed in range(args.seeds) for run in (rows[name][seed] for name in STUDENTS)]

    done = sum(run.result is not None for run in (teacher, *students))
    if done:
        print(f'{done} of {1 + len(students)} runs are kept from an earlier call (delete {folder} to begin anew)')
    print(f'teacher: {teacher.network} on {teacher.images} images; log: {teacher.folder / "train.log"}')
    train_all([teacher], workers=1)
    workers, student = max(1, min(4, os.cpu_count() or 1)), students[0]
    print(f'students: {student.network} on {student.images} images, {args.seeds} seeds, {workers} at a time')
    train_all(students, workers)

    print_table(rows)
    print('\nThe students lie in:')
    for name in STUDENTS:
        print(f'  {rows[name][0].folder.parent}/seed_*/{rows[name][0].checkpoint.name}')
    chosen = rows['ICD'][0]
    command = [sys.executable, ROOT / 'tools' / 'test.py', ROOT / chosen.config, chosen.checkpoint]
    print('Test one:\n ', *map(os.path.relpath, command), end='')
    print('' if data == DATA.resolve() else f' --cfg-options test_dataloader.dataset.data_file={os.path.relpath(data)}')


if __name__ == '__main__':
    run_tool(main)
