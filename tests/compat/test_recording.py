"""What recorders keep, of modules, functions, methods and parameters."""

import sys
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from mmpretrain.structures import DataSample
from mmrazor.registry import TASK_UTILS
from torch import Tensor, nn

from icd_mmrazor.compat.recording import Records, map_tensors

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
