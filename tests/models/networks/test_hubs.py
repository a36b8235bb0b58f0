"""Networks of timm and Hugging Face by name; none of these tests downloads anything."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import ConfigDict
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor.errors import CheckpointError, SettingError
from icd_mmrazor.models.classifiers.teacher_probe import name_teacher_in_full
from icd_mmrazor.models.networks.classifier_layer import is_headless, number_of_classes, pooling_layer
from icd_mmrazor.models.networks.headless import as_teacher
from icd_mmrazor.models.networks.hubs import loads_itself, needed_by, published_by_timm, with_published_weights
from icd_mmrazor.models.networks.image_size import image_size_of
from icd_mmrazor.models.networks.resolve import network_config

timm = pytest.importorskip('timm')
transformers = pytest.importorskip('transformers')

IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
SMALL = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
TOWER = dict(SMALL, image_size=32, patch_size=8)
TEXT = dict(SMALL, vocab_size=64, bos_token_id=0, eos_token_id=1)


def dinov2() -> nn.Module:
    settings = dict(SMALL, image_size=28, patch_size=14)
    return transformers.Dinov2Model(transformers.Dinov2Config(**settings))


def clip() -> nn.Module:
    return transformers.CLIPModel(transformers.CLIPConfig(vision_config=TOWER, text_config=TEXT))


def siglip() -> nn.Module:
    return transformers.SiglipModel(transformers.SiglipConfig(vision_config=TOWER, text_config=TEXT))


def convnext() -> nn.Module:
    return transformers.ConvNextModel(transformers.ConvNextConfig(hidden_sizes=[8] * 4, depths=[1] * 4, image_size=32))


def vit() -> nn.Module:
    return transformers.ViTModel(transformers.ViTConfig(**TOWER))


def mae() -> nn.Module:
    return transformers.ViTMAEModel(transformers.ViTMAEConfig(**TOWER))


def classifier() -> nn.Module:
    return transformers.ViTForImageClassification(transformers.ViTConfig(**TOWER, num_labels=7))


def swin_classifier() -> nn.Module:
    settings = dict(image_size=32, patch_size=2, window_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2])
    return transformers.SwinForImageClassification(transformers.SwinConfig(**settings, num_labels=7))


def dinov2_classifier() -> nn.Module:
    settings = dict(SMALL, image_size=32, patch_size=8, num_labels=7)
    return transformers.Dinov2ForImageClassification(transformers.Dinov2Config(**settings))


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., tuple[str, nn.Module]]:
    """Write a network as its authors would publish it; return its name and the network."""

    def write(make: Callable[[], nn.Module], **processor: Any) -> tuple[str, nn.Module]:
        torch.manual_seed(1)
        model = make().eval()
        with torch.no_grad():  # of most, biases and norms start as zeros and ones
            for parameter in model.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        folder = tmp_path / 'my model'
        model.save_pretrained(folder)
        if processor:
            transformers.ViTImageProcessor(**processor).save_pretrained(folder)
        return f'hf/{folder}', model

    return write


@torch.no_grad()
def pooled(network: nn.Module, images: Tensor) -> Tensor:
    outputs: list[Tensor] = []
    network.get_submodule(pooling_layer(network)).register_forward_hook(lambda *args: outputs.append(args[-1]))
    network.eval()(images, None, mode='tensor')
    return outputs[0]


def teacher(name: str, feature: str = 'auto', **settings: Any) -> nn.Module:
    return as_teacher(MODELS.build(network_config(dict(cfg_path=name, pretrained=True, **settings), 'x')), feature)


def test_a_name_of_timm() -> None:
    cfg = network_config('timm/resnet18', 'model.teacher')
    assert cfg.to_dict() == dict(
        _scope_='mmpretrain',
        type='TimmClassifier',
        model_name='resnet18',
        data_preprocessor=dict(mean=pytest.approx(IMAGENET['mean']), std=pytest.approx(IMAGENET['std']), to_rgb=True),
    )
    clip = network_config('timm/vit_base_patch16_clip_224.openai', 'model.teacher')
    assert clip.data_preprocessor.mean == pytest.approx([122.7709, 116.7460, 104.0937], abs=1e-3)
    small = dict(cfg_path='timm/vit_small_patch14_dinov2', depth=1, img_size=28)
    assert is_headless(MODELS.build(network_config(small, 'model.teacher')))
    student = network_config(dict(cfg_path='timm/mobilenetv3_small_050', num_classes=7), 'model.architecture')
    assert number_of_classes(MODELS.build(student)) == 7


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('timm/resnett18', r"model\.teacher='timm/resnett18'.*resnet18"),
        ('timm/resnet18.mine', r"tag 'mine'.*a1_in1k"),
        ('timm/', "'timm/' is not a name of timm's networks"),
        ('hf/./nowhere', r"model\.teacher='hf/\./nowhere'.*save_pretrained"),
    ],
)
def test_names_that_are_not_there(name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    with pytest.raises(SettingError, match=message):
        network_config(name, 'model.teacher')


def test_which_weights_a_teacher_loads_itself() -> None:
    named = with_published_weights('timm/resnet18')
    assert named == dict(cfg_path='timm/resnet18', pretrained=True)
    assert loads_itself(network_config(named, 'model.teacher'))
    assert not loads_itself(network_config('timm/resnet18', 'model.teacher'))
    for other in ('resnet18_8xb32_in1k', dict(type='TimmClassifier', model_name='resnet18'), None):
        assert with_published_weights(other) == other
    with pytest.raises(SettingError, match='num_classes=7'):
        with_published_weights(dict(cfg_path='timm/resnet18', num_classes=7))


def test_what_timm_publishes_holds_for_its_own_classes() -> None:
    for classes, holds in ((1000, True), (0, True), (10, False)):
        model = timm.create_model('resnet10t', num_classes=classes)
        assert (published_by_timm(model) is not None) == holds
        assert (published_by_timm(as_teacher(model)) is not None) == holds
    assert published_by_timm(nn.Conv2d(3, 4, 1)) is None


@pytest.mark.parametrize(
    ('make', 'feature', 'want'),
    [
        (dinov2, 'auto', lambda model, x: model(x).pooler_output),
        (dinov2, 'mean', lambda model, x: model(x).last_hidden_state[:, 1:].mean(1)),
        (clip, 'auto', lambda model, x: model.vision_model(x).pooler_output),
        (siglip, 'auto', lambda model, x: model.vision_model(x).pooler_output),
        (siglip, 'mean', lambda model, x: model.vision_model(x).last_hidden_state.mean(1)),
        (convnext, 'auto', lambda model, x: model(x).pooler_output),
        # its pooler is a layer that many publish untrained
        (vit, 'auto', lambda model, x: model(x).last_hidden_state[:, 0]),
        (vit, 'class_token+mean', lambda model, x: torch.cat(
            [model(x).last_hidden_state[:, 0], model(x).last_hidden_state[:, 1:].mean(1)], 1)),
    ],
)  # fmt: skip
def test_networks_of_hugging_face(make: Callable, feature: str, want: Callable, saved: Callable) -> None:
    name, model = saved(make)
    network = teacher(name, feature)
    side = 28 if make is dinov2 else 32
    assert image_size_of(network) == (side, side)
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        expected = want(model, images)
    torch.testing.assert_close(pooled(network, images), expected)


def test_a_masked_autoencoder_sees_all_patches_in_order(saved: Callable) -> None:
    name, model = saved(mae)
    model.config.mask_ratio = 0.0
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        # its own class shuffles the patches, which the class token does not notice
        want = model(images).last_hidden_state[:, 0]
    network = teacher(name)
    got = pooled(network, images)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    state = torch.get_rng_state()
    assert pooled(network, images).equal(got)
    assert torch.get_rng_state().equal(state)


def test_classifiers_of_hugging_face(saved: Callable) -> None:
    name, model = saved(classifier, image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.25, 0.5], size=32)
    cfg = network_config(name, 'model.teacher')
    assert cfg.type == 'HuggingFaceClassifier'
    assert cfg.data_preprocessor.mean == pytest.approx([127.5, 102.0, 76.5])
    assert cfg.data_preprocessor.std == pytest.approx([51.0, 63.75, 127.5])
    images = torch.randn(2, 3, 32, 32)
    network = teacher(name).eval()
    with torch.no_grad():
        torch.testing.assert_close(network(images), model(images).logits)
    assert (number_of_classes(network), image_size_of(network)) == (7, (32, 32))
    # its backbone alone, or a new classifier
    assert is_headless(teacher(name, num_classes=0))
    assert number_of_classes(MODELS.build(network_config(dict(cfg_path=name, num_classes=3), 'x'))) == 3


def test_what_a_network_of_a_hub_needs(saved: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder is found from anywhere."""
    name, _ = saved(classifier)
    folder = Path(name.removeprefix('hf/'))
    monkeypatch.chdir(folder.parent)
    cfg = network_config(f'hf/{folder.name}', 'model.architecture')
    assert needed_by(cfg) == [f'transformers with the config of {str(folder)!r}']
    assert needed_by(network_config('timm/resnet18', 'x')) == ['timm']
    assert needed_by(dict(type='ImageClassifier', backbone=dict(type='TIMMBackbone', model_name='resnet18'))) == [
        'timm'
    ]
    assert needed_by(dict(type='ImageClassifier', backbone=dict(type='ResNet', depth=18))) == []


