"""Networks without a classifier, against what their libraries return."""

from collections.abc import Callable

import pytest
import torch
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor.configuration.type_names import type_name
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.distillers.named_features import NamedFeatures
from icd_mmrazor.models.networks.classifier_layer import find_classifier, is_headless, number_of_classes, pooling_layer
from icd_mmrazor.models.networks.headless import as_teacher, cut_own_classifier
from icd_mmrazor.models.networks.image_size import image_size_of
from icd_mmrazor.models.networks.pooled_feature import PooledFeature
from icd_mmrazor.models.networks.resolve import network_config
from icd_mmrazor.models.networks.teacher_weights import load_teacher

ARCH = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=32)
VIT = dict(type='VisionTransformer', arch=ARCH, img_size=32, patch_size=8)
SWIN = dict(
    type='SwinTransformer', arch=dict(embed_dims=12, depths=[1] * 4, num_heads=[2] * 4), img_size=32, pad_small_map=True
)


def built(**cfg: object) -> nn.Module:
    return MODELS.build({'_scope_': 'mmpretrain', **cfg})


def of_backbone(backbone: dict, **more: object) -> nn.Module:
    return built(type='ImageClassifier', backbone=dict(backbone), **more)


def of_timm(name: str, **settings: object) -> nn.Module:
    pytest.importorskip('timm')
    return built(type='TimmClassifier', model_name=name, **settings)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def pooled(network: nn.Module, images: Tensor) -> Tensor:
    """Return what a distiller would record."""
    outputs: list[Tensor] = []
    layer = network.get_submodule(pooling_layer(network))
    layer.register_forward_hook(lambda *args: outputs.append(args[-1]))
    network.eval()(images, None, mode='tensor')
    (output,) = outputs
    return output


@torch.no_grad()
def raw(network: nn.Module, images: Tensor) -> Tensor:
    """Return tokens of a network of mmpretrain, by a second network with its weights that returns all of them."""
    network.eval().backbone.out_type = 'raw'
    return network.extract_feat(images)[-1]


TIMM_VIT = dict(img_size=32, depth=2, num_classes=0)


@pytest.mark.parametrize('backbone', [VIT, dict(VIT, type='BEiTViT', out_type='cls_token'), dict(VIT, type='ViTEVA02')])
def test_transformers_of_mmpretrain(backbone: dict, images: Tensor) -> None:
    def network() -> nn.Module:
        torch.manual_seed(0)
        return of_backbone(backbone)

    assert is_headless(network())
    tokens = raw(network(), images)
    mean = tokens[:, 1:].mean(1)
    want = {'auto': tokens[:, 0], 'class_token': tokens[:, 0], 'mean': mean}
    want['class_token+mean'] = torch.cat([tokens[:, 0], mean], 1)
    for feature, expected in want.items():
        torch.testing.assert_close(pooled(as_teacher(network(), feature), images), expected)


@pytest.mark.parametrize('backbone', [SWIN, dict(type='ConvNeXt', arch='atto'), dict(type='ResNet', depth=18)])
def test_maps_are_averaged(backbone: dict, images: Tensor) -> None:
    network = of_backbone(backbone).eval()
    with torch.no_grad():
        feature = network.backbone(images)[-1]
    want = feature if feature.ndim == 2 else feature.mean((2, 3))
    torch.testing.assert_close(pooled(as_teacher(network), images), want)


def test_a_neck_pools_itself(images: Tensor) -> None:
    network = of_backbone(dict(type='ResNet', depth=18), neck=dict(type='GlobalAveragePooling')).eval()
    with torch.no_grad():
        (want,) = network.extract_feat(images)
    assert pooled(as_teacher(network), images).equal(want)


@pytest.mark.parametrize(
    ('name', 'settings'),
    [
        ('vit_tiny_patch16_224', TIMM_VIT),
        ('vit_tiny_patch16_224', dict(TIMM_VIT, global_pool='avg')),
        ('resnet10t', dict(num_classes=0)),
        ('swin_tiny_patch4_window7_224', dict(img_size=32, window_size=4, num_classes=0, depths=(1, 1, 1, 1))),
    ],
    ids=str,
)
def test_networks_of_timm(name: str, settings: dict, images: Tensor) -> None:
    """By default the feature that timm gives, in any form; otherwise of the tokens that it gives."""
    network = of_timm(name, **settings).eval()
    with torch.no_grad():
        want = network.model.forward_head(network.model.forward_features(images), pre_logits=True)
        tokens = network.model.forward_features(images)
    for form in (network, network.model):
        assert is_headless(form)
        torch.testing.assert_close(pooled(as_teacher(form), images), want)
        if tokens.ndim == 3:
            mean = tokens[:, 1:].mean(1)
        else:
            mean = tokens.mean((1, 2) if getattr(network.model, 'output_fmt', '') == 'NHWC' else (2, 3))
        torch.testing.assert_close(pooled(as_teacher(form, 'mean'), images), mean)


