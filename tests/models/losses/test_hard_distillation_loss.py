"""HardDistillationLoss against a slow rewrite."""

import math

import pytest
import torch

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.hard_distillation_loss import HardDistillationLoss


def test_is_the_cross_entropy_with_the_decision_of_the_teacher() -> None:
    student, teacher = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        total -= math.log(math.exp(s[t.index(max(t))]) / sum(map(math.exp, s)))
    assert HardDistillationLoss(loss_weight=0.5)(student, teacher).item() == pytest.approx(0.5 * total / 5, rel=1e-12)


def test_other_classes_are_refused() -> None:
    with pytest.raises(SettingError, match='same classes'):
        HardDistillationLoss().check_shapes(s_feature=(10,), t_feature=(7,))
