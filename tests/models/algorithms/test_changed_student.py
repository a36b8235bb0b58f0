"""SimKD in a distillation: the student that is trained, validated, stored and shown is the changed one."""

import copy
from collections.abc import Callable

import pytest
import torch
from mmrazor.registry import MODELS
from torch import nn

from icd_mmrazor.engine.description import describe
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.classifiers import ProjectedClassifier
from icd_mmrazor.models.networks.changed_student import student_with_classifier
from icd_mmrazor.models.teacher_cache.cache import TeacherCache

SIMKD = dict(type='SimKDDistiller')
MIXED = dict(type='MixedDistiller', distillers=dict(simkd=SIMKD, icd=dict(type='ICDDistiller', kd=dict(tau=4.0))))


def has_classifier_of_teacher(model: nn.Module) -> bool:
    own, teachers = model.student.classifier, model.teacher.head.fc
    return torch.equal(own.weight, teachers.weight) and torch.equal(own.bias, teachers.bias)


def train(model: nn.Module, batch: tuple, steps: int = 2) -> dict[str, torch.Tensor]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        losses = model.loss(*batch)
        total, _ = model.parse_losses(losses)
        total.backward()
        optimizer.step()
    return losses


def test_the_classifier_is_the_teachers_and_stays_so(algorithm: Callable, batch: Callable) -> None:
    model = algorithm(distiller=SIMKD).train()
    assert isinstance(model.student, ProjectedClassifier)
    assert has_classifier_of_teacher(model)
    model.init_weights()
    before = {name: parameter.detach().clone() for name, parameter in model.student.named_parameters()}
    train(model, batch())
    assert has_classifier_of_teacher(model)
    unchanged = [name for name, p in model.student.named_parameters() if torch.equal(p, before[name])]
    assert unchanged == ['head.fc.weight', 'head.fc.bias']
    # both are in checkpoints
    state = model.state_dict()
    assert torch.equal(state['architecture.head.fc.weight'], model.teacher.head.fc.weight)
    assert 'architecture.neck.layers.0.weight' in state


def test_the_loss_compares_what_the_two_classifiers_average(algorithm: Callable, batch: Callable) -> None:
    model = algorithm(distiller=SIMKD, teacher='wrn16-1', teacher_ckpt=None, random_teacher=True).eval()
    images, samples = batch()
    with torch.no_grad():
        losses = model.loss(images, samples)
        projected = model.student.neck.project(model.student.backbone(images)[-1])
        (target,) = model.teacher.backbone(images)
        logits = model.student(images)
    assert (target >= 0).all()
    torch.testing.assert_close(losses['distill.loss_simkd'], (projected - target).square().mean())
    assert losses['student.loss'] == 0
    # the map of the teacher itself would give the teacher's logits
    torch.testing.assert_close(logits, model.student.head.fc(projected.mean((2, 3))))
    torch.testing.assert_close(model.teacher(images), model.student.head.fc(target.mean((2, 3))))


def test_validation_predicts_with_the_changed_student(algorithm: Callable, batch: Callable) -> None:
    model = algorithm(distiller=SIMKD).train()
    images, samples = batch()
    train(model, (images, samples))
    model.eval()
    with torch.no_grad():
        found = model(images, samples, mode='predict')
        expected = model.student(images).softmax(1)
    assert torch.equal(torch.stack([each.pred_score for each in found]), expected)


def test_labels_are_not_needed(algorithm: Callable, batch: Callable) -> None:
    model = algorithm(distiller=SIMKD, calculate_student_loss=False).train()
    images, samples = batch()
    for sample in samples:
        del sample.gt_label
    assert train(model, (images, samples)).keys() == {'distill.loss_simkd'}
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_a_mixture_has_the_features_of_the_changed_student(algorithm: Callable, batch: Callable) -> None:
    """ICD reads the pooled projection, KD and cross-entropy the logits of the teacher's classifier."""
    model = algorithm(distiller=MIXED, teacher='res8x4', teacher_ckpt=None, random_teacher=True).eval()
    images, samples = batch()
    losses = model.loss(images, samples)
    icd = model.distiller.distillers['icd']
    pooled, logits = model.student.extract_feat(images)[-1], model.student(images)
    assert pooled.shape == (len(images), 256)
    found = (losses['distill.icd.loss_icd'], losses['distill.icd.loss_kd'], losses['student.loss'])
    expected = (
        icd.distill_losses['loss_icd'](
            icd.connectors['icd_student'](pooled), icd.connectors['icd_teacher'](model.teacher.extract_feat(images)[-1])
        ),
        icd.distill_losses['loss_kd'](logits, model.teacher(images)),
        nn.functional.cross_entropy(logits, torch.cat([sample.gt_label for sample in samples])),
    )
    torch.testing.assert_close(found, expected)
    model.train()
    train(model, (images, samples), steps=1)
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_reports_show_the_change_and_the_true_size(algorithm: Callable, network: Callable) -> None:
    model = algorithm(distiller=SIMKD)
    total = sum(parameter.numel() for parameter in model.student.parameters())
    plain = MODELS.build(network('res8'))
    own = sum(parameter.numel() for parameter in plain.head.parameters())
    added = total - sum(parameter.numel() for parameter in plain.parameters()) + own
    text = describe(model.student, network('res8'))
    assert text.startswith(f'CIFARResNet(depth=8), {total:,} parameters, changed by SimKD: ')
    assert f'+{added:,} parameters' in text
    assert 'changed' not in describe(plain, network('res8'))


