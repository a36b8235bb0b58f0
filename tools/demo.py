#!/usr/bin/env python3
"""Distil on scikit-learn's digits, a folder of images of which 100 have labels, in about 2 minutes of two CPU cores.

A teacher is trained on all digits; then tools/distill.py trains a student alone and with the teacher. --table trains
the students of configs/demo instead: alone, with ICD and with ICD+KD, several seeds. Each part that an earlier call
has finished is reused, an interrupted one resumes.
"""

import argparse
import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from icd_mmrazor.checkpoints.reading import read_checkpoint
from icd_mmrazor.checkpoints.weights import weights_of
from icd_mmrazor.export.latency import cores
from icd_mmrazor.launch.command_line import positive_int, run

sys.path.insert(0, str(Path(__file__).with_name('benchmarks')))
from trainings import ConfigTraining, check_failures, run_all

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path('work_dirs/demo')  # where the configs look for the data and the teacher
# config, network, images, and epochs between checkpoints: the students' are two iterations, less work than a checkpoint
ROWS = {
    'teacher': ('res20_digits', 'ResNet-20', 1297, 5),
    'student alone': ('res8_digits', 'ResNet-8', 100, 40),
    'ICD': ('icd_res20_res8_digits', 'ResNet-8', 100, 40),
    'ICD+KD': ('icd-kd_res20_res8_digits', 'ResNet-8', 100, 40),
}


def training_of(row: str, seed: int, folder: Path, options: dict[str, object]) -> ConfigTraining:
    config, *_, interval = ROWS[row]
    own = {'randomness.seed': seed, 'randomness.deterministic': True, 'default_hooks.checkpoint.interval': interval}
    file = ROOT / 'configs' / 'demo' / f'{config}.py'
    return ConfigTraining(f'{row} (seed {seed})', file, folder, {**options, **own})


def train(trainings: Sequence[ConfigTraining], at_a_time: int) -> None:
    run_all(trainings, [{'OMP_NUM_THREADS': str(cores() // at_a_time)}] * at_a_time)
    check_failures(trainings)


def print_table(rows: dict[str, Sequence[ConfigTraining]]) -> None:
    print(f'\n{"":15} {"network":10} {"images":>6} {"accuracy (%)":>14} {"parameters":>10} {"seconds":>8}')
    for name, trainings in rows.items():
        _, network, images, _ = ROWS[name]
        accuracies = [training.result['accuracy'] for training in trainings]
        spread = f' ± {statistics.stdev(accuracies):3.1f}' if len(trainings) > 1 else ''
        accuracy = f'{statistics.mean(accuracies):.1f}{spread:6}'
        weights = weights_of(read_checkpoint(trainings[0].checkpoint), trainings[0].checkpoint)
        buffers = ('running_mean', 'running_var', 'num_batches_tracked')
        parameters = sum(weight.numel() for key, weight in weights.items() if not key.endswith(buffers))
        seconds = statistics.mean(training.result['seconds'] for training in trainings)
        print(f'{name:15} {network:10} {images:6} {accuracy:>14} {parameters:10,} {seconds:8.0f}')
    print(f'on 500 test images; students: mean and standard deviation of {len(rows["ICD"])} seeds; seconds: of one run')
    print('The digits are easy: this shows that distilling helps a student with few images, not which method is best.')


def distil_on_folder(whole: Path, folder: Path, teacher: ConfigTraining, epochs: int | None) -> None:
    """Run the one command on the digits as a folder of images."""
    images = whole / 'digits'
    if not images.is_dir():
        converter = ROOT / 'tools' / 'dataset_converters' / 'digits_to_folder.py'
        subprocess.run([sys.executable, str(converter), str(images), '--labeled', '100'], check=True)
    command = [ROOT / 'tools' / 'distill.py', '--teacher', teacher.checkpoint, '--student', 'res8']
    command += ['--data', images, '--unlabeled', images / 'unlabeled', '--image-size', '16', '--no-flip']
    command += ['--recipe', 'fast', '--epochs', epochs or 8, '--baseline', '--work-dir', folder / 'student']
    # paths as a person would type them
    command = [os.path.relpath(part) if isinstance(part, Path) else str(part) for part in command]
    print(f'\npython {shlex.join(command)}\n', flush=True)
    if status := subprocess.run([sys.executable, *command], check=False).returncode:
        sys.exit(status)
    print('\nThe digits are easy: what this shows is that a student with a teacher learns from images without labels.')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--work-dir', type=Path, default=FOLDER, help=f'default: {FOLDER}')
    parser.add_argument('--table', action='store_true', help='compare ICD and ICD+KD with the student alone')
    parser.add_argument('--seeds', type=positive_int, default=3, help='of the table: runs of each student (default: 3)')
    parser.add_argument('--epochs', type=positive_int, help='epochs of every training, for a quick look')
    args = parser.parse_args()
    whole = args.work_dir.resolve()
    data = whole / 'digits.npz'
    # no training resumes one of another length
    folder = whole / f'epochs_{args.epochs}' if args.epochs else whole
    if not data.is_file():
        converter = ROOT / 'tools' / 'dataset_converters' / 'digits_to_npz.py'
        subprocess.run([sys.executable, str(converter), str(data)], check=True)
    options: dict[str, object] = {f'{split}_dataloader.dataset.data_file': data for split in ('train', 'val', 'test')}
    options |= {'train_cfg.max_epochs': args.epochs} if args.epochs else {}
    teacher = training_of('teacher', 0, folder / 'teacher', options)
    if not args.table:
        print(f'The teacher: {os.path.relpath(teacher.folder)}', flush=True)
        train([teacher], 1)
        distil_on_folder(whole, folder, teacher, args.epochs)
        return
    rows = {'teacher': [teacher]}
    for name in list(ROWS)[1:]:
        taught = {'model.teacher_ckpt': teacher.checkpoint} if 'ICD' in name else {}
        folders = [folder / ROWS[name][0] / f'seed_{seed}' for seed in range(args.seeds)]
        rows[name] = [training_of(name, seed, folders[seed], {**options, **taught}) for seed in range(args.seeds)]

    students = [training for row in rows.values() for training in row if training is not teacher]
    finished = sum(training.result is not None for training in (teacher, *students))
    print(f'{1 + len(students)} trainings, {finished} of them finished before, in {folder}', flush=True)
    train([teacher], 1)
    train(students, min(4, cores()))
    print_table(rows)
    example = rows['ICD'][0]
    files = [sys.executable, ROOT / 'tools' / 'test.py', example.config, example.checkpoint]
    command = [os.path.relpath(file) for file in files]
    if whole != FOLDER.resolve():  # the config does not look for the data there
        command += ['--cfg-options', f'test_dataloader.dataset.data_file={os.path.relpath(data)}']
    print(f'\nThe students are in {os.path.relpath(folder)}. Test one:\n  {shlex.join(command)}')


if __name__ == '__main__':
    run(main, 'Repeat the command to resume.')
