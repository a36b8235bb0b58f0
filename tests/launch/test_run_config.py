"""Settings that the tools add to a config."""

import argparse
import os
from pathlib import Path
from unittest import mock

import pytest
import torch
from helpers import CONFIGS
from mmengine.config import Config
from torch import nn

from icd_mmrazor.configuration import files
from icd_mmrazor.errors import SettingError
from icd_mmrazor.launch import run_config
from icd_mmrazor.launch.watchdog import Watchdog

CUBLAS = 'CUBLAS_WORKSPACE_CONFIG'
DEMO = CONFIGS / 'demo' / 'icd_res20_res8_digits.py'


@pytest.mark.parametrize(
    ('optimizer', 'fused'),
    [
        (dict(type='SGD', lr=0.1), True),
        (dict(type='AdamW'), True),
        (dict(type='SGD', fused=False), False),
        (dict(type='Adam', foreach=True), None),
        (dict(type='Adam', differentiable=True), None),
        (dict(type='RMSprop'), None),
        (dict(type=torch.optim.SGD), True),
        ({}, None),
    ],
    ids=str,
)
def test_torchs_optimizers_are_fused(optimizer: dict, fused: bool | None) -> None:
    for device, offered in (('cpu', True), ('cuda', True), ('mps', False)):
        cfg = Config(dict(optim_wrapper=dict(optimizer=dict(optimizer))))
        with mock.patch.object(run_config, 'get_device', return_value=device):
            run_config.use_fused_optimizer(cfg)
        assert cfg.optim_wrapper.optimizer.get('fused') == (None if fused and not offered else fused)


def test_other_wrappers_stay_as_they_are() -> None:
    generator = dict(optimizer=dict(type='SGD', lr=0.1))
    for wrapper in (dict(constructor='Mine', generator=generator), None):
        cfg = Config(dict(optim_wrapper=wrapper))
        run_config.use_fused_optimizer(cfg)
        assert cfg.to_dict() == dict(optim_wrapper=wrapper)


def test_a_tools_config_is_fused(tmp_path: Path) -> None:
    args = argparse.Namespace(config=str(DEMO), launcher='none', work_dir=None, cfg_options=None, local_rank=0)
    cfg = run_config.load_config(args)
    assert cfg.optim_wrapper.optimizer.fused