def test_built_networks_are_changed_alike(algorithm: Callable, network: Callable, batch: Callable) -> None:
    given = dict(network('res8'), _scope_='mmpretrain')
    given['head'].loss = dict(type='LabelSmoothLoss', label_smooth_val=0.2)
    built = MODELS.build(copy.deepcopy(given))
    expected = algorithm(distiller=SIMKD, architecture=copy.deepcopy(given)).eval()
    model = algorithm(distiller=SIMKD, architecture=built).eval()
    assert isinstance(model.student, ProjectedClassifier)
    model.student.load_state_dict(expected.student.state_dict())
    for one, other in zip(model.loss(*batch()).values(), expected.loss(*batch()).values(), strict=True):
        assert torch.equal(one, other)
    assert model.student.head.loss_module.label_smooth_val == 0.2
    # a student of a config with a teacher that is built
    teacher = MODELS.build(dict(network('res8x4'), _scope_='mmpretrain'))
    model = algorithm(distiller=SIMKD, teacher=teacher, teacher_ckpt=None, random_teacher=True)
    assert model.student.head.fc.in_features == 256


def test_a_student_that_is_projected_already(algorithm: Callable) -> None:
    student = algorithm(distiller=SIMKD).student
    assert algorithm(distiller=SIMKD, architecture=student).student is student
    neck = dict(type='SimKDProjector', in_channels=64, out_channels=64, factor=4)
    head = dict(type='LinearClsHead', num_classes=10, in_channels=64, init_cfg=None)
    backbone = dict(type='CIFARResNet', depth=8)
    given = dict(_scope_='mmpretrain', type='ProjectedClassifier', backbone=backbone, neck=neck, head=head)
    model = algorithm(distiller=SIMKD, architecture=copy.deepcopy(given))
    assert model.student.neck.layers[0].out_channels == 16
    assert has_classifier_of_teacher(model)
    for part, name, value, expected in (
        ('neck', 'in_channels', 32, 64),
        ('neck', 'out_channels', 32, 64),
        ('head', 'in_channels', 32, 64),
        ('head', 'num_classes', 7, 10),
    ):
        wrong = copy.deepcopy(given)
        wrong[part][name] = value
        with pytest.raises(SettingError, match=rf'model\.architecture\.{part}\.{name}={value} must be {expected}'):
            algorithm(distiller=SIMKD, architecture=wrong)


def test_one_of_several_teachers(network: Callable, teacher_file: Callable, batch: Callable) -> None:
    teachers = [dict(teacher=network(name), teacher_ckpt=teacher_file(name)) for name in ('res14', 'res8x4')]
    settings = dict(_scope_='mmrazor', type='FrozenTeacherDistill', architecture=network('res8'), teachers=teachers)
    model = MODELS.build(dict(settings, distiller=dict(SIMKD, teacher_member=1))).train()
    assert torch.equal(model.student.head.fc.weight, model.teacher.members[1].head.fc.weight)
    assert torch.isfinite(train(model, batch())['distill.loss_simkd'])
    with pytest.raises(SettingError, match='teacher_member=None'):
        MODELS.build(dict(settings, distiller=SIMKD))


def test_images_of_another_size_for_the_teacher(algorithm: Callable, batch: Callable) -> None:
    model = algorithm(distiller=SIMKD, teacher_preprocessor=dict(size=16)).train()
    assert model.student.neck.size == (4, 4)
    assert torch.isfinite(train(model, batch())['distill.loss_simkd'])


@pytest.mark.parametrize('precision', ['bf16', 'bf16-true'])
def test_a_teacher_in_half_precision(precision: str, algorithm: Callable, batch: Callable) -> None:
    """Its classifier is copied as it is in the file."""
    model = algorithm(distiller=SIMKD, teacher_precision=precision).train()
    stored = torch.load(model.teacher_ckpt, weights_only=True)['state_dict']['head.fc.weight']
    assert torch.equal(model.student.head.fc.weight, stored)
    assert torch.isfinite(train(model, batch())['distill.loss_simkd'])


