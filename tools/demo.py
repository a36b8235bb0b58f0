#!/usr/bin/env python3
"""Distil on scikit-learn's digits, a folder of images of which 100 have labels, in about 2 minutes of two CPU cores.

A teacher is trained on all digits; then tools/distill.py trains a student alone and with the teacher. Each part that an
earlier call has finished is reused, an interrupted one resumes.
"""

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

from icd_mmrazor.launch.command_line import positive_int, run
from icd_mmrazor.machine import cores

sys.path.insert(0, str(Path(__file__).with_name('benchmarks')))
from trainings import ConfigTraining, check_failures, run_all

ROOT = Path(__file__).resolve().parent.parent
CONVERTERS = ROOT / 'tools' / 'dataset_converters'
FOLDER = Path('work_dirs/demo')  # where the configs look for the data and the teacher


def train_teacher(data: Path, folder: Path, epochs: int | None) -> Path:
    """Train the teacher and return its checkpoint."""
    options: dict[str, object] = {f'{split}_dataloader.dataset.data_file': data for split in ('train', 'val', 'test')}
    options |= {'randomness.seed': 0, 'randomness.deterministic': True, 'default_hooks.checkpoint.interval': 5}
    options |= {'train_cfg.max_epochs': epochs} if epochs else {}
    training = ConfigTraining('teacher', ROOT / 'configs' / 'demo' / 'res20_digits.py', folder, options)
    print(f'The teacher: {os.path.relpath(folder)}', flush=True)
    run_all([training], [{'OMP_NUM_THREADS': str(cores())}])
    check_failures([training])
    return training.checkpoint


def convert(converter: str, destination: Path, *options: str) -> Path:
    """Write the digits in some form, unless they are there."""
    if not destination.exists():
        subprocess.run([sys.executable, str(CONVERTERS / converter), str(destination), *options], check=True)
    return destination


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--work-dir', type=Path, default=FOLDER, help=f'default: {FOLDER}')
    parser.add_argument('--epochs', type=positive_int, help='epochs of every training, for a quick look')
    args = parser.parse_args()
    whole = args.work_dir.resolve()
    # no training resumes one of another length
    folder = whole / f'epochs_{args.epochs}' if args.epochs else whole
    teacher = train_teacher(convert('digits_to_npz.py', whole / 'digits.npz'), folder / 'teacher', args.epochs)
    images = convert('digits_to_folder.py', whole / 'digits', '--labeled', '100')
    command = [ROOT / 'tools' / 'distill.py', '--teacher', teacher, '--student', 'res8']
    command += ['--data', images, '--unlabeled', images / 'unlabeled', '--image-size', '16', '--no-flip']
    command += ['--recipe', 'fast', '--epochs', args.epochs or 8, '--baseline', '--work-dir', folder / 'student']
    # paths as a person would type them
    command = [os.path.relpath(part) if isinstance(part, Path) else str(part) for part in command]
    print(f'\npython {shlex.join(command)}\n', flush=True)
    if status := subprocess.run([sys.executable, *command], check=False).returncode:
        sys.exit(status)
    print('\nThe digits are easy: what this shows is that a student with a teacher learns from images without labels.')


if __name__ == '__main__':
    run(main, 'Repeat the command to resume.')
