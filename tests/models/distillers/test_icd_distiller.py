"""ICDDistiller: what a config of two lines gives, and what is refused."""

from collections.abc import Callable

import pytest
import torch
from mmengine.model import BaseModel
from mmrazor.registry import MODELS
from torch import nn

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models import LinearProjection


def prepared(student: nn.Module, teacher: nn.Module, **settings: object) -> nn.Module:
    distiller = MODELS.build({'_scope_': 'mmrazor', 'type': 'ICDDistiller', **settings})
    distiller.prepare_from_student(student)
    distiller.prepare_from_teacher(teacher)
    return distiller


class Classifier(BaseModel):
    """A linear layer under an unusual name, called with features."""

    def __init__(self, in_features: int, classes: int) -> None:
        super().__init__()
        self.trunk = nn.Flatten()
        self.classifier = nn.Linear(in_features, classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.trunk(features))


def run(distiller: nn.Module, student: nn.Module, teacher: nn.Module, s: torch.Tensor, t: torch.Tensor) -> dict:
    with distiller.teacher_recorders, torch.no_grad():
        teacher(t)
    with distiller.student_recorders:
        student(s)
    return distiller.compute_distill_losses()


SOURCES = {'student_source': 'classifier', 'teacher_source': 'classifier'}


NAMES = {
    'distill_losses.loss_icd.log_tau': (),
    'distill_losses.loss_icd.bias': (),
    'connectors.icd_student.linear.weight': (128, 64),
    'connectors.icd_student.linear.bias': (128,),
    'connectors.icd_teacher.linear.weight': (128, 64),
    'connectors.icd_teacher.linear.bias': (128,),
}


@pytest.mark.parametrize('kd', [None, dict(tau=4.0)], ids=['icd', 'icd-kd'])
def test_checkpoints_of_version_0_1_fit(kd: dict | None, network: Callable) -> None:
    """Names, shapes and their order, which optimizer states follow; in a mix below the distiller's name."""
    icd = dict(type='ICDDistiller', kd=kd)
    for distiller, prefix in ((icd, ''), (dict(type='MixedDistiller', distillers=dict(icd=icd)), 'distillers.icd.')):
        model = MODELS.build(
            dict(
                _scope_='mmrazor',
                type='FrozenTeacherDistill',
                architecture=network('res8'),
                teacher=network('res20'),
                random_teacher=True,
                distiller=distiller,
            )
        )
        want = [(f'distiller.{prefix}{name}', shape) for name, shape in NAMES.items()]
        assert [(key, tuple(v.shape)) for key, v in model.state_dict().items()][-len(want) :] == want
        assert [(key, tuple(p.shape)) for key, p in model.named_parameters()][-len(want) :] == want


def test_a_seed_gives_the_same_projections_in_any_mix() -> None:
    """Each is drawn as soon as its network is known."""
    student, teacher = Classifier(12, 5), Classifier(20, 5)
    rrd = dict(loss=dict(type='RRDLoss', memory_size=4), features='pooled')
    rrd |= {f'{side}_connector': dict(type='LinearProjection') for side in ('student', 'teacher')}
    distillers = dict(rrd=dict(type='FeatureDistiller', losses=dict(rrd=rrd)), icd=dict(type='ICDDistiller'))
    mixed = MODELS.build(dict(_scope_='mmrazor', type='MixedDistiller', distillers=distillers))
    torch.manual_seed(3)
    mixed.prepare_from_student(student)
    mixed.prepare_from_teacher(teacher)
    torch.manual_seed(3)
    of_student = LinearProjection(12)
    of_rrd = LinearProjection(12), LinearProjection(20), torch.randn(4, 128)
    of_teacher = LinearProjection(20)
    got = mixed.distillers.icd.connectors
    assert torch.equal(got.icd_student.linear.weight, of_student.linear.weight)
    assert torch.equal(mixed.distillers.rrd.connectors.rrd_s_feature.linear.weight, of_rrd[0].linear.weight)
    assert torch.equal(got.icd_teacher.linear.weight, of_teacher.linear.weight)


def test_widths_come_from_the_networks() -> None:
    distiller = prepared(Classifier(12, 5), Classifier(20, 7), embed_dims=16, **SOURCES)
    weights = [projection.linear.weight for projection in distiller.connectors.values()]
    assert [tuple(weight.shape) for weight in weights] == [(16, 12), (16, 20)]


def test_losses_are_those_of_their_parts() -> None:
    student, teacher = Classifier(12, 5).double(), Classifier(20, 5).double()
    settings = dict(icd=dict(alpha=0.3), kd=dict(tau=2.0, loss_weight=0.9))
    distiller = prepared(student, teacher, **settings, **SOURCES).double()
    s, t = torch.randn(6, 12).double(), torch.randn(6, 20).double()
    losses = run(distiller, student, teacher, s, t)

    assert set(losses) == {'loss_icd', 'loss_kd', 'icd_contrastive', 'icd_invariance', 'icd_tau'}
    icd = distiller.distill_losses['loss_icd']
    want = icd(distiller.connectors['icd_student'](s), distiller.connectors['icd_teacher'](t))
    assert losses['loss_icd'].item() == pytest.approx(want.item(), rel=1e-12)
    parts = losses['icd_contrastive'] + 0.3 * losses['icd_invariance']
    assert parts.item() == pytest.approx(want.item(), rel=1e-12)
    p, q = (teacher(t) / 2).softmax(1), (student(s) / 2).softmax(1)
    kd = 0.9 * 4 * (p * (p / q).log()).sum() / 6
    assert losses['loss_kd'].item() == pytest.approx(kd.item(), rel=1e-12)
    assert not losses['icd_tau'].requires_grad


