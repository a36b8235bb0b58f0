"""tools/benchmarks/step_time.py: what it measures with, what it writes and what it refuses; times are not tested."""

import copy
import importlib
import json
import os
import runpy
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from helpers import TOOLS, exit_status
from mmrazor.models.losses import KLDivergence
from torch import nn
from torch.profiler import ProfilerActivity

from icd_mmrazor.models.connectors import LinearProjection
from icd_mmrazor.models.losses import ICDLoss

BENCHMARKS = TOOLS / 'benchmarks'
STEP_TIME = BENCHMARKS / 'step_time.py'


@pytest.fixture(autouse=True)
def _as_started_from_its_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.chdir(tmp_path)
    with mock.patch.dict(os.environ):
        yield


def load(name: str) -> dict:
    return runpy.run_path(str(BENCHMARKS / f'{name}.py'))


@pytest.fixture
def _small_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure the machine with small operations: bfloat16 takes minutes on a CPU that has no instructions for it."""
    arithmetic = importlib.import_module('step_arithmetic')
    monkeypatch.setattr(arithmetic, 'PRODUCT_SIZES', dict.fromkeys(arithmetic.PRODUCT_SIZES, 32))
    monkeypatch.setattr(arithmetic, 'CONVOLUTION_SIZES', dict.fromkeys(arithmetic.CONVOLUTION_SIZES, (1, 2)))


@pytest.mark.usefixtures('_small_operations')
def test_a_pair_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = '--pairs res20_res8_digits --batch-sizes 4 --rounds 1 --steps 2 --warm-up 1 --images 5 --workers 0'
    options += ' --contender unfolded model.fold_teacher_norms=False --out results'
    switches = torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision()
    assert exit_status(STEP_TIME, *options.split()) is None
    assert switches == (torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision())

    folder = tmp_path / 'results'
    assert {file.name for file in folder.iterdir()} == {
        f'step_time.{ending}' for ending in ('json', 'md', 'png', 'svg')
    }
    results = json.loads((folder / 'step_time.json').read_text())
    (case,) = results['cases']
    assert case['pair'] == 'res20_res8_digits'
    assert case['batch_size'] == 4
    assert list(case['contenders']) == list(results['contenders']) == ['plain', 'defaults', 'fast', 'unfolded']
    assert results['contenders']['unfolded'] == ['model.fold_teacher_norms=False']
    on_gpu = torch.cuda.is_available()
    for name, loop in case['contenders'].items():
        parts = dict(loop['parts'])
        # the parts take no more than the whole, and so no time is in two of them
        assert parts.pop('rest') >= 0, name
        networks = ['networks'] if on_gpu and name == 'fast' else ['teacher', 'student', 'losses']
        assert list(parts) == ['data', *networks, 'backward', 'optimizer']
        assert all(seconds > 0 for seconds in parts.values()), (name, parts)
        assert loop['memory_mb'] > 0
        ratio = loop['seconds']['median'] / case['contenders']['plain']['seconds']['median']
        assert loop['ratio']['median'] == pytest.approx(ratio)
    assert case['icd_alone_seconds']['median'] > 0
    flops = sum(case['flops'].values())
    for precision, seconds in case['limit_seconds'].items():
        speed = max(kind['median'] for kind in case['flops_per_second'][precision].values())
        assert seconds * speed == pytest.approx(flops)
    printed, table = capsys.readouterr().out, (folder / 'step_time.md').read_text()
    assert 'res20_res8_digits, batch 4, ms a step: plain ' in printed
    for text in (
        '## res20_res8_digits',
        '| unfolded |',
        '- fast: model.teacher_precision=bf16',
        'torch ' + torch.__version__,
    ):
        assert text in table


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ('--pairs res20_res9_digits', "there is no pair 'res20_res9_digits'. Did you mean res20_res8_digits"),
        ('--methods idc', "there is no method 'idc'. Did you mean"),
        ('--methods student --leave-out plain', '--methods student: there is no teacher'),
        ('--methods icd+at', '--methods icd+at: the plain loop has icd, kd alone. Add --leave-out plain'),
        ('--batch-sizes 64 0', '--batch-sizes [64, 0]: give 1 or more'),
        ('--rounds 0', '--rounds 0: give 1 or more'),
        ('--workers -1', '--workers -1: give 0 or more'),
        ('--contender fast model.channels_last=False', '--contender fast: there is one of this name'),
        ('--contender mine model.channels_last', '--contender mine model.channels_last: give KEY=VALUE'),
        ('--contender mine model.channel_last=False', "FrozenTeacherDistill, which takes no 'channel_last'"),
        ('--out file/in', '--out file/in cannot be written'),
        pytest.param(
            '--device cuda',
            '--device cuda: torch finds no GPU',
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU'),
        ),
    ],
)
def test_bad_input_gets_a_message_at_once(
    options: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / 'file').touch()
    # the first pair is the smallest
    assert exit_status(STEP_TIME, '--pairs', 'res20_res8_digits', *options.split()) == 1
    assert message in capsys.readouterr().err


def test_plain_icd_is_icd() -> None:
    torch.manual_seed(0)
    plain = load('plain_loop')['PlainICD'](6, 10).double()
    loss, embeddings = ICDLoss().double(), [LinearProjection(6).double(), LinearProjection(10).double()]
    for ours, theirs in zip(embeddings, (plain.embed_student, plain.embed_teacher), strict=True):
        ours.linear.load_state_dict(theirs.state_dict())
    features = [torch.randn(7, width, dtype=torch.float64, requires_grad=True) for width in (6, 10)]
    expected = loss(*(embedding(feature) for embedding, feature in zip(embeddings, features, strict=True)))
    torch.testing.assert_close(plain(*features), expected, rtol=0, atol=1e-12)
    trained = [*features, loss.log_tau, embeddings[0].linear.weight, embeddings[1].linear.weight]
    written_out = [*features, plain.log_tau, plain.embed_student.weight, plain.embed_teacher.weight]
    gradients = torch.autograd.grad(plain(*features), written_out)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, trained), rtol=0, atol=1e-12)


def test_plain_kd_is_kd() -> None:
    student, teacher = torch.randn(2, 5, 9, dtype=torch.float64)
    torch.testing.assert_close(
        load('plain_loop')['plain_kd'](student, teacher), KLDivergence(tau=4.0)(student, teacher)
    )


def test_plain_transforms_are_those_of_the_config() -> None:
    pipeline = [
        dict(type='RandomCrop', crop_size=8, padding=2),
        dict(type='RandomFlip', prob=1.0),
        dict(type='PackInputs'),
    ]
    mean, std = [10.0, 20.0, 30.0], [1.0, 2.0, 4.0]
    transform = load('plain_loop')['transforms_of'](pipeline, mean, std)
    image = np.arange(1, 193, dtype=np.uint8).reshape(8, 8, 3)
    images = load('plain_loop')['ArrayImages'](image[None], np.array([3]), transform)
    seen, label = images[0]
    seen = (seen * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]).permute(1, 2, 0)
    assert label == 3
    padded = np.pad(image[:, ::-1], [(2, 2), (2, 2), (0, 0)])
    windows = [padded[y : y + 8, x : x + 8] for y in range(5) for x in range(5)]
    assert sum(np.allclose(seen.numpy(), window, atol=1e-3) for window in windows) == 1


class Network(nn.Module):
    """A convolution with 4 filters of 3 x 3, and a classifier of 5 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Linear(4, 5)


