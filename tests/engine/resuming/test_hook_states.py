"""What hooks remember, in runs that are stopped and resumed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import CHANGED, logged
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from same_checkpoints import differences

from icd_mmrazor.checkpoints.reading import read_checkpoint
from icd_mmrazor.errors import SettingError

LAST = 'iter_6.pth'


class StoppedError(Exception):
    """The run was ended from outside."""


@HOOKS.register_module()
class Counting(Hook):
    """Count the iterations, and store the number, unless it is told not to; end the run at one of them."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop, self.iterations = stop, 0

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if self.iterations == self.stop:
            raise StoppedError
        self.iterations += 1


@HOOKS.register_module()
class StoredCounting(Counting):
    """As a hook that is resumed."""

    def state_dict(self) -> dict[str, Any]:
        return {'iterations': self.iterations}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.iterations = state['iterations']


@pytest.fixture
def start(demo_config: Callable, runner: Callable, tmp_path: Path) -> Callable[..., Runner]:
    """Train six iterations, two epochs, with hooks; a checkpoint after each iteration."""

    def train(folder: str, *hooks: dict, **options: object) -> Runner:
        settings = {'train_cfg.max_epochs': 2, 'train_dataloader.batch_size': 24, 'work_dir': str(tmp_path / folder)}
        cfg: Config = demo_config('res8_digits', **settings, **{'default_hooks.checkpoint.by_epoch': False})
        cfg.train_dataloader.dataset.indices = None
        cfg.merge_from_dict({'custom_hooks': list(hooks), **options})
        run = runner(cfg)
        run.train()
        return run

    return train


def hook_of(run: Runner, kind: type[Hook]) -> Hook:
    return next(hook for hook in run.hooks if isinstance(hook, kind))


@pytest.mark.slow
def test_what_hooks_remember_is_resumed(start: Callable, tmp_path: Path) -> None:
    whole = start('whole', dict(type='StoredCounting'))
    with pytest.raises(StoppedError):
        start('stopped', dict(type='StoredCounting', stop=5))
    resumed = start('stopped', dict(type='StoredCounting'), resume=True, **CHANGED)
    assert hook_of(resumed, StoredCounting).iterations == 6
    assert differences(Path(whole.work_dir, LAST), Path(resumed.work_dir, LAST)) == []


@pytest.mark.slow
def test_hooks_that_do_not_store_what_they_remember_are_named(start: Callable) -> None:
    """The user's own, and one of mmpretrain's that keeps a queue of features."""
    queue = dict(type='SwAVHook', batch_size=24, epoch_queue_starts=0, queue_length=24, feat_dim=2)
    with pytest.raises(StoppedError):
        start('work', queue, dict(type='Counting', stop=5))
    run = start('work', queue, dict(type='Counting'), resume=True, **CHANGED)
    assert 'lacks the attributes iterations of' in logged(run)
    assert 'lacks the attributes queue of mmpretrain.SwAVHook' in logged(run)
    # it is still said of the run that is resumed again
    unsaved = read_checkpoint(Path(run.work_dir, LAST))['meta']['unsaved_hook_states']
    assert unsaved.pop('mmpretrain.SwAVHook') == ['queue']
    assert list(unsaved.values()) == [['iterations']]


@pytest.mark.slow
def test_a_state_that_no_checkpoint_can_hold_is_not_stored(start: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StoredCounting, 'state_dict', lambda hook: {'itself': hook})
    run = start('work', dict(type='StoredCounting'))
    assert 'StoredCounting holds more than tensors and plain values' in logged(run)
    assert not {'hook_states', 'unsaved_hook_states'} & read_checkpoint(Path(run.work_dir, LAST))['meta'].keys()


@pytest.mark.slow
def test_a_checkpoint_without_the_state_is_resumed_with_a_warning(start: Callable) -> None:
    stopping = dict(type='EarlyStoppingHook', monitor='accuracy/top1')
    run = start('work', stopping, **{'train_cfg.max_epochs': 1})
    file = Path(run.work_dir, 'iter_3.pth')
    checkpoint = read_checkpoint(file)
    del checkpoint['meta']['hook_states']
    torch.save(checkpoint, file)
    run = start('work', stopping, resume=True, **CHANGED)
    assert 'lacks the state of mmengine.EarlyStoppingHook' in logged(run)


@pytest.mark.slow
def test_what_no_checkpoint_can_hold_is_refused_by_name(start: Callable, tmp_path: Path) -> None:
    averages = [dict(type='EMAHook'), dict(type='mmengine.EMAHook', begin_iter=1)]
    run = start('work', *averages)
    assert 'cannot be resumed exactly. EMAHook: there are 2' in logged(run)
    with pytest.raises(SettingError, match='EMAHook: there are 2'):
        start('work', *averages, resume=True)
    start('work', *averages, resume=True, **CHANGED)
    # who asks for no check gets the warning alone
    start('work', *averages, resume=True, **{'default_hooks.sanity_check.skip': ['resume']})
