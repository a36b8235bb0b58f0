"""A run that is resumed, in real runs: with the same settings, and with others."""

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import CHANGED, logged
from mmengine.config import Config

from icd_mmrazor.checkpoints.weights import weights_digest
from icd_mmrazor.engine.hooks import SanityCheckHook
from icd_mmrazor.errors import CheckpointError, SettingError


@pytest.fixture
def trained(request: pytest.FixtureRequest, demo_config: Callable, runner: Callable) -> Callable[..., Config]:
    """Train an epoch; return what makes the config of the next run."""
    unvalidated = dict.fromkeys(('val_cfg', 'val_dataloader', 'val_evaluator'))
    first = demo_config(request.param, **unvalidated, **{'randomness.seed': None})
    runner(first).train()
    # as the run has stored it
    (stored,) = Path(first.work_dir).glob('*/vis_data/config.py')
    text = stored.read_text()

    def config(**options: object) -> Config:
        cfg = Config.fromstring(text, '.py')
        cfg.merge_from_dict({'resume': True, **options})
        return cfg

    return config


@pytest.mark.slow
@pytest.mark.parametrize('trained', ['icd_res20_res8_digits'], indirect=True)
def test_only_what_has_changed_is_refused(trained: Callable, runner: Callable, tmp_path: Path) -> None:
    cfg = trained()
    checkpoint = Path(cfg.work_dir, 'epoch_1.pth')
    seed = torch.load(checkpoint, weights_only=True)['meta']['seed']
    # the seed that was drawn, asked for now; what was moved; what is kept
    moved = shutil.copytree(cfg.work_dir, tmp_path / 'moved')
    teacher = str(shutil.copy(cfg.model.teacher_ckpt, tmp_path / 'moved' / 'other_name.pth'))
    same = {'model.teacher_ckpt': teacher, 'work_dir': str(moved), 'default_hooks.checkpoint.max_keep_ckpts': 7}
    run = runner(trained(**same, **{'randomness.seed': seed}))
    run.train()
    assert (run.epoch, run.seed) == (1, seed)
    assert 'changed settings' not in logged(cfg)

    changed = {'train_cfg.max_epochs': 2, 'randomness.seed': seed + 1}
    with pytest.raises(SettingError, match='--resume-changes list') as raised:
        runner(trained(**changed)).train()
    lines = ['train_cfg.max_epochs: 1 in the checkpoint, 2 now', f'randomness.seed: {seed} in the checkpoint']
    assert all(line in str(raised.value) for line in lines)
    run = runner(trained(**changed, **CHANGED))
    run.train()
    assert run.epoch == 2
    assert all(line in logged(cfg) for line in lines)

    # another teacher at the same place
    weights = torch.load(teacher, weights_only=True)
    weights['state_dict']['head.fc.bias'] += 1
    torch.save(weights, cfg.model.teacher_ckpt)
    with pytest.raises(SettingError, match=r"teacher's weights: '[0-9a-f]{16}' in the checkpoint") as raised:
        runner(trained(load_from=str(checkpoint))).train()
    assert len(str(raised.value).splitlines()) == 3


@pytest.mark.slow
@pytest.mark.parametrize('trained', ['res8_digits'], indirect=True)
def test_checkpoints_of_another_origin_and_damaged_ones(trained: Callable, runner: Callable) -> None:
    cfg = trained()
    file = Path(cfg.work_dir, 'epoch_1.pth')
    checkpoint = torch.load(file, weights_only=True)
    meta = {'epoch': 1, 'iter': 2, 'cfg': 'import os', 'provenance': {'processes': [9]}}
    torch.save({**checkpoint, 'meta': meta}, file)
    run = runner(trained())
    run.train()
    assert run.epoch == 1
    assert 'are not compared' in logged(cfg)
    # what differs is found without its config, too; the second key is that of version 0.1
    for key in ('provenance', 'begun_with'):
        torch.save({**checkpoint, 'meta': {'epoch': 1, 'iter': 2, key: {'processes': 2}}}, file)
        with pytest.raises(SettingError, match='processes: 2 in the checkpoint, 1 now'):
            runner(trained()).train()

    best = file.with_name('best.pth')
    torch.save({name: value for name, value in checkpoint.items() if name != 'optimizer'}, best)
    with pytest.raises(CheckpointError, match=rf'no optimizer(.|\n)*--resume {file}'):
        runner(trained(load_from=str(best))).train()
    content = bytearray(file.read_bytes())
    # in the values of the largest tensor: a bit of what lies between the tensors does no harm
    with zipfile.ZipFile(file) as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
    content[largest.header_offset + largest.file_size] ^= 1
    best.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf'damaged(.|\n)*--resume {file}'):
        runner(trained(load_from=str(best))).train()


def test_arguments() -> None:
    for setting in ('resume_changes', 'partial_weights', 'class_names', 'skip'):
        with pytest.raises(SettingError, match=f"SanityCheckHook: {setting}='ignore'"):
            SanityCheckHook(**{setting: 'ignore'})


def test_the_digest_is_of_the_values() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    digest = weights_digest(network)
    assert weights_digest(network.to(memory_format=torch.channels_last)) == digest
    network[1].running_mean[2] += 1
    assert weights_digest(network) != digest
    assert weights_digest(network.to(torch.bfloat16)) != digest


@pytest.mark.slow
def test_a_schedule_that_was_not_stored(demo_config: Callable, runner: Callable) -> None:
    cfg = demo_config('res8_digits', **{'default_hooks.checkpoint.save_param_scheduler': False})
    runner(cfg).train()
    cfg.resume = True
    with pytest.raises(SettingError, match=r'param_scheduler: .*save_param_scheduler=False'):
        runner(cfg).train()
