"""Trainings that are killed with SIGKILL at random moments and resumed, against trainings that were not."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mmengine.config import Config

from icd_mmrazor import recipes

KILLS = int(os.environ.get('ICD_KILLS', '5'))
MIXUP = dict(type='ClsDataPreprocessor', num_classes=10, batch_augments=dict(augments=dict(type='Mixup', alpha=1.0)))


@pytest.mark.slow
def test_killed_trainings_end_with_the_same_bits(demo_config: Callable, tmp_path: Path) -> None:
    """``ICD_KILLS=50`` kills 50 times in a row."""
    options = {'train_cfg.max_epochs': 5, 'train_dataloader.batch_size': 24, 'default_hooks.logger.interval': 1}
    memories, images = demo_config('icd_res20_res8_digits', **options), demo_config('res8_digits', **options)
    # whole batches, embeddings and memories that are learned, a schedule by iterations, checkpoints of epochs
    methods = recipes.compose('res20_res8_digits', ['icd', 'crd', 'rrd'])
    memories.model.distiller = methods.model.distiller
    memories.param_scheduler = dict(type='CosineAnnealingLR', T_max=15, by_epoch=False)
    memories.train_dataloader.dataset.indices = None
    memories.train_dataloader.dataset.pipeline.insert(1, dict(type='RandomFlip', prob=0.5))
    memories.default_hooks.checkpoint.max_keep_ckpts = 1
    # the same with a cache of the teacher's outputs, which is filled from the start in each training
    cached = Config(memories.to_dict())
    cached.model.teacher_cache = dict(views='all', verify=2)
    # images one by one in a worker, mixup, dropout, averaged weights, checkpoints within epochs
    images.model.data_preprocessor = images.data_preprocessor = MIXUP
    images.model.head.update(type='StackedLinearClsHead', mid_channels=[32], dropout_rate=0.3)
    images.model.head.loss = dict(type='CrossEntropyLoss', use_soft=True)
    images.train_dataloader.dataset.indices = None
    images.train_dataloader.dataset.pipeline.insert(1, dict(type='RandomErasing', erase_prob=0.5, mode='rand'))
    images.train_dataloader.update(num_workers=1, persistent_workers=True)
    images.custom_hooks = [dict(type='EMAHook')]
    images.default_hooks.checkpoint.update(interval=2, by_epoch=False)
    configs = {'cached.py': cached, 'images.py': images, 'memories.py': memories}
    for name, cfg in configs.items():
        cfg.dump(tmp_path / name)
    process = subprocess.run(
        [
            sys.executable,
            Path(__file__).with_name('killed_trainings.py'),
            *(tmp_path / name for name in configs),
            *('--folder', tmp_path / 'trainings', '--kills', str(KILLS)),
        ],
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=300 + 60 * KILLS,
    )
    assert process.returncode == 0, process.stderr
    report = json.loads(process.stdout.splitlines()[-1])
    print(report)
    assert not report['problems'], report
    assert report['kills'] == KILLS
