"""TF32 on and off."""

from unittest import mock

import pytest
import torch

from icd_mmrazor.engine.hooks import Float32PrecisionHook
from icd_mmrazor.errors import SettingError


def settings() -> tuple[str, bool]:
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(('tf32', 'wanted'), [(True, ('high', True)), (False, ('highest', False))])
def test_sets_and_restores(tf32: bool, wanted: tuple[str, bool]) -> None:
    before = settings()
    hook, runner = Float32PrecisionHook(tf32), mock.Mock()
    assert settings() == before
    hook.before_run(runner)
    during = settings()
    hook.after_run(runner)
    assert during == wanted
    assert settings() == before


def test_it_is_on_or_off() -> None:
    with pytest.raises(SettingError, match="tf32='high' must be True or False"):
        Float32PrecisionHook('high')
