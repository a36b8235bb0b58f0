"""A config by classes gives the same runs, files and exports as one by names."""

import json
import re
from pathlib import Path

import pytest
import torch
from helpers import TOOLS, exit_status, whole_network
from mmengine.config import Config
from mmrazor.registry import MODELS

from icd_mmrazor.configuration.changes import config_changes
from icd_mmrazor.configuration.stored import config_of

IMPORTS = """
from mmengine.dataset import DefaultSampler
from mmengine.hooks import LoggerHook
from mmengine.model import PretrainedInit as Pretrained
from mmengine.optim import MultiStepLR, OptimWrapper
from mmengine.runner import EpochBasedTrainLoop
from mmpretrain.datasets import PackInputs, RandomCrop
from mmpretrain.evaluation import Accuracy
from mmpretrain.models import GlobalAveragePooling, ImageClassifier, LinearClsHead, ResNet_CIFAR
from torch.optim import SGD

from icd_mmrazor.datasets import NPZDataset
from icd_mmrazor.engine.hooks import (
    ExactResumeHook, ExportStudentHook, InMemoryAugmentationHook, IntactCheckpointHook, SanityCheckHook
)
from icd_mmrazor.models import FrozenTeacherDistill, ICDDistiller
"""
# <X> is the class X, or its name; a line with [names] is in the style by names alone: a class needs no scope
SETTINGS = """
custom_imports = dict(imports=['icd_mmrazor'])  # [names]
default_scope = 'mmpretrain'  # [names]
data_preprocessor = dict(mean=[78.0] * 3, std=[81.0] * 3)
train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    sampler=dict(type=<DefaultSampler>, shuffle=True),
    dataset=dict(
        type=<NPZDataset>,
        data_file='{data_file}',
        images_key='train_images',
        labels_key='train_labels',
        pipeline=[dict(type=<RandomCrop>, crop_size=16, padding=2), dict(type=<PackInputs>)],
    ),
)
val_dataloader = dict(
    batch_size=20,
    num_workers=0,
    sampler=dict(type=<DefaultSampler>, shuffle=False),
    dataset=dict(
        type=<NPZDataset>,
        data_file='{data_file}',
        images_key='test_images',
        labels_key='test_labels',
        pipeline=[dict(type=<PackInputs>)],
    ),
)
val_evaluator = dict(type=<Accuracy>, topk=1)
test_dataloader = val_dataloader
test_evaluator = val_evaluator
optim_wrapper = dict(type=<OptimWrapper>, optimizer=dict(type=<SGD>, lr=0.05, momentum=0.9))
param_scheduler = dict(type=<MultiStepLR>, by_epoch=True, milestones=[1], gamma=0.1)
train_cfg = dict(type=<EpochBasedTrainLoop>, max_epochs=2, val_interval=1)
val_cfg = dict()
test_cfg = dict()
model = dict(
    _scope_='mmrazor',  # [names]
    type=<FrozenTeacherDistill>,
    architecture=dict(
        _scope_='mmpretrain',  # [names]
        type=<ImageClassifier>,
        backbone=dict(type=<ResNet_CIFAR>, depth=18, stem_channels=8, base_channels=8),
        neck=dict(type=<GlobalAveragePooling>),
        head=dict(type=<LinearClsHead>, num_classes=10, in_channels=64),
        init_cfg=dict(type=<Pretrained>, checkpoint='{weights}'),
    ),
    teacher=dict(
        _scope_='mmpretrain',  # [names]
        type=<ImageClassifier>,
        backbone=dict(type=<ResNet_CIFAR>, depth=18, stem_channels=8, base_channels=8),
        neck=dict(type=<GlobalAveragePooling>),
        head=dict(type=<LinearClsHead>, num_classes=10, in_channels=64),
    ),
    teacher_ckpt='{weights}',
    distiller=dict(type=<ICDDistiller>, kd=dict(tau=4.0)),
)
default_hooks = dict(
    logger=dict(type=<LoggerHook>, interval=1),
    checkpoint=dict(type=<IntactCheckpointHook>, interval=1),
    exact_resume=dict(type=<ExactResumeHook>),
    whole_batches=dict(type=<InMemoryAugmentationHook>),
    sanity_check=dict(type=<SanityCheckHook>, resume_changes='refuse'),
    export_student=dict(type=<ExportStudentHook>),
)
randomness = dict(seed=0)
"""


