"""The student of SimKD as a config: a projector and the teacher's classifier behind its backbone."""

from collections.abc import Callable

import pytest
import torch
from helpers import CONFIGS, whole_network
from mmengine.config import Config
from mmrazor.registry import MODELS

from icd_mmrazor import recipes
from icd_mmrazor.errors import SettingError
from icd_mmrazor.export.latency import multiply_adds
from icd_mmrazor.models.networks.changed_student import changed_config, changing_distiller, record_changed_student
from icd_mmrazor.models.networks.student import student_of

VIT = dict(
    type='VisionTransformer',
    arch=dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=16),
    img_size=32,
    patch_size=16,
)
SIMKD = dict(_scope_='mmrazor', type='SimKDDistiller')


@pytest.fixture
def settings(network: Callable) -> Callable[..., dict]:
    """Return the settings of a distillation; networks of the digits by name."""

    def make(student: object = 'res8', teacher: object = 'res20', **others: object) -> dict:
        student, teacher = (network(each) if isinstance(each, str) else each for each in (student, teacher))
        return dict(architecture=student, teacher=teacher, distiller=dict(SIMKD), **others)

    return make


def test_only_a_distiller_that_says_so_changes_the_student(settings: Callable) -> None:
    mixed = dict(type='MixedDistiller', distillers=dict(icd=dict(type='ICDDistiller'), simkd=dict(SIMKD, factor=4)))
    assert changing_distiller(mixed) == dict(SIMKD, factor=4)
    assert changing_distiller(dict(type='ICDDistiller', kd=dict(type='KLDivergence'))) is None
    assert changing_distiller(None) is None
    assert changed_config({**settings(), 'distiller': dict(type='ICDDistiller')}) is None
    with pytest.raises(SettingError, match='2 distillers'):
        changing_distiller(dict(type='MixedDistiller', distillers=dict(a=dict(SIMKD), b=dict(SIMKD))))


def test_what_is_written_is_complete_and_changes_nothing_else(settings: Callable) -> None:
    given = settings(teacher='res8x4')
    given['architecture'].update(train_cfg=dict(augments=dict(type='Mixup', alpha=1.0)), _scope_='mmpretrain')
    given['architecture'].head.update(topk=(1, 5), loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1))
    before, state = Config(given).to_dict(), torch.get_rng_state()
    student = changed_config(given)
    assert Config(given).to_dict() == before
    assert torch.equal(torch.get_rng_state(), state)
    assert student.backbone == given['architecture'].backbone
    assert student.train_cfg == given['architecture'].train_cfg
    assert student.type == 'ProjectedClassifier'
    assert student.neck == dict(type='SimKDProjector', in_channels=64, out_channels=256)
    loss = dict(type='LabelSmoothLoss', label_smooth_val=0.1)
    assert student.head == dict(
        type='LinearClsHead', num_classes=10, in_channels=256, init_cfg=None, topk=(1, 5), loss=loss
    )
    given['architecture'] = student
    assert changed_config(given) == student


def test_settings_of_the_distiller_count(settings: Callable) -> None:
    given = settings()
    given['distiller'].update(factor=8, teacher_source='head.fc', image_shape=(3, 16, 16))
    assert changed_config(given).neck.factor == 8
    given['distiller']['teacher_source'] = 'head.nothing'
    with pytest.raises(SettingError, match=r'teacher_source.*head\.nothing'):
        changed_config(given)


def test_a_larger_map_of_the_student_is_pooled_first(settings: Callable) -> None:
    student = changed_config(settings('res8', 'vgg8'))
    assert student.neck['size'] == (4, 4)
    model = MODELS.build(student).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        (features,) = model.backbone(images)
        assert features.shape[2:] == (8, 8)
        pooled = torch.nn.functional.avg_pool2d(features, 2)
        expected = model.head.fc(model.neck.layers(pooled).mean((2, 3)))
        torch.testing.assert_close(model(images), expected)
    assert 'size' not in changed_config(settings('vgg8', 'res8')).neck


def test_a_teacher_whose_map_has_negative_values(settings: Callable) -> None:
    arch = dict(depths=[1, 1, 1, 1], channels=[8, 16, 24, 32])
    convnext = dict(type='ConvNeXt', arch=arch, gap_before_final_norm=False)
    neck = dict(type='GlobalAveragePooling')
    head = dict(type='LinearClsHead', num_classes=10, in_channels=32)
    teacher = dict(type='ImageClassifier', backbone=convnext, neck=neck, head=head)
    assert changed_config(settings('res8', teacher)).neck.last_relu is False
    assert 'last_relu' not in changed_config(settings('res8', 'wrn16-1')).neck


def test_several_labels_and_other_heads(settings: Callable, network: Callable) -> None:
    student = network('res8')
    student.head = dict(type='MultiLabelLinearClsHead', num_classes=10, in_channels=64, thr=0.3)
    head = changed_config(settings(student)).head
    assert (head.type, head.thr, head.init_cfg) == ('MultiLabelLinearClsHead', 0.3, None)
    student.head = dict(type='StackedLinearClsHead', num_classes=10, in_channels=64, mid_channels=[12], topk=(1,))
    assert changed_config(settings(student)).head == dict(
        type='LinearClsHead', num_classes=10, in_channels=64, init_cfg=None, topk=(1,)
    )


