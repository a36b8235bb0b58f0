from unittest import mock

import pytest
from mmengine.hooks import CheckpointHook, sync_buffer_hook
from mmengine.runner import IterBasedTrainLoop

from icd_mmrazor.engine.resuming import SyncSavedBuffersHook, buffers


@pytest.mark.parametrize(
    ('settings', 'distributed', 'wanted'),
    [
        (dict(by_epoch=False, interval=3), True, [2, 5, 7]),
        (dict(by_epoch=False, interval=3, save_last=False), True, [2, 5]),
        (dict(by_epoch=False, interval=3, save_begin=4), True, [3, 6, 7]),
        (dict(by_epoch=False, interval=3), False, []),
        (dict(interval=1), True, []),
    ],
    ids=str,
)
def test_processes_agree_where_a_checkpoint_is_written(settings: dict, distributed: bool, wanted: list[int]) -> None:
    checkpoints = CheckpointHook(**settings)
    hook = SyncSavedBuffersHook()
    hook.distributed = distributed
    synchronised, saved = [], []
    for iteration in range(8):
        run = mock.Mock(iter=iteration, epoch=0, max_iters=8, hooks=[hook, checkpoints])
        with (
            mock.patch.object(buffers, 'all_reduce_params') as reduce,
            mock.patch.object(checkpoints, '_save_checkpoint') as save,
        ):
            hook.after_train_iter(run, iteration)
            checkpoints.after_train_iter(run, iteration)
        synchronised += [iteration] * reduce.called
        saved += [iteration] * save.called
    assert synchronised == wanted
    if distributed:
        assert saved == wanted


@pytest.mark.parametrize('by_epoch', [True, False])
def test_a_resumed_run_that_validates_first_does_not_average_again(by_epoch: bool) -> None:
    """An epoch has ended with an average; in a loop that counts iterations the validation makes it."""
    hook, run = SyncSavedBuffersHook(), mock.Mock()
    hook.distributed = True
    if not by_epoch:
        run._train_loop = mock.Mock(spec=IterBasedTrainLoop)
    hook.before_train(run)
    with mock.patch.object(sync_buffer_hook, 'all_reduce_params') as reduce:
        hook.before_val_epoch(run)
    assert reduce.called != by_epoch
