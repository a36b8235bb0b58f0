"""Weights that a run starts with."""

import logging
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import CheckpointLoader, Runner
from torch import nn

from icd_mmrazor import checks
from icd_mmrazor.checkpoints.weights import LEAST_PART, OF_PROCESSES, STUDENT, Fit, fit_of, named_for, tensors_in
from icd_mmrazor.configuration.type_names import type_name
from icd_mmrazor.datasets.class_names import CHOICES, check_class_names, class_names
from icd_mmrazor.datasets.labels import datasets_in_use
from icd_mmrazor.engine.runs import is_training, model_of
from icd_mmrazor.errors import CheckpointError
from icd_mmrazor.models.algorithms.records import reads_logits, reads_logits_of_member
from icd_mmrazor.models.classifiers import LinearProbe
from icd_mmrazor.models.networks.classifier_layer import classifying_layers
from icd_mmrazor.models.networks.ensemble import TeacherEnsemble

TEACHER = 'teacher.'


class WeightCheck(Hook):
    """Refuse weights that do not fill the network, or that were trained on classes with other names.

    mmengine loads ``load_from`` and ``init_cfg=dict(type='Pretrained', ...)``, and mmrazor its teachers, leniently:
    what does not match is a warning, and the run starts with random weights. Here

    * a classifier finds the student's weights in a distillation's checkpoint, and the student those of a classifier;
    * a file that has less than half of a network's weights is refused; what is resumed must fit in full;
    * if teacher or student get the weights of their classifying layer, the datasets must have the same class names as
      the file. A teacher may have others if no loss reads its logits.

    Args:
        partial: What to do if too little fits: ``'refuse'``, or ``'list'`` to log a warning.
        names: What to do if class names differ, likewise.

    Raises:
        SettingError: An argument is something else.
        CheckpointError: A file is missing, is not a plain weights file, or does not fill the network.
        DatasetError: The class names differ.
    """

    # before EMAHook, which loads the same weights into its copy of the model
    priority = 20

    def __init__(self, partial: str = 'refuse', names: str = 'refuse') -> None:
        self.partial = checks.one_of(self, 'partial', partial, CHOICES)
        self.names = checks.one_of(self, 'names', names, CHOICES)

    def before_run(self, runner: Runner) -> None:
        """Check the teacher, and the weights that ``init_cfg`` names."""
        model = model_of(runner)
        # a probe has loaded its student itself
        if not is_training(runner) or isinstance(model, LinearProbe):
            return
        self._check_teacher(runner, model)
        for path, module in _initialized(model):
            init_cfg = getattr(module, 'init_cfg', None)
            several = isinstance(init_cfg, list | tuple)
            each = init_cfg if several else [init_cfg]
            if any(map(_is_pretrained, each)):
                completed = [self._completed(runner, path, module, c) if _is_pretrained(c) else c for c in each]
                module.init_cfg = completed if several else completed[0]

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check what ``load_from`` or ``--resume`` has read, and name it as the model does."""
        model, weights = model_of(runner), tensors_in(checkpoint)
        if runner._resume:
            # ProvenanceCheck compares the classes
            file = runner._load_from or 'the latest checkpoint'
            self._check_fit(runner, f'resume={file}', model, fit_of(model, weights), least=1.0)
            return
        named = named_for(model, weights)
        if checkpoint.get('state_dict', {}).keys() != named.keys():
            # in place, for other hooks
            checkpoint['state_dict'] = named
        what = f'load_from={runner._load_from or "a checkpoint"}'
        fit = fit_of(model, named)
        self._check_fit(runner, what, model, fit)
        self._check_names(runner, what, '', fit, checkpoint)

    def _check_names(self, runner: Runner, what: str, path: str, fit: Fit, checkpoint: Mapping[str, Any]) -> None:
        if _fills_classifier(model_of(runner), path, fit):
            names = class_names(checkpoint.get('meta'))
            check_class_names(what, names, datasets_in_use(runner), self.names, runner.logger.warning)

    def _check_teacher(self, runner: Runner, model: nn.Module) -> None:
        teacher, file = getattr(model, 'teacher', None), getattr(model, 'teacher_ckpt', None)
        names = getattr(model, 'teacher_classes', None)
        settings = runner.cfg.get('model')
        # loaded by mmrazor, leniently; FrozenTeacherDistill is strict itself
        if 'teacher' in model._modules and file is None and isinstance(settings, Mapping):
            file = settings.get('teacher_ckpt')
            if file:
                checkpoint = CheckpointLoader.load_checkpoint(file, map_location='cpu')
                names = class_names(checkpoint.get('meta'))
                self._check_fit(runner, f'model.teacher_ckpt={file}', teacher, fit_of(teacher, tensors_in(checkpoint)))
        if not hasattr(model, 'distiller'):
            return
        found = [(f'model.teacher_ckpt={file}', names, lambda: reads_logits(model.distiller, teacher))]
        if isinstance(teacher, TeacherEnsemble):
            read = partial(reads_logits_of_member, model.distiller, teacher)
            found = [
                (f'teachers[{i}].teacher_ckpt={each}', of_one, partial(read, i))
                for i, (each, of_one) in enumerate(zip(file, names, strict=True))
            ]
        for what, each, is_read in found:
            if each:
                consequence = (self.names, runner.logger.warning) if is_read() else ('list', runner.logger.info)
                check_class_names(what, each, datasets_in_use(runner), *consequence)

    def _completed(self, runner: Runner, path: str, module: nn.Module, cfg: dict[str, Any]) -> dict[str, Any]:
        """Check the file of an ``init_cfg``; return it with the prefix that mmengine finds the weights by."""
        try:
            checkpoint = CheckpointLoader.load_checkpoint(cfg['checkpoint'], map_location='cpu')
        except Exception:  # mmengine reads it next, and says what is wrong
            return cfg
        weights = tensors_in(checkpoint)
        prefix = (cfg.get('prefix') or '').rstrip('.')
        prefix = OF_PROCESSES.sub('', f'{prefix}.') if prefix else ''
        found = prefix and any(name.startswith(prefix) for name in weights)
        of_student = any(name.startswith(STUDENT + prefix) for name in weights)
        if of_student and not found and not _has_student(module) and not _is_init(module):
            prefix = STUDENT + prefix
        fit = fit_of(module, {k.removeprefix(prefix): value for k, value in weights.items() if k.startswith(prefix)})
        if _is_init(module):
            # what was loaded may have been pruned since
            fit = fit._replace(filled=[*fit.filled, *fit.other_shapes], other_shapes=[])
        what = f'{f"model.{path}" if path else "model"}.init_cfg with checkpoint={cfg["checkpoint"]}'
        what += f' and prefix={cfg["prefix"]}' if cfg.get('prefix') else ''
        self._check_fit(runner, what, module, fit)
        self._check_names(runner, what, path, fit, checkpoint)
        if not prefix:
            return cfg
        # with a prefix mmengine does not strip 'module.'
        of_processes = not any(str(name).startswith(prefix) for name in checkpoint.get('state_dict', checkpoint))
        return {**cfg, 'prefix': f'module.{prefix}' if of_processes else prefix}

    def _check_fit(self, runner: Runner, what: str, network: nn.Module, fit: Fit, least: float = LEAST_PART) -> None:
        """Refuse weights that fill too little of a network; of a distillation that starts, its student counts."""
        of_student = _has_student(network) and least < 1
        if of_student:
            # the teacher has its own file
            fit = fit.without(TEACHER)
        part = (fit.of(STUDENT) if of_student else fit).part
        if part >= least:
            runner.logger.log(logging.INFO if part == 1 else logging.WARNING, f'{what}: {fit}')
            return
        message = f'{what} is of another network: it has {fit}.'
        if self.partial == 'refuse':
            raise CheckpointError(
                f"{message} Give a file of this network (prefix='...' in an init_cfg names a part of a file). If no "
                'more is intended, set --cfg-options default_hooks.sanity_check.partial_weights=list.'
            )
        runner.logger.warning(message)


def _has_student(network: nn.Module) -> bool:
    return isinstance(getattr(network, 'architecture', None), nn.Module)


def _is_init(module: nn.Module) -> bool:
    return getattr(module, 'is_init', False)


def _initialized(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules that initialize themselves when the run starts, or have (mmrazor's ``sub_model``)."""
    done: list[str] = []
    for path, module in model.named_modules():
        if _is_init(module):
            done.append(f'{path}.')
        # mmrazor calls a teacher that it has loaded initialized, and so leaves its parts alone
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
