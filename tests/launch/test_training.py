"""Precision of a training."""

from unittest import mock

import pytest
from mmengine.config import Config

from icd_mmrazor.errors import SettingError
from icd_mmrazor.launch import training


@pytest.mark.parametrize(
    ('precision', 'algorithm', 'wrapper'),
    [
        ('bf16', 'mmrazor.FrozenTeacherDistill', dict(type='AutocastOptimWrapper')),
        ('fp16', 'FrozenTeacherDistill', dict(type='AmpOptimWrapper', loss_scale='dynamic')),
    ],
)
def test_amp_sets_the_wrapper(precision: str, algorithm: str, wrapper: dict) -> None:
    cfg = Config(dict(optim_wrapper={}, model=dict(type=algorithm)))
    with mock.patch.object(training, 'get_device', return_value='cuda'):
        training.use_mixed_precision(cfg, precision)
        training.use_mixed_precision(cfg, precision)
        assert cfg.optim_wrapper == wrapper
        assert cfg.model.teacher_precision == precision
        cfg.optim_wrapper.type = 'ApexOptimWrapper'
        with pytest.raises(SettingError, match=f"--amp {precision}: optim_wrapper.type='ApexOptimWrapper'"):
            training.use_mixed_precision(cfg, precision)
