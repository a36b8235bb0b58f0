"""Pruned copies of networks, without training."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import nn
from torch.nn.utils import prune

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError, did_you_mean

OWNER = 'FrozenTeacherDistill'
SETTING = 'pruned_teacher'


@dataclass(frozen=True)
class Pruning:
    """How a copy of a teacher is pruned, and what it counts: the setting ``pruned_teacher``.

    Attributes:
        amount: Share of the weights of each layer that become 0, from 0 to below 1.
        weight: Weight of the copy's logits, from 0 to 1; those of the teacher itself have the rest.
        norm_eval: Whether its batch norms are in eval mode; otherwise they use the statistics of the batch.
    """

    amount: float = 0.1
    weight: float = 0.3
    norm_eval: bool = True

    @classmethod
    def of(cls, settings: Any, teachers: Any = None, cache: Any = None) -> 'Pruning | None':
        """Check the setting ``pruned_teacher`` of a ``FrozenTeacherDistill``; None if there is no pruned copy.

        Args:
            settings: The setting.
            teachers: The setting ``teachers``.
            cache: The teacher cache.

        Raises:
            SettingError: It is unknown, out of range, or does not go together with the other two.
        """
        if settings is None:
            return None
        if not isinstance(settings, Mapping):
            raise SettingError(f'{OWNER}: {SETTING}={settings!r} must be a dict, such as dict(amount=0.1, weight=0.3).')
        known = [field.name for field in fields(cls)]
        if unknown := sorted({*settings} - {*known}, key=str):
            raise SettingError(f'{OWNER}: {SETTING} has no setting {unknown[0]!r}.{did_you_mean(unknown[0], known)}')
        pruning = cls(**settings)
        if not (checks.is_number(pruning.amount) and 0 <= pruning.amount < 1):
            raise SettingError(
                f'{OWNER}: {SETTING}.amount={pruning.amount!r} must be the share of weights that become 0, from 0 to '
                'below 1: 1 would leave no network. R2KD has 0.1.'
            )
        if not (checks.is_number(pruning.weight) and 0 <= pruning.weight <= 1):
            raise SettingError(
                f"{OWNER}: {SETTING}.weight={pruning.weight!r} must be the share of the pruned copy's logits, from 0 "
                'to 1. R2KD has 0.3.'
            )
        checks.boolean(OWNER, f'{SETTING}.norm_eval', pruning.norm_eval)
        if teachers is not None:
            raise SettingError(
                f'{OWNER}: {SETTING} is for a single teacher, and teachers are set. Remove {SETTING}, or set '
                'model.teacher.'
            )
        if cache is not None and not pruning.norm_eval:
            raise SettingError(
                f'{OWNER}: {SETTING}.norm_eval=False lets the output for an image depend on its batch: teacher_cache '
                f'cannot store it. Set {SETTING}.norm_eval=True, or remove teacher_cache.'
            )
        return pruning


def pruned_copy(network: nn.Module, amount: float) -> nn.Module:
    """Copy a network, and set the smallest weights of each ``Conv2d`` and ``Linear`` of the copy to 0.

    Biases and norms stay as they are, and nothing is trained, as in the released code of R2KD (Seonghak35/R2KD, commit
    ece240e).

    Args:
        network: The network, which does not change.
        amount: The share of the weights of each layer, from 0 to below 1: ``round(amount * number)`` of them, those
            with the smallest magnitude.
    """
    pruned = copy.deepcopy(network)
    for module in pruned.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            prune.l1_unstructured(module, 'weight', amount=float(amount))
            prune.remove(module, 'weight')
    return pruned
