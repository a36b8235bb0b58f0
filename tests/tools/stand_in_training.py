"""In place of tools/benchmarks/train.py: resumes, and leaves what a training does, without training.

It waits after the epoch that a file ``hold`` in the work folder of all cells names, and fails if a file ``fail`` does.
"""

import argparse
import json
import os
import sys
import time
import zipfile
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument('methods')
parser.add_argument('pair')
parser.add_argument('--work-dir', type=Path)
parser.add_argument('--resume', action='store_true')
parser.add_argument('--processes', type=int, default=1)
parser.add_argument('--cfg-options', nargs='+')
args = parser.parse_args()
options = dict(option.split('=') for option in args.cfg_options)
assert args.resume
assert args.work_dir.is_absolute()
seed, epochs, root = int(options['randomness.seed']), int(options['train_cfg.max_epochs']), args.work_dir.parents[2]
if (root / 'fail').is_file() and (root / 'fail').read_text() == f'{args.methods} {seed}':
    sys.exit('no paint left')
last = args.work_dir / 'last_checkpoint'
done = int(last.read_text().rpartition('_')[2].removesuffix('.pth')) if last.is_file() else 0
logs = args.work_dir / f'2026010{done}_000000' / 'vis_data'
logs.mkdir(parents=True)
(args.work_dir / 'pid').write_text(str(os.getpid()))
(args.work_dir / 'environment').write_text(os.environ['OMP_NUM_THREADS'] + os.environ['CUDA_VISIBLE_DEVICES'])
config = (
    f'randomness = dict(deterministic=True, seed={seed})\n'
    f'train_cfg = dict(by_epoch=True, max_epochs={epochs}, val_interval=1)\n'
)
(logs / 'config.py').write_text(config)
(args.work_dir / f'{args.methods}_{args.pair}.py').write_text(config)
(args.work_dir / 'student.py').write_text('model = dict()\n')
for epoch in range(done + 1, epochs + 1):
    checkpoint = args.work_dir / f'epoch_{epoch}.pth'
    zipfile.ZipFile(checkpoint, 'w').close()
    last.write_text(str(checkpoint))
    with (logs / 'scalars.json').open('a') as log:
        log.write(json.dumps({'lr': 0.05, 'loss': 1.0, 'epoch': epoch, 'iter': 2 * epoch, 'step': 2 * epoch}) + '\n')
        accuracy = 10 * epoch + seed + len(args.methods) / 10 + 20 * (args.processes - 1)
        accuracy += float(options.get('model.distiller.icd.alpha', 0))
        log.write(json.dumps({'accuracy/top1': accuracy, 'data_time': 0.1, 'time': 0.1, 'step': epoch}) + '\n')
    hold = root / 'hold'
    while hold.is_file() and hold.read_text() == f'{args.methods} {seed} {epoch}':
        time.sleep(0.05)
if 'model.teacher_cache.path' in options:
    (args.work_dir / 'cache').write_text(options['model.teacher_cache.path'])
    with (logs / 'scalars.json').open('a') as log:
        log.write(json.dumps({'teacher_asked': 100 * epochs, 'teacher_images': 10 + seed, 'step': 2 * epochs}) + '\n')