@pytest.mark.parametrize('before', [None, ':16:8'])
def test_a_deterministic_run_lets_cublas_be_so(before: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the variable, the first matrix product on a GPU ends the run."""
    monkeypatch.setenv(CUBLAS, before or '')
    if before is None:
        monkeypatch.delenv(CUBLAS)
    args = argparse.Namespace(config=str(DEMO), launcher='none', work_dir=None, cfg_options=None, local_rank=0)
    run_config.load_config(args)
    assert os.environ.get(CUBLAS) == before
    args.cfg_options = {'randomness.deterministic': True}
    run_config.load_config(args)
    assert os.environ[CUBLAS] == (before or ':4096:8')


@pytest.mark.parametrize(
    'setting',
    [
        dict(strategy=dict(type='FSDPStrategy')),
        dict(strategy=dict(type='DeepSpeedStrategy')),
        dict(runner_type='FlexibleRunner'),
        dict(model_wrapper_cfg=dict(type='mmengine.MMFullyShardedDataParallel')),
        dict(model_wrapper_cfg=dict(type='MMDistributedDataParallel')),
        dict(strategy=None),
    ],
    ids=str,
)
def test_sharding_is_refused_by_name(setting: dict, tmp_path: Path) -> None:
    (tmp_path / 'own.py').write_text(
        f'_base_ = [{str(DEMO)!r}]\n' + ''.join(f'{k} = {v!r}\n' for k, v in setting.items())
    )
    args = argparse.Namespace(
        config=str(tmp_path / 'own.py'), launcher='none', work_dir=None, cfg_options=None, local_rank=0
    )
    (name,), text = setting, str(setting)
    if 'Distributed' in text or 'None' in text:
        run_config.load_config(args)
    else:
        with pytest.raises(SettingError, match=name):
            run_config.load_config(args)


def test_hooks_that_are_none_and_settings_without_a_type() -> None:
    hooks = dict(
        logger=None,
        export_student=None,
        sanity_check=dict(skip=['batches']),
        check_resume=dict(changes='list'),
        check_weights=dict(type='Other', names='list'),
    )
    cfg = Config(dict(default_hooks=hooks))
    run_config.complete_hooks(cfg)
    assert cfg.default_hooks == dict(
        # mmengine leaves out its own
        logger=None,
        sanity_check=dict(type='SanityCheckHook', skip=['batches']),
        check_resume=dict(type='CheckResumeHook', changes='list'),
        check_weights=dict(type='Other', names='list'),
    )
    run_config.complete_hooks(Config({}))


@pytest.mark.parametrize('stage', ['train', 'test'])
def test_a_config_without_the_stage_of_the_tool_is_refused(stage: str, tmp_path: Path) -> None:
    """That of an exported student has a test only."""
    config, sections = tmp_path / 'part.py', files.STAGES[stage]
    config.write_text('\n'.join([f"_base_ = ['{DEMO}']", *(f'{section} = None' for section in sections)]))
    args = argparse.Namespace(config=str(config), launcher='none', work_dir=None, cfg_options=None, local_rank=0)
    with pytest.raises(SettingError, match=rf'part\.py has no {", ".join(sections)}'):
        run_config.load_config(args, stage)
    assert run_config.load_config(args, 'test' if stage == 'train' else 'train')


@pytest.mark.parametrize('line', ['{} = None', '_base_.pop("{}")'])
def test_sections_that_mmengine_can_do_without(line: str, tmp_path: Path) -> None:
    config, sections = tmp_path / 'none.py', run_config.OPTIONAL_SECTIONS
    lines = [line.format(section) for section in (*sections, 'default_hooks')]
    config.write_text('\n'.join([f"_base_ = ['{DEMO}']", *lines]))
    args = argparse.Namespace(config=str(config), launcher='none', work_dir=None, cfg_options=None, local_rank=0)
    cfg = run_config.load_config(args)
    assert not cfg.keys() & {*sections}
    run_config.use_intact_checkpoints(cfg)
    assert cfg.default_hooks.checkpoint.type == 'IntactCheckpointHook'
    assert Watchdog(cfg).timeout == cfg.env_cfg.dist_cfg.timeout


@pytest.mark.parametrize(
    ('name', 'settings'),
    [
        ('SGD', dict(lr=0.05, momentum=0.9, weight_decay=5e-4)),
        ('Adam', dict(lr=0.01, weight_decay=5e-4)),
        ('AdamW', dict(lr=0.01, weight_decay=5e-4)),
    ],
)
def test_a_fused_optimizer_gives_the_same(name: str, settings: dict) -> None:
    trained = []
    for fused in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()
        images = torch.randn(16, 5).double()
        optimizer = getattr(torch.optim, name)(model.parameters(), fused=fused, **settings)
        for _ in range(10):
            optimizer.zero_grad()
            model(images).square().sum().backward()
            optimizer.step()
        trained.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(*trained, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ('loop', 'checkpoint', 'expected'),
    [
        (dict(type='IterBasedTrainLoop', val_interval=50), dict(interval=1), dict(interval=50, by_epoch=False)),
        (dict(by_epoch=False), dict(), dict(interval=1000, by_epoch=False)),
        (dict(by_epoch=False, val_interval=50), dict(interval=20), dict(interval=20, by_epoch=False)),
        # as the config says
        (dict(by_epoch=False), dict(interval=1, by_epoch=True), dict(interval=1, by_epoch=True)),
        (dict(by_epoch=True, max_epochs=2), dict(interval=1), dict(interval=1)),
        (dict(type='EpochBasedTrainLoop'), dict(interval=1), dict(interval=1)),
    ],
    ids=str,
)
def test_what_counts_iterations(loop: dict, checkpoint: dict, expected: dict) -> None:
    cfg = Config(dict(train_cfg=loop, default_hooks=dict(checkpoint=checkpoint)))
    run_config.count_iterations(cfg)
    assert cfg.default_hooks.checkpoint == expected
    counts = loop.get('type') == 'IterBasedTrainLoop' or loop.get('by_epoch') is False
    assert cfg.get('log_processor') == (dict(by_epoch=False) if counts else None)
    # a run without such a hook
    run_config.count_iterations(Config(dict(train_cfg=loop, default_hooks=dict(checkpoint=None))))
