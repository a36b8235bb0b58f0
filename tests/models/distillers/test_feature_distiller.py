"""FeatureDistiller: the features that are named reach the losses."""

from collections.abc import Callable

import pytest
import torch
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses import FeatureLoss


@MODELS.register_module()
class RememberingLoss(FeatureLoss):
    """A loss that keeps what it is given."""

    def __init__(self, loss_weight: float = 1.0, student_shape: tuple = (), teacher_shape: tuple = ()) -> None:
        super().__init__(loss_weight)
        self.shapes = (student_shape, teacher_shape)

    def forward(self, s_feature: Tensor, t_feature: Tensor) -> Tensor:
        self.given = (s_feature, t_feature)
        return self.loss_weight * s_feature.sum()


@MODELS.register_module()
class HeavyLoss(RememberingLoss):
    """A loss whose weight is not 1 by default."""

    def __init__(self, loss_weight: float = 8.0) -> None:
        super().__init__(loss_weight)


class Heads(nn.Module):
    """A linear layer that counts its calls."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.fc, self.calls = nn.Linear(4, classes), 0

    def forward(self, feature: Tensor) -> Tensor:
        self.calls += 1
        return self.fc(feature)


def prepared(student: nn.Module, teacher: nn.Module, **settings: object) -> nn.Module:
    distiller = MODELS.build(dict(_scope_='mmrazor', type='FeatureDistiller', **settings))
    distiller.prepare_from_student(student)
    distiller.prepare_from_teacher(teacher)
    return distiller


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


BOTH_MAPS = {
    's_feature': dict(network='student', feature='map1'),
    't_feature': dict(network='teacher', feature='map1'),
}


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


@pytest.mark.parametrize('loss', [dict(type='RememberingLoss', loss_weight=8.0), dict(type='HeavyLoss')])
def test_one_loss_for_each_map_and_its_weight(loss: dict, algorithm: Callable, batch: Callable) -> None:
    losses = {'it': dict(loss=loss, features='maps', decay=0.5)}
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
    first = dict(
        stage='initial',
        loss=dict(type='L2Loss'),
        features='pooled',
        student_connector=dict(type='LinearProjection'),
        teacher_connector='shared',
    )
    model = algorithm(
        {'first': first, 'main': remembering(features='logits')},
        initial_epochs=1,
        connectors=dict(shared=dict(type='LinearProjection')),
        frozen=['shared'],
    )
    shared = model.distiller.connectors['shared']
    model.distiller.set_stage('initial')
    assert set(model.loss(*batch(3))) == {'distill.loss_first'}
    assert shared.training
    assert shared.linear.weight.requires_grad
    model.distiller.set_stage('main')
    assert set(model.loss(*batch(3))) == {'student.loss', 'distill.loss_main'}
    model.train()
    assert not shared.training
    assert not shared.linear.weight.requires_grad


def test_a_network_whose_features_nothing_compares_is_not_run(algorithm: Callable, batch: Callable) -> None:
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
    # maps of the other network are known
    pooled, last_map = dict(network='student', feature='pooled'), dict(network='teacher', feature='last_map')
    inputs = dict(s_feature=pooled, t_feature=last_map)
    cfg['distiller']['losses'] = {'sp': dict(loss=dict(type='SPLoss'), inputs=inputs)}
    assert torch.isfinite(MODELS.build(cfg).loss(images, samples)['distill.loss_sp'])
    cfg['distiller']['losses']['sp'] = dict(loss=dict(type='SPLoss'), features='last_map')
    with pytest.raises(SettingError, match='LeNet5'):
        MODELS.build(cfg)


@pytest.mark.parametrize(
    ('losses', 'settings', 'named'),
    [
        ({}, {}, r'losses=\{\}'),
        ({'it': dict(loss=dict(type='PKTLoss'))}, {}, 'it in losses .*features'),
        ({'it': dict(loss=dict(loss_weight=1.0), features='pooled')}, {}, r'it in losses .*loss=dict\(type'),
        ({'it': dict(features='pooled')}, {}, r'it in losses .*loss=dict\(type'),
        ({'it': 'PKTLoss'}, {}, "it in losses .*'PKTLoss'"),
        ({'it.is': remembering(features='pooled')}, {}, "'it.is' in losses"),
        ({'it': dict(loss=dict(type='PKTLos'), features='pooled')}, {}, "type='PKTLos'.* Did you mean PKTLoss"),
        ({'it': remembering(features='pooled', feature=1)}, {}, "it in losses .*'feature'. Did you mean .*features"),
        ({'it': remembering(features=['pooled'])}, {}, 'it in losses .*features'),
        ({'it': remembering(features='map7')}, {}, "student has no feature 'map7'.* map0, map1, map2, map3"),
        ({'it': remembering(features='pooled', stage='late')}, {}, "it in losses: stage='late'"),
        ({'it': remembering(features='maps', decay='x')}, {}, "it in losses: decay='x'"),
        ({'it': remembering(features='pooled', student_connector='x')}, {}, 'connector x'),
        ({'it': remembering(features='pooled')}, {'frozen': ['x']}, 'frozen x'),
        ({'it': remembering(features='pooled')}, {'frozen': 'x'}, "frozen='x'"),
        (
            {'it': remembering(features='pooled')},
            {'connectors': dict(x=dict(type='LinearProjection', in_features=4))},
            'x in connectors',
        ),
        ({'it': remembering(features='consecutive_maps')}, {}, "features='consecutive_maps'"),
        ({'it': dict(loss=dict(type='FSPLoss'), features='maps')}, {}, "features='maps'.* FSPLoss takes s_bottom"),
        ({'it': remembering(features='maps'), 'it1': remembering(features='map1')}, {}, 'it1'),
        ({'it': dict(features='maps')}, {'distill_losses': dict(loss_it=dict(type='RememberingLoss'))}, 'it in losses'),
        ({'it': remembering(inputs=dict(s_feature=dict(network='s', feature='map1')))}, {}, 's_feature=.* in inputs'),
        (
            {'it': remembering(inputs={**BOTH_MAPS, 's_feature': dict(BOTH_MAPS['s_feature'], method='reconstruct')})},
            {},
            's_feature=.* in inputs',
        ),
        (
            {'it': remembering(inputs=BOTH_MAPS, student_connector=dict(type='ConvRegressor'))},
            {},
            'it in losses: student_connector',
        ),
        ({'it': remembering(inputs=['map1'])}, {}, 'inputs='),
        (
            {'it': remembering(inputs=dict(x=dict(network='student', feature='map1')))},
            {},
            'inputs of it are x, .*s_feature, t_feature',
        ),
        ({'it': remembering(features='map1', stage='initial')}, {}, 'initial_epochs=0.*: it'),
        ({'it': remembering(features='map1')}, {'initial_epochs': 2}, 'initial_epochs=2'),
        ({'it': remembering(features='map1')}, {'initial_lr': -1.0}, r'initial_lr=-1\.0'),
        ({'it': remembering(features='map1')}, {'image_shape': (1, 32, 32)}, r'image_shape=\(1, 32, 32\)'),
        ({'it': remembering(features='map1')}, {'image_shape': 32}, 'image_shape=32'),
        ({'it': remembering(features='pooled')}, {'student_source': 'backbone'}, "student_source='backbone'"),
        ({'it': remembering(features='pooled')}, {'teacher_source': None}, 'teacher_source=None'),
        (
            {'it': remembering(features='pooled')},
            {'student_recorders': dict(pooled=dict(type='ModuleInputs', source='head'))},
            'pooled in student_recorders',
        ),
        (
            {'it': remembering(features='pooled')},
            {'loss_forward_mappings': dict(loss_more=dict(s_feature=dict(recorder='pooled', from_student=True)))},
            'loss_forward_mappings: .*loss_more',
        ),
        (
            {'it': remembering(features='pooled')},
            {'distill_losses': dict(loss_more=dict(type='L2Loss'))},
            'loss_more in distill_losses',
        ),
        (
            {'it': remembering(features='pooled')},
            {'loss_forward_mappings': dict(loss_it=dict(s_feature=dict(recorder='pooled', from_student=True)))},
            'loss_it in loss_forward_mappings',
        ),
    ],
)
def test_wrong_settings_are_refused(losses: dict, settings: dict, named: str, algorithm: Callable) -> None:
    with pytest.raises(SettingError, match=named):
        algorithm(losses, **settings)


def test_other_classes_are_refused_only_where_logits_are_compared_one_by_one() -> None:
    student, teacher = Heads(2), Heads(3)
    kd = dict(loss=dict(type='KLDivergence'), features='logits')
    similar = dict(loss=dict(type='SPLoss'), features='logits')
    with pytest.raises(SettingError, match=r'kd compares logits, .*teacher has 3 classes \(fc\) and the student 2'):
        prepared(student, teacher, losses=dict(kd=kd))
    distiller = prepared(student, teacher, losses=dict(sp=similar))
    assert list(distiller.distill_losses) == ['loss_sp']


def test_pooled_features_need_no_image() -> None:
    """Images of any size do: the classifying layer says how wide its input is."""
    losses = dict(it=dict(loss=dict(type='RRDLoss', memory_size=4), features='pooled'))
    losses['it'] |= {f'{side}_connector': dict(type='LinearProjection') for side in ('student', 'teacher')}
    student, teacher = Heads(2), Heads(3)
    distiller = prepared(student, teacher, losses=losses)
    assert distiller.connectors['it_s_feature'].linear.in_features == 4
    assert student.calls == teacher.calls == 0


def test_images_of_another_size_than_the_connector_was_built_for(algorithm: Callable) -> None:
    model = algorithm({'it': remembering(features='map2', student_connector=dict(type='ConvRegressor'))})
    with pytest.raises(SettingError, match=r'student_shape=\(32, 16, 16\).*distiller\.image_shape'):
        model.loss(torch.randn(2, 3, 64, 64), [DataSample().set_gt_label(0)] * 2)


def test_losses_of_mmrazors_own_arguments_count_too(algorithm: Callable, batch: Callable) -> None:
    """They may name what the losses by name record, and are of the main stage."""
    mapping = dict(
        s_feature=dict(recorder='pooled', from_student=True, data_idx=0, connector='it_s_feature'),
        t_feature=dict(recorder='more', from_student=False, data_idx=0, connector='mine'),
    )
    model = algorithm(
        {'it': remembering(features='pooled', student_connector=dict(type='LinearProjection', out_features=5))},
        connectors=dict(mine=dict(type='LinearProjection', in_features=64, out_features=5)),
        teacher_recorders=dict(more=dict(type='ModuleInputs', source='head.fc')),
        distill_losses=dict(loss_more=dict(type='L2Loss')),
        loss_forward_mappings=dict(loss_more=mapping),
    )
    losses = model.loss(*batch(3))
    assert list(losses) == ['student.loss', 'distill.loss_it', 'distill.loss_more']
    pooled = model.distiller.distill_losses['loss_it'].given[0]
    assert losses['distill.loss_more'] > 0
    assert pooled.shape == (3, 5)


@MODELS.register_module()
class TellingLoss(RememberingLoss):
    """A loss that logs the epoch and iteration that it was told."""

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        self.terms: dict[str, Tensor] = {}

    def set_progress(self, epoch: int, iteration: int) -> None:
        self.terms = {'epoch': torch.tensor(float(epoch)), 'iteration': torch.tensor(float(iteration))}


@pytest.mark.parametrize('name', ['it', 'my_loss_of_it'])
def test_losses_are_told_the_progress_and_their_terms_are_logged(
    name: str, algorithm: Callable, batch: Callable
) -> None:
    losses = {name: dict(loss=dict(type='TellingLoss'), features='pooled'), 'other': remembering(features='pooled')}
    model = algorithm(losses)
    assert not [key for key in model.loss(*batch(3)) if 'epoch' in key]
    model.distiller.set_progress(epoch=3, iteration=50)
    found = model.loss(*batch(3))
    label = 'it' if name == 'it' else 'my_of_it'
    assert found[f'distill.{label}_epoch'] == 3
    assert found[f'distill.{label}_iteration'] == 50
    # mmengine adds up what has "loss" in its name
    total, _ = model.parse_losses(found)
    own = [found[key] for key in ('student.loss', f'distill.loss_{name}', 'distill.loss_other')]
    assert total.item() == pytest.approx(sum(own).item(), rel=1e-6)


def test_stages_that_nothing_starts_are_refused(algorithm: Callable, batch: Callable) -> None:
    model = algorithm({'it': remembering(stage='initial', features='pooled')}, initial_epochs=1)
    with pytest.raises(SettingError, match='LossScheduleHook'):
        model.loss(*batch(3))


def test_deliveries_need_both_networks() -> None:
    teacher_only = {name: dict(network='teacher', feature='pooled') for name in ('s_feature', 't_feature')}
    delivery = dict(type='MethodOutputs', max_keep_data=1, method_path='mmrazor.models.losses.L2Loss.forward')
    for deliveries, needed in ((None, {'teacher'}), (dict(x=delivery), {'student', 'teacher'})):
        losses = dict(it=dict(loss=dict(type='SPLoss'), inputs=teacher_only))
        assert prepared(Heads(2), Heads(2), losses=losses, distill_deliveries=deliveries).needed_networks == needed


def test_a_loss_without_a_weight_is_accepted(algorithm: Callable, batch: Callable) -> None:
    @MODELS.register_module(force=True)
    class WeightlessLoss(nn.Module):
        def forward(self, s_feature: Tensor, t_feature: Tensor) -> Tensor:
            return (s_feature.sum() - t_feature.sum()).abs()

    model = algorithm({'it': dict(loss=dict(type='WeightlessLoss'), features='pooled')})
    assert torch.isfinite(model.loss(*batch(3))['distill.loss_it'])
    with pytest.raises(SettingError, match=r'it1 has a decay.*WeightlessLoss'):
        algorithm({'it': dict(loss=dict(type='WeightlessLoss'), features='maps', decay=0.5)})