def test_one_of_several_teachers(settings: Callable, network: Callable) -> None:
    given = settings()
    del given['teacher']
    given['teachers'] = [dict(teacher=network('res8x4')), dict(teacher=network('res14'))]
    with pytest.raises(SettingError, match=r'teacher_member=None .*0 to 1'):
        changed_config(given)
    for member, width in ((0, 256), (1, 64)):
        given['distiller']['teacher_member'] = member
        assert changed_config(given).head.in_channels == width


def test_images_of_another_size_for_the_teacher(settings: Callable) -> None:
    """A map of the teacher is as large as the images that it gets."""
    given = settings('res8', 'res14', teacher_preprocessor=dict(size=16))
    assert changed_config(given).neck['size'] == (4, 4)
    given['teacher_preprocessor'] = 'student'
    assert 'size' not in changed_config(given).neck


@pytest.mark.parametrize(
    ('student', 'message'),
    [
        (dict(type='TimmClassifier', model_name='test_resnet', num_classes=10), 'TimmClassifier.*TIMMBackbone'),
        (dict(type='ImageClassifier', backbone=VIT), 'VisionTransformer.*not a map'),
    ],
)
def test_a_student_without_maps(student: dict, message: str, settings: Callable) -> None:
    with pytest.raises(SettingError, match=f'SimKDDistiller: the student.*{message}'):
        changed_config(settings(student))


def test_the_form_of_a_student_of_timm_that_the_message_names(settings: Callable) -> None:
    pytest.importorskip('timm')
    backbone = dict(type='TIMMBackbone', model_name='test_resnet', features_only=True, pretrained=True)
    student = changed_config(settings(dict(type='ImageClassifier', backbone=backbone)))
    student.backbone.pretrained = False
    assert MODELS.build(student)(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_other_classes_are_refused(settings: Callable, network: Callable) -> None:
    with pytest.raises(SettingError, match=r'SimKDDistiller.* 10 classes.* 7 .*same classes'):
        changed_config(settings(network('res8', 7)))


def test_a_run_that_names_the_networks() -> None:
    """The config that is stored has the changed student; one that is not recorded gives the same."""
    files = [str(CONFIGS / 'vanilla' / f'{name}_cifar100.py') for name in ('res8', 'res14')]
    networks = dict(architecture=files[0], teacher=files[1])
    model = Config(dict(model=dict(type='FrozenTeacherDistill', distiller=SIMKD, **networks))).model
    expected = student_of(Config(dict(model=model)))
    assert expected.type == 'ProjectedClassifier'
    record_changed_student(model)
    assert expected == {'_scope_': 'mmpretrain', **model.architecture}
    assert student_of(Config(dict(model=model))) == expected


def test_the_short_config_and_the_recipe_have_the_same_student() -> None:
    file = CONFIGS / 'simkd' / 'simkd_res32x4_res8x4_cifar100.py'
    cfg = Config.fromfile(file)
    assert cfg.model.architecture == Config.fromfile(CONFIGS / 'vanilla' / 'res8x4_cifar100.py').model
    composed = recipes.compose('res32x4_res8x4_cifar100', ['simkd'])
    assert composed.model.architecture.type == 'ProjectedClassifier'
    assert student_of(cfg) == student_of(composed)


def test_pretrained_weights_are_not_read_to_find_shapes(settings: Callable) -> None:
    given = settings(whole_network(), whole_network())
    given['architecture']['backbone']['init_cfg'] = dict(type='Pretrained', checkpoint='nowhere.pth')
    given['teacher']['init_cfg'] = dict(type='Pretrained', checkpoint='nowhere.pth')
    student = changed_config(given)
    assert student.backbone.init_cfg.checkpoint == 'nowhere.pth'


@pytest.mark.parametrize('pair', ['res56_res20', 'wrn40-2_wrn16-2', 'vgg13_mobilenetv2'])
def test_the_page_tells_the_true_cost(pair: str) -> None:
    page = (CONFIGS / 'simkd' / 'README.md').read_text()
    (row,) = [line for line in page.splitlines() if line.startswith(f'| `{pair}` |')]
    images, cells = torch.zeros(1, 3, 32, 32), []
    composed = recipes.compose(f'{pair}_cifar100', ['simkd'])
    plain = recipes.compose(f'{pair}_cifar100', ['student'])
    networks = [MODELS.build(cfg).eval() for cfg in (plain.model, composed.model.architecture)]
    cells = [f'{sum(parameter.numel() for parameter in network.parameters()):,}' for network in networks]
    cells += [f'{multiply_adds(network, images) / 1e6:.1f} M' for network in networks]
    assert row == f'| `{pair}` | {" | ".join(cells)} |'
