"""FeatureDistiller: groups of features, for a loss on each of them or a loss on all at once."""

from collections.abc import Callable

import pytest
import torch
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor.errors import SettingError


@MODELS.register_module()
class ListsLoss(nn.Module):
    """A loss that keeps the lists that it is given."""

    def __init__(self, student_shapes: tuple, teacher_shapes: tuple) -> None:
        super().__init__()
        self.shapes = student_shapes, teacher_shapes

    def forward(self, s_features: list[Tensor], t_features: list[Tensor]) -> Tensor:
        self.given = s_features, t_features
        return sum(each.sum() for each in s_features)


@pytest.fixture
def algorithm(network: Callable) -> Callable[..., nn.Module]:
    def build(entry: dict, student: object = 'res8', teacher: object = 'res14') -> nn.Module:
        student, teacher = (network(each) if isinstance(each, str) else each for each in (student, teacher))
        cfg = dict(
            _scope_='mmrazor',
            type='FrozenTeacherDistill',
            architecture=student,
            teacher=teacher,
            random_teacher=True,
            distiller=dict(type='FeatureDistiller', losses=dict(it=entry)),
        )
        return MODELS.build(cfg).train()

    return build


def all_of(*features: str) -> dict:
    inputs = {
        f'{network[0]}_features': dict(network=network, feature=list(features)) for network in ('student', 'teacher')
    }
    return dict(loss=dict(type='ListsLoss'), inputs=inputs)


def test_a_loss_gets_all_blocks_of_both_networks(algorithm: Callable, batch: Callable) -> None:
    model = algorithm(all_of('blocks', 'pooled'))
    images, samples = batch(3)
    model.loss(images, samples)
    loss = model.distiller.distill_losses['loss_it']
    for network, number, given, shapes in zip(
        (model.student, model.teacher), (3, 6), loss.given, loss.shapes, strict=True
    ):
        x = network.backbone.relu(network.backbone.norm1(network.backbone.conv1(images)))
        expected = [x := block(x) for name in network.backbone.res_layers for block in getattr(network.backbone, name)]
        assert len(expected) == number
        expected.append(x.mean((2, 3)))
        assert shapes == tuple(each.shape[1:] for each in expected)
        for each, feature in zip(given, expected, strict=True):
            torch.testing.assert_close(each, feature)


def test_a_loss_for_each_block(algorithm: Callable) -> None:
    """If one network has more, those at equal distances, the last one with the last one."""
    model = algorithm(dict(loss=dict(type='SPLoss'), features='blocks'))
    distiller = model.distiller
    assert list(distiller.distill_losses) == ['loss_it1', 'loss_it2', 'loss_it3']
    teachers = [mapping['t_feature']['recorder'] for mapping in distiller.loss_forward_mappings.values()]
    students = [mapping['s_feature']['recorder'] for mapping in distiller.loss_forward_mappings.values()]
    assert teachers == ['block2', 'block4', 'block6']
    assert students == ['block1', 'block2', 'block3']


def test_networks_without_blocks_are_refused(algorithm: Callable) -> None:
    densenet = dict(
        type='ImageClassifier',
        backbone=dict(type='DenseNet', arch=dict(growth_rate=4, depths=[1, 1, 1, 1], init_channels=8)),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=8),
    )
    for entry in (all_of('blocks'), dict(loss=dict(type='SPLoss'), features='blocks')):
        with pytest.raises(SettingError, match=r'it compares blocks.*teacher'):
            algorithm(entry, teacher=densenet)
    with pytest.raises(SettingError, match=r"no feature 'block7'.*block1, \.\.\., block3, "):
        algorithm(all_of('block7'))
