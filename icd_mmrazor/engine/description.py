"""A distillation in words."""

import contextlib
import functools
from typing import Any

import torch
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from torch import nn

from icd_mmrazor.datasets.labels import has_labels, plain_datasets
from icd_mmrazor.engine.galleries import evaluate_search, searches
from icd_mmrazor.models.algorithms.predictions import POOLED, add_feature, has_pooled_feature, pooled_feature
from icd_mmrazor.models.algorithms.student_losses import idle_losses
from icd_mmrazor.models.networks.classifier_layer import is_headless, number_of_classes
from icd_mmrazor.models.networks.ensemble import TeacherEnsemble
from icd_mmrazor.models.networks.headless import ImageNetwork
from icd_mmrazor.models.networks.passes import explained_pass
from icd_mmrazor.models.networks.preparation import preparation_by


@torch.no_grad()
def evaluate(algorithm: nn.Module, runner: Runner, member: int | None = None) -> dict[str, Any]:
    """Evaluate a teacher on a run's validation set, without hooks and log; return the metrics of ``val_evaluator``.

    Metrics that compare a student with its teacher are left out. Those of features (``KNNAccuracy``) are computed for
    any teacher, those of predictions unless :func:`why_not_evaluated` says why not. For a student that is a retriever,
    the teacher searches its own gallery.

    Args:
        algorithm: A distillation of ours or of mmrazor; its teacher is left in eval mode.
        runner: The run.
        member: The one of several teachers to evaluate; by default all together, of whose features there is none.
    """
    if searches(algorithm):
        return evaluate_search(algorithm, runner)
    dataloader, whole = runner.val_loop.dataloader, runner.val_loop.evaluator
    predicts = why_not_evaluated(algorithm, member) is None
    teacher, source = algorithm.teacher.eval(), getattr(algorithm.distiller, 'teacher_source', None)
    network, run = teacher, getattr(algorithm, 'run_teacher', teacher)
    if member is not None:
        network, run, source = teacher.members[member], functools.partial(teacher.run_member, member), None
    has_feature = not isinstance(network, TeacherEnsemble) and has_pooled_feature(network, source)
    kinds = {kind for kind, found in ((None, predicts), (POOLED, has_feature)) if found}
    metrics = [metric for metric in whole.metrics if getattr(metric, 'needs', None) in kinds]
    if not metrics:
        return {}
    evaluator = whole if len(metrics) == len(whole.metrics) else Evaluator(metrics)
    features = any(getattr(metric, 'needs', None) == POOLED for metric in metrics)
    for batch in dataloader:
        data = algorithm.data_preprocessor(batch, False)
        images = data['inputs']
        with (
            explained_pass('DistillationReportHook', images, **{'model.teacher': teacher}),
            pooled_feature(network, source) if features else contextlib.nullcontext([]) as found,
        ):
            outputs = run(images, data['data_samples'], mode='predict' if predicts else 'tensor')
        outputs = outputs if predicts else data['data_samples']
        if features:
            add_feature(outputs, found)
        evaluator.process(data_samples=outputs, data_batch=batch)
    return evaluator.evaluate(len(dataloader.dataset))


def describe_images(loader: Any) -> str | None:
    """Describe how many training images have labels: ``'100 with labels, 400 without; a batch has 16 and 48'``.

    Returns:
        None if all of them have labels and one view in a batch, or it cannot be told.
    """
    dataset, sampler = getattr(loader, 'dataset', None), getattr(loader, 'batch_sampler', None)
    if getattr(dataset, 'views', 1) == 2:
        return f'{len(dataset):,}, a weak and a strong view of each in a batch'
    labeled = getattr(dataset, 'num_labeled', None)
    if labeled is None:
        none = dataset is not None and {has_labels(part) for part in plain_datasets(dataset)} == {False}
        return f'{len(dataset):,}, none with a label' if none else None
    text = f'{labeled:,} with labels, {len(dataset) - labeled:,} without'
    counts = [getattr(sampler, f'{kind}_per_batch', None) for kind in ('labeled', 'unlabeled')]
    if None in counts:
        return text
    which = 'with' if sampler.epoch_of == 'labeled' else 'without'
    return f'{text}; a batch has {counts[0]} and {counts[1]}, an epoch is a pass over those {which} labels'


