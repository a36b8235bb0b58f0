"""A training goes on as it was begun, or says in what it does not."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner
from torch import nn

from icd_mmrazor.checkpoints.resuming import missing_parts
from icd_mmrazor.configuration.changes import config_changes, difference
from icd_mmrazor.configuration.stored import read_settings
from icd_mmrazor.datasets.class_names import class_names, differing_labels, listed_differences
from icd_mmrazor.datasets.labels import image_labels
from icd_mmrazor.errors import CheckpointError, SettingError

# in a checkpoint's meta
KEY = 'begun_with'
TEACHER = "teacher's weights"
SHOWN_CHANGES = 30


@HOOKS.register_module()
class CheckResumeHook(Hook):
    """Compare a run that is resumed with the one that wrote the checkpoint.

    Compared are the config, setting by setting, but for those that do not change the result (folders, logs, workers,
    how often is saved and validated); the teacher's weights, wherever their file is now; the number of processes, that
    of training images, their labels, and the names of the classes. A seed that was drawn is kept by mmengine, and is no
    difference if none is asked for. A checkpoint of another origin, which does not say what it was trained with, is
    resumed as it is.

    Args:
        changes: What is done where something differs: ``'refuse'`` ends the run with the list of all differences,
            ``'list'`` writes the list to the log as a warning and goes on.

    Raises:
        SettingError: ``changes`` is something else.

    Config example::

        default_hooks=dict(check_resume=dict(type='CheckResumeHook', changes='list'))
    """

    # before CheckWeightsHook: settings say more than names of weights
    priority = 'VERY_HIGH'

    def __init__(self, changes: str = 'refuse') -> None:
        if changes not in ('refuse', 'list'):
            raise SettingError(f"CheckResumeHook: changes={changes!r} must be 'refuse' or 'list'.")
        self.changes = changes
        self._begun_with: dict[str, int | str] = {}
        self._classes: Sequence[str] | None = None

    def before_run(self, runner: Runner) -> None:
        """Take down what the run has beside its config, before anything is resumed or trained."""
        if not isinstance(runner._train_loop, BaseLoop):
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        teacher, dataset = getattr(model, 'teacher', None), runner.train_dataloader.dataset
        self._begun_with = {'processes': get_world_size()}
        # mmengine stores them
        self._classes = class_names(getattr(dataset, 'metainfo', None))
        if hasattr(dataset, '__len__'):
            self._begun_with['training images'] = len(dataset)
            labels = image_labels(dataset)
            if labels is not None:
                self._begun_with['training labels'] = hashlib.sha256(np.int64(labels).tobytes()).hexdigest()
        if isinstance(teacher, nn.Module):
            self._begun_with[TEACHER] = weights_digest(teacher)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Store it."""
        checkpoint['meta'][KEY] = dict(self._begun_with)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare, if the checkpoint is resumed.

        Raises:
            CheckpointError: A training cannot go on from the checkpoint.
            SettingError: Something differs, and ``changes='refuse'``.
        """
        if not (runner._resume and self._begun_with):
            return
        if missing := missing_parts(checkpoint):
            raise CheckpointError(f'--resume: {runner._load_from or "the latest checkpoint"} holds {missing}.')
        changes = self._changes(checkpoint['meta'], runner)
        if runner.param_schedulers and 'param_schedulers' not in checkpoint:
            changes.append(
                'param_scheduler: where it was is not in the checkpoint (CheckpointHook: save_param_scheduler=False), '
                'so it starts over'
            )
        if not changes:
            return
        more = [f'and {len(changes) - SHOWN_CHANGES} more'] if len(changes) > SHOWN_CHANGES else []
        listed = '\n  '.join([*changes[:SHOWN_CHANGES], *more])
        if self.changes == 'list':
            runner.logger.warning(f'The training goes on otherwise than it was begun:\n  {listed}')
            return
        raise SettingError(
            f'--resume: the training was begun otherwise:\n  {listed}\nGo on with the settings of the checkpoint; or, '
            "where the change is meant, with --resume-changes list (default_hooks.check_resume.changes='list'), which "
            'writes this list to the log.'
        )

    def _changed_classes(self, then: Sequence[str]) -> list[str]:
        now = self._classes or ()
        differing = differing_labels(then, now) if then and now else []
        if not differing:
            return []
        listed = listed_differences(then, now, differing, ('in the checkpoint', 'now'))
        return [f'training classes: {listed}']

    def _changes(self, meta: dict[str, Any], runner: Runner) -> list[str]:
        begun_with = meta.get(KEY) if isinstance(meta.get(KEY), dict) else {}
        stored = {name: begun_with[name] for name in self._begun_with if isinstance(begun_with.get(name), int | str)}
        changes = [
            difference(name, value, self._begun_with[name])
            for name, value in stored.items()
            if value != self._begun_with[name]
        ]
        changes += self._changed_classes(class_names(meta) or ())
        try:
            then = read_settings(meta.get('cfg'), "the checkpoint's config")
            # as it would be stored
            now = read_settings(runner.cfg.pretty_text, 'the config of this run')
        except SettingError as error:
            runner.logger.warning(f'CheckResumeHook: the settings are not compared. {error}')
            return changes
        _settle_seed(then, now, meta.get('seed'))
        # its weights tell more than its path
        return changes + config_changes(then, now, ['model.teacher_ckpt'] if TEACHER in stored else [])


def _settle_seed(then: dict[str, Any], now: dict[str, Any], drawn: Any) -> None:
    """Let the seed of the checkpoint be the one it was trained with, and that of a run that asks for none, too."""
    random = [cfg.setdefault('randomness', {}) for cfg in (then, now)]
    if all(isinstance(each, dict) for each in random):
        seed = random[0].get('seed') if random[0].get('seed') is not None else drawn
        random[0]['seed'] = seed
        random[1]['seed'] = seed if random[1].get('seed') is None else random[1]['seed']


def weights_digest(network: nn.Module) -> str:
    """Return a digest of the weights and buffers of a network, the same on every device and in every memory layout.

    Args:
        network: The network.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f'{name} {tensor.dtype} {tuple(tensor.shape)} '.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
