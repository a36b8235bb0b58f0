"""A run stops at the first number that is not finite, and saves no such weights."""

import functools
import math
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import CHANGED
from mmengine.hooks import Hook
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.runner import Runner

from icd_mmrazor.engine.checks import NumberCheck
from icd_mmrazor.errors import NonFiniteLossError


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_the_run(demo_config: Callable, runner: Callable) -> None:
    cfg = demo_config(**{'train_cfg.max_epochs': 2})
    cfg.train_dataloader.batch_size = 8
    # epoch 1 at a usual learning rate, then one that explodes
    cfg.param_scheduler = dict(type='MultiStepLR', milestones=[1], gamma=1e30)
    cfg.optim_wrapper.optimizer.lr = 0.01
    with pytest.raises(NonFiniteLossError) as raised:
        runner(cfg).train()
    message = str(raised.value)
    assert 'epoch 2' in message
    assert 'iteration ' in message
    assert 'epoch_1.pth' in message
    assert '--resume' in message
    assert [file.name for file in sorted(Path(cfg.work_dir).glob('epoch_*.pth'))] == ['epoch_1.pth']
    weights = torch.load(Path(cfg.work_dir, 'epoch_1.pth'), weights_only=True)['state_dict']
    assert all(torch.isfinite(weight).all() for weight in weights.values())


class Poison(Hook):
    """Make a weight infinite in the last iteration of the second epoch, after its loss was computed."""

    def after_train_iter(self, runner: Runner, batch_idx: int, **kwargs: object) -> None:
        if runner.epoch == 1:
            with torch.no_grad():
                runner.model.architecture.head.fc.bias[0] = math.inf


@pytest.mark.slow
def test_weights_that_are_no_numbers_are_not_saved(demo_config: Callable, runner: Callable) -> None:
    """Even where the checkpoint hook keeps one file and would delete it first."""
    cfg = demo_config(**{'train_cfg.max_epochs': 3, 'default_hooks.checkpoint.max_keep_ckpts': 1})
    run = runner(cfg)
    run.register_hook(Poison())
    with pytest.raises(NonFiniteLossError) as raised:
        run.train()
    message = str(raised.value)
    assert 'architecture.head.fc.bias is no longer finite' in message
    (kept,) = Path(cfg.work_dir).glob('epoch_*.pth')
    assert (kept.name, str(kept) in message) == ('epoch_1.pth', True)
    with pytest.raises(NonFiniteLossError):
        run.save_checkpoint(cfg.work_dir, 'broken.pth')
    assert not Path(cfg.work_dir, 'broken.pth').exists()
    # what the message advises
    cfg = demo_config(**{'train_cfg.max_epochs': 2, 'resume': True, 'optim_wrapper.clip_grad.max_norm': 5, **CHANGED})
    runner(cfg).train()
    cfg = demo_config(load_from=str(kept), **{'optim_wrapper.optimizer.lr': 1e-3})
    run = runner(cfg)
    run.train()
    assert run.optim_wrapper.get_lr()['lr'] == [1e-3]


def test_a_checkpoint_without_weights_is_nothing_to_look_at() -> None:
    NumberCheck().before_save_checkpoint(SimpleNamespace(hooks=[], iter=0), {'state_dict': {}})


@pytest.mark.parametrize('outputs', [{'loss_a': 1.0, 'loss_b': math.nan}, {'loss': math.inf, 'loss_b': 1.0}], ids=str)
def test_each_loss_is_looked_at(outputs: dict, tmp_path: Path) -> None:
    """A model with several optimizers takes its own steps, and may log no sum."""
    run = SimpleNamespace(hooks=[], iter=4, epoch=1, work_dir=str(tmp_path))
    wrong = r'the loss is inf' if 'loss' in outputs else r'loss_b is nan'
    with pytest.raises(NonFiniteLossError, match=rf'iteration 5 \(epoch 2\): {wrong}\. Its terms: .*loss_b='):
        NumberCheck().after_train_iter(run, 4, outputs={k: torch.tensor(v) for k, v in outputs.items()})
    NumberCheck().after_train_iter(run, 4, outputs={'loss_a': torch.tensor(1.0), 'grad_norm': math.inf})


def test_the_checkpoint_of_an_earlier_run_is_not_the_last_good_one(tmp_path: Path) -> None:
    for name in ('epoch_1.pth', 'last_checkpoint'):
        (tmp_path / name).write_text(str(tmp_path / 'epoch_1.pth'))
    run, check = SimpleNamespace(hooks=[], iter=4, epoch=1, work_dir=str(tmp_path), _resume=False), NumberCheck()
    check.before_run(run)
    with pytest.raises(NonFiniteLossError, match='No checkpoint had been written'):
        check.after_train_iter(run, 4, outputs={'loss': math.nan})
    # this run writes its own under the same name, or resumes it
    os.utime(tmp_path / 'last_checkpoint')
    with pytest.raises(NonFiniteLossError, match=r'The last good checkpoint is .*epoch_1\.pth'):
        check.after_train_iter(run, 4, outputs={'loss': math.nan})
    run._resume = True
    check.before_run(run)
    with pytest.raises(NonFiniteLossError, match=r'The last good checkpoint is .*epoch_1\.pth'):
        check.after_train_iter(run, 4, outputs={'loss': math.nan})


class SpoilGradient(Hook):
    """Make the gradient of the second iteration NaN: half of an update, where gradients are accumulated."""

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
        if batch_idx == 1:
            (weight,) = (p for name, p in runner.model.named_parameters() if name == 'architecture.head.fc.bias')
            weight.register_hook(lambda gradient: gradient * math.nan)


def test_accumulated_gradients_and_averaged_weights(demo_config: Callable, runner: Callable) -> None:
    """The loss goes wrong in the iteration after the update; no checkpoint of the averaged weights is written."""
    cfg = demo_config(**{'optim_wrapper.accumulative_counts': 2, 'train_cfg.max_epochs': 2})
    cfg.train_dataloader.batch_size = 16
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=1)
    cfg.custom_hooks = [dict(type='EMAHook')]
    run = runner(cfg)
    run.register_hook(SpoilGradient())
    with pytest.raises(NonFiniteLossError, match='no longer finite; no checkpoint was written'):
        run.train()
    assert [file.name for file in Path(cfg.work_dir).glob('iter_*.pth')] == ['iter_1.pth']


@pytest.mark.slow
def test_steps_that_a_scaler_leaves_out_are_no_error(
    demo_config: Callable, runner: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients beyond float32: the scaler halves its scale until they fit."""
    scaler = functools.partial(torch.amp.GradScaler, 'cpu', init_scale=2.0**127)
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    monkeypatch.setattr(amp_optimizer_wrapper, 'GradScaler', scaler)
    options = {'type': 'AmpOptimWrapper', 'dtype': 'bfloat16', 'optimizer.lr': 1e-6}
    cfg = demo_config(**{f'optim_wrapper.{name}': value for name, value in options.items()})
    cfg.model.distiller.icd = dict(type='ICDLoss', loss_weight=1e4)
    cfg.train_dataloader.batch_size = 16
    run = runner(cfg)
    run.train()
    assert run.optim_wrapper.loss_scaler.get_scale() < 2.0**127
    assert Path(cfg.work_dir, 'epoch_1.pth').is_file()
