"""What is on the disk when a run is killed while it writes or deletes a checkpoint, or the disk is full."""

import errno
import itertools
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from mmengine.config import Config
from mmengine.fileio import get_file_backend
from mmengine.hooks import CheckpointHook
from mmengine.logging import MessageHub, MMLogger

from icd_mmrazor.engine.hooks import IntactCheckpointHook
from icd_mmrazor.errors import CheckpointError
from icd_mmrazor.launch.command_line import run as run_tool
from icd_mmrazor.launch.run_config import use_intact_checkpoints


class KilledError(BaseException):
    """Nothing catches it."""


class Run:
    """As much of a runner as a checkpoint hook asks for; a checkpoint holds what its message hub says."""

    def __init__(self, folder: Path, checkpoint: str | None = None, **settings: Any) -> None:
        self.work_dir = str(folder)
        self.message_hub = MessageHub(f'{folder.name}_{checkpoint}')
        self.logger = MMLogger.get_current_instance()
        self.epoch = self.iter = 0
        self.max_epochs = 99
        if checkpoint:
            stored = json.loads((folder / checkpoint).read_text())
            self.epoch = stored['epoch']
            self.message_hub.update_info_dict(stored['hub'])
        self.optim_wrapper = SimpleNamespace(optimizer=SimpleNamespace(state={}))
        self.hook = IntactCheckpointHook(interval=1, rule='greater', **settings)
        self.hook.before_train(self)

    def save_checkpoint(
        self, out_dir: str, filename: str, *_: Any, meta: dict, backend_args: dict | None = None, **__: Any
    ) -> None:
        content = json.dumps({'epoch': meta['epoch'], 'hub': dict(self.message_hub.runtime_info)}).encode()
        get_file_backend(out_dir, backend_args=backend_args).put(content, str(Path(out_dir, filename)))

    def train_epoch(self, **scores: float) -> None:
        self.hook.after_train_epoch(self)
        self.epoch += 1
        if scores:
            self.hook.after_val_epoch(self, scores)

    @property
    def files(self) -> list[str]:
        return sorted(file.name for file in Path(self.work_dir).iterdir() if file.name != 'last_checkpoint')


