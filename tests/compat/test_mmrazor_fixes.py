"""What is corrected in mmrazor, and what works of it."""

import sys

import pytest
import torch
from mmengine.model import Sequential
from mmrazor.models.architectures.dynamic_ops import DynamicSequential
from mmrazor.registry import MODELS
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


@pytest.mark.parametrize('depth', [18, 34])
def test_pruning_needs_no_deep_recursion(depth: int) -> None:
    """mmrazor lifts Python's limit of recursion for the whole process, in case a network needs that."""
    assert sys.getrecursionlimit() < 10_000
    units = dict(type='mmrazor.L1MutableChannelUnit', default_args=dict(choice_mode='ratio'))
    parse = dict(type='mmrazor.ChannelAnalyzer', demo_input=(1, 3, 32, 32), tracer_type='FxTracer')
    network = dict(
        _scope_='mmpretrain',
        type='ImageClassifier',
        backbone=dict(type='ResNet', depth=depth),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=512),
    )
    algorithm = MODELS.build(
        dict(
            type='mmrazor.ItePruneAlgorithm',
            architecture=network,
            mutator_cfg=dict(type='mmrazor.ChannelMutator', channel_unit_cfg=units, parse_cfg=parse),
            target_pruning_ratio=None,
        )
    )
    assert len(algorithm.mutator.mutable_units) > 4
