"""A teacher with a pruned copy of itself."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.networks.ensemble import TeacherEnsemble
from icd_mmrazor.models.networks.pruned_copy import SETTING, Pruning


class PrunedPair(TeacherEnsemble):
    """A teacher and a pruned copy of it, whose logits are combined.

    A feature without a number, such as ``pooled``, is that of the teacher itself; ``logits`` are the combined ones.

    Args:
        members: The teacher, then its copy.
        combination: Same as in ``TeacherEnsemble``.
        pruning: The settings of the copy.
        dtypes: Same as in ``TeacherEnsemble``.

    Raises:
        SettingError: The teacher has no logits to combine, or the combination is unknown.
    """

    # the one whose features are meant where no number is given
    main_member = 0

    def __init__(
        self,
        members: Sequence[nn.Module],
        combination: str | dict,
        pruning: Pruning,
        dtypes: Sequence[torch.dtype | None] | None = None,
    ) -> None:
        super().__init__(members, combination, [1 - pruning.weight, pruning.weight], dtypes)
        if self.head is None:
            raise SettingError(
                f'FrozenTeacherDistill: {SETTING} mixes logits, and {self.why_not_combined}. Remove {SETTING}, or use '
                'a teacher with a classifier.'
            )
        # whether the output for an image depends on the others in its batch, in training
        self.uses_batch_statistics = not pruning.norm_eval

    def train(self, mode: bool = True) -> Any:
        """Set the mode: training changes nothing but the batch norms of the copy, if its settings say so."""
        super().train(False)
        if mode and self.uses_batch_statistics:
            for module in self.members[1].modules():
                if isinstance(module, _BatchNorm):
                    module.train()
        return self
