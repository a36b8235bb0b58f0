#!/usr/bin/env python3
"""Distil on scikit-learn's digits in a few minutes of CPU: a teacher, then students alone, with ICD and with ICD+KD.

Every network is trained by tools/train.py from a config in configs/demo. Finished trainings of an earlier call are
reused, interrupted ones resume.
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
from icd_mmrazor.launch.command_line import positive_int, run

sys.path.insert(0, str(Path(__file__).with_name('benchmarks')))
from trainings import ConfigTraining, check_failures, number_of_cores, run_all

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--work-dir', type=Path, default=FOLDER, help=f'default: {FOLDER}')
    parser.add_argument('--seeds', type=positive_int, default=3, help='runs of each student (default: 3)')
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
    rows = {'teacher': [teacher]}
    for name in list(ROWS)[1:]:
        taught = {'model.teacher_ckpt': teacher.checkpoint} if 'ICD' in name else {}
        folders = [folder / ROWS[name][0] / f'seed_{seed}' for seed in range(args.seeds)]
        rows[name] = [training_of(name, seed, folders[seed], {**options, **taught}) for seed in range(args.seeds)]

    students = [training for row in rows.values() for training in row if training is not teacher]
    finished = sum(training.result is not None for training in (teacher, *students))
    print(f'{1 + len(students)} trainings, {finished} of them finished before, in {folder}', flush=True)
    cores = number_of_cores()
    for trainings, at_a_time in (([teacher], 1), (students, min(4, cores))):
        run_all(trainings, [{'OMP_NUM_THREADS': str(cores // at_a_time)}] * at_a_time)
        check_failures(trainings)
    print_table(rows)
    example = rows['ICD'][0]
    files = [sys.executable, ROOT / 'tools' / 'test.py', example.config, example.checkpoint]
    command = [os.path.relpath(file) for file in files]
    if whole != FOLDER.resolve():  # the config does not look for the data there
        command += ['--cfg-options', f'test_dataloader.dataset.data_file={os.path.relpath(data)}']
    print(f'\nThe students are in {os.path.relpath(folder)}. Test one:\n  {shlex.join(command)}')


if __name__ == '__main__':
    run(main, 'Repeat the command to resume.')
