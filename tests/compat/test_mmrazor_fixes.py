"""What is corrected in mmrazor, and what works of it."""

import importlib
import sys

import torch
from mmengine.model import Sequential
from mmengine.registry import DefaultScope
from mmengine.structures import BaseDataElement
from mmrazor.models.architectures.dynamic_ops import DynamicSequential
from mmrazor.registry import MODELS
from mmrazor.structures import export_fix_subnet
from torch import nn


def test_mmrazors_loss_of_mmclss_function() -> None:
    student, teacher = torch.randn(4, 10), torch.randn(4, 10)
    loss = MODELS.build(dict(type='mmrazor.KDSoftCELoss', tau=2.0, loss_weight=0.5))
    want = 0.5 * 4 * -((teacher / 2).softmax(1) * (student / 2).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss(student, teacher), want)


def test_sequences_are_made_dynamic() -> None:
    shared = nn.Linear(2, 2)
    sequence = Sequential(shared, nn.ReLU(), shared)
    dynamic = DynamicSequential.convert_from(sequence)
    assert [*dynamic.pure_modules()] == [shared, sequence[1], shared]


def test_pruning_needs_no_deep_recursion() -> None:
    """mmrazor lifts Python's limit of recursion for the whole process, in case its tracer needs that."""
    assert sys.getrecursionlimit() < 10_000
    network = dict(
        _scope_='mmpretrain',
        type='ImageClassifier',
        backbone=dict(type='ResNet', depth=18),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=512),
    )
    mutator = dict(
        type='ChannelMutator',
        channel_unit_cfg=dict(type='L1MutableChannelUnit', default_args=dict(choice_mode='ratio')),
        parse_cfg=dict(
            type='ChannelAnalyzer',
            demo_input=dict(type='DefaultDemoInput', input_shape=[1, 3, 32, 32]),
            tracer_type='FxTracer',
        ),
    )
    with DefaultScope.overwrite_default_scope('mmrazor'):
        algorithm = MODELS.build(dict(type='ItePruneAlgorithm', architecture=network, mutator_cfg=mutator))
    before = sum(parameter.numel() for parameter in algorithm.parameters())
    for unit in algorithm.mutator.mutable_units:
        unit.current_choice = 0.5
    _, pruned = export_fix_subnet(algorithm, export_subnet_mode='mutator', slice_weight=True)
    after = sum(parameter.numel() for parameter in pruned.architecture.parameters())
    assert (before // 10_000, after // 10_000) == (1118, 280)


def test_a_model_may_predict_a_dictionary() -> None:
    loops = importlib.import_module('mmengine.runner.loops')
    assert loops._update_losses({'acc': 1}, {}) == ({'acc': 1}, {})
    loss = BaseDataElement(loss={'loss': torch.tensor(2.0)})
    outputs, losses = loops._update_losses([1, loss], {})
    assert outputs == [1]
    assert losses['loss'].mean() == 2
