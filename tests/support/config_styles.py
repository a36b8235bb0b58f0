"""One small distillation in both styles of mmengine: by the names of what it is built from, and by the classes."""

import re
from pathlib import Path

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
