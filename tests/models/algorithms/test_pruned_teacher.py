"""A teacher that is mixed with its pruned copy, in a distillation without a second batch."""

from collections.abc import Callable

import pytest
import torch
from mmrazor.registry import MODELS

from icd_mmrazor.errors import SettingError

KD = dict(type='FeatureDistiller', losses=dict(kd=dict(loss=dict(type='KLDivergence', tau=4.0), features='logits')))


def test_several_teachers_are_not_pruned(network: Callable) -> None:
    teachers = [dict(teacher=network('res8'), random_teacher=True)] * 2
    with pytest.raises(SettingError, match='pruned_teacher is for a single teacher'):
        MODELS.build(
            dict(
                _scope_='mmrazor',
                type='FrozenTeacherDistill',
                architecture=network('res8'),
                teachers=teachers,
                pruned_teacher={},
                distiller=KD,
            )
        )


def test_features_are_those_of_the_teacher_itself(algorithm: Callable, batch: Callable) -> None:
    """Only the logits are mixed; in a ``FrozenTeacherDistill``, too."""
    every = dict(
        type='FeatureDistiller',
        losses=dict(
            kd=dict(loss=dict(type='KLDivergence', tau=4.0), features='logits'),
            rkd=dict(loss=dict(type='RKDLoss'), features='pooled'),
            at=dict(loss=dict(type='AttentionTransferLoss'), features='maps'),
            own=dict(loss=dict(type='KLDivergence'), features='0.logits'),
        ),
    )
    images, samples = batch()
    plain = algorithm(distiller={**every, 'losses': {**every['losses'], 'own': every['losses']['kd']}}).eval()
    pair = algorithm(distiller=every, pruned_teacher=dict(amount=0.5, weight=0.5)).eval()
    pair.architecture.load_state_dict(plain.architecture.state_dict())
    with torch.no_grad():
        want, got = (model.loss(images, samples) for model in (plain, pair))
    for name in ('rkd', 'at1', 'at2', 'at3'):
        torch.testing.assert_close(got[f'distill.loss_{name}'], want[f'distill.loss_{name}'])
    assert not torch.isclose(got['distill.loss_kd'], want['distill.loss_kd'])
    logits = pair.run_teacher(images)
    torch.testing.assert_close(logits, (pair.teacher.members[0](images) + pair.teacher.members[1](images)) / 2)
    simkd = dict(type='SimKDDistiller')
    assert algorithm(distiller=simkd, pruned_teacher={}).loss(images, samples)['distill.loss_simkd'] > 0
