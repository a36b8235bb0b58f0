"""Names of networks, and where their classifiers are."""

import copy
import re
from pathlib import Path

import pytest
import torch
from helpers import CONFIGS
from mmengine.config import Config, ConfigDict
from mmpretrain import list_models
from mmpretrain.apis.model import ModelHub
from mmrazor.registry import MODELS
from torch import nn

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.networks.classifier_layer import find_classifier, number_of_classes
from icd_mmrazor.models.networks.resolve import name_networks_in_full, network_config, published_weights

RES8 = CONFIGS / 'vanilla' / 'res8_cifar100.py'
RESNET18 = 'resnet18_8xb32_in1k'


def test_every_form_gives_the_full_config() -> None:
    cfg = Config.fromfile(RES8)
    want = {**cfg.model, 'data_preprocessor': cfg.data_preprocessor}
    names = [str(RES8), 'icd_mmrazor::vanilla/res8_cifar100.py', 'icd_mmrazor::vanilla/res8_cifar100']
    for form in (*names, *(dict(cfg_path=name, pretrained=False) for name in names)):
        assert network_config(form, 'model.teacher') == want
    changed = network_config(dict(cfg_path=names[0], head=dict(num_classes=7)), 'model.teacher')
    assert changed.head == {**cfg.model.head, 'num_classes': 7}
    assert changed.backbone == cfg.model.backbone
    with_type = dict(type='ImageClassifier', backbone=dict(type='ResNet', depth=18))
    assert network_config(with_type, 'model.teacher') == {'_scope_': 'mmpretrain', **with_type}


def test_the_model_zoo() -> None:
    by_name = network_config(RESNET18, 'model.teacher')
    assert by_name == network_config(f'mmpretrain::resnet/{RESNET18}.py', 'model.teacher')
    assert by_name.backbone.depth == 18
    assert by_name.data_preprocessor.mean == [123.675, 116.28, 103.53]
    assert re.fullmatch(r'https://.*/resnet18_8xb32_in1k_20210831-fbbb1da6\.pth', published_weights(RESNET18))
    assert published_weights(str(RES8)) is None
    with pytest.raises(SettingError, match=rf"model\.teacher='resnet18'.*{RESNET18}"):
        network_config('resnet18', 'model.teacher')


def test_a_stored_config_needs_no_other_file() -> None:
    model = ConfigDict(type='FrozenTeacherDistill', architecture=dict(cfg_path=str(RES8)), teacher=RESNET18)
    name_networks_in_full(model)
    assert model.architecture.backbone.type == 'CIFARResNet'
    assert model.teacher.backbone.type == 'ResNet'
    assert model.teacher_ckpt == published_weights(RESNET18)
    before = model.to_dict()
    name_networks_in_full(model)
    assert model.to_dict() == before


@pytest.mark.parametrize(
    ('network', 'message'),
    [
        (None, r'model\.teacher=None'),
        (dict(depth=18), "model.teacher={'depth': 18}"),
        ('nowhere.py', r"model\.teacher='nowhere\.py'"),
        ('mmpretrain::resnet/nowhere.py', r"model\.teacher='mmpretrain::resnet/nowhere\.py'"),
        ('mmpretrain::../mine.py', r"'mmpretrain::\.\./mine\.py'.* outside"),
        ('mmnothing::a.py', "package 'mmnothing'"),
        (str(CONFIGS / '_base_/models/res8.py'), r'model=dict\(type=\.\.\.\).* res8'),
        (str(CONFIGS / 'icd/icd_res56_res20_cifar100.py'), 'FrozenTeacherDistill, not a classifier'),
        ('cn-clip_vit-base-p16_zeroshot-cls_cifar100', 'ChineseCLIP, not a classifier'),
        (dict(cfg_path=str(RES8), pretrained=True), 'pretrained=True.*teacher_ckpt=FILE'),
    ],
)
def test_refuses_what_does_not_name_a_classifier(network: object, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        network_config(network, 'model.teacher')


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        ("_base_ = ['./absent.py']", 'absent.py'),
        ("_base_ = ['./base.py']\nmodel = dict(head=_base_['pipeline'][1])", r'line 2.*KeyError'),
    ],
)
def test_a_broken_config_of_the_zoo_is_one_message(
    text: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'base.py').write_text('a = 1')
    (tmp_path / 'network.py').write_text(text)
    assert RESNET18 in list_models()
    # its copies share what they hold in mmpretrain 1.2.0
    entry = copy.deepcopy(ModelHub._models_dict[RESNET18])
    entry.config = str(tmp_path / 'network.py')
    monkeypatch.setitem(ModelHub._models_dict, RESNET18, entry)
    with pytest.raises(SettingError, match=rf"model\.teacher='{RESNET18}'.*{reason}"):
        network_config(RESNET18, 'model.teacher')
    assert published_weights(RESNET18).endswith('.pth')