def test_a_timm_backbone(images: Tensor) -> None:
    pytest.importorskip('timm')
    settings = dict(model_name='vit_tiny_patch16_224', img_size=32, depth=2)
    network = of_backbone(dict(type='TIMMBackbone', **settings)).eval()
    with torch.no_grad():
        tokens = network.backbone.timm_model.forward_features(images)
    torch.testing.assert_close(pooled(as_teacher(network), images), tokens[:, 0])
    assert image_size_of(network) == image_size_of(as_teacher(network.backbone)) == (32, 32)


def test_modules_that_take_images_alone(images: Tensor) -> None:
    own = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
    assert is_headless(own)
    with torch.no_grad():
        want = own(images).mean((2, 3))
    assert pooled(as_teacher(own), images).equal(want)
    classifier = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    teacher = as_teacher(classifier).eval()
    assert not is_headless(teacher)
    assert find_classifier(teacher) == 'model.3'
    predictions = teacher(images, None, mode='predict')
    with torch.no_grad():
        want = classifier(images).softmax(1)
    torch.testing.assert_close(torch.stack([each.pred_score for each in predictions]), want)
    # a projection, not a classifier
    assert pooled(as_teacher(classifier, 'output'), images).shape == (3, 5)


@pytest.mark.parametrize(
    ('network', 'headless'),
    [
        (lambda: of_backbone(VIT), True),
        (lambda: built(**dict(VIT, final_norm=False)), True),  # its last layer is linear
        (lambda: of_backbone(VIT, head=dict(type='VisionTransformerClsHead', num_classes=4, in_channels=24)), False),
        (lambda: of_timm('vit_tiny_patch16_224', **dict(TIMM_VIT, num_classes=4)), False),
        (lambda: of_timm('vit_tiny_patch16_224', **dict(TIMM_VIT, num_classes=4)).model, False),
    ],
)
def test_what_is_headless(network: Callable, headless: bool) -> None:
    assert is_headless(network()) == headless
    assert is_headless(as_teacher(network())) == headless


@pytest.mark.parametrize('backbone', [dict(type='LeNet5'), dict(type='AlexNet'), dict(type='VGG', depth=11)])
def test_a_classifier_inside_the_backbone(backbone: dict) -> None:
    network = of_backbone({**backbone, 'num_classes': 7}, head=dict(type='ClsHead'))
    assert not is_headless(network)
    assert number_of_classes(network) == 7
    assert network.get_submodule(find_classifier(network)).out_features == 7


@pytest.mark.parametrize('head', [dict(type='ClsHead'), None], ids=['head', 'backbone alone'])
@pytest.mark.parametrize(
    ('backbone', 'image'),
    [
        (dict(type='LeNet5'), (1, 32, 32)),
        (dict(type='AlexNet'), (3, 224, 224)),
        (dict(type='VGG', depth=11, norm_cfg=dict(type='BN')), (3, 224, 224)),
    ],
    ids=['LeNet5', 'AlexNet', 'VGG'],
)
def test_the_feature_before_a_classifier_inside_the_backbone(backbone: dict, image: tuple, head: dict | None) -> None:
    network = of_backbone({**backbone, 'num_classes': 7}, head=head).eval()
    assert image_size_of(network) == image[1:]
    assert image_size_of(of_backbone(backbone)) is None
    images, inputs = torch.randn(1 if backbone['type'] == 'VGG' else 2, *image), []
    hook = network.backbone.classifier[-1].register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    with torch.no_grad():
        network.backbone(images)
    hook.remove()
    teacher = as_teacher(cut_own_classifier(network))
    assert is_headless(teacher)
    torch.testing.assert_close(pooled(teacher, images), torch.atleast_2d(inputs[0]))
    assert pooled(teacher, images[:1]).shape == (1, inputs[0].shape[-1])


def test_the_feature_of_a_classifier_is_not_chosen() -> None:
    network = of_backbone(VIT, head=dict(type='VisionTransformerClsHead', num_classes=4, in_channels=24))
    with pytest.raises(SettingError, match=r"teacher_feature='mean'.*head=None"):
        as_teacher(network, 'mean')


