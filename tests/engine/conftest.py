"""Fixtures of the tests of runs."""

from collections.abc import Callable

import pytest
from mmengine.config import Config


@pytest.fixture(autouse=True)
def _plain_texts_of_configs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out yapf, which takes a large part of a short run: the texts of configs need not be pretty."""
    # mmengine 0.10.7 has it by name
    for module in ('yapf.yapflib.yapf_api', 'mmengine.config.config'):
        monkeypatch.setattr(f'{module}.FormatCode', lambda text, **_: (text, True), raising=False)


@pytest.fixture
def short_batches(demo_config: Callable) -> Callable[..., Config]:
    """A config of 8 iterations an epoch with deferred numbers, without what takes time and is not wanted."""

    def config(name: str = 'icd_res20_res8_digits', **options: object) -> Config:
        cfg = demo_config(name, **options)
        cfg.train_dataloader.batch_size = 8
        cfg.default_hooks.runtime_info = dict(type='DeferredRuntimeInfoHook', defer=True)
        cfg.default_hooks.pop('distillation_report')
        cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=100, save_last=False)
        return cfg

    return config
