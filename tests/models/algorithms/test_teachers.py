"""Distillations from teachers without a classifier, of other classes, or with their own view of the images."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import CONFIGS
from mmengine.config import Config, ConfigDict
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import Tensor, nn
from torch.nn.functional import interpolate

from icd_mmrazor.compat.layout import laid_out
from icd_mmrazor.errors import CheckpointError, SettingError
from icd_mmrazor.models.networks.resolve import name_networks_in_full

ARCH = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=32)
VIT = dict(type='VisionTransformer', arch=ARCH, img_size=32, patch_size=8)
ICD = dict(type='ICDDistiller')
KD = dict(type='ICDDistiller', kd=dict(tau=4.0))
PREPROCESSOR = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
OWN = dict(mean=[127.5] * 3, std=[63.75] * 3)


@pytest.fixture
def distillation(network: Callable) -> Callable[..., nn.Module]:
    def build(**settings: Any) -> nn.Module:
        defaults = dict(architecture=network('res8'), teacher=dict(VIT), distiller=ICD, random_teacher=True)
        return MODELS.build({'_scope_': 'mmrazor', 'type': 'FrozenTeacherDistill', **defaults, **settings})

    return build


def seen(model: nn.Module, images: Tensor) -> Tensor:
    """Return the images that reach the teacher."""
    inputs: list[Tensor] = []
    handle = model.teacher.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    model.run_teacher(images)
    handle.remove()
    return inputs[0]


@pytest.mark.parametrize('teacher', ['headless', 'other classes'])
@pytest.mark.parametrize('method', ['icd', 'rrd', 'crd', 'rkd', 'pkt', 'sp', 'cc'])
def test_methods_that_compare_pooled_features(
    method: str, teacher: str, distillation: Callable, network: Callable, batch: Callable
) -> None:
    images, samples = batch()
    for position, sample in enumerate(samples):
        sample.set_metainfo(dict(sample_idx=position))
    networks = dict(headless=dict(VIT), **{'other classes': network('res20', 7)})
    distiller = Config.fromfile(CONFIGS / '_base_' / 'methods' / f'{method}.py')[method]
    model = distillation(teacher=networks[teacher], distiller=distiller).train()
    for loss in model.distiller.distill_losses.values():
        if hasattr(loss, 'set_dataset'):
            loss.set_dataset(torch.arange(len(images)))
    total, log = model.parse_losses(model(images, samples, mode='loss'))
    assert any('distill.loss' in name for name in log)
    total.backward()
    for name, parameter in model.architecture.named_parameters():
        if not name.startswith('head'):
            assert torch.isfinite(parameter.grad).all(), name
    assert model.architecture.backbone.conv1.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.teacher.parameters())


@pytest.mark.parametrize('distiller', [KD, dict(type='FeatureDistiller', losses=dict(kd=dict(
    loss=dict(type='KLDivergence'), features='logits')))])  # fmt: skip
def test_logits_are_asked_for_in_vain(distiller: dict, distillation: Callable) -> None:
    with pytest.raises(SettingError, match=r'the teacher has no classifier.*TeacherProbe'):
        distillation(distiller=distiller)


def test_a_student_needs_a_classifier(distillation: Callable) -> None:
    with pytest.raises(SettingError, match=r'has no classifier\. Give it a head'):
        distillation(architecture=dict(VIT), teacher=dict(VIT))


def test_the_loss_is_that_of_the_feature(distillation: Callable, batch: Callable) -> None:
    images, samples = batch()
    model = distillation(teacher_feature='mean').eval()
    losses = model(images, samples, mode='loss')
    tokens = model.teacher.backbone(images)[-1]  # told to return them
    features = (model.architecture.extract_feat(images, stage='pre_logits'), tokens[:, 1:].mean(1))
    sides = zip(('student', 'teacher'), features, strict=True)
    embeddings = [model.distiller.connectors[f'icd_{side}'](feature) for side, feature in sides]
    want = model.distiller.distill_losses['loss_icd'](*embeddings)
    torch.testing.assert_close(losses['distill.loss_icd'], want, rtol=1e-4, atol=1e-5)


class Own(nn.Module):
    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 4, 4), nn.BatchNorm2d(width)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.stem(images)).relu()


@pytest.fixture
def registered() -> Iterator[None]:
    MODELS.register_module(name='OwnOfTest', module=Own)
    yield
    MODELS.module_dict.pop('OwnOfTest')


@pytest.mark.usefixtures('registered')
@pytest.mark.parametrize('form', ['built', 'config', 'file'])
def test_a_module_of_the_users_own(form: str, distillation: Callable, batch: Callable, tmp_path: Path) -> None:
    own = Own()
    torch.save(own.state_dict(), tmp_path / 'own.pth')
    (tmp_path / 'own.py').write_text("model = dict(type='OwnOfTest', width=12)")
    forms = dict(built=own, config=dict(type='OwnOfTest'), file=str(tmp_path / 'own.py'))
    model = distillation(teacher=forms[form], teacher_ckpt=str(tmp_path / 'own.pth'), random_teacher=False)
    assert model.distiller.connectors['icd_teacher'].linear.in_features == 12
    assert model.teacher.model.stem.weight.equal(own.stem.weight)
    assert not model.teacher.model.norm.training
    assert torch.isfinite(model(*batch(), mode='loss')['distill.loss_icd'])


def test_a_file_of_the_backbone(distillation: Callable, tmp_path: Any) -> None:
    source = MODELS.build({'_scope_': 'mmpretrain', **VIT})
    source.cls_token.data.normal_()
    torch.save(source.state_dict(), tmp_path / 'vit.pth')
    model = distillation(teacher_ckpt=str(tmp_path / 'vit.pth'), random_teacher=False)
    assert model.teacher.backbone.cls_token.equal(source.cls_token)
    assert not [name for name in model.state_dict() if name.startswith('teacher')]
    torch.save({'a': torch.zeros(2)}, tmp_path / 'vit.pth')
    with pytest.raises(CheckpointError, match='teacher_ckpt'):
        distillation(teacher_ckpt=str(tmp_path / 'vit.pth'), random_teacher=False)


@pytest.fixture
def raw() -> dict[str, list]:
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return {'inputs': list(images), 'data_samples': [DataSample().set_gt_label(i) for i in range(6)]}


def pixels(raw: dict, **settings: Any) -> Tensor:
    return ClsDataPreprocessor(**settings)(dict(inputs=list(raw['inputs'])))['inputs']


@pytest.mark.parametrize(
    'setting', ['auto', 'student', dict(mean=[100.0] * 3, std=[50.0] * 3), dict(to_rgb=True)], ids=str
)
def test_the_teachers_own_normalisation(setting: Any, distillation: Callable, network: Callable, raw: dict) -> None:
    teacher = network('res20')
    teacher.data_preprocessor = dict(OWN)
    model = distillation(teacher=teacher, data_preprocessor=dict(PREPROCESSOR), teacher_preprocessor=setting)
    images = model.data_preprocessor(dict(raw), True)['inputs']
    own = PREPROCESSOR if setting == 'student' else {**OWN, **(setting if isinstance(setting, dict) else {})}
    torch.testing.assert_close(seen(model, images), pixels(raw, **own), rtol=1e-6, atol=1e-6)
    if setting == 'student':
        assert seen(model, images).equal(images)


@pytest.mark.parametrize(
    ('setting', 'size'), [('auto', 48), ('student', 32), (dict(size=64), 64), (dict(size=[32, 64]), (32, 64))]
)
def test_sizes(setting: Any, size: Any, distillation: Callable, batch: Callable) -> None:
    images, samples = batch()
    model = distillation(teacher=dict(VIT, img_size=48), teacher_preprocessor=setting)
    got = seen(model, images)
    want = images if size == 32 else interpolate(images, size, mode='bilinear', antialias=True)
    torch.testing.assert_close(got, want)
    assert torch.isfinite(model(images, samples, mode='loss')['distill.loss_icd'])


def test_timms_preparation_is_that_of_its_weights(distillation: Callable, tmp_path: Any) -> None:
    timm = pytest.importorskip('timm')
    for classes, own in ((1000, True), (10, False)):
        source = timm.create_model('resnet10t', num_classes=classes)
        torch.save(source.state_dict(), tmp_path / 'timm.pth')
        teacher = dict(type='TimmClassifier', model_name='resnet10t', num_classes=classes)
        settings = dict(teacher=teacher, teacher_ckpt=str(tmp_path / 'timm.pth'), random_teacher=False)
        view = distillation(**settings, data_preprocessor=dict(OWN)).teacher_view
        assert view.changes == own
        if own:
            assert view.own.mean == pytest.approx([255 * m for m in source.pretrained_cfg['mean']])
            assert view.size == tuple(source.pretrained_cfg['input_size'][1:])
    # of a name the normalisation is known
    named = distillation(teacher=dict(cfg_path='timm/resnet10t', num_classes=10), data_preprocessor=dict(OWN))
    assert named.teacher_view.own.std == pytest.approx([58.395, 57.12, 57.375])
    assert named.teacher_view.size is None


def test_published_weights_of_a_hub(distillation: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As timm loads them: here from a file, or not at all without a connection."""
    timm = pytest.importorskip('timm')
    source = timm.create_model('resnet10t').eval()
    torch.save(source.state_dict(), tmp_path / 'resnet10t.pth')
    published = dict(cfg_path='timm/resnet10t', pretrained_cfg_overlay=dict(file=str(tmp_path / 'resnet10t.pth')))
    for feature in (dict(published), dict(published, num_classes=0)):
        model = distillation(teacher=feature, random_teacher=False)
        assert model.teacher_ckpt == 'published for resnet10t'
        inner = model.teacher.model
        assert inner.layer4[0].conv1.weight.equal(source.layer4[0].conv1.weight)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    with pytest.raises(SettingError, match=r'could not be loaded.*model\.teacher_ckpt'):
        distillation(teacher='timm/resnet10t', random_teacher=False)
    with pytest.raises(SettingError, match='num_classes=10'):
        distillation(teacher=dict(cfg_path='timm/resnet10t', num_classes=10), random_teacher=False)


