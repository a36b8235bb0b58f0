"""What is corrected in mmrazor, what works of it, and what its recorders keep."""

import importlib
import sys
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from mmengine.model import Sequential
from mmengine.registry import DefaultScope
from mmengine.structures import BaseDataElement
from mmpretrain.structures import DataSample
from mmrazor.models.architectures.dynamic_ops import DynamicSequential
from mmrazor.registry import MODELS, TASK_UTILS
from mmrazor.structures import export_fix_subnet
from torch import Tensor, nn

from icd_mmrazor.compat.recording import Records, map_tensors


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


Pair = namedtuple('Pair', ['first', 'second'])


class Dictionary(OrderedDict):
    """As of the networks of Hugging Face."""


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_records_are_copies(layout: torch.memory_format) -> None:
    images = torch.randn(2, 3, 4, 4).contiguous(memory_format=layout).requires_grad_()
    feature = images * 2
    want = feature.detach().clone()
    records = Records()
    records.append(feature)
    feature.zero_()
    assert torch.equal(records[0], want)
    assert records[0].is_contiguous()
    (gradient,) = torch.autograd.grad(records[0].sum(), images)
    assert torch.equal(gradient, torch.full_like(images, 2))


def test_only_tensors_are_mapped() -> None:
    parameter, sample = nn.Parameter(torch.ones(2)), DataSample()
    record = Dictionary(a=[torch.ones(1), (parameter, None)], b=Pair(torch.ones(1), 'text'), c=sample)
    mapped = map_tensors(lambda tensor: tensor + 1, record)
    assert type(mapped) is Dictionary
    assert mapped == Dictionary(
        a=[torch.full((1,), 2), (parameter, None)], b=Pair(torch.full((1,), 2), 'text'), c=sample
    )
    assert mapped['a'][1][0] is parameter
    assert type(mapped['b']) is Pair
    assert record['a'][0] == 1


def test_tensors_of_inference_and_sparse_ones() -> None:
    with torch.inference_mode():
        feature = torch.ones(2)
        records = Records()
        records.append(feature)
        feature.zero_()
    assert records[0].tolist() == [1, 1]
    records.append(torch.eye(2).to_sparse())
    assert records[1].is_sparse


class Arithmetic:
    """Something that a network calls and that is not a module."""

    def double(self, x: Tensor, *, times: int = 1) -> Tensor:
        return x.mul_(2 * times)


def double(x: Tensor, times: int = 1) -> Tensor:
    return x.mul_(2 * times)


@pytest.fixture
def arithmetic(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType('arithmetic_of_a_network')
    module.double, module.Arithmetic = double, Arithmetic
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


@pytest.mark.parametrize('of', ['Function', 'Method'])
def test_functions_that_change_their_inputs(of: str, arithmetic: ModuleType) -> None:
    source = 'double' if of == 'Function' else 'Arithmetic.double'
    inputs, outputs = (
        TASK_UTILS.build(dict(type=f'mmrazor.{of}{which}Recorder', source=f'{arithmetic.__name__}.{source}'))
        for which in ('Inputs', 'Outputs')
    )
    # one after the other: of two recorders of a method only the later sees it
    for recorder in (inputs, outputs):
        recorder.initialize()
        x = torch.ones(2)
        with recorder:
            call: Callable[..., Any] = arithmetic.double if of == 'Function' else Arithmetic().double
            call(x, times=3)
            x.zero_()
    (given,) = inputs.data_buffer
    assert given[0].tolist() == [1, 1]
    assert given[1:] == [3]
    assert outputs.get_record_data().tolist() == [6, 6]


def test_a_parameter_that_is_replaced() -> None:
    network = nn.Linear(2, 1)
    recorder = TASK_UTILS.build(dict(type='mmrazor.ParameterRecorder', source='weight'))
    recorder.initialize(network)
    network.weight = nn.Parameter(torch.zeros(1, 2))
    with recorder:
        assert recorder.get_record_data() is network.weight
    assert len(recorder.data_buffer) == 1


def test_a_recorder_that_is_initialised_twice_records_once() -> None:
    network, other = nn.Sequential(nn.Identity()), nn.Sequential(nn.Identity())
    recorder = TASK_UTILS.build(dict(type='mmrazor.ModuleOutputsRecorder', source='0'))
    for each in (other, network, network):
        recorder.initialize(each)
    with recorder:
        network(torch.ones(1))
        other(torch.ones(1))
    assert len(recorder.data_buffer) == 1
