"""A distillation from several teachers."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmrazor.registry import MODELS
from torch import nn

from icd_mmrazor.errors import CheckpointError, SettingError
from icd_mmrazor.models.networks.resolve import name_networks_in_full

MAPS = dict(type='FeatureDistiller', losses=dict(at=dict(loss=dict(type='AttentionTransferLoss'), features='1.maps')))
KD = dict(type='FeatureDistiller', losses=dict(kd=dict(loss=dict(type='KLDivergence', tau=2.0), features='logits')))
FEATURES = dict(
    type='FeatureDistiller',
    losses=dict(
        first=dict(loss=dict(type='RKDLoss'), features='0.pooled'),
        second=dict(loss=dict(type='SPLoss'), features='1.map2'),
        maps=dict(loss=dict(type='AttentionTransferLoss'), features='1.maps'),
        logits=dict(
            loss=dict(type='KLDivergence'),
            inputs=dict(
                preds_S=dict(network='student', feature='logits'), preds_T=dict(network='teacher', feature='0.logits')
            ),
        ),
    ),
)
VIT = dict(arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32), img_size=32, patch_size=8)
OURS = dict(mean=[120.0, 110.0, 100.0], std=[60.0, 61.0, 62.0])


@pytest.fixture
def build(network: Callable, teacher_file: Callable) -> Callable[..., nn.Module]:
    def make(*changes: dict, **settings: Any) -> nn.Module:
        teachers = [
            dict(dict(teacher=network(name), teacher_ckpt=teacher_file(name)), **change)
            for name, change in zip(('res14', 'res20', 'res8'), changes or ({}, {}), strict=False)
        ]
        defaults = dict(architecture=network('res8'), teachers=teachers, distiller=copy.deepcopy(KD))
        return MODELS.build({'_scope_': 'mmrazor', 'type': 'FrozenTeacherDistill', **defaults, **settings})

    return make


@pytest.fixture
def alone(network: Callable, teacher_file: Callable) -> Callable[[str], nn.Module]:
    """Return a teacher by itself."""

    def load(name: str) -> nn.Module:
        built = MODELS.build(network(name)).eval()
        built.load_state_dict(torch.load(teacher_file(name))['state_dict'])
        return built

    return load


def test_the_student_learns_the_weighted_mean(build: Callable, alone: Callable, batch: Callable) -> None:
    images, samples = batch()
    model = build(dict(weight=3.0), {})
    student = copy.deepcopy(model.architecture)
    loss = model.loss(images, samples)['distill.loss_kd']
    with torch.no_grad():
        target = (3 * alone('res14')(images) + alone('res20')(images)) / 4
        scores = student(images)
    want = 4 * F.kl_div((scores / 2).log_softmax(1), (target / 2).softmax(1), reduction='batchmean')
    assert torch.allclose(loss, want, atol=1e-5)


def test_each_teacher_has_its_own_term(build: Callable, alone: Callable, batch: Callable) -> None:
    images, samples = batch()
    model = build(distiller=copy.deepcopy(FEATURES))
    student = copy.deepcopy(model.architecture)
    losses = model.loss(images, samples)
    with torch.no_grad():
        pooled = [network.neck(network.backbone(images))[0] for network in (student, alone('res14'))]
        maps = []
        for network in (student, alone('res20')):
            x, stages = network.backbone.relu(network.backbone.norm1(network.backbone.conv1(images))), []
            for name in network.backbone.res_layers:
                stages.append(x := getattr(network.backbone, name)(x))
            maps.append(stages)
        logits = [student(images), alone('res14')(images)]
    build_loss = {
        name: MODELS.build({'_scope_': 'mmrazor', **each['loss']}) for name, each in FEATURES['losses'].items()
    }
    want = dict(
        first=build_loss['first'](*pooled),
        second=build_loss['second'](maps[0][1], maps[1][1]),
        logits=build_loss['logits'](*logits),
        **{f'maps{i + 1}': build_loss['maps'](maps[0][i], maps[1][i]) for i in range(3)},
    )
    got = {name.removeprefix('distill.loss_'): loss for name, loss in losses.items() if 'distill' in name}
    assert got.keys() == want.keys()
    for name, loss in want.items():
        assert torch.allclose(got[name], loss, rtol=1e-4, atol=1e-6), name


def test_a_preset_is_used_for_each(build: Callable, batch: Callable) -> None:
    distillers = {f'icd{i}': dict(type='ICDDistiller', teacher_member=i) for i in range(2)}
    model = build(distiller=dict(type='MixedDistiller', distillers={**distillers, 'kd': copy.deepcopy(KD)}))
    losses = model.loss(*batch())
    assert {'distill.icd0.loss_icd', 'distill.icd1.loss_icd', 'distill.kd.loss_kd'} <= {*losses}
    for i in range(2):
        recorder = model.distiller.distillers[f'icd{i}'].teacher_recorders.get_recorder('icd_feature')
        assert recorder.source == f'{i}.head.fc'


def test_each_teacher_sees_its_own_images(build: Callable, alone: Callable, batch: Callable) -> None:
    images, samples = batch()
    own = dict(mean=[10.0, 20.0, 30.0], std=[50.0, 60.0, 70.0])
    model = build(dict(teacher_preprocessor=own), {}, data_preprocessor=dict(OURS))
    logits = model.run_teacher(images, samples)
    mean, std, other, scale = (
        torch.tensor(each).view(1, 3, 1, 1) for each in (OURS['mean'], OURS['std'], own['mean'], own['std'])
    )
    with torch.no_grad():
        want = (alone('res14')((images * std + mean - other) / scale) + alone('res20')(images)) / 2
    assert torch.allclose(logits, want, atol=1e-4)


@pytest.mark.parametrize('combination', ['mean', 'probabilities', 'confident'])
def test_equal_teachers_are_like_one(
    combination: str, network: Callable, teacher_file: Callable, batch: Callable
) -> None:
    images, samples = batch()
    settings = dict(_scope_='mmrazor', type='FrozenTeacherDistill', distiller=KD)
    one = dict(teacher=network('res14'), teacher_ckpt=teacher_file('res14'))
    torch.manual_seed(1)
    single = MODELS.build(copy.deepcopy(dict(**settings, architecture=network('res8'), **one)))
    several = MODELS.build(
        copy.deepcopy(
            dict(**settings, architecture=network('res8'), teachers=[one, one], teacher_combination=combination)
        )
    )
    several.architecture.load_state_dict(single.architecture.state_dict())
    a, b = (model.loss(images, samples)['distill.loss_kd'] for model in (single, several))
    assert torch.allclose(a, b, atol=1e-6)


def test_teachers_are_seen_by_nothing_that_trains_or_saves(build: Callable) -> None:
    model = build()
    of_teachers = {*map(id, model.teacher.parameters())}
    assert of_teachers
    assert not of_teachers & {*map(id, model.parameters())}
    assert not [name for name in model.state_dict() if name.startswith('teacher')]
    model.train()
    assert not any(module.training for module in model.teacher.modules())
    assert not any(p.requires_grad for p in model.teacher.parameters())
    model.double()
    assert {p.dtype for p in model.teacher.parameters()} == {torch.float64}


def test_each_has_its_precision(build: Callable, batch: Callable) -> None:
    seen: list[tuple[torch.dtype, torch.dtype]] = []
    model = build(dict(teacher_precision='bf16'), dict(teacher_precision='bf16-true'), {})

    def note(module: nn.Module, _: Any, output: torch.Tensor) -> None:
        seen.append((module.weight.dtype, output.dtype))

    for member in model.teacher.members:
        member.backbone.conv1.register_forward_hook(note)
    with torch.autocast('cpu', torch.bfloat16):  # as a student in half precision
        assert model.run_teacher(*batch()).dtype == torch.float32
    half, full = torch.bfloat16, torch.float32
    assert seen == [(full, half), (half, half), (full, full)]


@pytest.mark.parametrize('offload', ['networks', 'blocks'])
def test_offloading_changes_nothing_on_a_cpu(offload: str, build: Callable, batch: Callable) -> None:
    build()  # writes the files of the teachers
    torch.manual_seed(3)
    want = build().loss(*batch())
    torch.manual_seed(3)
    model = build(teacher_offload=offload)
    got = model.to('cpu').loss(*batch())
    assert all(torch.equal(got[name], want[name]) for name in want)
    assert len(model.teacher_offload.parts) == (2 if offload == 'networks' else 6 + 9)
    assert model.teacher_offload.resident == []


def test_blocks_that_no_teacher_has_are_refused(build: Callable, network: Callable, teacher_file: Callable) -> None:
    small = dict(teacher=network('res8'), teacher_ckpt=teacher_file('res8'))
    assert len(build(small, {}, teacher_offload='blocks').teacher_offload.parts) == 1 + 9
    with pytest.raises(SettingError, match='teacher_offload'):
        build(small, small, teacher_offload='blocks')


def test_a_copy_is_a_distillation_too(build: Callable, batch: Callable) -> None:
    """As ``EMAHook`` makes one, and moves it."""
    model = build(teacher_offload='networks')
    copied = copy.deepcopy(model)
    want, got = (each.train().loss(*batch()) for each in (model, copied))
    assert all(torch.allclose(got[name], want[name], atol=1e-6) for name in want)
    copied.double()
    assert {p.dtype for p in model.teacher.parameters()} == {torch.float32}


def test_predictions_are_those_of_all_teachers(build: Callable, batch: Callable) -> None:
    images, samples = batch()
    model = build(predict_also=['teacher']).eval()
    predictions = model(images, samples, mode='predict')
    got = torch.stack([sample.teacher_score for sample in predictions])
    assert torch.allclose(got, model.run_teacher(images, samples).softmax(1), atol=1e-6)


def test_configs_name_each_network_in_full() -> None:
    config = 'icd_mmrazor::vanilla/res8_cifar100.py'
    teachers = [dict(teacher=config, teacher_ckpt='x.pth'), dict(teacher='resnet18_8xb32_in1k')]
    model = ConfigDict(type='FrozenTeacherDistill', architecture=config, teachers=teachers)
    name_networks_in_full(model)
    first, second = model.teachers
    assert first.teacher.type == second.teacher.type == model.architecture.type == 'ImageClassifier'
    assert first.teacher_ckpt == 'x.pth'
    assert second.teacher_ckpt.startswith('https://')
    assert 'teacher' not in model


def test_a_checkpoint_of_another_network_is_refused_by_number(build: Callable, teacher_file: Callable) -> None:
    with pytest.raises(CheckpointError, match=r'teachers\[1\]'):
        build({}, dict(teacher_ckpt=teacher_file('res8')))


@pytest.mark.parametrize(
    ('settings', 'named'),
    [
        (dict(teachers=[]), 'teachers'),
        (dict(teachers=[dict(teacher='resnet18_8xb32_in1k')]), 'teachers'),
        (dict(teachers='resnet18_8xb32_in1k'), 'teachers'),
        (dict(teachers=None), 'model.teachers'),
        (dict(teacher='resnet18_8xb32_in1k'), 'teacher and teachers'),
        (dict(teacher_ckpt='x.pth'), 'teacher_ckpt and teachers'),
        (dict(teacher_combination='best'), 'teacher_combination'),
        (dict(teacher_offload='gpu'), 'teacher_offload'),
        (dict(teacher_offload=True), 'teacher_offload'),
        (dict(teacher_offload='blocks', torch_compile=True), 'torch_compile'),
        (dict(teacher_precision='bf8'), 'teacher_precision'),
        (dict(distiller=dict(type='ICDDistiller')), '0.pooled'),
        (dict(distiller=dict(type='ICDDistiller', teacher_member=2)), 'teacher 2'),
        (dict(distiller=dict(type='ICDDistiller', teacher_member='0')), 'teacher_member'),
        (dict(distiller=dict(MAPS, teacher_member=1)), "features='1.maps'.*teacher_member"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict, named: str, build: Callable) -> None:
    with pytest.raises(SettingError, match=named):
        build(**settings)


@pytest.mark.parametrize(
    ('change', 'named'),
    [
        (dict(teacher_ckpt=None), r'teachers\[1\]: .*teacher_ckpt'),
        (dict(teacher_cpkt='x'), r'teachers\[1\].*teacher_cpkt'),
        (dict(weight=-1.0), r'teachers\[1\].weight'),
        (dict(teacher_precision='int8'), r'teachers\[1\].teacher_precision'),
        (dict(teacher=None), r'teachers\[1\]'),
        (dict(teacher='resnet19'), r'teachers\[1\]: .*resnet19'),
        (dict(teacher_preprocessor='imagenet'), r'teachers\[1\].*teacher_preprocessor'),
        (dict(teacher_feature='mean'), r'teachers\[1\].*teacher_feature'),
    ],
)
def test_a_setting_of_one_teacher_is_refused_by_its_number(change: dict, named: str, build: Callable) -> None:
    with pytest.raises(SettingError, match=named):
        build({}, change)


def test_logits_of_other_classes_are_not_combined(build: Callable, network: Callable, teacher_file: Callable) -> None:
    other = dict(teacher=network('res20', 7), teacher_ckpt=teacher_file('res20', 7))
    with pytest.raises(SettingError, match='10, 7'):
        build({}, other)
    first = copy.deepcopy(KD)
    first['losses']['kd']['features'] = '1.logits'
    with pytest.raises(SettingError, match='7 classes'):
        build({}, other, distiller=first)


def test_features_of_a_teacher_of_other_classes_are_compared(
    build: Callable, network: Callable, teacher_file: Callable, batch: Callable
) -> None:
    headless = dict(teacher=dict(type='mmpretrain.VisionTransformer', **VIT), random_teacher=True, teacher_ckpt=None)
    losses = dict(
        kd=dict(loss=dict(type='KLDivergence'), features='0.logits'),
        vit=dict(loss=dict(type='RKDLoss'), features='1.pooled'),
        other=dict(loss=dict(type='RKDLoss'), features='2.pooled'),
    )
    other = dict(teacher=network('res20', 7), teacher_ckpt=teacher_file('res20', 7))
    model = build({}, headless, other, distiller=dict(type='FeatureDistiller', losses=losses))
    assert {'distill.loss_kd', 'distill.loss_vit', 'distill.loss_other'} <= {*model.loss(*batch())}
    with pytest.raises(SettingError, match=r'1 has no classifier'):
        build({}, headless, other)
    with pytest.raises(SettingError, match='has no classifier'):
        build(
            {},
            headless,
            distiller=dict(type='FeatureDistiller', losses=dict(kd=dict(losses['kd'], features='1.logits'))),
        )