def test_more_losses_are_added() -> None:
    student, teacher = Classifier(12, 5), Classifier(12, 5)
    recorders = dict(features=dict(type='ModuleOutputs', source='trunk'))
    distiller = prepared(
        student,
        teacher,
        **SOURCES,
        student_recorders=recorders,
        teacher_recorders=recorders,
        distill_losses=dict(loss_l2=dict(type='L2Loss', loss_weight=5.0)),
        loss_forward_mappings=dict(
            loss_l2=dict(
                s_feature=dict(recorder='features', from_student=True),
                t_feature=dict(recorder='features', from_student=False),
            )
        ),
    )
    losses = run(distiller, student, teacher, torch.randn(3, 12), torch.randn(3, 12))
    assert {'loss_icd', 'loss_l2'} <= set(losses)
    assert losses['loss_l2'].item() > 0


@pytest.mark.parametrize(
    ('setting', 'value'),
    [
        ('distill_losses', {'loss_icd': {'type': 'L2Loss'}}),
        ('connectors', {'icd_student': {'type': 'LinearProjection', 'in_features': 4}}),
        ('student_recorders', {'icd_feature': {'type': 'ModuleOutputs', 'source': 'trunk'}}),
        ('loss_forward_mappings', {'loss_icd': {}}),
    ],
)
def test_refuses_a_name_used_twice(setting: str, value: dict) -> None:
    with pytest.raises(SettingError, match=f'{next(iter(value))} in {setting}'):
        prepared(Classifier(4, 2), Classifier(4, 2), **SOURCES, **{setting: value})


def test_refuses_a_source_that_is_not_a_linear_layer() -> None:
    with pytest.raises(SettingError, match=r"student_source='head' .*: classifier"):
        prepared(Classifier(4, 2), Classifier(4, 2), student_source='head', teacher_source='classifier')
    with pytest.raises(SettingError, match=r"teacher_source='trunk' is a Flatten.*: classifier"):
        prepared(Classifier(4, 2), Classifier(4, 2), student_source='classifier', teacher_source='trunk')


def test_kd_refuses_other_classes_icd_does_not() -> None:
    prepared(Classifier(4, 2), Classifier(4, 3), **SOURCES)
    for kd in (dict(tau=4.0), dict(type='L2Loss')):
        with pytest.raises(SettingError, match=r'teacher has 3 classes \(classifier\) .*student 2 \(classifier\)'):
            prepared(Classifier(4, 2), Classifier(4, 3), kd=kd)


def test_losses_by_name_are_added() -> None:
    student, teacher = Classifier(12, 5), Classifier(20, 5)
    distiller = prepared(student, teacher, losses=dict(sp=dict(loss=dict(type='SPLoss'), features='logits')))
    losses = run(distiller, student, teacher, torch.randn(3, 12), torch.randn(3, 20))
    assert [name for name in losses if 'loss' in name] == ['loss_icd', 'loss_sp']


@pytest.mark.parametrize('width', [0, -128, 12.5, 1])
def test_refuses_a_width_out_of_range(width: float) -> None:
    with pytest.raises(SettingError, match=f'embed_dims={width}'):
        MODELS.build({'_scope_': 'mmrazor', 'type': 'ICDDistiller', 'embed_dims': width})


def test_the_teacher_may_come_first() -> None:
    distiller = MODELS.build({'_scope_': 'mmrazor', 'type': 'ICDDistiller', 'kd': {}, **SOURCES})
    distiller.prepare_from_teacher(Classifier(4, 3))
    with pytest.raises(SettingError, match='teacher has 3 classes'):
        distiller.prepare_from_student(Classifier(4, 2))


def test_a_users_own_kd_is_not_ours() -> None:
    logits = dict(logits=dict(type='ModuleOutputs', source='classifier'))
    mapping = {f'preds_{side}': dict(recorder='logits', from_student=side == 'S') for side in 'ST'}
    prepared(
        Classifier(4, 2),
        Classifier(4, 3),
        **SOURCES,
        student_recorders=logits,
        teacher_recorders=logits,
        distill_losses=dict(loss_kd=dict(type='DISTLoss')),
        loss_forward_mappings=dict(loss_kd=dict(logits_S=mapping['preds_S'], logits_T=mapping['preds_T'])),
    )


@pytest.mark.parametrize('setting', [{'kd': 4.0}, {'icd': 'ICDLoss'}], ids=str)
def test_refuses_settings_of_a_wrong_type(setting: dict) -> None:
    (name, value), *_ = setting.items()
    with pytest.raises(SettingError, match=f'{name}={value!r}'):
        MODELS.build({'_scope_': 'mmrazor', 'type': 'ICDDistiller', **setting})


def test_a_kd_temperature_must_be_positive() -> None:
    with pytest.raises(SettingError, match='tau=0'):
        MODELS.build({'_scope_': 'mmrazor', 'type': 'ICDDistiller', 'kd': {'tau': 0}})


def test_works_in_mmrazors_own_algorithm(network: Callable, batch: Callable) -> None:
    algorithm = MODELS.build(
        dict(
            _scope_='mmrazor',
            type='SingleTeacherDistill',
            architecture=network('res8'),
            teacher=network('wrn16-1'),
            distiller=dict(type='ICDDistiller'),
        )
    )
    losses = algorithm(*batch(), mode='loss')
    assert {'student.loss', 'distill.loss_icd', 'distill.icd_tau'} <= set(losses)