def test_a_classifier_that_a_checkpoint_replaced_is_refused(algorithm: Callable, batch: Callable) -> None:
    model = algorithm(distiller=SIMKD).train()
    with torch.no_grad():
        model.student.head.fc.weight.mul_(2)
    with pytest.raises(SettingError, match=r'load_from.*head\.fc'):
        model.loss(*batch())


def test_initial_weights_of_a_file_do_not_reach_the_classifier(
    algorithm: Callable, network: Callable, teacher_file: Callable
) -> None:
    student = dict(network('res8'), init_cfg=dict(type='Pretrained', checkpoint=teacher_file('res8')))
    model = algorithm(distiller=SIMKD, architecture=student)
    model.init_weights()
    stored = torch.load(teacher_file('res8'), weights_only=True)['state_dict']
    assert torch.equal(model.student.backbone.conv1.weight, stored['backbone.conv1.weight'])
    assert has_classifier_of_teacher(model)


def test_other_distillers_leave_a_projected_student_alone(algorithm: Callable, batch: Callable) -> None:
    """It is a student like any other: nothing is taken from the teacher, and its head is trained."""
    student = algorithm(distiller=SIMKD).student
    copied = MODELS.build(dict(type='mmpretrain.ProjectedClassifier', backbone=student.backbone, neck=student.neck,
                               head=dict(type='LinearClsHead', num_classes=10, in_channels=64)))  # fmt: skip
    model = algorithm(architecture=copied).train()
    train(model, batch())
    assert not has_classifier_of_teacher(model)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(factor=0), 'factor=0'),
        (dict(factor=65), 'factor=65'),
        (dict(loss_weight='1'), "loss_weight='1'"),
        (dict(student_loss_weight=-1), 'student_loss_weight=-1'),
        (dict(losses=dict(simkd=dict(loss=dict(type='SPLoss'), features='pooled'))), 'simkd in losses'),
    ],
)
def test_bad_settings(settings: dict, message: str, algorithm: Callable) -> None:
    with pytest.raises(SettingError, match=message):
        algorithm(distiller={**SIMKD, **settings})


def test_more_losses(algorithm: Callable, batch: Callable) -> None:
    losses = dict(sp=dict(loss=dict(type='SPLoss'), features='last_map'))
    found = train(algorithm(distiller=dict(SIMKD, losses=losses)).train(), batch())
    assert {'distill.loss_simkd', 'distill.loss_sp'} <= found.keys()


def test_mmrazors_own_algorithm_is_refused(network: Callable) -> None:
    student, teacher = (dict(network('res8'), _scope_='mmpretrain') for _ in range(2))
    networks = dict(architecture=student, teacher=teacher)
    with pytest.raises(SettingError, match=r'SimKDDistiller.*FrozenTeacherDistill'):
        MODELS.build(dict(_scope_='mmrazor', type='SingleTeacherDistill', distiller=SIMKD, **networks))


def test_a_teacher_that_classifies_no_average(algorithm: Callable, network: Callable) -> None:
    teacher = network('res8')
    teacher.head = dict(type='StackedLinearClsHead', num_classes=10, in_channels=64, mid_channels=[12])
    with pytest.raises(SettingError, match=r'SimKDDistiller: the teacher, CIFARResNet, .*average of a map'):
        algorithm(distiller=SIMKD, teacher=teacher, teacher_ckpt=None, random_teacher=True)
    with pytest.raises(SettingError, match='classifier'):
        algorithm(distiller=SIMKD, teacher=dict(network('res8'), head=None), teacher_ckpt=None, random_teacher=True)


def test_a_config_that_names_its_parts_wrongly() -> None:
    backbone, head = dict(type='CIFARResNet', depth=8), dict(type='LinearClsHead', num_classes=10, in_channels=64)
    neck = dict(type='GlobalAveragePooling')
    with pytest.raises(SettingError, match=r'GlobalAveragePooling.*SimKDProjector'):
        MODELS.build(dict(type='mmpretrain.ProjectedClassifier', backbone=backbone, neck=neck, head=head))


def test_stored_outputs_of_a_teacher_are_not_enough(algorithm: Callable, network: Callable) -> None:
    """Neither in the place of the teacher, nor next to it: its maps are not stored."""
    stored = MODELS.build(network('res8'))
    stored.is_stored = True
    with pytest.raises(SettingError, match=r'SimKDDistiller .*teacher_ckpt'):
        student_with_classifier(dict(distiller=SIMKD, architecture=network('res8')), stored)
    model = algorithm(distiller=SIMKD)
    reason = TeacherCache(views='all').why_not(model.distiller, model.teacher)
    assert 'classified_map' in reason