def test_what_needs_more_packages_is_not_taken_for_a_classifier() -> None:
    """Networks for images and text: where their packages are missing, mmpretrain registers a function of that name."""
    with pytest.raises(SettingError, match='BlipCaption, not a classifier'):
        network_config('blip-base_3rdparty_caption', 'model.teacher')


def built(head: dict, **backbone: object) -> nn.Module:
    cfg = dict(type='ImageClassifier', backbone=dict(type='ResNet', depth=18, **backbone), head=head)
    return MODELS.build({'_scope_': 'mmpretrain', **cfg})


def test_finds_the_classifier() -> None:
    assert find_classifier(built(dict(type='LinearClsHead', num_classes=7, in_channels=512))) == 'head.fc'
    vit = built(dict(type='VisionTransformerClsHead', num_classes=7, in_channels=512, hidden_dim=16))
    assert find_classifier(vit) == 'head.layers.head'
    stacked = built(dict(type='StackedLinearClsHead', num_classes=7, in_channels=512, mid_channels=[32, 16]))
    name = find_classifier(stacked)
    layer = stacked.get_submodule(name)
    assert (name.split('.')[0], layer.in_features, layer.out_features) == ('head', 16, 7)
    assert find_classifier(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Linear(4, 2))) == '1'


def test_says_why_there_is_no_classifier() -> None:
    deit = built(dict(type='DeiTClsHead', num_classes=7, in_channels=512))
    # that of the class token; the other one is distillation_logits
    assert find_classifier(deit, 'student_source') == 'head.layers.head'
    with pytest.raises(SettingError, match='ImageClassifier has no classifier'):
        find_classifier(built(None))
    wrong = built(dict(type='LinearClsHead', num_classes=7, in_channels=512))
    wrong.head.fc = nn.Linear(512, 8)
    with pytest.raises(SettingError, match=r'7 outputs.*head\.fc \(8 outputs\)'):
        find_classifier(wrong)


def test_timm() -> None:
    """A whole network of timm, and its networks as backbones: maps are pooled, so those of a ViT must be maps."""
    pytest.importorskip('timm')
    small_vit = dict(model_name='vit_tiny_patch16_224', img_size=32, patch_size=16, depth=1)
    whole = MODELS.build(dict(_scope_='mmpretrain', type='TimmClassifier', num_classes=7, **small_vit))
    assert (find_classifier(whole), number_of_classes(whole)) == ('model.head', 7)
    for width, backbone in (
        (512, dict(model_name='resnet10t')),
        (192, dict(**small_vit, features_only=True, out_indices=(-1,))),
    ):
        cfg = dict(
            type='ImageClassifier',
            backbone=dict(type='TIMMBackbone', **backbone),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=7, in_channels=width),
        )
        model = MODELS.build({'_scope_': 'mmpretrain', **cfg})
        assert find_classifier(model) == 'head.fc'
        assert model(torch.randn(2, 3, 32, 32), mode='tensor').shape == (2, 7)
