"""Several teachers as one network."""

from collections.abc import Sequence
from typing import Any

import torch
from mmpretrain.models import BaseClassifier, MultiLabelClsHead
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor import checks
from icd_mmrazor.configuration.type_names import type_name
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.networks.classifier_layer import is_headless, number_of_classes
from icd_mmrazor.models.networks.combinations import COMBINATIONS, Combination
from icd_mmrazor.models.networks.frozen import run_in_view


class TeacherEnsemble(BaseClassifier):
    """Several teachers as one network, whose members run one after the other.

    The members are the submodules ``0``, ``1``, ...; their features are called ``0.pooled``, ``1.logits``. The output
    of ``head`` is the combined logits, if all members have the same number of classes. Otherwise there are none.

    Args:
        members: The teachers, each called as an mmpretrain classifier is.
        combination: How their logits are combined: ``'mean'``, ``'probabilities'``, ``'confident'`` or the config of a
            :class:`~icd_mmrazor.models.networks.combinations.Combination`.
        weights: Weight of each member.
        dtypes: Precision in which each member computes; None: float32.

    Attributes:
        views (Sequence[TeacherView]): What turns images into those of each member; set once they are known.
        why_not_combined (str | None): Why there are no combined logits.

    Raises:
        SettingError: The combination is unknown, or a weight is out of range.
    """

    def __init__(
        self,
        members: Sequence[nn.Module],
        combination: str | dict = 'mean',
        weights: Sequence[float] | None = None,
        dtypes: Sequence[torch.dtype | None] | None = None,
    ) -> None:
        super().__init__()
        for i, member in enumerate(members):
            self.add_module(str(i), member)
        self._count = len(members)
        self.dtypes = list(dtypes or [None] * len(members))
        self.views = nn.ModuleList()
        combined = build_combination(combination, [1.0] * len(members) if weights is None else weights)
        self.why_not_combined = _why_not_combined(members)
        self.head = None if self.why_not_combined else combined
        if self.head is not None:
            self.head.num_classes = number_of_classes(members[0])

    @property
    def members(self) -> list[nn.Module]:
        """The teachers."""
        return [self.get_submodule(str(i)) for i in range(self._count)]

    @property
    def description(self) -> str:
        """What is made of the members: ``'MeanLogits(weights=0.5, 0.5) of 0, 1'``."""
        numbers = ', '.join(map(str, range(self._count)))
        return f'{numbers}, logits not combined' if self.head is None else f'{self.head} of {numbers}'

    def extract_feat(self, inputs: Tensor) -> list[Any]:
        """Return what each member returns for images, ``B x C x H x W``."""
        return [self.run_member(i, inputs) for i in range(self._count)]

    def run_member(self, i: int, images: Tensor, data_samples: list | None = None, mode: str = 'tensor') -> Any:
        """Run one member on images, ``B x C x H x W``, as the run's data preprocessor gives them."""
        view = self.views[i] if len(self.views) else None
        return run_in_view(self.get_submodule(str(i)), images, data_samples, mode, view, self.dtypes[i])

    def forward(self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor') -> Any:
        """Return the combined logits (``mode='tensor'``; a list of outputs if there are none), or predictions."""
        outputs = [self.run_member(i, inputs, data_samples) for i in range(self._count)]
        if self.head is None:
            if mode == 'tensor':
                return outputs
            raise SettingError(f'FrozenTeacherDistill: the teachers predict nothing together: {self.why_not_combined}.')
        logits = self.head(outputs, data_samples)
        if mode == 'tensor':
            return logits
        first = self.members[0]
        return (getattr(first, 'head', None) or first)._get_predictions(logits, data_samples)


def build_combination(combination: Any, weights: Sequence[float]) -> Combination:
    """Build what combines logits.

    Raises:
        SettingError: It is unknown.
    """
    if isinstance(combination, str):
        checks.one_of('FrozenTeacherDistill', 'teacher_combination', combination, COMBINATIONS)
        return COMBINATIONS[combination](weights)
    kind = combination.get('type') if isinstance(combination, dict) else None
    cls = kind if isinstance(kind, type) else MODELS.get(type_name(kind)) if isinstance(kind, str) else None
    if not (isinstance(cls, type) and issubclass(cls, Combination)):
        names = ', '.join(COMBINATIONS)
        raise SettingError(
            f'FrozenTeacherDistill: teacher_combination={combination!r} must be one of {names}, or dict(type=...) of a '
            'registered Combination.'
        )
    return cls(weights, **{name: value for name, value in combination.items() if name not in ('type', '_scope_')})


def _why_not_combined(members: Sequence[nn.Module]) -> str | None:
    without = [str(i) for i, member in enumerate(members) if is_headless(member)]
    if without:
        return f'teacher {", ".join(without)} has no classifier'
    classes = [number_of_classes(member) for member in members]
    if len({*classes}) > 1:
        return f'they have {", ".join(map(str, classes))} classes'
    kinds = {isinstance(getattr(member, 'head', None), MultiLabelClsHead) for member in members}
    return 'some of them predict several labels for each image' if len(kinds) > 1 else None
