#!/usr/bin/env python3
"""Distil on scikit-learn's digits in a few minutes of CPU: a teacher, then students alone, with ICD and with ICD+KD.

Every network is trained by tools/train.py from a config in configs/demo. Finished trainings of an earlier call are
reused, interrupted ones resume.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from icd_mmrazor.checkpoints.reading import read_checkpoint
from icd_mmrazor.checkpoints.weights import weights_of

# isort: split
from mmengine.config import Config

from icd_mmrazor.checkpoints.writing import write_json
from icd_mmrazor.errors import UserError
from icd_mmrazor.launch.command_line import run as run_tool

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path('work_dirs/demo')  # where the configs look for the data and the teacher
ROWS = {
    'teacher': ('res20_digits', 'ResNet-20', 1297),
    'student alone': ('res8_digits', 'ResNet-8', 100),
    'ICD': ('icd_res20_res8_digits', 'ResNet-8', 100),
    'ICD+KD': ('icd-kd_res20_res8_digits', 'ResNet-8', 100),
}


@dataclass
class Run:
    """A training: a row of the table with one seed."""

    row: str
    seed: int
    folder: Path
    options: dict[str, object]

    def __post_init__(self) -> None:
        self.config = f'configs/demo/{ROWS[self.row][0]}.py'
        epochs = Config.fromfile(ROOT / self.config).train_cfg.max_epochs
        epochs = self.options.get('train_cfg.max_epochs', epochs)
        self.checkpoint = self.folder / f'epoch_{epochs}.pth'
        # an epoch of the students is two iterations, less work than a checkpoint
        own = {'randomness.seed': self.seed, 'randomness.deterministic': True}
        self.options = {**self.options, **own, 'default_hooks.checkpoint.interval': max(1, epochs // 4)}

    @property
    def result(self) -> dict[str, float] | None:
        file = self.folder / 'result.json'
        return json.loads(file.read_text()) if file.is_file() and self.checkpoint.is_file() else None

    def train(self, threads: int) -> None:
        """Train in a process, unless it is done.

        Raises:
            UserError: The training failed; the message is the end of its log.
        """
        if self.result:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, ROOT / 'tools' / 'train.py', ROOT / self.config, '--work-dir', self.folder]
        command += ['--resume', '--cfg-options', *(f'{key}={value}' for key, value in self.options.items())]
        begin, log = time.monotonic(), self.folder / 'train.log'
        with log.open('a') as output:
            environment = {**os.environ, 'OMP_NUM_THREADS': str(threads)}
            done = subprocess.run(list(map(str, command)), stdout=output, stderr=output, env=environment, check=False)
        scalars = [line for file in sorted(self.folder.glob('*/vis_data/scalars.json')) for line in file.open()]
        accuracies = [
            json.loads(line)['accuracy/top1'] for line in scalars if 'accuracy/top1' in line and line.endswith('}\n')
        ]
        if done.returncode or not accuracies:
            raise UserError('\n'.join([f'{log} ends with:', *log.read_text().splitlines()[-15:]]))
        result = dict(accuracy=accuracies[-1], seconds=time.monotonic() - begin)
        print(f'  {self.row} (seed {self.seed}): {result["accuracy"]:.1f} % in {result["seconds"]:.0f} s', flush=True)
        write_json(result, self.folder / 'result.json')


def print_table(rows: dict[str, Sequence[Run]]) -> None:
    print(f'\n{"":15} {"network":10} {"images":>6} {"accuracy (%)":>14} {"parameters":>10} {"seconds":>8}')
    for name, runs in rows.items():
        _, network, images = ROWS[name]
        accuracies = [run.result['accuracy'] for run in runs]
        spread = f' ± {statistics.stdev(accuracies):3.1f}' if len(runs) > 1 else ''
        accuracy = f'{statistics.mean(accuracies):.1f}{spread:6}'
        weights = weights_of(read_checkpoint(runs[0].checkpoint), runs[0].checkpoint)
        buffers = ('running_mean', 'running_var', 'num_batches_tracked')
        parameters = sum(weight.numel() for key, weight in weights.items() if not key.endswith(buffers))
        seconds = statistics.mean(run.result['seconds'] for run in runs)
        print(f'{name:15} {network:10} {images:6} {accuracy:>14} {parameters:10,} {seconds:8.0f}')
    print(f'on 500 test images; students: mean and standard deviation of {len(rows["ICD"])} seeds; seconds: of one run')
    print('The digits are easy: this shows that distilling helps a student with few images, not which method is best.')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--work-dir', type=Path, default=FOLDER, help=f'default: {FOLDER}')
    parser.add_argument('--seeds', type=int, default=3, help='runs of each student (default: 3)')
    parser.add_argument('--epochs', type=int, help='epochs of every training, for a quick look')
    args = parser.parse_args()
    folder = args.work_dir.resolve()
    data = folder / 'digits.npz'
    if not data.is_file():
        converter = ROOT / 'tools' / 'dataset_converters' / 'digits_to_npz.py'
        subprocess.run([sys.executable, str(converter), str(data)], check=True)
    options: dict[str, object] = {f'{split}_dataloader.dataset.data_file': data for split in ('train', 'val', 'test')}
    options |= {'train_cfg.max_epochs': args.epochs} if args.epochs else {}
    teacher = Run('teacher', 0, folder / 'teacher', options)
    rows = {'teacher': [teacher]}
    for name in list(ROWS)[1:]:
        taught = {'model.teacher_ckpt': teacher.checkpoint} if 'ICD' in name else {}
        rows[name] = [
            Run(name, i, folder / ROWS[name][0] / f'seed_{i}', {**options, **taught}) for i in range(args.seeds)
        ]

    runs, cores = [run for row in rows.values() for run in row], os.cpu_count() or 1
    print(f'{len(runs)} trainings, {sum(run.result is not None for run in runs)} of them finished before, in {folder}')
    teacher.train(cores)
    workers = min(4, cores)
    with ThreadPoolExecutor(workers) as pool:
        for training in [pool.submit(run.train, cores // workers) for run in runs[1:]]:
            try:
                training.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    print_table(rows)
    run = rows['ICD'][0]
    command = [sys.executable, ROOT / 'tools' / 'test.py', ROOT / run.config, run.checkpoint]
    print(f'\nThe students are in {os.path.relpath(folder)}. Test one:\n ', *map(os.path.relpath, command), end='')
    print(f' --cfg-options test_dataloader.dataset.data_file={os.path.relpath(data)}')


if __name__ == '__main__':
    run_tool(main, 'Repeat the command to resume.')
