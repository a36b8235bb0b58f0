"""Precision of a training."""

import contextlib
import logging
from collections.abc import Iterator
from unittest import mock

import pytest
import torch
from mmengine.config import Config

from icd_mmrazor.errors import SettingError
from icd_mmrazor.launch import training


@contextlib.contextmanager
def on_gpu(bf16: bool) -> Iterator[None]:
    with (
        mock.patch.object(training, 'get_device', return_value='cuda'),
        mock.patch('torch.cuda.is_bf16_supported', lambda including_emulation=True: including_emulation or bf16),
        mock.patch('torch.cuda.get_device_name', return_value='Tesla T4'),
    ):
        yield


def test_bf16_on_a_gpu_without_it_is_refused_at_once() -> None:
    cfg = Config(dict(optim_wrapper={}, model={}))
    with on_gpu(bf16=False), pytest.raises(SettingError, match=r'--amp bf16: Tesla T4 does not compute .* --amp fp16'):
        training.use_mixed_precision(cfg, 'bf16')


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
@pytest.mark.parametrize(('visible', 'warned'), [('7', True), ('', False), ('-1', False), (None, False)])
def test_gpus_that_are_chosen_and_not_found(
    visible: str | None, warned: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    if visible is not None:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
    training.warn_of_hidden_gpus(logging.getLogger('of a run'))
    assert ('CUDA_VISIBLE_DEVICES=7, and torch finds no such GPU' in caplog.text) == warned


@pytest.mark.parametrize(
    ('precision', 'algorithm', 'wrapper'),
    [
        ('bf16', 'mmrazor.FrozenTeacherDistill', dict(type='AutocastOptimWrapper')),
        ('fp16', 'FrozenTeacherDistill', dict(type='AmpOptimWrapper', loss_scale='dynamic')),
    ],
)
def test_amp_sets_the_wrapper(precision: str, algorithm: str, wrapper: dict) -> None:
    cfg = Config(dict(optim_wrapper={}, model=dict(type=algorithm)))
    with on_gpu(bf16=True):
        training.use_mixed_precision(cfg, precision)
        training.use_mixed_precision(cfg, precision)
        assert cfg.optim_wrapper == wrapper
        assert cfg.model.teacher_precision == precision
        cfg.optim_wrapper.type = 'ApexOptimWrapper'
        with pytest.raises(SettingError, match=f"--amp {precision}: optim_wrapper.type='ApexOptimWrapper'"):
            training.use_mixed_precision(cfg, precision)
