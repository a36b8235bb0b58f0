"""Checkpoints that survive a kill."""

import hashlib
import inspect
import io
import os
from collections import deque
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process, master_only
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import CheckpointLoader, Runner
from torch import Tensor

from icd_mmrazor.checkpoints.plain_values import make_plain
from icd_mmrazor.checkpoints.writing import remove_abandoned, write_checkpoint_file
from icd_mmrazor.engine.metrics import best_metric, numbers_in
from icd_mmrazor.engine.runs import optimizers_of

# in the message hub
REPLACED_BEST = 'replaced_best'
BEST_METRIC = 'best_metric'
# in the meta of a checkpoint that is not one of the regular ones
EXTRA = 'extra_checkpoint'


@HOOKS.register_module()
class PlainCheckpointHook(Hook):
    """The part of :class:`IntactCheckpointHook` that makes checkpoints plain, for configs of version 0.1."""

    # before the file is written, after the hooks that add to it
    priority = 'LOWEST'

    def __init__(self) -> None:
        # what has been named in a warning
        self._dropped: set[str] = set()

    def before_train(self, runner: Runner) -> None:
        """Lay out the momenta of a resumed optimizer as the weights are: torch's fused optimizers rely on it."""
        for wrapper in optimizers_of(runner):
            for weight, state in wrapper.optimizer.state.items():
                for name, value in state.items():
                    # a number, such as Adam's count of steps, stays where it is
                    if isinstance(value, Tensor) and value.ndim and value.shape == weight.shape:
                        state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Drop histories and memory layouts; write numpy's values and special containers as Python's own."""
        for name, kind in make_plain(checkpoint).items():
            if name not in self._dropped:
                self._dropped.add(name)
                runner.logger.warning(f'{name} in the message hub is a {kind}, which no checkpoint holds: not stored.')


@HOOKS.register_module()
class IntactCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook``, with checkpoints that survive a kill and hold plain values only.

    * A file is written whole or not at all, and an old checkpoint is deleted only when the new one is there.
    * A best checkpoint in another folder, of the run that was resumed, is neither deleted nor published.
    * ``save_best='auto'`` takes the first metric that is a number with a known rule; a metric that is missing, or is
      not a number, does not end the run.
    * A checkpoint holds tensors and plain values. The histories of logged numbers are left out: only the averages over
      the last iterations in the log need them.

    Args:
        **settings: As for mmengine's ``CheckpointHook``.

    Config example::

        default_hooks=dict(checkpoint=dict(type='IntactCheckpointHook', interval=1, save_best='auto'))
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        # what it does not know, mmengine passes on, at the end of the first epoch
        for name in self.args.keys() - inspect.signature(Runner.save_checkpoint).parameters.keys():
            raise TypeError(f'{type(self).__name__}.__init__() got an unexpected keyword argument {name!r}')
        self._plain, self._warned = PlainCheckpointHook(), False
        # the iteration of the last checkpoint, and the name of the one that is not a regular one
        self._saved, self._extra = -1, ''

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Know the checkpoint of a stop, which the next one replaces."""
        meta = checkpoint.get('meta')
        if runner._resume and isinstance(meta, dict) and meta.get(EXTRA) is True:
            self._extra = f'iter_{meta.get("iter")}.pth'

    def before_train(self, runner: Runner) -> None:
        """Clean up after the run that is resumed."""
        folder = self.out_dir or runner.work_dir
        if not (self.backend_args or self.file_client_args) and type(get_file_backend(folder)) is LocalBackend:
            self.backend_args = dict(backend='atomic')
        super().before_train(runner)
        self._plain.before_train(runner)
        # mmengine deletes what it knows of: what lies elsewhere, or is gone, is forgotten
        best = {name: self._own(path) for name, path in self._best.items()}
        self._best = {name: path if path and self.file_backend.exists(path) else None for name, path in best.items()}
        if is_main_process():
            replaced = runner.message_hub.get_info(REPLACED_BEST)
            for path in map(self._own, replaced if isinstance(replaced, list) else ()):
                if path and path not in self._best.values():
                    self._delete(path)
            for folder in {runner.work_dir, self.out_dir}:
                for file in remove_abandoned(Path(folder)):
                    runner.logger.info(f'{file}, which a killed process left half written, is removed.')

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Make a checkpoint plain."""
        self._plain.before_save_checkpoint(runner, checkpoint)

    def _own(self, path: Any) -> str | None:
        """Return where a best checkpoint lies in this run's folder; None for what is not one."""
        name = Path(str(path)).name
        return self.file_backend.join_path(self.out_dir, name) if name.startswith('best_') else None

    def _delete(self, path: str) -> None:
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):
            # deepspeed's
            self.file_backend.rmtree(path)

    @property
    def _best(self) -> dict[str, str | None]:
        if 'best_ckpt_path' in vars(self):
            return {'best_ckpt_path': self.best_ckpt_path}
        return dict(getattr(self, 'best_ckpt_path_dict', {}))

    @_best.setter
    def _best(self, paths: dict[str, str | None]) -> None:
        if 'best_ckpt_path' in vars(self):
            self.best_ckpt_path = paths['best_ckpt_path']
        elif paths:
            self.best_ckpt_path_dict = paths

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        """Save a checkpoint; only then delete the oldest one.

        A checkpoint names those that its run keeps. If the run is killed before it has deleted the oldest one, the next
        run deletes it.
        """
        kept = getattr(self, 'keep_ckpt_ids', deque())
        if self.max_keep_ckpts > 0 and step not in kept:
            kept = deque([*kept, step])
            runner.message_hub.update_info('keep_ckpt_ids', list(kept))
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        optional = dict(save_optimizer=self.save_optimizer, save_param_scheduler=self.save_param_scheduler)
        self._write(runner, name, meta, by_epoch=self.by_epoch, **optional, **self.args)
        if self.max_keep_ckpts > 0:
            while len(kept) > self.max_keep_ckpts:
                old = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(kept.popleft()))
                if is_main_process():
                    self._delete(old)
            self.keep_ckpt_ids = kept
            runner.message_hub.update_info('keep_ckpt_ids', list(kept))

    def save_now(self, runner: Runner, iteration: int) -> str:
        """Save a checkpoint in addition to the regular ones, the next of which deletes it; return its file.

        Args:
            runner: The runner, in all processes.
            iteration: How many iterations are done.
        """
        if self._saved == iteration:  # a regular one has been written just now
            return self.last_ckpt
        return self._write(runner, f'iter_{iteration}.pth', {'epoch': runner.epoch, 'iter': iteration, EXTRA: True})

    def _write(self, runner: Runner, name: str, meta: dict, **settings: Any) -> str:
        """Write the checkpoint to resume from, then delete that of an earlier stop; return the file."""
        path = self.file_backend.join_path(self.out_dir, name)
        runner.save_checkpoint(
            self.out_dir, name, self.file_client_args, meta=meta, backend_args=self.backend_args, **settings
        )
        self._saved, old, self._extra = meta['iter'], self._extra, name if EXTRA in meta else ''
        if is_main_process():
            write_checkpoint_file(path, Path(runner.work_dir, 'last_checkpoint'))
            if old and old != name:
                self._delete(self.file_backend.join_path(self.out_dir, old))
        return path

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, Any]) -> None:
        """Save the best checkpoint, if this is it; only then delete the previous one."""
        if not self.save_best:
            return
        numbers, listed = numbers_in(metrics), ', '.join(metrics)
        if 'auto' in self.key_indicators:
            # a resumed run continues with what was chosen
            before = runner.message_hub.get_info(BEST_METRIC)
            chosen = best_metric(self, sorted(numbers, key=lambda name: name != before))
            if chosen is None:
                self._warn(runner, f"save_best='auto' finds no number with a known rule in {listed}: none is saved.")
                return
            runner.message_hub.update_info(BEST_METRIC, chosen)
            self._init_rule(self.rules, [chosen])
        missing = [name for name in self.key_indicators if name not in numbers]
        if missing:
            self._warn(runner, f'save_best={", ".join(missing)} is not a number of a validation with {listed}.')

        previous = self._best
        # for the run that resumes from what is saved now
        runner.message_hub.update_info(REPLACED_BEST, [Path(path).name for path in previous.values() if path])
        # mmengine does not delete what it does not know of
        self._best = dict.fromkeys(previous)
        super()._save_best_checkpoint(runner, {**numbers, **dict.fromkeys(missing)})
        best = self._best
        for name, path in previous.items():
            if path and best[name] and path != best[name] and is_main_process():
                self._delete(path)
                runner.logger.info(f'The previous best checkpoint {path} is removed.')
        self._best = {name: path or previous[name] for name, path in best.items()}

    @master_only
    def _publish_model(self, runner: Runner, ckpt_path: str | None) -> None:
        """Write a checkpoint with ``published_keys`` alone, if it is there."""
        if not ckpt_path or not self.file_backend.exists(ckpt_path):
            runner.logger.warning(f'{ckpt_path or "The best checkpoint"} is not there: not published.')
            return
        checkpoint = CheckpointLoader.load_checkpoint(ckpt_path, map_location='cpu')
        content = io.BytesIO()
        torch.save({key: value for key, value in checkpoint.items() if key in self.published_keys}, content)
        digest = hashlib.sha256(content.getvalue()).hexdigest()[:8]
        path = f'{os.path.splitext(ckpt_path)[0]}-{digest}.pth'  # noqa: PTH122 (may be an address)
        self.file_backend.put(content.getvalue(), path)
        runner.logger.info(f'{ckpt_path} is published as {path}.')

    def _warn(self, runner: Runner, message: str) -> None:
        if not self._warned:
            self._warned = True
            runner.logger.warning(message)
