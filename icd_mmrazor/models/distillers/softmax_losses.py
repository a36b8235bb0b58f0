"""Refusal of losses between softmaxes for images with several labels."""

from collections.abc import Iterator
from typing import Any

from mmpretrain.models import MultiLabelClsHead
from mmrazor.models.losses import WSLD, DISTLoss, DKDLoss, KDSoftCELoss, KLDivergence
from mmrazor.models.task_modules.recorder import ModuleInputsRecorder, ModuleOutputsRecorder
from mmrazor.models.task_modules.recorder.base_recorder import BaseRecorder
from torch import nn

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.distillers.loss_mappings import records_of
from icd_mmrazor.models.distillers.mixed_distiller import plain_distillers
from icd_mmrazor.models.losses.base import LogitLoss
from icd_mmrazor.models.losses.comparative_loss import ComparativeLoss

SOFTMAX_LOSSES = (KLDivergence, DKDLoss, DISTLoss, KDSoftCELoss, WSLD, LogitLoss)
# what our distillers call the logits, wherever a network computes them
LOGITS = ('logits', 'icd_logits', 'distillation_logits')


def refuse_softmax_of_labels(distiller: nn.Module, student: nn.Module, teacher: nn.Module) -> None:
    """Refuse losses between softmaxes of logits that stand for separate labels.

    In a multi-label head each logit has a sigmoid. A softmax would make the labels exclude each other.

    Raises:
        SettingError: There is such a loss.
    """
    for each in plain_distillers(distiller):
        for name, record in _records(each):
            loss = each.distill_losses[name]
            if not _compares_softmaxes(loss):
                continue
            role, network = ('student', student) if record['from_student'] else ('teacher', teacher)
            recorder = getattr(each, f'{role}_recorders').get_recorder(record['recorder'])
            head = _multi_label_head(network, record['recorder'], recorder)
            if head is not None:
                raise SettingError(
                    f'{type(each).__name__}: {name} ({type(loss).__name__}) compares softmaxes of logits, but the '
                    f'{role} has a {type(head).__name__}, for several labels per image. Use BinaryKDLoss '
                    "(ICDDistiller: kd=dict(type='BinaryKDLoss')), or compare only features (kd=None)."
                )


def _compares_softmaxes(loss: nn.Module) -> bool:
    return isinstance(loss, SOFTMAX_LOSSES) or (isinstance(loss, ComparativeLoss) and loss.distance == 'kl')


def _records(distiller: nn.Module) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name of each loss with each record that it takes, in every stage."""
    own = getattr(distiller, 'loss_forward_mappings', {})
    for mappings in getattr(distiller, 'stage_mappings', {'main': own}).values():
        for name, mapping in mappings.items():
            yield from ((name, record) for record in records_of(mapping))


def _multi_label_head(network: nn.Module, name: str, recorder: BaseRecorder) -> nn.Module | None:
    """Return the multi-label head whose logits a recorder gets, or None."""
    source = recorder.source
    if isinstance(recorder, ModuleInputsRecorder):
        if not source.endswith('loss_module'):  # a feature
            return None
    elif not isinstance(recorder, ModuleOutputsRecorder):
        return None
    parts = source.split('.') if source else []
    path = [network.get_submodule('.'.join(parts[:i])) for i in range(len(parts) + 1)]
    # the output of the whole network is the logits too
    if name in LOGITS or not parts:
        path.append(getattr(network, 'head', None))
    return next((module for module in path if isinstance(module, MultiLabelClsHead)), None)