def run_network(network: Network, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    feature = network.conv(images).mean((2, 3))
    return feature, network.fc(feature)


def test_operations_are_counted() -> None:
    step_flops, icd = load('step_arithmetic')['step_flops'], load('plain_loop')['PlainICD'](4, 4, embed_dims=8)
    network, batch, pixels = Network(), 6, 10
    conv, linear = 2 * batch * pixels**2 * (3 * 9) * 4, 2 * batch * 4 * 5
    embedding, product = 2 * batch * 4 * 8, 2 * batch * batch * 8
    assert step_flops(network, network, run_network, icd, batch, pixels) == {
        'teacher': conv + linear,
        # backward: a weight's gradient costs as much as the forward pass, an input's too; images have none
        'student': 2 * conv + 3 * linear,
        # two embeddings with the gradients of their weights, that of the student's feature, and the similarities
        'losses': (2 + 2 + 1) * embedding + 3 * product,
    }
    assert all(parameter.grad is None and parameter.device.type == 'cpu' for parameter in network.parameters())
    assert 'losses' not in step_flops(network, network, run_network, None, batch, pixels)


def test_contenders_take_turns_and_each_begins() -> None:
    measures, called = load('step_measures'), []
    tasks = {name: lambda name=name: called.append(name) or len(called) for name in 'abc'}
    assert measures['interleave'](tasks, 4) == {'a': [1, 6, 8, 10], 'b': [2, 4, 9, 11], 'c': [3, 5, 7, 12]}
    assert ''.join(called) == 'abc' + 'bca' + 'cab' + 'abc'


def test_statistics() -> None:
    spread = load('step_measures')['spread']
    assert spread([4.0, 1.0, 2.0, 3.0, 5.0]) == {
        'median': 3.0, 'lower': 2.0, 'upper': 4.0, 'values': [4.0, 1.0, 2.0, 3.0, 5.0],
    }  # fmt: skip
    assert spread([2.0])['lower'] == spread([2.0])['upper'] == 2.0


def test_traces_are_read() -> None:
    measures = load('step_measures')

    def allocate() -> int:
        first, second = torch.ones(1000), torch.ones(2000)
        del first
        third = torch.ones(500)
        return len(second) + len(third)

    result, events = measures['traced'](allocate, ProfilerActivity.CPU)
    assert result == 2500
    assert measures['peak_allocation'](events) == 4 * 3000
    # two kernels side by side, a pause, a copy, another kernel; in microseconds
    kernels = [(300, 50), (100, 100), (150, 100)]
    events = [{'cat': 'kernel', 'name': 'k', 'ts': begin, 'dur': length} for begin, length in kernels]
    events += [{'cat': 'gpu_memcpy', 'name': 'c', 'ts': 0, 'dur': 1000}, {'name': 'process_name', 'ph': 'M'}]
    assert measures['busy_seconds'](events) == pytest.approx(200e-6)


def test_what_is_timed_is_left_as_it_was() -> None:
    measures, module = load('step_measures'), nn.ReLU()
    module.setting = setting = object()
    times = {'part': 0.0}
    with (
        measures['replaced'](module, 'forward', measures['Timed'](module.forward, times, 'part', 'cpu')),
        measures['replaced'](module, 'setting', 1),
    ):
        assert module(torch.tensor([-1.0, 2.0])).tolist() == [0.0, 2.0]
    assert times['part'] > 0
    assert 'forward' not in vars(module)
    assert module.setting is setting


def test_a_gpu_has_more_columns_and_a_compiled_step_fewer_parts(tmp_path: Path) -> None:
    once = {'median': 0.01, 'lower': 0.01, 'upper': 0.02, 'values': [0.01]}
    plain = dict.fromkeys(('data', 'teacher', 'student', 'losses', 'backward', 'optimizer', 'rest'), 0.001)
    loop = dict(seconds=once, ratio=once, parts=plain, rest_share=once, icd_alone_share=once, memory_mb=12.3)
    loop |= dict(busy=0.815, synchronisations=2.0)
    compiled = {**copy.deepcopy(loop), 'parts': dict.fromkeys(('data', 'networks', 'backward', 'rest'), 0.001)}
    case = dict(
        pair='a_b',
        batch_size=64,
        flops={'teacher': 10**9},
        flops_per_second={'fp32': {'product': once}, 'tf32': {'product': once}},
        limit_seconds={'fp32': 0.003, 'tf32': 0.002},
        icd_alone_seconds=once,
        contenders={'plain': loop, 'fast': compiled},
    )
    results = dict(
        machine=dict(processor='P', cores=2),
        settings=dict(methods=['icd'], rounds=1),
        contenders={'plain': None, 'fast': ['a=b']},
        cases=[case, {**case, 'batch_size': 128}],
        growth={'ranks': {1: 0.001, 2: 0.002}},
    )
    rows = [
        [cell.strip() for cell in line.split('|')]
        for line in load('step_report')['markdown'](results).splitlines()
        if line.startswith('|')
    ]
    head, _, first, second = rows[:4]
    assert head.count('networks') == head.count('teacher') == head.count('GPU busy (%)') == 1
    assert dict(zip(head, first, strict=True))['networks'] == dict(zip(head, second, strict=True))['teacher'] == ''
    assert dict(zip(head, second, strict=True))['GPU busy (%)'] == '82'
    assert ['', '2', '2.00', ''] in rows
    load('step_report')['draw'](results, tmp_path / 'figure.svg')
    assert '<svg' in (tmp_path / 'figure.svg').read_text()
