"""Training in bfloat16 on a CPU and on a GPU."""

from collections.abc import Callable
from unittest import mock

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from torch import nn

from icd_mmrazor.engine.optim_wrappers import AutocastOptimWrapper
from icd_mmrazor.errors import SettingError

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.gpu)]


def wrapped(model: nn.Module, **settings: object) -> AutocastOptimWrapper:
    optimizer = dict(type='SGD', lr=0.1)
    return build_optim_wrapper(model, dict(type='AutocastOptimWrapper', optimizer=optimizer, **settings))


@pytest.mark.parametrize('device', DEVICES)
def test_computes_in_bfloat16_and_keeps_float32(device: str) -> None:
    model = nn.Linear(8, 4).to(device)
    wrapper, before = wrapped(model, dtype='bfloat16', clip_grad=dict(max_norm=0.5)), model.weight.detach().clone()
    assert isinstance(wrapper, AutocastOptimWrapper)
    with wrapper.optim_context(model):
        output = model(torch.ones(2, 8, device=device))
    assert output.dtype == torch.bfloat16
    assert not torch.is_autocast_enabled()
    wrapper.update_params(output.float().square().sum())
    assert model.weight.dtype == torch.float32
    # the step of a clipped gradient
    assert 0 < torch.linalg.vector_norm(before - model.weight).item() < 0.1 * 0.5


@pytest.mark.slow
def test_trains_as_float32_does(demo_config: Callable, runner: Callable) -> None:
    cfg = demo_config('icd-kd_res20_res8_digits')
    cfg.default_hooks.pop('distillation_report')
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=100, save_last=False)
    losses = {}
    for name in ('AutocastOptimWrapper', 'OptimWrapper'):
        cfg.optim_wrapper.type = name
        run = runner(cfg)
        run.train()
        losses[name] = run.message_hub.get_scalar('train/loss').current()
        assert {p.dtype for p in run.model.parameters()} == {torch.float32}
    assert losses['AutocastOptimWrapper'] == pytest.approx(losses['OptimWrapper'], rel=0.02)
    assert losses['AutocastOptimWrapper'] != losses['OptimWrapper']


@pytest.mark.parametrize('dtype', ['float16', 'fp32'])
def test_other_types_are_refused(dtype: str) -> None:
    with pytest.raises(SettingError, match=f"dtype='{dtype}' must be 'bfloat16'.*AmpOptimWrapper.*--amp fp16"):
        wrapped(nn.Linear(2, 2), dtype=dtype)


def emulated(including_emulation: bool = True) -> bool:
    return including_emulation


def test_a_gpu_without_bfloat16_is_refused() -> None:
    parameter = mock.Mock(device=torch.device('cuda', 0))
    optimizer = mock.Mock(param_groups=[{'params': [parameter]}])
    with (
        mock.patch('torch.cuda.is_bf16_supported', emulated),
        mock.patch('torch.cuda.get_device_name', return_value='Tesla P100'),
        pytest.raises(SettingError, match=r'Tesla P100 does not compute in bfloat16.*AmpOptimWrapper'),
    ):
        AutocastOptimWrapper(optimizer)


@pytest.mark.parametrize('instructions', [('avx2', 'amx_bf16'), ('sve', 'sve_bf16'), ('avx2', 'avx512_f')])
def test_a_cpu_without_bfloat16_is_slow_and_the_log_says_so(
    instructions: tuple[str, ...], capsys: pytest.CaptureFixture
) -> None:
    capabilities = {'architecture': 'some', 'avx512_bf16': False, **dict.fromkeys(instructions, True)}
    asked = mock.patch.object(torch.cpu, 'get_capabilities', return_value=capabilities, create=True)
    # without a logger of another test, which holds its stream
    with asked, mock.patch.dict(MMLogger._instance_dict, clear=True):
        wrapped(nn.Linear(2, 2))
    assert ('no instructions for bfloat16' in capsys.readouterr().out) == ('avx512_f' in instructions)
