"""Linear classifiers on the features of teachers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS as MMRAZOR_MODELS
from torch.nn import functional as F

from icd_mmrazor.errors import CheckpointError, SettingError
from icd_mmrazor.models.classifiers import TeacherProbe

CNN = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet_CIFAR', depth=18, stem_channels=4, base_channels=4),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=7, in_channels=32),
)
VIT = dict(
    type='ImageClassifier',
    backbone=dict(
        type='VisionTransformer',
        arch=dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=16),
        img_size=16,
        patch_size=8,
    ),
    head=None,
)
TIMM = dict(type='TimmClassifier', model_name='test_vit', img_size=32)
SAMPLES = [DataSample().set_gt_label(i % 3) for i in range(6)]


@pytest.fixture
def weights(tmp_path: Path) -> Callable[[dict], str]:
    """Write seeded random weights of a network, and return the file."""

    def write(cfg: dict) -> str:
        torch.save({'state_dict': MODELS.build({**cfg}).state_dict()}, tmp_path / 'teacher.pth')
        return str(tmp_path / 'teacher.pth')

    return write


def probe_of(teacher: dict, file: str, **settings: Any) -> TeacherProbe:
    return MODELS.build(dict(type='TeacherProbe', num_classes=3, teacher=teacher, teacher_ckpt=file, **settings)).eval()


def feature_of(teacher: dict, file: str, images: torch.Tensor) -> torch.Tensor:
    """Return the feature that the network itself has, by its own interface."""
    state = torch.load(file)['state_dict']
    if teacher['type'] == 'TimmClassifier':
        network = timm.create_model('test_vit', img_size=32, num_classes=teacher.get('num_classes', 1000))
        network.load_state_dict(state)
        network.reset_classifier(0)
        return network.eval()(images)
    network = MODELS.build({**teacher})
    network.load_state_dict(state)
    return network.eval().extract_feat(images)[-1]


@pytest.mark.parametrize(
    ('teacher', 'size'),
    [(CNN, None), (VIT, 16), (TIMM, 32), ({**TIMM, 'num_classes': 0}, 32)],
    ids=['other classes', 'headless', 'timm', 'timm headless'],
)
def test_the_feature_is_that_of_the_network(teacher: dict, size: int | None, weights: Callable) -> None:
    torch.manual_seed(0)
    file = weights(teacher)
    probe, images = probe_of(teacher, file), torch.randn(6, 3, 24, 24)
    shown = images if size is None else F.interpolate(images, (size, size), mode='bilinear', antialias=True)
    with torch.no_grad():
        (feature,) = probe.extract_feat(images)
        torch.testing.assert_close(feature, feature_of(teacher, file, shown))
        # a standardised feature, then a linear layer; the statistics are those of initialisation
        torch.testing.assert_close(probe(images), F.linear(feature, probe.head.fc.weight, probe.head.fc.bias))


@pytest.mark.parametrize('head', [dict(type='ClsHead'), None], ids=['head', 'backbone alone'])
def test_a_classifier_inside_the_backbone_is_cut(head: dict | None, weights: Callable) -> None:
    """The feature is the input of its last layer, of images of the size that it needs; a checkpoint of it is whole."""
    teacher = dict(type='ImageClassifier', backbone=dict(type='LeNet5', num_classes=7), head=head)
    file, images, inputs = weights(teacher), torch.randn(4, 1, 24, 24), []
    network = MODELS.build({**teacher}).eval()
    network.load_state_dict(torch.load(file)['state_dict'])
    network.backbone.classifier[-1].register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    network.backbone(F.interpolate(images, (32, 32), mode='bilinear', antialias=True))
    probe = probe_of(teacher, file)
    (feature,) = probe.extract_feat(images)
    torch.testing.assert_close(feature, inputs[0].detach())
    assert not any(parameter.shape == (7, 84) for parameter in probe.state_dict().values())
    again = MODELS.build(dict(type='TeacherProbe', num_classes=3, teacher=teacher, random_teacher=True)).eval()
    again.load_state_dict(probe.state_dict())
    torch.testing.assert_close(again(images), probe(images))


def test_only_the_classifier_is_trained(weights: Callable) -> None:
    probe, images = probe_of(CNN, weights(CNN)).train(), torch.randn(6, 3, 16, 16)
    frozen = {name: value.clone() for name, value in probe.backbone.state_dict().items()}
    optimizer = torch.optim.AdamW(p for p in probe.parameters() if p.requires_grad)
    losses = []
    for _ in range(30):
        (loss,) = probe(images, SAMPLES, mode='loss').values()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert all(torch.equal(value, frozen[name]) for name, value in probe.backbone.state_dict().items())


def test_features_are_kept_or_not(weights: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    file, images = weights(CNN), torch.randn(6, 3, 16, 16)
    for cache, calls in ((True, 1), (False, 2)):
        probe, seen = probe_of(CNN, file, cache=cache), []
        probe.backbone.register_forward_hook(lambda *_, seen=seen: seen.append(0))
        first, second = probe(images), probe(images)
        assert len(seen) == calls
        torch.testing.assert_close(first, second)


def test_a_trained_probe_is_a_teacher_with_logits(weights: Callable, tmp_path: Path) -> None:
    file = weights(TIMM)
    probe = probe_of(TIMM, file)
    torch.nn.init.normal_(probe.head.fc.weight)
    probe.head.norm.running_var.fill_(2.0)
    torch.save({'state_dict': probe.state_dict()}, tmp_path / 'probe.pth')
    teacher = dict(type='TeacherProbe', num_classes=3, teacher=TIMM, teacher_ckpt=file, cache=False)
    model = dict(
        _scope_='mmrazor',
        type='FrozenTeacherDistill',
        architecture={**CNN, 'head': {**CNN['head'], 'num_classes': 3}},
        teacher=teacher,
        teacher_ckpt=str(tmp_path / 'probe.pth'),
        distiller=dict(type='ICDDistiller', kd=dict(tau=1.0)),
    )
    algorithm, images = MMRAZOR_MODELS.build(model), torch.randn(6, 3, 32, 32)
    torch.testing.assert_close(algorithm.run_teacher(images), probe(algorithm.teacher_view(images)))
    assert algorithm.distiller.teacher_source == 'head.fc'
    assert {'distill.loss_icd', 'distill.loss_kd'} <= algorithm(images, SAMPLES, mode='loss').keys()


@pytest.mark.parametrize(
    ('settings', 'error', 'message'),
    [
        (dict(teacher_ckpt=None), SettingError, 'teacher_ckpt'),
        (dict(teacher=VIT), CheckpointError, 'does not fit'),
        (dict(cache=1), SettingError, 'cache=1'),
        (dict(feature='first'), SettingError, "teacher_feature='first'"),
    ],
)
def test_what_is_refused(settings: dict, error: type, message: str, weights: Callable) -> None:
    with pytest.raises(error, match=message):
        MODELS.build(
            {'type': 'TeacherProbe', 'num_classes': 3, 'teacher': CNN, 'teacher_ckpt': weights(CNN), **settings}
        )


def test_random_weights_are_for_trials() -> None:
    probe = MODELS.build(dict(type='TeacherProbe', num_classes=3, teacher=CNN, random_teacher=True))
    assert probe(torch.randn(2, 3, 16, 16)).shape == (2, 3)
