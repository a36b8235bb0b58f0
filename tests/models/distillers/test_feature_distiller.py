"""Features by name: the right tensors reach the right losses."""

from collections.abc import Callable

import pytest
import torch
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses import FeatureLoss


@MODELS.register_module()
class RememberingLoss(FeatureLoss):
    """Keep what it is given."""

    def __init__(self, loss_weight: float = 1.0, student_shape: tuple = (), teacher_shape: tuple = ()) -> None:
        super().__init__(loss_weight)
        self.shapes = (student_shape, teacher_shape)

    def forward(self, s_feature: Tensor, t_feature: Tensor) -> Tensor:
        self.given = (s_feature, t_feature)
        return self.loss_weight * s_feature.sum()


@pytest.fixture
def algorithm(network: Callable) -> Callable[..., nn.Module]:
    """Build a distillation from a res14 to a res8 by its losses."""

    def build(losses: dict, student: str = 'res8', teacher: str = 'res14', **settings: object) -> nn.Module:
        cfg = dict(
            _scope_='mmrazor',
            type='FrozenTeacherDistill',
            architecture=network(student),
            teacher=network(teacher),
            random_teacher=True,
            distiller=dict(type='FeatureDistiller', losses=losses, **settings),
        )
        return MODELS.build(cfg).train()

    return build


def remembering(**entry: object) -> dict:
    return dict(loss=dict(type='RememberingLoss'), **entry)


@pytest.mark.parametrize('feature', ['map0', 'map2', 'last_map', 'preactivation1', 'pooled', 'logits'])
def test_the_named_feature_reaches_the_loss(feature: str, algorithm: Callable, batch: Callable) -> None:
    model = algorithm({'it': remembering(features=feature)})
    images, samples = batch(3)
    model.loss(images, samples)
    loss = model.distiller.distill_losses['loss_it']
    for network, given, shape in zip((model.student, model.teacher), loss.given, loss.shapes, strict=True):
        assert given.shape[1:] == shape
        backbone = network.backbone
        x = network.backbone.relu(backbone.norm1(backbone.conv1(images)))
        features = {'map0': x}
        for i, name in enumerate(backbone.res_layers, 1):
            blocks = list(getattr(backbone, name))
            for block in blocks[:-1]:
                x = block(x)
            last = blocks[-1]
            inner = last.norm2(last.conv2(torch.relu(last.norm1(last.conv1(x)))))
            features[f'preactivation{i}'] = inner + (x if last.downsample is None else last.downsample(x))
            x = features[f'map{i}'] = features[f'preactivation{i}'].relu()
        features |= {'last_map': x, 'pooled': x.mean((2, 3)), 'logits': network.head.fc(x.mean((2, 3)))}
        torch.testing.assert_close(given, features[feature])


def test_one_loss_for_each_map_and_its_weight(algorithm: Callable, batch: Callable) -> None:
    losses = {'it': dict(loss=dict(type='RememberingLoss', loss_weight=8.0), features='maps', decay=0.5)}
    model = algorithm(losses)
    found = model.loss(*batch(3))
    assert [name for name in found if 'distill' in name] == [f'distill.loss_it{i}' for i in (1, 2, 3)]
    built = model.distiller.distill_losses
    assert [built[f'loss_it{i}'].loss_weight for i in (1, 2, 3)] == [2.0, 4.0, 8.0]
    assert [built[f'loss_it{i}'].given[0].shape[1] for i in (1, 2, 3)] == [16, 32, 64]


def test_shared_connector_is_one_and_a_method_of_it_is_called(algorithm: Callable, batch: Callable) -> None:
    losses = {
        'first': remembering(features='last_map', teacher_connector='shared'),
        'second': dict(
            loss=dict(type='RememberingLoss'),
            inputs=dict(
                s_feature=dict(network='teacher', feature='last_map', connector='shared', method='reconstruct'),
                t_feature=dict(network='teacher', feature='last_map'),
            ),
        ),
    }
    model = algorithm(losses, connectors=dict(shared=dict(type='FTParaphraser')))
    model.loss(*batch(3))
    first, second = (model.distiller.distill_losses[f'loss_{name}'].given for name in ('first', 'second'))
    assert list(model.distiller.connectors) == ['shared']
    assert (first[1].shape[1], second[0].shape[1], second[1].shape[1]) == (32, 64, 64)
    torch.testing.assert_close(second[0], model.distiller.connectors['shared'].reconstruct(second[1]))


def test_stages(algorithm: Callable, batch: Callable) -> None:
    begin = dict(
        stage='initial',
        loss=dict(type='L2Loss'),
        features='pooled',
        student_connector=dict(type='LinearProjection'),
        teacher_connector='shared',
    )
    model = algorithm(
        {'begin': begin, 'main': remembering(features='logits')},
        initial_epochs=1,
        connectors=dict(shared=dict(type='LinearProjection')),
        frozen=['shared'],
    )
    shared = model.distiller.connectors['shared']
    model.distiller.set_stage('initial')
    assert set(model.loss(*batch(3))) == {'distill.loss_begin'}
    assert shared.training
    assert shared.linear.weight.requires_grad
    model.distiller.set_stage('main')
    assert set(model.loss(*batch(3))) == {'student.loss', 'distill.loss_main'}
    model.train()
    assert not shared.training
    assert not shared.linear.weight.requires_grad


