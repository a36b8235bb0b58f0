"""What a run was trained with, compared when it is resumed."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from icd_mmrazor import checks
from icd_mmrazor.checkpoints.resuming import missing_parts
from icd_mmrazor.checkpoints.weights import weights_digest
from icd_mmrazor.configuration.changes import config_changes, difference
from icd_mmrazor.configuration.stored import read_settings
from icd_mmrazor.datasets.class_names import CHOICES, class_names, differing_labels, listed_differences
from icd_mmrazor.datasets.labels import image_labels
from icd_mmrazor.engine.resuming.hook_states import several_averages
from icd_mmrazor.engine.runs import is_training, model_of
from icd_mmrazor.errors import CheckpointError, SettingError

# in a checkpoint's meta; version 0.1 wrote the second one
KEYS = ('provenance', 'begun_with')
TEACHER = "teacher's weights"


class ProvenanceCheck(Hook):
    """Compare a run that is resumed with the one that wrote the checkpoint.

    Compared are the config, except for settings that do not change the result; the teacher's weights, wherever their
    file is; the numbers of processes and training images; labels and class names. What a checkpoint does not say is not
    compared.

    Args:
        changes: What to do if something differs: ``'refuse'`` to resume, or ``'list'`` the differences in the log.

    Raises:
        SettingError: ``changes`` is something else, or something differs.
        CheckpointError: The checkpoint lacks what a training needs.
    """

    # before WeightCheck: settings tell more than names of weights
    priority = 15

    def __init__(self, changes: str = 'refuse') -> None:
        self.changes = checks.one_of(self, 'changes', changes, CHOICES)
        self._provenance: dict[str, int | str] = {}
        self._classes: Sequence[str] | None = None

    def before_run(self, runner: Runner) -> None:
        """Record what the config does not tell."""
        if not is_training(runner):
            return
        teacher, dataset = getattr(model_of(runner), 'teacher', None), runner.train_dataloader.dataset
        self._provenance = {'processes': get_world_size()}
        # mmengine stores them
        self._classes = class_names(getattr(dataset, 'metainfo', None))
        if hasattr(dataset, '__len__'):
            self._provenance['training images'] = len(dataset)
            labels = image_labels(dataset)
            if labels is not None:
                self._provenance['training labels'] = hashlib.sha256(np.int64(labels).tobytes()).hexdigest()
        if isinstance(teacher, nn.Module):
            self._provenance[TEACHER] = weights_digest(teacher)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Store it."""
        checkpoint['meta'][KEYS[0]] = dict(self._provenance)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare, if the checkpoint is resumed."""
        if not (runner._resume and self._provenance):
            return
        if missing := missing_parts(checkpoint):
            raise CheckpointError(f'--resume: {runner._load_from or "the latest checkpoint"} holds {missing}.')
        changes = [*self._changes_of_data(checkpoint['meta']), *self._changes_of_config(checkpoint['meta'], runner)]
        if runner.param_schedulers and 'param_schedulers' not in checkpoint:
            changes.append(
                'param_scheduler: its position is not in the checkpoint (CheckpointHook: save_param_scheduler=False), '
                'so it starts over'
            )
        if several := several_averages(runner):
            changes.append(several)
        if not changes:
            return
        listed = '\n  '.join(changes)
        if self.changes == 'list':
            runner.logger.warning(f'Resuming with changed settings:\n  {listed}')
            return
        raise SettingError(
            f"--resume: the settings differ from the checkpoint's:\n  {listed}\nResume with the checkpoint's settings; "
            'or, if the change is intended, with --resume-changes list.'
        )

    def _stored(self, meta: Mapping[str, Any]) -> dict[str, int | str]:
        stored = next((meta[key] for key in KEYS if isinstance(meta.get(key), dict)), {})
        return {name: stored[name] for name in self._provenance if isinstance(stored.get(name), int | str)}

    def _changes_of_data(self, meta: Mapping[str, Any]) -> list[str]:
        now = self._provenance
        changes = [difference(name, then, now[name]) for name, then in self._stored(meta).items() if then != now[name]]
        names, others = class_names(meta) or (), self._classes or ()
        differing = differing_labels(names, others) if names and others else []
        if differing:
            listed = listed_differences(names, others, differing, ('in the checkpoint', 'now'))
            changes.append(f'training classes: {listed}')
        return changes

    def _changes_of_config(self, meta: Mapping[str, Any], runner: Runner) -> list[str]:
        try:
            then = read_settings(meta.get('cfg'), "the checkpoint's config")
            # as it would be stored
            now = read_settings(runner.cfg.pretty_text, 'the config of this run')
        except SettingError as error:
            runner.logger.warning(f'The settings of checkpoint and run are not compared. {error}')
            return []
        _settle_seed(then, now, meta.get('seed'))
        # the teacher's weights tell more than their path
        several = now.get('model', {}).get('teachers') or []
        paths = ['model.teacher_ckpt', *(f'model.teachers.{i}.teacher_ckpt' for i in range(len(several)))]
        return config_changes(then, now, paths if TEACHER in self._stored(meta) else [])


def _settle_seed(then: dict[str, Any], now: dict[str, Any], drawn: Any) -> None:
    """Set the seed that was drawn in the checkpoint's config, and in that of a run that asks for none."""
    random = [cfg.setdefault('randomness', {}) for cfg in (then, now)]
    if all(isinstance(each, dict) for each in random):
        trained_with = drawn if random[0].get('seed') is None else random[0]['seed']
        for each in random:
            each['seed'] = trained_with if each.get('seed') is None else each['seed']