def test_a_stored_config_loads_the_same_weights() -> None:
    pytest.importorskip('timm')
    model = ConfigDict(teacher='timm/resnet10t', architecture=dict(cfg_path='timm/resnet10t', num_classes=10))
    name_networks_in_full(model)
    assert (model.teacher.model_name, model.teacher.pretrained) == ('resnet10t', True)
    assert 'pretrained' not in model.architecture
    for given in (dict(teacher_ckpt='resnet10t.pth'), dict(random_teacher=True)):
        model = ConfigDict(teacher='timm/resnet10t', **given)
        name_networks_in_full(model)
        assert 'pretrained' not in model.teacher


@pytest.mark.parametrize('to_rgb', [True, False])
def test_networks_of_a_hub_take_rgb(to_rgb: bool, distillation: Callable) -> None:
    pytest.importorskip('timm')
    settings = dict(teacher='timm/resnet10t', data_preprocessor=dict(PREPROCESSOR, to_rgb=to_rgb))
    for source, turned in (('BGR', not to_rgb), ('RGB', to_rgb), ('NPZDataset', False)):
        model = distillation(**settings)
        model.check_order_of_channels(source)
        assert model.teacher_view.turned == turned, source


@pytest.mark.parametrize(
    ('setting', 'name'),
    [
        ('own', 'teacher_preprocessor'),
        (None, 'teacher_preprocessor'),
        (dict(sizes=32), "'sizes'.*size"),
        (dict(mean=[1.0] * 3), 'mean and std'),
        (dict(mean=[1.0] * 3, std=[1.0, 0.0, 1.0]), r'teacher_preprocessor\.std'),
        (dict(mean=1.0, std=[1.0]), r'teacher_preprocessor\.mean'),
        (dict(size=0), r'teacher_preprocessor\.size'),
        (dict(size=[3, 4, 5]), r'teacher_preprocessor\.size'),
        (dict(to_rgb='yes'), r'teacher_preprocessor\.to_rgb'),
        (dict(interpolation='nearest'), r'teacher_preprocessor\.interpolation'),
    ],
    ids=str,
)
def test_settings_are_checked(setting: Any, name: str, distillation: Callable) -> None:
    with pytest.raises(SettingError, match=name):
        distillation(teacher_preprocessor=setting)


