"""Numbers that wait for the log, and what is said of those that are none."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import scalars
from mmengine.hooks import Hook, LoggerHook
from mmengine.logging import MessageHub
from mmengine.runner import LogProcessor, Runner

from icd_mmrazor.engine.hooks import DeferredRuntimeInfoHook
from icd_mmrazor.errors import NonFiniteLossError, SettingError


def stand_in(name: str, *hooks: Hook, **log: object) -> SimpleNamespace:
    """What the hook sees of a runner, in an epoch of 8 iterations."""
    return SimpleNamespace(
        hooks=hooks, train_dataloader=range(8), iter=0, message_hub=MessageHub(name), log_processor=LogProcessor(**log)
    )


def iterate(hook: DeferredRuntimeInfoHook, runner: SimpleNamespace, *outputs: dict | None) -> None:
    for numbers in outputs:
        hook.after_train_iter(runner, runner.iter % 8, outputs=numbers)
        runner.iter += 1


def on_hub(runner: SimpleNamespace) -> dict[str, list]:
    return {name: history.data[0].tolist() for name, history in runner.message_hub.log_scalars.items()}


def test_everything_arrives_where_it_is_logged() -> None:
    hook = DeferredRuntimeInfoHook(defer=True)
    runner = stand_in('arrives', hook, LoggerHook(interval=3))
    loss = torch.tensor([0.1], requires_grad=True)
    iterate(hook, runner, {'loss': 2 * loss, 'a': 1}, {'loss': torch.tensor(0.3).double(), 'b': np.float64(2.5)})
    assert on_hub(runner) == {}
    assert hook.passed_on == []
    iterate(hook, runner, {'loss': torch.tensor(0.5).bfloat16(), 'a': torch.tensor(7), 'b': 3.5})
    losses = [torch.tensor(0.2).item(), torch.tensor(0.3).item(), 0.5]
    assert on_hub(runner) == {'train/loss': losses, 'train/a': [1, 7], 'train/b': [2.5, 3.5]}
    assert [(i, numbers['loss']) for i, numbers in hook.passed_on] == list(enumerate(losses))
    assert all(type(numbers['loss']) is float for _, numbers in hook.passed_on)
    assert type(hook.passed_on[2][1]['a']) is int

    # the last iteration of the epoch, logged or not
    iterate(hook, runner, None, {'loss': 4.0}, {'loss': 5.0}, {'loss': 6.0}, {'loss': 7.0})
    assert on_hub(runner)['train/loss'] == [*losses, 4, 5, 6, 7]
    # in between, a checkpoint or a validation
    iterate(hook, runner, {'loss': 8.0})
    hook.before_save_checkpoint(runner, {})
    iterate(hook, runner, {'loss': 9.0})
    hook.before_val(runner)
    assert on_hub(runner)['train/loss'] == [*losses, 4, 5, 6, 7, 8, 9]
    iterate(hook, runner, {'loss': 10.0}, {'loss': 11.0})
    hook.after_train_epoch(runner)
    assert on_hub(runner)['train/loss'][-2:] == [10, 11]


@pytest.mark.parametrize(
    ('defer', 'device', 'interval', 'waits'),
    [
        (None, 'cpu', 3, False),
        (None, 'meta', 3, True),
        (True, 'cpu', 3, True),
        (False, 'cpu', 3, False),
        # nothing says when it is logged
        (True, 'cpu', None, False),
    ],
)
def test_when_numbers_wait(defer: bool | None, device: str, interval: int | None, waits: bool) -> None:
    hook = DeferredRuntimeInfoHook(defer)
    runner = stand_in(f'waits {defer} {device} {interval}', hook, *([LoggerHook(interval)] if interval else []))
    iterate(hook, runner, {'loss': torch.zeros((), device=device)})
    assert bool(on_hub(runner)) != waits


def test_the_hub_forgets_what_no_log_looks_back_at() -> None:
    def length(name: str, history: int | None = 5, **log: object) -> int:
        hook = DeferredRuntimeInfoHook(history=history)
        runner = stand_in(name, hook, **log)
        iterate(hook, runner, *({'loss': float(i)} for i in range(30)))
        values = on_hub(runner)['train/loss']
        assert values == list(range(30))[-len(values) :]
        return len(values)

    assert length('forgets', window_size=4) == 5
    assert length('window', window_size=12) == 12
    custom = dict(data_src='loss', log_name='mean', method_name='mean')
    assert length('custom', window_size=4, custom_cfg=[dict(custom, window_size=9)]) == 9
    for window in ('epoch', 'global'):
        assert length(window, window_size=4, custom_cfg=[dict(custom, window_size=window)]) == 30
    assert length('whole', window_size=4, custom_cfg=[custom]) == 30
    assert length('all', history=None) == 30
    for wrong in (0, -1, 2.5, True, 'all'):
        with pytest.raises(SettingError, match='history='):
            DeferredRuntimeInfoHook(history=wrong)


def test_no_more_numbers_wait_than_are_remembered() -> None:
    for history, most in ((3, 3), (None, 1000)):
        hook = DeferredRuntimeInfoHook(defer=True, history=history)
        runner = stand_in(f'full {history}', hook, LoggerHook(interval=10**6))
        runner.train_dataloader = range(10**6)
        for i in range(most):
            assert on_hub(runner) == {}
            hook.after_train_iter(runner, i, outputs={'loss': torch.tensor(float(i))})
        assert on_hub(runner)['train/loss'] == list(range(most))


@pytest.mark.slow
def test_the_log_has_the_same_numbers(short_batches: Callable, runner: Callable) -> None:
    logs = []
    deferred = short_batches(**{'train_cfg.max_epochs': 2, 'default_hooks.logger.interval': 3})
    for hook in (deferred.default_hooks.runtime_info, dict(type='RuntimeInfoHook')):
        cfg = copy.deepcopy(deferred)
        cfg.default_hooks.runtime_info = hook
        cfg.work_dir += hook['type']
        runner(cfg).train()
        logs.append([{k: v for k, v in line.items() if k not in ('time', 'data_time')} for line in scalars(cfg)])
    assert [line['step'] for line in logs[0]] == [3, 6, 1, 11, 14, 2]
    assert logs[0] == logs[1]


class Poison(Hook):
    """Spoil a weight after the fifth iteration, so that the sixth has no loss."""

    def after_train_iter(self, runner: Runner, batch_idx: int, **kwargs: object) -> None:
        if runner.iter == 4:
            with torch.no_grad():
                runner.model.distiller.connectors['icd_student'].linear.weight.fill_(math.nan)


@pytest.mark.slow
@pytest.mark.parametrize(
    'checkpoint',
    [dict(type='CheckpointHook'), dict(type='CheckpointHook', by_epoch=False, interval=7)],
    ids=['epoch', 'between'],
)
def test_a_late_look_names_the_iteration(checkpoint: dict, short_batches: Callable, runner: Callable) -> None:
    cfg = short_batches()
    cfg.default_hooks.checkpoint = checkpoint
    run = runner(cfg)
    run.register_hook(Poison())
    with pytest.raises(NonFiniteLossError) as raised:
        run.train()
    assert run.iter == (7 if checkpoint.get('by_epoch', True) else 6)
    message = str(raised.value)
    assert message.startswith('iteration 6 (epoch 1): the loss is nan. Its terms: student.loss=')
    assert 'distill.loss_icd=nan' in message
    assert not list(Path(cfg.work_dir).glob('*.pth'))


@pytest.mark.slow
@pytest.mark.parametrize('hook', [dict(type='RuntimeInfoHook'), None], ids=['mmengine', 'none'])
def test_without_the_hook_losses_are_still_looked_at(
    hook: dict | None, short_batches: Callable, runner: Callable
) -> None:
    cfg = short_batches()
    cfg.default_hooks.runtime_info = hook
    run = runner(cfg)
    run.register_hook(Poison())
    with pytest.raises(
        NonFiniteLossError,
        match=r'iteration 6 \(epoch 1\): the loss is nan\..*student\.loss=[0-9.]+, distill.loss_icd=nan.*No checkpoint',
    ):
        run.train()
    assert run.iter == 5