def test_a_network_that_nothing_looks_at_is_not_run(algorithm: Callable, batch: Callable) -> None:
    model = algorithm({'it': remembering(stage='initial', features='pooled')}, initial_epochs=1)
    calls = []
    model.teacher.register_forward_hook(lambda *_: calls.append(model.distiller.stage))
    model.distiller.set_stage('main')
    assert set(model.loss(*batch(3))) == {'student.loss'}
    model.distiller.set_stage('initial')
    model.loss(*batch(3))
    assert calls == ['initial']


def test_pooled_features_of_a_backbone_whose_maps_are_not_known(network: Callable, batch: Callable) -> None:
    student = network('res8')
    student['backbone'] = dict(type='LeNet5', num_classes=-1)
    student['neck'] = dict(type='GlobalAveragePooling')
    student['head']['in_channels'] = 120
    cfg = dict(
        _scope_='mmrazor',
        type='FrozenTeacherDistill',
        architecture=student,
        teacher=network('res8'),
        random_teacher=True,
        distiller=dict(type='FeatureDistiller', losses={'pkt': dict(loss=dict(type='PKTLoss'), features='pooled')}),
    )
    images, samples = batch(3)
    images = images.mean(1, keepdim=True)
    cfg['distiller']['image_shape'] = (1, 32, 32)
    cfg['teacher']['backbone']['in_channels'] = 1
    assert torch.isfinite(MODELS.build(cfg).loss(images, samples)['distill.loss_pkt'])
    cfg['distiller']['losses']['pkt']['features'] = 'last_map'
    with pytest.raises(SettingError, match='LeNet5'):
        MODELS.build(cfg)


@pytest.mark.parametrize(
    ('losses', 'settings', 'message'),
    [
        ({}, {}, r'losses=\{\} must name at least one'),
        ({'it': dict(loss=dict(type='PKTLoss'))}, {}, 'needs loss=.* and either features or inputs'),
        ({'it': dict(loss=dict(loss_weight=1.0), features='pooled')}, {}, 'needs loss=dict'),
        ({'it': 'PKTLoss'}, {}, "it='PKTLoss' in losses must be a dict"),
        ({'it.is': remembering(features='pooled')}, {}, "'it.is' in losses cannot be a name"),
        ({'it': dict(loss=dict(type='PKTLos'), features='pooled')}, {}, "type='PKTLos' is no registered loss"),
        ({'it': dict(loss=dict(type='PKTLoss'), features='pooled', weight=1)}, {}, 'must be a dict of these: loss'),
        ({'it': remembering(features='map7')}, {}, "student has no feature 'map7'. It has: map0, map1, map2, map3"),
        ({'it': remembering(features='pooled', stage='late')}, {}, "stage='late' of it must be one of initial, main"),
        ({'it': remembering(features='maps', decay='x')}, {}, "decay='x' of it must be a positive number"),
        ({'it': remembering(features='pooled', student_connector='x')}, {}, "connector 'x' of it is not in connectors"),
        ({'it': remembering(features='pooled')}, {'frozen': ['x']}, 'x in frozen is not in connectors'),
        (
            {'it': remembering(features='pooled')},
            {'connectors': dict(x=dict(type='LinearProjection'))},
            'no loss names the connector x',
        ),
        ({'it': remembering(features='maps')}, {'teacher': 'res50'}, 'student has 4 of them and the teacher 5'),
        ({'it': remembering(features='consecutive_maps')}, {}, "features='consecutive_maps', 4 at once; Rem.* takes 2"),
        ({'it': dict(loss=dict(type='FSPLoss'), features='maps')}, {}, "features='maps', 2 at once; FSPLoss takes 4"),
        ({'it': remembering(features='maps'), 'it1': remembering(features='map1')}, {}, 'two losses are called it1'),
        (
            {'it': remembering(inputs=dict(s_feature=dict(network='s', feature='map1')))},
            {},
            'network is one of student',
        ),
        (
            {'it': remembering(inputs=dict(x=dict(network='student', feature='map1')))},
            {},
            'inputs of it are x; RememberingLoss takes s_feature, t_feature',
        ),
        ({'it': remembering(features='map1', stage='initial')}, {}, 'initial_epochs=0, and losses of .* initial: it'),
        ({'it': remembering(features='map1')}, {'initial_epochs': 2}, 'initial_epochs=2, and losses of .*: none'),
        ({'it': remembering(features='map1')}, {'image_shape': (1, 32, 32)}, r'image_shape=\(1, 32, 32\) does not fit'),
    ],
)
def test_bad_input(losses: dict, settings: dict, message: str, algorithm: Callable) -> None:
    with pytest.raises(SettingError, match=message):
        algorithm(losses, **settings)


def test_stages_that_nothing_begins_are_refused(algorithm: Callable, batch: Callable) -> None:
    model = algorithm({'it': remembering(stage='initial', features='pooled')}, initial_epochs=1)
    with pytest.raises(SettingError, match='InitialStageHook'):
        model.loss(*batch(3))


def test_a_loss_without_a_weight_is_given_none(algorithm: Callable, batch: Callable) -> None:
    @MODELS.register_module(force=True)
    class WeightlessLoss(nn.Module):
        def forward(self, s_feature: Tensor, t_feature: Tensor) -> Tensor:
            return (s_feature.sum() - t_feature.sum()).abs()

    model = algorithm({'it': dict(loss=dict(type='WeightlessLoss'), features='pooled')})
    assert torch.isfinite(model.loss(*batch(3))['distill.loss_it'])