@pytest.mark.parametrize(
    ('feature', 'output', 'message'),
    [
        ('class_token', torch.zeros(2, 8, 4, 4), r"'class_token'.* a map of shape \(2, 8, 4, 4\)"),
        ('mean', torch.zeros(2, 8), r"'mean'.* a vector of shape \(2, 8\)"),
        ('class_token', torch.zeros(2, 16, 8), 'no class token among its 16 tokens'),
        ('auto', torch.zeros(2), 'a Tensor'),
        ('auto', None, 'a NoneType'),
    ],
)
def test_features_that_are_not_there(feature: str, output: Tensor | None, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        PooledFeature(feature)(output)


def test_only_known_features() -> None:
    with pytest.raises(SettingError, match='teacher_feature'):
        PooledFeature('cls')


def test_tokens_before_the_patches() -> None:
    """As many as are left after a square, unless the network says how many."""
    tokens = torch.randn(2, 9 + 5, 4)
    torch.testing.assert_close(PooledFeature('mean')(tokens), tokens[:, 5:].mean(1))
    torch.testing.assert_close(PooledFeature('mean', 2)(tokens), tokens[:, 2:].mean(1))
    assert PooledFeature()(tokens).equal(tokens[:, 0])
    torch.testing.assert_close(PooledFeature()(tokens[:, 5:]), tokens[:, 5:].mean(1))


def test_it_has_no_logits() -> None:
    features = NamedFeatures('FeatureDistiller', 'teacher', as_teacher(of_backbone(VIT)), 'auto', maps=False)
    features.use(['pooled'], None)
    assert features.shapes == {'pooled': (24,)}
    with pytest.raises(SettingError, match=r'the teacher has no classifier.*TeacherProbe'):
        features.use(['logits'], None)


@pytest.mark.parametrize(
    ('network', 'size'),
    [
        (lambda: of_backbone(dict(VIT, img_size=48)), (48, 48)),
        (lambda: of_backbone(dict(VIT, img_size=(32, 48))), (32, 48)),
        (lambda: of_backbone(dict(type='ResNet', depth=18)), None),
        (lambda: of_timm('vit_tiny_patch16_224', **TIMM_VIT), (32, 32)),
        (lambda: of_timm('resnet10t', num_classes=0), None),
    ],
)
def test_sizes(network: Callable, size: tuple | None) -> None:
    assert image_size_of(network()) == size
    assert image_size_of(as_teacher(network())) == size


@pytest.mark.parametrize(
    ('name', 'backbone'),
    [
        ('mae_vit-base-p16_8xb512-amp-coslr-400e_in1k', 'VisionTransformer'),
        ('milan_vit-base-p16_16xb256-amp-coslr-400e_in1k', 'VisionTransformer'),
        ('beit_beit-base-p16_8xb256-amp-coslr-300e_in1k', 'BEiTViT'),
        ('simmim_swin-base-w6_8xb256-amp-coslr-100e_in1k-192px', 'SwinTransformer'),
        ('spark_sparse-resnet50_800e_in1k', 'ResNet'),
        ('mocov3_vit-small-p16_16xb256-amp-coslr-300e_in1k', 'MoCoV3ViT'),
        ('barlowtwins_resnet50_8xb256-coslr-300e_in1k', 'ResNet'),
        ('vit-small-p14_dinov2-pre_3rdparty', 'VisionTransformer'),
    ],
)
def test_what_the_zoo_has_without_a_classifier(name: str, backbone: str) -> None:
    cfg = network_config(name, 'model.teacher')
    assert type_name(cfg.type) == 'ImageClassifier'
    assert type_name(cfg.backbone.type) == backbone
    assert cfg.data_preprocessor.mean == [123.675, 116.28, 103.53]
    assert not cfg.get('head')


@pytest.mark.parametrize(
    ('algorithm', 'backbone'),
    [
        ('MAE', dict(VIT, type='MAEViT', mask_ratio=0.5)),
        ('BEiT', dict(VIT, type='BEiTPretrainViT', layer_scale_init_value=0.1, final_norm=True)),
    ],
)
def test_self_supervised_networks_see_whole_images(algorithm: str, backbone: dict, images: Tensor) -> None:
    source = built(**backbone)
    source.eval()  # which returns nothing
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        tokens = source(images, mask=None)[-1]
    weights = {f'backbone.{name}': value for name, value in source.state_dict().items()}
    weights['neck.decoder_embed.weight'] = torch.zeros(3)
    teacher = built(**network_config(dict(type=algorithm, backbone=backbone, neck=dict(type='x')), 'model.teacher'))
    load_teacher(teacher, weights, 'FILE')
    torch.testing.assert_close(pooled(as_teacher(teacher, 'class_token'), images), tokens[:, 0])
