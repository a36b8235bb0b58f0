"""Weights that a run starts with, against the network that they fill and the images that it sees."""

import copy
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, CheckpointLoader, Runner
from torch import Tensor, nn

from icd_mmrazor.checkpoints.weights import (
    LEAST_PART,
    OF_PROCESSES,
    STUDENT,
    Fit,
    best_prefix,
    fit_of,
    named_for,
    tensors_in,
)
from icd_mmrazor.configuration.type_names import type_name
from icd_mmrazor.datasets.class_names import CHOICES, check_class_names, class_names
from icd_mmrazor.datasets.labels import datasets_in_use
from icd_mmrazor.errors import CheckpointError, SettingError
from icd_mmrazor.models.algorithms.records import reads_logits
from icd_mmrazor.models.classifiers import LinearProbe
from icd_mmrazor.models.networks.classifier_layer import classifying_layers

TEACHER = 'teacher.'


@HOOKS.register_module()
class CheckWeightsHook(Hook):
    """Refuse weights that do not fill the network, or that were trained on other classes.

    mmengine loads ``load_from``, ``init_cfg=dict(type='Pretrained', ...)`` (mmpretrain's ``pretrained=FILE`` is one)
    and mmrazor its teachers leniently: what does not match is a warning, and the run starts with random weights. Here

    * the student's weights in a distillation's checkpoint are found by a classifier, and a classifier's by the student
      of a distillation;
    * a file that has less than half of a network's weights is refused, a line in the log says what of the others fits;
      what is resumed must fit in full;
    * where teacher or student bring their classifying layer, and the file says which classes it was trained on, those
      of the datasets have the same names (:func:`icd_mmrazor.datasets.class_names.differing_labels` says what counts).
      A teacher may be of other classes if no loss reads its logits.

    Args:
        partial: What is done where too little fits: ``'refuse'``, or ``'list'`` to write it to the log as a warning.
        names: What is done where class names differ, likewise.

    Raises:
        SettingError: An argument is something else.
        CheckpointError: A file is missing, is not a plain weights file, or does not fill the network.
        DatasetError: A file is of other classes.

    Config example::

        default_hooks=dict(check_weights=dict(type='CheckWeightsHook', names='list'))
    """

    # before EMAHook, which loads the same weights into its copy of the model
    priority = 'VERY_HIGH'

    def __init__(self, partial: str = 'refuse', names: str = 'refuse') -> None:
        for setting, value in (('partial', partial), ('names', names)):
            if value not in CHOICES:
                raise SettingError(f"CheckWeightsHook: {setting}={value!r} must be 'refuse' or 'list'.")
        self.partial, self.names = partial, names

    def before_run(self, runner: Runner) -> None:
        """Check what a training starts with: the teacher, and the weights that ``init_cfg`` names."""
        model = _unwrapped(runner)
        # a probe has loaded its student itself
        if not isinstance(runner._train_loop, BaseLoop) or isinstance(model, LinearProbe):
            return
        self._check_teacher(runner, model)
        for path, module in _initialised(model):
            self._check_init_cfg(runner, path, module)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check what ``load_from`` or ``--resume`` has read, and name it as the model does."""
        model, weights = _unwrapped(runner), tensors_in(checkpoint)
        file = runner._load_from or ('the latest checkpoint' if runner._resume else 'a checkpoint')
        if runner._resume:
            # its classes, and what else has changed, are for CheckResumeHook
            self._check(runner, f'resume={file}', model, fit_of(model, weights), weights, least=1.0)
            return
        named = named_for(model, weights)
        if checkpoint.get('state_dict', {}).keys() != named.keys():
            # for other hooks too, which look for exactly this
            checkpoint['state_dict'] = named
        what = f'load_from={file}'
        fit = fit_of(model, named)
        self._check(runner, what, model, fit, named)
        if _fills_classifier(model, '', fit):
            self.check_names(runner, what, checkpoint)

    def check_names(self, runner: Runner, what: str, checkpoint: Mapping[str, Any]) -> None:
        """Compare the class names in a checkpoint with those of the datasets that a runner uses.

        Args:
            runner: The runner, its loops built.
            what: What is loaded from where, for the message.
            checkpoint: What was read from the file.
        """
        names = class_names(checkpoint.get('meta'))
        check_class_names(what, names, datasets_in_use(runner), self.names, runner.logger.warning)

    def _check_teacher(self, runner: Runner, model: nn.Module) -> None:
        teacher, file = getattr(model, 'teacher', None), getattr(model, 'teacher_ckpt', None)
        names = getattr(model, 'teacher_classes', None)
        if 'teacher' in model._modules and file is None:
            # mmrazor has loaded it leniently; FrozenTeacherDistill does so strictly
            settings = runner.cfg.get('model')
            file = settings.get('teacher_ckpt') if isinstance(settings, Mapping) else None
            checkpoint = CheckpointLoader.load_checkpoint(file, map_location='cpu') if file else {}
            names = class_names(checkpoint.get('meta'))
            if file:
                weights = tensors_in(checkpoint)
                self._check(runner, f'model.teacher_ckpt={file}', teacher, fit_of(teacher, weights), weights)
        if names and hasattr(model, 'distiller'):
            consequence = (self.names, runner.logger.warning)
            if not reads_logits(model.distiller, teacher):
                consequence = ('list', runner.logger.info)
            check_class_names(f'model.teacher_ckpt={file}', names, datasets_in_use(runner), *consequence)

    def _check_init_cfg(self, runner: Runner, path: str, module: nn.Module) -> None:
        """Check the files that an ``init_cfg`` names, and complete it so that mmengine finds the weights in them."""
        init_cfg = getattr(module, 'init_cfg', None)
        each = [init_cfg] if isinstance(init_cfg, Mapping) else init_cfg
        if not isinstance(each, list | tuple) or not any(map(_is_pretrained, each)):
            return
        completed = [self._completed(runner, path, module, cfg) if _is_pretrained(cfg) else cfg for cfg in each]
        module.init_cfg = completed[0] if isinstance(init_cfg, Mapping) else completed

    def _completed(self, runner: Runner, path: str, module: nn.Module, cfg: dict[str, Any]) -> dict[str, Any]:
        file = cfg['checkpoint']
        try:
            checkpoint = CheckpointLoader.load_checkpoint(file, map_location='cpu')
        except Exception:  # mmengine reads it next, and says what is wrong
            return cfg
        weights = tensors_in(checkpoint)
        prefix = (cfg.get('prefix') or '').rstrip('.')
        prefix = OF_PROCESSES.sub('', f'{prefix}.') if prefix else ''
        found = [name for name in weights if prefix and name.startswith(prefix)]
        of_student = any(name.startswith(STUDENT + prefix) for name in weights)
        if of_student and not found and not _has_student(module) and not _is_init(module):
            prefix = STUDENT + prefix
        part = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        what = f'{f"model.{path}" if path else "model"}.init_cfg with checkpoint={file}'
        what += f' and prefix={cfg["prefix"]}' if cfg.get('prefix') else ''
        fit = fit_of(module, part)
        if _is_init(module):
            # what was loaded may have been pruned since
            fit = fit._replace(filled=[*fit.filled, *fit.other_shapes], other_shapes=[])
        self._check(runner, what, module, fit, weights)
        if _fills_classifier(_unwrapped(runner), path, fit):
            self.check_names(runner, what, checkpoint)
        if not prefix:
            return cfg
        # with a prefix mmengine leaves this one in place
        stored = checkpoint.get('state_dict', checkpoint)
        of_processes = not any(str(name).startswith(prefix) for name in stored)
        completed = copy.copy(cfg)
        completed['prefix'] = f'module.{prefix}' if of_processes else prefix
        return completed

    def _check(
        self,
        runner: Runner,
        what: str,
        network: nn.Module,
        fit: Fit,
        file: Mapping[str, Tensor],
        least: float = LEAST_PART,
    ) -> None:
        """Refuse weights that fill too little of a network; of a distillation that starts, its student counts."""
        of_student = _has_student(network) and least < 1
        if of_student:
            # it has a file of its own
            fit = fit.without(TEACHER)
        part = (fit.of(STUDENT) if of_student else fit).part
        if part >= least:
            runner.logger.log(logging.INFO if part == 1 else logging.WARNING, f'{what}: {fit}')
            return
        message = f'{what} is of another network: it has {fit}.'
        if self.partial == 'list':
            runner.logger.warning(message)
            return
        hint = _hint(network, file) if least < 1 else ''
        raise CheckpointError(
            f'{message} {hint}Give a file of this network; or, if no more is meant, set '
            '--cfg-options default_hooks.check_weights.partial=list.'
        )


def _hint(network: nn.Module, weights: Mapping[str, Tensor]) -> str:
    if _has_student(network) and not any(name.startswith(STUDENT) for name in weights):
        return 'The weights of a plain classifier are for model.architecture.init_cfg, or load_from. '
    part = best_prefix(network, weights)
    return f"What it calls {part} fits better: init_cfg=dict(..., prefix='{part}'). " if part else ''


def _unwrapped(runner: Runner) -> nn.Module:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def _has_student(network: nn.Module) -> bool:
    return isinstance(getattr(network, 'architecture', None), nn.Module)


def _is_init(module: nn.Module) -> bool:
    return getattr(module, 'is_init', False)


def _initialised(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules that initialise themselves as the run starts, or have, and their names."""
    # mmrazor's sub_model has
    done: list[str] = []
    for path, module in model.named_modules():
        if _is_init(module):
            done.append(f'{path}.')
        # mmrazor calls a teacher that it has loaded initialised, and so leaves its parts alone
        if path != TEACHER[:-1] if _is_init(module) else not path.startswith(tuple(done)):
            yield path, module


def _is_pretrained(cfg: Any) -> bool:
    return isinstance(cfg, Mapping) and bool(cfg.get('checkpoint')) and type_name(cfg.get('type')) == 'Pretrained'


def _fills_classifier(model: nn.Module, path: str, fit: Fit) -> bool:
    """Return whether what fills a part of a model fills the layer that computes the logits, too."""
    networks = {STUDENT: model.architecture} if _has_student(model) else {'': model}
    if 'teacher' in model._modules and hasattr(model, 'distiller') and reads_logits(model.distiller, model.teacher):
        networks[TEACHER] = model.teacher
    layers = {f'{prefix}{name}.weight' for prefix, each in networks.items() for name in classifying_layers(each)}
    return not layers.isdisjoint(f'{path}.{name}' if path else name for name in fit.filled)