def test_padding_is_not_converted(distillation: Callable, network: Callable) -> None:
    teacher = network('res20')
    teacher.data_preprocessor = dict(OWN)
    model = distillation(teacher=teacher, data_preprocessor=dict(PREPROCESSOR, pad_size_divisor=16, pad_value=3))
    assert not model.teacher_view.changes


@pytest.mark.parametrize('channels_last', [True, False])
def test_everything_at_once(channels_last: bool, distillation: Callable, raw: dict) -> None:
    """Mixed images in half precision, one graph: the same losses as without a graph."""
    settings = dict(
        teacher=dict(VIT, img_size=48, data_preprocessor=dict(OWN, to_rgb=True)),
        data_preprocessor=dict(PREPROCESSOR, batch_augments=dict(augments=dict(type='Mixup', alpha=0.8))),
        teacher_precision='bf16',
        teacher_preprocessor=dict(to_rgb=True),
        channels_last=channels_last,
    )
    losses = []
    for compiled in (False, dict(backend='eager', fullgraph=True)):
        torch.manual_seed(0)
        model = distillation(**settings, torch_compile=compiled).eval()
        torch.manual_seed(1)
        data = model.data_preprocessor(copy.deepcopy(raw), True)
        assert (torch.stack([sample.gt_score for sample in data['data_samples']]) > 0).sum(1).max() == 2
        losses.append(model(data['inputs'], data['data_samples'], mode='loss'))
        assert bool(model.torch_compile) == bool(compiled)
        got = seen(model, laid_out(data['inputs'], channels_last))
        assert got.is_contiguous(memory_format=torch.channels_last) == channels_last
        assert got.shape[-2:] == (48, 48)
    for name, value in losses[0].items():
        torch.testing.assert_close(losses[1][name], value, rtol=1e-2, atol=1e-3)