@contextmanager
def killed_at(function: str, call: int) -> Iterator[None]:
    """Let the process be killed at the n-th call of a function of ``os``."""
    original, calls = getattr(os, function), itertools.count(1)

    def kill(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == call:
            raise KilledError
        return original(*args, **kwargs)

    with mock.patch.object(os, function, kill), pytest.raises(KilledError):
        yield


@pytest.mark.parametrize('kept', [1, 2])
def test_old_checkpoints_go_when_the_new_one_is_there(kept: int, tmp_path: Path) -> None:
    run = Run(tmp_path, max_keep_ckpts=kept)
    for _ in range(3):
        run.train_epoch()
    old = ['epoch_2.pth', 'epoch_3.pth'][-kept:]
    assert run.files == old
    pointer = tmp_path / 'last_checkpoint'

    # it writes the checkpoint, it writes last_checkpoint, it deletes the oldest one
    for function, call, new in (('fsync', 1, []), ('fsync', 2, ['epoch_4.pth']), ('remove', 1, ['epoch_4.pth'])):
        run = Run(tmp_path, 'epoch_3.pth', max_keep_ckpts=kept)
        with killed_at(function, call):
            run.train_epoch()
        assert run.files == old + new
        assert pointer.read_text() == str(tmp_path / ('epoch_4.pth' if function == 'remove' else 'epoch_3.pth'))

    # the run that resumes from it deletes what this one could not
    assert Run(tmp_path, 'epoch_4.pth', max_keep_ckpts=kept).files == [*old, 'epoch_4.pth'][-kept:]


@pytest.mark.parametrize('save_best', ['a', ['a', 'b']])
def test_the_best_one_goes_when_a_better_one_is_there(save_best: str | list[str], tmp_path: Path) -> None:
    scores = [dict(a=2.0, b=1.0), dict(a=1.0, b=1.0), dict(a=3.0, b=0.0)]
    settings: dict[str, Any] = dict(max_keep_ckpts=1, save_best=save_best)
    run = Run(tmp_path, **settings)
    for each in scores[:2]:
        run.train_epoch(**each)
    best = ['best_a_epoch_1.pth', 'best_b_epoch_1.pth'][: 1 if save_best == 'a' else 2]
    assert run.files == [*best, 'epoch_2.pth']
    # it writes the new best one, after the last checkpoint and where that is; it deletes the old best one
    for function, call, new in (('fsync', 3, []), ('remove', 1, ['best_a_epoch_3.pth'])):
        run = Run(tmp_path, run.files[-1], **settings)
        run.epoch = 2
        with killed_at(function, call):
            run.train_epoch(**scores[2])
        assert run.files == sorted([*best, *new, 'epoch_3.pth'])
    # the last checkpoint was written once more, with the new best one: the next run deletes the old one
    assert Run(tmp_path, 'epoch_3.pth', **settings).files == ['best_a_epoch_3.pth', *best[1:], 'epoch_3.pth']
    for file in tmp_path.iterdir():
        file.unlink()

    run = Run(tmp_path, **settings)
    for each in scores:
        run.train_epoch(**each)
    assert run.files == ['best_a_epoch_3.pth', *best[1:], 'epoch_3.pth']


@pytest.mark.parametrize('kind', [errno.ENOSPC, errno.EACCES])
def test_a_disk_that_cannot_be_written_ends_the_run_with_a_message(kind: int, tmp_path: Path) -> None:
    run = Run(tmp_path, max_keep_ckpts=1)
    run.train_epoch()
    error = OSError(kind, os.strerror(kind))
    for call in (1, 2):
        names = ['epoch_1.pth'] if call == 1 else ['epoch_1.pth', 'epoch_2.pth']
        effects = [None] * (call - 1) + [error]
        with (
            mock.patch.object(os, 'fsync', side_effect=effects),
            pytest.raises(CheckpointError, match=f'{os.strerror(kind)}.*Make room.*--resume') as raised,
        ):
            run.train_epoch()
        assert str(tmp_path / ('epoch_2.pth' if call == 1 else 'last_checkpoint')) in str(raised.value)
        assert run.files == names
        run.epoch = 1
    # no folder can be made where a file is
    with pytest.raises(CheckpointError, match='could not be written'):
        get_file_backend(backend_args=dict(backend='atomic')).put(b'', tmp_path / 'epoch_1.pth' / 'epoch_1.pth')


def test_a_full_disk_where_something_else_is_written_is_a_message(capsys: pytest.CaptureFixture) -> None:
    def main() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(SystemExit) as end:
        run_tool(main, when_stopped='Then resume.')
    assert end.value.code == 1
    assert (
        'error: No space left on device. Make room on the disk that the run writes to. Then' in capsys.readouterr().err
    )


def test_what_a_killed_run_left_goes_at_the_next_start(tmp_path: Path) -> None:
    (tmp_path / f'.epoch_7.pth.{os.getpid()}').touch()
    (tmp_path / '.mine').touch()
    assert Run(tmp_path, max_keep_ckpts=1).files == ['.mine']


@pytest.mark.parametrize(
    ('names', 'kept'),
    [(['a', 'best_a_epoch_1.pth'], 'best_a_epoch_1.pth'), (['thesis'], None), (['best_a', '..'], None)],
)
def test_a_resumed_run_deletes_nothing_of_others(names: list[str], kept: str | None, tmp_path: Path) -> None:
    """The path of the best checkpoint, which mmengine deletes when there is a better one, is read from a file."""
    elsewhere = str(tmp_path.joinpath('elsewhere', *names))
    hub = {'best_ckpt': elsewhere, 'best_ckpt_a': elsewhere, 'best_ckpt_b': elsewhere}
    (tmp_path / 'epoch_1.json').write_text(json.dumps({'epoch': 1, 'hub': hub}))
    kept = kept and str(tmp_path / kept)
    if kept:
        assert Run(tmp_path, 'epoch_1.json', save_best='a').hook.best_ckpt_path is None
        Path(kept).touch()
    one, two = (Run(tmp_path, 'epoch_1.json', save_best=best).hook for best in ('a', ['a', 'b']))
    assert (one.best_ckpt_path, two.best_ckpt_path_dict) == (kept, {'a': kept, 'b': kept})


def test_the_file_backend_that_is_asked_for_is_used(tmp_path: Path) -> None:
    assert Run(tmp_path).hook.backend_args == dict(backend='atomic')
    assert Run(tmp_path, backend_args=dict(backend='local')).hook.backend_args == dict(backend='local')


def test_our_tools_write_the_checkpoints_of_mmengines_configs_likewise() -> None:
    for hooks, used in (
        ({}, dict(type='IntactCheckpointHook', interval=1)),
        ({'checkpoint': dict(type='CheckpointHook', interval=7)}, dict(type='IntactCheckpointHook', interval=7)),
        ({'checkpoint': dict(type='mmengine.CheckpointHook')}, dict(type='IntactCheckpointHook')),
        ({'checkpoint': dict(type=CheckpointHook)}, dict(type='IntactCheckpointHook')),
        ({'checkpoint': dict(type='MyCheckpointHook')}, dict(type='MyCheckpointHook')),
        ({'checkpoint': None}, None),
    ):
        cfg = Config(dict(default_hooks=hooks))
        use_intact_checkpoints(cfg)
        assert cfg.default_hooks.checkpoint == used
