"""What is being distilled, said once at the start."""

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from icd_mmrazor.engine.metrics import numbers_in
from icd_mmrazor.models.networks.passes import explained_pass


@HOOKS.register_module()
class DistillationReportHook(Hook):
    """Log teacher and student, the teacher's accuracy on the validation set, and the loss terms with their weights.

    Unless told otherwise, the teacher is evaluated once, before the first epoch;
    ``runner.message_hub.get_info('teacher_metrics')`` has its metrics from then on. The hook does nothing for a model
    without a teacher.

    Args:
        evaluate_teacher: Whether to evaluate it, which takes as long as one validation by the teacher.

    Config example::

        default_hooks=dict(distillation_report=dict(type='DistillationReportHook'))
    """

    # after the hooks that refuse bad input
    priority = 'LOW'

    def __init__(self, evaluate_teacher: bool = True) -> None:
        self.evaluate_teacher = evaluate_teacher

    def before_train(self, runner: Runner) -> None:
        """Evaluate the teacher and write the report."""
        algorithm = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if not hasattr(algorithm, 'teacher') or not hasattr(algorithm, 'distiller'):
            return
        cfg = runner.cfg.get('model', {})
        student = algorithm.architecture
        extra = sum(p.numel() for p in algorithm.distiller.parameters() if p.requires_grad)
        lines = [
            'What is being distilled:',
            f'  teacher  {describe(algorithm.teacher, cfg.get("teacher"))}{self._accuracy(runner, algorithm)}',
            f'           weights {getattr(algorithm, "teacher_ckpt", cfg.get("teacher_ckpt"))}',
            f'  student  {describe(student, cfg.get("architecture"))}',
            f'  trained with it: {extra:,} parameters of the distiller',
            '  loss = ' + '\n       + '.join(loss_terms(algorithm)),
        ]
        runner.logger.info('\n'.join(lines))

    def _accuracy(self, runner: Runner, algorithm: nn.Module) -> str:
        if runner.val_loop is None or not self.evaluate_teacher:
            return ''
        metrics = evaluate(algorithm.teacher, algorithm.data_preprocessor, runner)
        # not kept in checkpoints: a resumed run evaluates its own teacher
        runner.message_hub.update_info('teacher_metrics', metrics, resumed=False)
        # some are lists, such as an accuracy for each class
        numbers = [f'{name} {value:.2f}' for name, value in numbers_in(metrics).items()]
        return ', validation set: ' + ', '.join(numbers)


@torch.no_grad()
def evaluate(model: BaseModel, data_preprocessor: nn.Module, runner: Runner) -> dict[str, Any]:
    """Evaluate a model on a run's validation set, without the hooks and the log of a validation epoch.

    Args:
        model: The model; it is left in eval mode, and the training loop sets its own.
        data_preprocessor: What the run feeds its models through.
        runner: The run.

    Returns:
        The metrics of the run's ``val_evaluator``.
    """
    model.eval()
    dataloader, evaluator = runner.val_loop.dataloader, runner.val_loop.evaluator
    for batch in dataloader:
        data = data_preprocessor(batch, False)
        with explained_pass('DistillationReportHook', data['inputs'], **{'model.teacher': model}):
            outputs = model(data['inputs'], data['data_samples'], mode='predict')
        evaluator.process(data_samples=outputs, data_batch=batch)
    return evaluator.evaluate(len(dataloader.dataset))


def describe(model: nn.Module, cfg: dict | None) -> str:
    """Describe a network in a few words: its backbone with its settings, and its number of parameters.

    Args:
        model: The network.
        cfg: Its config, if it was built from one.

    Returns:
        For example "CIFARResNet(depth=20), 272,474 parameters".
    """
    name = type(getattr(model, 'backbone', model)).__name__
    # a wrapper of a whole network, such as TimmClassifier, has no backbone
    backbone = cfg.get('backbone', cfg) if isinstance(cfg, dict) else None
    if isinstance(backbone, dict):
        settings = (f'{k}={v}' for k, v in backbone.items() if isinstance(v, int | float | str) and k != 'type')
        name += f'({", ".join(s for s in settings if not s.startswith("_"))})'
    return f'{name}, {sum(p.numel() for p in model.parameters()):,} parameters'


def loss_terms(algorithm: nn.Module) -> list[str]:
    """List the terms of a distillation's loss.

    Args:
        algorithm: mmrazor's or our algorithm, with ``architecture`` and ``distiller``.

    Returns:
        The terms as they are logged, each with what computes it and its weight.
    """
    terms = []
    if getattr(algorithm, 'calculate_student_loss', True):
        head = getattr(algorithm.architecture, 'head', None)
        task_loss = getattr(head, 'loss_module', None)
        term = f'student.loss: {_weighted(task_loss)}' if task_loss is not None else "the student's own loss"
        factor = getattr(algorithm.distiller, 'student_loss_weight', 1.0)
        terms.append(term if factor == 1.0 else f'{term}, times {factor}')
    return terms + _distillation_terms(algorithm.distiller, 'distill')


def _distillation_terms(distiller: nn.Module, prefix: str) -> list[str]:
    children = getattr(distiller, 'distillers', {})
    own = getattr(distiller, 'distill_losses', {})
    initial = getattr(distiller, 'stage_mappings', {}).get('initial', {})
    terms = [
        f'{prefix}.{name}: {_weighted(loss)}'
        + (f', in the first {distiller.initial_epochs} epochs alone' if name in initial else '')
        for name, loss in own.items()
        if 'loss' in name
    ]
    return terms + [term for name, child in children.items() for term in _distillation_terms(child, f'{prefix}.{name}')]


def _weighted(loss: nn.Module) -> str:
    text = ' '.join(repr(loss).split())
    weight = getattr(loss, 'loss_weight', None)
    return text if weight is None or 'loss_weight' in text else f'{text} with weight {weight}'
