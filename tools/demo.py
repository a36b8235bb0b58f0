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
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from icd_mmrazor.utils.checkpoints import read_checkpoint, weights_of

# isort: split
from mmengine.config import Config

from icd_mmrazor.utils.command_line import run as run_tool
from icd_mmrazor.utils.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
STUDENTS = {'student alone': 'res8_digits', 'ICD': 'icd_res20_res8_digits', 'ICD+KD': 'icd-kd_res20_res8_digits'}


@dataclass
class Run:
    """One training: a row's config with a seed."""

    name: str
    config: str
    seed: int
    folder: Path
    data: Path
    teacher: Path | None = None

    @property
    def config_file(self) -> Path:
        return ROOT / 'configs' / 'demo' / f'{self.config}.py'

    @cached_property
    def max_epochs(self) -> int:
        return Config.fromfile(self.config_file).train_cfg.max_epochs

    @property
    def checkpoint(self) -> Path:
        return self.folder / f'epoch_{self.max_epochs}.pth'

    @property
    def result(self) -> dict | None:
        """Accuracy and seconds of a finished run."""
        file = self.folder / 'result.json'
        return json.loads(file.read_text()) if file.is_file() and self.checkpoint.is_file() else None

    def command(self) -> list[str]:
        options = [f'randomness.seed={self.seed}', 'randomness.deterministic=True']
        options += [f'{name}_dataloader.dataset.data_file={self.data}' for name in ('train', 'val', 'test')]
        if self.teacher:
            options.append(f'model.teacher_ckpt={self.teacher}')
        train = [
            sys.executable,
            str(ROOT / 'tools' / 'train.py'),
            str(self.config_file),
            '--work-dir',
            str(self.folder),
        ]
        return [*train, '--resume', '--cfg-options', *options]

    def epochs(self) -> Iterator[tuple[int, float]]:
        """Yield each validated epoch and its accuracy from mmengine's log."""
        for log in sorted(self.folder.glob('*/vis_data/scalars.json')):
            for line in log.read_text().splitlines():
                values = json.loads(line)
                if 'accuracy/top1' in values:
                    yield values['step'], values['accuracy/top1']

    def train(self, threads: int) -> None:
        """Train, leaving the log in the folder and the result beside it.

        Raises:
            UserError: The training failed; the message has the end of its log.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        log, start = self.folder / 'train.log', time.monotonic()
        environment = {**os.environ, 'OMP_NUM_THREADS': str(threads)}
        with log.open('w') as file:
            code = subprocess.run(self.command(), stdout=file, stderr=subprocess.STDOUT, env=environment).returncode
        if code:
            end = '\n'.join(log.read_text().splitlines()[-15:])
            raise UserError(f'{self.name}, seed {self.seed}: the training failed. The end of {log}:\n{end}')
        accuracy = dict(self.epochs())[self.max_epochs]
        seconds = time.monotonic() - start
        (self.folder / 'result.json').write_text(json.dumps({'accuracy': accuracy, 'seconds': seconds}))


class Progress:
    """Say what is running: a line that is rewritten on a terminal, a line a finished run elsewhere."""

    def __init__(self, runs: list[Run]) -> None:
        self.runs = runs
        self.running: list[Run] = []
        self.stopped = threading.Event()
        self.width = 0

    def show(self, text: str, end: str = '\n') -> None:
        print(f'\r{text:<{self.width}}' if sys.stdout.isatty() else text, end=end, flush=True)
        self.width = len(text) if end == '' else 0

    def watch(self) -> None:
        """Report until stopped: every second on a terminal, every ten seconds elsewhere."""
        terminal = sys.stdout.isatty()
        while not self.stopped.wait(1 if terminal else 10):
            states = []
            for run in list(self.running):
                epoch, accuracy = max(run.epochs(), default=(0, None))
                state = 'starts' if accuracy is None else f'epoch {epoch}/{run.max_epochs}, {accuracy:.1f} %'
                states.append(f'{run.name} (seed {run.seed}) {state}')
            done = sum(run.result is not None for run in self.runs)
            self.show(f'  {done}/{len(self.runs)} done; {"; ".join(states)}', end='' if terminal else '\n')


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
                accuracy, seconds = run.result['accuracy'], run.result['seconds']
                progress.show(f'  {run.name} (seed {run.seed}): {accuracy:.1f} % in {seconds:.0f} s')
        finally:
            for future in futures:
                future.cancel()
            progress.stopped.set()
            watcher.join()


def parameters(checkpoint: Path) -> int:
    weights = weights_of(read_checkpoint(checkpoint), checkpoint)
    buffers = ('running_mean', 'running_var', 'num_batches_tracked')
    return sum(weight.numel() for name, weight in weights.items() if not name.endswith(buffers))


def print_table(teacher: Run, students: list[Run]) -> None:
    print(f'\n{"":15} {"network":10} {"images":>6} {"accuracy (%)":>14} {"parameters":>10} {"seconds":>8}')
    groups = {'teacher': ('ResNet-20', 1297, [teacher])}
    groups |= {name: ('ResNet-8', 100, [run for run in students if run.name == name]) for name in STUDENTS}
    for name, (network, images, runs) in groups.items():
        accuracies = [run.result['accuracy'] for run in runs]
        spread = f' ± {statistics.stdev(accuracies):3.1f}' if len(accuracies) > 1 else ''
        seconds = statistics.mean(run.result['seconds'] for run in runs)
        accuracy = f'{statistics.mean(accuracies):.1f}{spread:6}'
        count = parameters(runs[0].checkpoint)
        print(f'{name:15} {network:10} {images:6} {accuracy:>14} {count:10,} {seconds:8.0f}')
    seeds = len(students) // len(STUDENTS)
    print(f'accuracy on 500 test images; students: mean and standard deviation of {seeds} seeds; seconds a run')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/demo'), help='default: work_dirs/demo')
    parser.add_argument('--seeds', type=int, default=5, help='runs of each student (default: 5)')
    args = parser.parse_args()
    folder = args.work_dir.resolve()
    data = folder / 'digits.npz'
    if not data.is_file():
        converter = ROOT / 'tools' / 'dataset_converters' / 'digits_to_npz.py'
        subprocess.run([sys.executable, str(converter), str(data)], check=True)

    teacher = Run('teacher', 'res20_digits', 0, folder / 'teacher', data)
    students = [
        Run(name, config, seed, folder / config / f'seed_{seed}', data, teacher.checkpoint if 'icd' in config else None)
        for seed in range(args.seeds)
        for name, config in STUDENTS.items()
    ]
    done = sum(run.result is not None for run in (teacher, *students))
    if done:
        print(f'{done} of {1 + len(students)} runs are kept from an earlier call (delete {folder} to begin anew)')
    workers = max(1, min(4, os.cpu_count() or 1))
    print(f'teacher: ResNet-20 on 1297 images, {teacher.max_epochs} epochs; log: {teacher.folder / "train.log"}')
    train_all([teacher], workers=1)
    print(f'students: ResNet-8 on 100 images, {students[0].max_epochs} epochs, {args.seeds} seeds, {workers} at a time')
    train_all(students, workers)

    print_table(teacher, students)
    print('\nThe students lie in:')
    for config in STUDENTS.values():
        print(f'  {folder / config}/seed_*/{students[0].checkpoint.name}')
    print(f'Test one: python tools/test.py configs/demo/{students[1].config}.py {students[1].checkpoint}')


if __name__ == '__main__':
    run_tool(main)
