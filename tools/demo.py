#!/usr/bin/env python3
"""Distil on scikit-learn's digits in a few minutes of CPU: a teacher, and students alone, with ICD and with ICD+KD.

Everything is trained by tools/train.py from the configs in configs/demo. What an earlier call finished is reused, what
it left unfinished is resumed.
"""

import argparse
import concurrent.futures
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from icd_mmrazor.utils.checkpoints import read_checkpoint, weights_of

# isort: split
import numpy as np
from mmengine.config import Config

from icd_mmrazor.utils.command_line import run as run_tool
from icd_mmrazor.utils.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
# where the configs look for it
DATA = Path('work_dirs/demo/digits.npz')
TEACHER = 'res20_digits'
STUDENTS = {'student alone': 'res8_digits', 'ICD': 'icd_res20_res8_digits', 'ICD+KD': 'icd-kd_res20_res8_digits'}


class Run:
    """One training: a row of the table with a seed."""

    def __init__(self, name: str, config: str, seed: int, folder: Path, options: dict[str, object]) -> None:
        self.name = f'{name} (seed {seed})'
        self.config = f'configs/demo/{config}.py'
        self.folder = folder
        self.options = {**options, 'randomness.seed': seed, 'randomness.deterministic': True}

    @cached_property
    def cfg(self) -> Config:
        cfg = Config.fromfile(ROOT / self.config)
        cfg.merge_from_dict(self.options)
        return cfg

    @property
    def max_epochs(self) -> int:
        return self.cfg.train_cfg.max_epochs

    @property
    def checkpoint(self) -> Path:
        return self.folder / f'epoch_{self.max_epochs}.pth'

    @property
    def result(self) -> dict | None:
        """Accuracy and seconds of a finished run."""
        file = self.folder / 'result.json'
        return json.loads(file.read_text()) if file.is_file() and self.checkpoint.is_file() else None

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

    def epochs(self) -> Iterator[tuple[int, float]]:
        """Yield each validated epoch and its accuracy from mmengine's log."""
        for log in sorted(self.folder.glob('*/vis_data/scalars.json')):
            for line in log.read_text().splitlines(keepends=True):
                if line.endswith('\n') and 'accuracy/top1' in line:
                    values = json.loads(line)
                    yield values['step'], values['accuracy/top1']

    def train(self, threads: int) -> None:
        """Train, leaving the log in the folder and the result beside it.

        Raises:
            UserError: The training failed; the message has the end of its log.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        log, start = self.folder / 'train.log', time.monotonic()
        tool, options = str(ROOT / 'tools' / 'train.py'), [f'{name}={value}' for name, value in self.options.items()]
        command = [sys.executable, tool, str(ROOT / self.config), '--work-dir', str(self.folder), '--resume']
        environment = {**os.environ, 'OMP_NUM_THREADS': str(threads)}
        with log.open('w') as file:
            command += ['--cfg-options', *options]
            code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment).returncode
        if code:
            end = '\n'.join(log.read_text().splitlines()[-15:])
            raise UserError(f'{self.name}: the training failed. The end of {log}:\n{end}')
        result = {'accuracy': dict(self.epochs())[self.max_epochs], 'seconds': time.monotonic() - start}
        (self.folder / 'result.json').write_text(json.dumps(result))


class Progress:
    """Say what is running: every second in a line that is rewritten on a terminal, every ten in a new one elsewhere."""

    def __init__(self, runs: list[Run]) -> None:
        self.runs = runs
        self.running: list[Run] = []
        self.stopped = threading.Event()
        self.terminal = sys.stdout.isatty()
        self.width = 0

    def show(self, text: str, end: str = '\n') -> None:
        print(f'\r{text:<{self.width}}' if self.terminal else text, end=end, flush=True)
        self.width = len(text) if end == '' else 0

    def watch(self) -> None:
        """Report until stopped."""
        while not self.stopped.wait(1 if self.terminal else 10):
            states = []
            for run in list(self.running):
                epoch, accuracy = max(run.epochs(), default=(0, None))
                state = 'starts' if accuracy is None else f'epoch {epoch}/{run.max_epochs}, {accuracy:.1f} %'
                states.append(f'{run.name} {state}')
            done = sum(run.result is not None for run in self.runs)
            self.show(f'  {done}/{len(self.runs)} done; {"; ".join(states)}', end='' if self.terminal else '\n')


def train_all(runs: list[Run], workers: int) -> None:
    """Train those runs that are not finished, several at a time."""
    progress = Progress(runs)
    threads = max(1, (os.cpu_count() or 1) // workers)

    def train(run: Run) -> Run:
        progress.running.append(run)
        try:
            run.train(threads)
        finally:
            progress.running.remove(run)
        return run

    watcher = threading.Thread(target=progress.watch, daemon=True)
    watcher.start()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(train, run) for run in runs if run.result is None]
        try:
            for future in concurrent.futures.as_completed(futures):
                run = future.result()
                progress.show(f'  {run.name}: {run.result["accuracy"]:.1f} % in {run.result["seconds"]:.0f} s')
        finally:
            for future in futures:
                future.cancel()
            progress.stopped.set()
            watcher.join()


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