@pytest.mark.parametrize('make', [classifier, swin_classifier, dinov2_classifier])
@pytest.mark.parametrize('form', ['name', 'config', 'file'])
def test_a_probe_on_a_classifier_of_other_classes(make: Callable, form: str, saved: Callable, tmp_path: Path) -> None:
    """It reads what the network under the classifier pools, whoever loads the weights."""
    name, model = saved(make)
    teacher, file = name, None
    if form != 'name':
        teacher = network_config(dict(cfg_path=name, pretrained=form == 'config'), 'x')
        assert teacher.type == 'HuggingFaceClassifier'
    if form == 'file':  # as a training would write it
        file = tmp_path / 'teacher.pth'
        state = MODELS.build(dict(teacher, pretrained=True)).state_dict()
        torch.save({'state_dict': state}, file)
    settings = dict(type='TeacherProbe', num_classes=3, teacher=teacher, teacher_ckpt=file and str(file))
    name_teacher_in_full(cfg := ConfigDict(settings))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        output = model.base_model(images)
        pooler = getattr(output, 'pooler_output', None)
        want = output.last_hidden_state[:, 0] if pooler is None else pooler
        for each in (settings, cfg):
            probe = MODELS.build(each).eval()
            torch.testing.assert_close(probe.extract_feat(images)[0], want)
            assert probe(images).shape == (2, 3)


def test_a_processor_that_does_not_normalise(saved: Callable) -> None:
    name, _ = saved(dinov2, do_normalize=False)
    assert network_config(name, 'x').data_preprocessor.to_dict() == dict(
        mean=[0.0] * 3, std=pytest.approx([255.0] * 3), to_rgb=True
    )


def test_weights_that_are_missing(saved: Callable) -> None:
    name, _ = saved(dinov2)
    safetensors = pytest.importorskip('safetensors.torch')
    file = Path(name.removeprefix('hf/'), 'model.safetensors')
    weights = safetensors.load_file(file)
    del weights['encoder.layer.1.norm1.weight']
    safetensors.save_file(weights, file, metadata={'format': 'pt'})
    with pytest.raises(CheckpointError, match=r'lack 1 of Dinov2Model, for example .*layer\.1\.norm1\.weight'):
        teacher(name)


def test_a_network_for_text_is_refused(saved: Callable) -> None:
    name, _ = saved(lambda: transformers.BertModel(transformers.BertConfig(**TEXT)))
    with pytest.raises(SettingError, match='BertModel, not a vision network'):
        teacher(name)