def why_not_evaluated(algorithm: nn.Module, member: int | None = None) -> str | None:
    """Return why the validation set says nothing of a teacher, or of one of several; None if it does."""
    network = algorithm.teacher if member is None else algorithm.teacher.members[member]
    for name in ('why_not_combined', 'why_not_evaluated'):
        if reason := getattr(network, name, None):
            return reason
    if is_headless(network):
        return 'it has no classifier'
    teacher, student = number_of_classes(network), number_of_classes(algorithm.architecture)
    if teacher and student and teacher != student:
        return f'it has {teacher} classes, the student {student}'
    return None


def images_of(algorithm: nn.Module, member: int | None = None) -> tuple[str, str]:
    """Describe the images that the teacher, or one of several, and the student see."""
    view = getattr(algorithm, 'teacher_view', None) if member is None else algorithm.teacher.views[member]
    of_student = preparation_by(algorithm.data_preprocessor).normalisation or 'no mean and std'
    if getattr(algorithm.teacher, 'is_stored', False):
        return algorithm.teacher.images, of_student
    return view.extra_repr() if view is not None and view.changes else "the student's", of_student


def describe(model: nn.Module, cfg: dict | None) -> str:
    """Describe a network: ``'CIFARResNet(depth=20), 272,474 parameters'``, and how its distiller has changed it.

    Args:
        model: The network.
        cfg: Its config, if it was built from one.
    """
    stored = getattr(model, 'is_stored', False)
    backbone = getattr(model, 'backbone', model.model if isinstance(model, ImageNetwork) else model)
    name = model.name if stored else type(backbone).__name__
    # a wrapper of a whole network, such as TimmClassifier, has no backbone
    backbone = cfg.get('backbone', cfg) if isinstance(cfg, dict) else None
    if isinstance(backbone, dict):
        shown = {key: value for key, value in backbone.items() if key != 'type' and not key.startswith('_')}
        settings = [f'{key}={value}' for key, value in shown.items() if isinstance(value, int | float | str)]
        name += f'({", ".join(settings)})'
    if stored:
        return name
    change = f', {model.change}' if hasattr(model, 'change') else ''
    return f'{name}, {sum(p.numel() for p in model.parameters()):,} parameters{change}'


def loss_terms(algorithm: nn.Module) -> list[str]:
    """List the terms of a distillation's loss as they are logged, each with what computes it and its weight."""
    terms = []
    if getattr(algorithm, 'calculate_student_loss', True):
        task_loss = getattr(getattr(algorithm.architecture, 'head', None), 'loss_module', None)
        term = f'student.loss: {_weighted(task_loss)}' if task_loss is not None else "the student's own loss"
        factor = getattr(algorithm.distiller, 'student_loss_weight', 1.0)
        terms.append(term if factor == 1.0 else f'{term}, times {factor}')
    idle = tuple(f'distill.{name}: ' for name in idle_losses(algorithm))
    terms += [term for term in _distillation_terms(algorithm.distiller, 'distill') if not term.startswith(idle)]
    return [*terms, *getattr(algorithm, 'augmented_terms', [])]


def _distillation_terms(distiller: nn.Module, prefix: str) -> list[str]:
    initial = getattr(distiller, 'stage_mappings', {}).get('initial', {})
    scheduled = getattr(distiller, 'scheduled_weights', {})
    terms = [
        f'{prefix}.{name}: {_weighted(loss)}'
        + (f', in the first {distiller.initial_epochs} epochs alone' if name in initial else '')
        + (f', times {scheduled[name].schedule}' if name in scheduled else '')
        for name, loss in getattr(distiller, 'distill_losses', {}).items()
        if 'loss' in name
    ]
    for name, child in getattr(distiller, 'distillers', {}).items():
        terms += _distillation_terms(child, f'{prefix}.{name}')
    return terms


def _weighted(loss: nn.Module) -> str:
    # without its layers, which may be many
    text = f'{type(loss).__name__}({" ".join(loss.extra_repr().split())})'
    weight = getattr(loss, 'loss_weight', None)
    return text if weight is None or 'loss_weight' in text else f'{text} with weight {weight}'
