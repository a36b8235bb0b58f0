"""Paths and processes for the tests."""

import copy
import functools
import json
import os
import runpy
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmengine.visualization import Visualizer
from mmpretrain.structures import DataSample

from icd_mmrazor import recipes

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / 'tests' / 'golden'
CONFIGS = ROOT / 'configs'
TOOLS = ROOT / 'tools'
# for a run that is resumed with changed settings
CHANGED = {'default_hooks.sanity_check.resume_changes': 'list'}

TORCH_VERSION = tuple(map(int, torch.__version__.split('.')[:2]))


# to read a config takes a tenth of a second
_read = functools.cache(Config.fromfile)
_composed = functools.cache(recipes.compose)


def shipped(name: str) -> Config:
    """Return a config by its path in ``configs/``."""
    return copy.deepcopy(_read(CONFIGS / name))


def distiller(*methods: str) -> dict:
    """Return the config of a distiller of one or more methods, for the digits."""
    return copy.deepcopy(_composed('res20_res8_digits', methods).model.distiller)


def has_algorithm(method: str) -> bool:
    """Return whether a method changes the algorithm of a run, so that it cannot be mixed with all others."""
    settings = _read(CONFIGS / '_base_' / 'methods' / f'{method}.py').get(f'{method}_settings', {})
    return 'type' in settings.get('model', {})


@functools.cache
def methods_of_views(views: int = 1) -> list[str]:
    """Return the methods that take so many views of each image in a batch, sorted; they train in separate batches.

    Those with an algorithm of their own have their own tests.
    """
    names = [name for name in recipes.method_names() if name != recipes.STUDENT_ALONE and not has_algorithm(name)]
    return [name for name in names if ('views' in recipes.needs_of(name)) == (views == 2)]


def two_views(samples: list[DataSample]) -> list[DataSample]:
    """Return the data samples of the weak views of images, then those of the strong ones."""
    both = []
    for augmentation in ('weak', 'strong'):
        for sample in samples:
            both.append(sample.clone())
            both[-1].set_metainfo(dict(augmentation=augmentation))
    return both


def logged(run: Runner | Config) -> str:
    """Return the logs of all runs in a run's folder."""
    return '\n'.join(file.read_text() for file in Path(run.work_dir).glob('*/*.log'))


def scalars(run: Runner | Config) -> list[dict]:
    """Return what all runs in a run's folder have logged as numbers, a line after the other."""
    files = sorted(Path(run.work_dir).glob('*/vis_data/scalars.json'))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def run_python(*args: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess:
    """Run this interpreter with arguments and return the finished process with its output as text."""
    return subprocess.run(
        [sys.executable, *map(str, args)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )


def exit_status(tool: Path, *arguments: object) -> int | str | None:
    """Run a tool in this process, without the seconds that a new one takes to import the stack.

    mmengine names a run's logger, scope and visualizer by its config and the second it starts in: two runs within a
    second would share them, and the later would look in the scope of the earlier, or write to the captured stream of
    another test. So what a tool has named ends with it.
    """
    status = None
    arguments = [str(tool), *map(str, arguments)]
    # as Python does for a program: its folder comes first
    path = mock.patch.object(sys, 'path', [str(tool.parent), *sys.path])
    with ExitStack() as stack:
        stack.enter_context(path)
        stack.enter_context(mock.patch.object(sys, 'argv', arguments))
        for cls in (DefaultScope, MessageHub, MMLogger, Visualizer, *Visualizer.__subclasses__()):
            stack.enter_context(mock.patch.object(cls, '_instance_dict', cls._instance_dict.copy()))
        try:
            runpy.run_path(str(tool), run_name='__main__')
        except SystemExit as end:
            status = end.code
    return status


# what mmrazor's export_fix_subnet gives for whole_network(), if half of the channels between two convolutions are kept
SUBNET = dict(
    type='ChannelMutator',
    channel_unit_cfg=dict(
        type='L1MutableChannelUnit',
        default_args=dict(choice_mode='ratio'),
        units={
            'backbone.layer1.0.conv1_(0, 8)_8': dict(
                init_args=dict(num_channels=8, choice_mode='ratio', divisor=1, min_value=1, min_ratio=0.9),
                channels=dict(
                    input_related=[dict(name='backbone.layer1.0.bn1'), dict(name='backbone.layer1.0.conv2')],
                    output_related=[dict(name='backbone.layer1.0.conv1'), dict(name='backbone.layer1.0.bn1')],
                ),
                choice=0.5,
            )
        },
    ),
    parse_cfg=dict(
        type='ChannelAnalyzer',
        demo_input=dict(type='DefaultDemoInput', input_shape=[1, 3, 16, 16]),
        tracer_type='FxTracer',
    ),
)


# mmrazor's decoupled KD, which takes the labels from the student's loss
_OF_CLASSIFIER = dict(fc=dict(type='ModuleOutputs', source='head.fc'))
DKD = dict(
    type='ConfigurableDistiller',
    student_recorders=dict(**_OF_CLASSIFIER, gt=dict(type='ModuleInputs', source='head.loss_module')),
    teacher_recorders=_OF_CLASSIFIER,
    distill_losses=dict(loss_dkd=dict(type='DKDLoss')),
    loss_forward_mappings=dict(
        loss_dkd=dict(
            preds_S=dict(from_student=True, recorder='fc'),
            preds_T=dict(from_student=False, recorder='fc'),
            gt_labels=dict(recorder='gt', from_student=True, data_idx=1),
        )
    ),
)


def whole_network(**backbone: object) -> dict:
    """Return the config of a small ResNet of mmpretrain's own."""
    return dict(
        type='ImageClassifier',
        backbone=dict(type='ResNet_CIFAR', depth=18, stem_channels=8, base_channels=8, **backbone),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
    )