def write_both(folder: Path, data_file: Path, weights: Path) -> tuple[Path, Path]:
    """Write the config by names and the one by classes, ``NAMES/run.py`` and ``CLASSES/run.py``, and return them."""
    settings = SETTINGS.replace('{data_file}', str(data_file)).replace('{weights}', str(weights))
    texts = {
        'names': re.sub(r'<(\w+)>', r"'\1'", settings),
        'classes': IMPORTS + re.sub(r'<(\w+)>', r'\1', re.sub(r'.*\[names\]\n', '', settings)),
    }
    for name, text in texts.items():
        (folder / name).mkdir(parents=True)
        (folder / name / 'run.py').write_text(text)
    return folder / 'names' / 'run.py', folder / 'classes' / 'run.py'


@pytest.fixture
def runs(images_file: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Write both configs; return their files."""
    torch.save(
        {'state_dict': MODELS.build({'_scope_': 'mmpretrain', **whole_network()}).state_dict()}, tmp_path / 'w.pth'
    )
    return write_both(tmp_path, images_file, tmp_path / 'w.pth')


def weights(file: Path) -> dict[str, torch.Tensor]:
    return torch.load(file, weights_only=True)['state_dict']


@pytest.mark.stack
@pytest.mark.slow
def test_both_styles_give_the_same_files(runs: tuple[Path, Path], tmp_path: Path) -> None:
    folders = []
    for config in runs:
        folder = config.parent / 'work'
        assert exit_status(TOOLS / 'train.py', config, '--amp', 'bf16', '--work-dir', folder) is None
        folders.append(folder)
    named, classes = folders
    assert (classes / 'student.py').read_text() == (named / 'student.py').read_text()
    stored = [Config.fromfile(folder / 'run.py').to_dict() for folder in folders]
    assert config_changes(*stored) == config_changes(*stored[::-1]) == []
    assert stored[1]['optim_wrapper']['type'] == 'AutocastOptimWrapper'
    assert stored[1]['optim_wrapper']['optimizer']['fused'] is True
    first, second = weights(named / 'student_last.pth'), weights(classes / 'student_last.pth')
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)

    # a run that was begun in one style goes on in the other, to the same end
    resumed = tmp_path / 'resumed'
    options = ['--amp', 'bf16', '--work-dir', resumed, '--resume', named / 'epoch_1.pth']
    assert exit_status(TOOLS / 'train.py', runs[1], *options) is None
    third = weights(resumed / 'student_last.pth')
    assert all(torch.equal(first[name], third[name]) for name in first)

    # its checkpoint says all that the other tools need
    assert (
        exit_status(TOOLS / 'model_converters' / 'export_student.py', classes / 'epoch_2.pth', tmp_path / 's.pth')
        is None
    )
    assert (tmp_path / 's.py').read_text() == (named / 'student.py').read_text()
    metrics = []
    for config, checkpoint in ((runs[0], named / 'epoch_2.pth'), (runs[1], classes / 'epoch_2.pth')):
        out = tmp_path / 'metrics.json'
        assert exit_status(TOOLS / 'test.py', config, checkpoint, '--work-dir', tmp_path / 't', '--out', out) is None
        metrics.append(json.loads(out.read_text()))
    assert metrics[0] == metrics[1]


@pytest.mark.stack
@pytest.mark.parametrize('quoted', [True, False])
def test_what_mmengine_stores_of_classes_is_read(quoted: bool, runs: tuple[Path, Path]) -> None:
    """Runs without our tools keep the classes; mmengine writes their paths, with quotes or without."""
    cfg = Config.fromfile(runs[1])
    if not quoted:
        kept = {key: value for key, value in cfg.items() if isinstance(value, dict) or key == 'default_scope'}
        cfg = Config(Config(kept).to_dict())
        cfg.optim_wrapper.optimizer.type = torch.optim.SGD
        try:
            assert 'type=torch.optim.sgd.SGD' in cfg.pretty_text
        except SyntaxError:
            pytest.skip('mmengine 0.10.7 cannot store a config with classes in place of names')
    else:
        assert "type='torch.optim.SGD'" in cfg.pretty_text
    read = config_of({'meta': {'cfg': cfg.pretty_text}}, 'x.pth')
    assert read.optim_wrapper.optimizer.type == 'SGD'
    assert (read.model._scope_, read.model.type) == ('mmrazor', 'FrozenTeacherDistill')
    assert (read.model.architecture._scope_, read.model.architecture.type) == ('mmpretrain', 'ImageClassifier')
    assert read.model.architecture.backbone == whole_network()['backbone']
    assert read.custom_imports == dict(imports=['icd_mmrazor'])
