"""Students with a distillation token: DeiT, of mmpretrain and of timm."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import CONFIGS
from mmengine.config import Config
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor.datasets.samples import mark_unlabeled
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.networks.classifier_layer import find_classifier

MMPRETRAIN = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(
        type='DistilledVisionTransformer',
        arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
        img_size=32,
        patch_size=8,
    ),
    head=dict(type='DeiTClsHead', num_classes=10, in_channels=16, loss=dict(type='CrossEntropyLoss'), init_cfg=None),
)
TIMM = dict(
    type='mmpretrain.TimmClassifier',
    model_name='deit_tiny_distilled_patch16_224',
    num_classes=10,
    img_size=32,
    patch_size=8,
    embed_dim=16,
    depth=2,
    num_heads=2,
    loss=dict(type='CrossEntropyLoss'),
)
STUDENTS = {'mmpretrain': MMPRETRAIN, 'timm': TIMM}
DEIT = Config.fromfile(CONFIGS / '_base_' / 'methods' / 'deit.py').deit
TOKEN = dict(
    preds_S=dict(network='student', feature='distillation_logits'), preds_T=dict(network='teacher', feature='logits')
)


def built(name: str) -> nn.Module:
    student = MODELS.build(copy.deepcopy(STUDENTS[name]))
    for parameter in student.parameters():  # mmpretrain's and timm's start with classifiers of zeros
        nn.init.normal_(parameter, std=0.3)
    return student


def both(student: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the logits of both tokens from the outputs of the network's parts."""
    if hasattr(student, 'head'):
        (tokens,) = student.backbone(images)
        layers = student.head.layers
        return layers.head(tokens[0]), layers.head_dist(tokens[1])
    tokens = student.model.forward_features(images)
    return student.model.head(tokens[:, 0]), student.model.head_dist(tokens[:, 1])


@pytest.fixture(params=STUDENTS)
def model(request: pytest.FixtureRequest, algorithm: Callable) -> nn.Module:
    return algorithm(architecture=built(request.param), distiller=copy.deepcopy(DEIT))


def test_each_token_learns_its_own_label(model: nn.Module, batch: Callable) -> None:
    images, samples = batch()
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        warnings.filterwarnings('ignore', 'MMPretrain cannot train')  # as ours does, in this context
        losses = model.train().loss(images, samples)
    labels = torch.arange(6)
    with torch.no_grad():
        of_class, of_distillation = both(model.student, images)
        decision = model.teacher(images).argmax(1)
        log_p = [logits.log_softmax(1) for logits in (of_class, of_distillation)]
    want = [
        -sum(p[i, label] for i, label in enumerate(y)) / 6 / 2 for p, y in zip(log_p, (labels, decision), strict=True)
    ]
    assert losses.keys() == {'student.loss', 'distill.loss_hard'}
    assert torch.allclose(losses['student.loss'], want[0], atol=1e-5)
    assert torch.allclose(losses['distill.loss_hard'], want[1], atol=1e-5)


def test_every_parameter_is_trained(model: nn.Module, batch: Callable) -> None:
    losses = model.train().loss(*batch())
    sum(losses.values()).backward()
    idle = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert idle == []


def test_predictions_are_the_average_of_both(model: nn.Module, batch: Callable) -> None:
    images, samples = batch()
    model.eval()
    with torch.no_grad():
        predictions = model(images, samples, mode='predict')
        want = (sum(both(model.student, images)) / 2).softmax(1)
    assert torch.allclose(torch.stack([each.pred_score for each in predictions]), want, atol=1e-6)


def test_the_soft_form(algorithm: Callable, batch: Callable) -> None:
    images, samples = batch()
    losses = dict(soft=dict(loss=dict(type='KLDivergence', tau=3.0, loss_weight=0.1), inputs=copy.deepcopy(TOKEN)))
    model = algorithm(
        architecture=built('mmpretrain'),
        distiller=dict(type='FeatureDistiller', student_loss_weight=0.9, losses=losses),
    )
    got = model.train().loss(images, samples)
    with torch.no_grad():
        of_class, of_distillation = both(model.student, images)
        p, q = (model.teacher(images) / 3).softmax(1), (of_distillation / 3).softmax(1)
    kl = sum(float(a * (a / b).log()) for a, b in zip(p.flatten(), q.flatten(), strict=True)) / 6
    assert got['distill.loss_soft'].item() == pytest.approx(0.1 * 9 * kl, rel=1e-4)
    assert torch.allclose(got['student.loss'], 0.9 * F.cross_entropy(of_class, torch.arange(6)), atol=1e-5)


def test_labelled_images_count_for_the_class_token_alone(algorithm: Callable, batch: Callable) -> None:
    images, samples = batch()
    partly = copy.deepcopy(samples)
    for sample in partly[2:]:
        mark_unlabeled(sample)
    model = algorithm(architecture=built('mmpretrain'), distiller=copy.deepcopy(DEIT)).train()
    whole, part = model.loss(images, samples), model.loss(images, partly)
    assert torch.equal(whole['distill.loss_hard'], part['distill.loss_hard'])
    with torch.no_grad():
        want = F.cross_entropy(both(model.student, images)[0][:2], torch.arange(2)) / 2
    assert torch.allclose(part['student.loss'], want, atol=1e-5)


def test_a_student_without_the_token_has_the_hard_loss_alone(algorithm: Callable, batch: Callable) -> None:
    images, samples = batch()
    model = algorithm(distiller=copy.deepcopy(DEIT)).eval()
    got = model.loss(images, samples)['distill.loss_hard']
    with torch.no_grad():
        want = F.cross_entropy(model.student(images), model.teacher(images).argmax(1)) / 2
    assert torch.allclose(got, want, atol=1e-5)


@pytest.mark.parametrize(
    ('settings', 'named'),
    [
        (dict(distiller=dict(type='ICDDistiller')), 'distillation_logits'),
        (dict(distiller=dict(type='ICDDistiller', kd=dict(tau=4.0))), 'distillation_logits'),
        (dict(distiller=DEIT, calculate_student_loss=False), 'calculate_student_loss'),
    ],
)
def test_a_classifier_that_nothing_trains_is_refused(settings: dict, named: str, algorithm: Callable) -> None:
    with pytest.raises(SettingError, match=named):
        algorithm(architecture=built('mmpretrain'), **copy.deepcopy(settings))


def test_the_token_goes_together_with_other_losses(algorithm: Callable, batch: Callable) -> None:
    mixed = dict(type='MixedDistiller', distillers=dict(icd=dict(type='ICDDistiller'), deit=copy.deepcopy(DEIT)))
    model = algorithm(architecture=built('mmpretrain'), distiller=mixed).train()
    assert {'distill.icd.loss_icd', 'distill.deit.loss_hard'} <= {*model.loss(*batch())}
    # no labels at all: the class token learns from the teacher's logits
    mixed['distillers']['icd']['kd'] = dict(tau=4.0)
    model = algorithm(architecture=built('mmpretrain'), distiller=mixed, calculate_student_loss=False).train()
    losses = model.loss(batch()[0])
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    assert all(p.grad is not None for p in model.student.parameters())


@pytest.mark.parametrize('name', STUDENTS)
def test_a_teacher_teaches_what_it_predicts(name: str, algorithm: Callable, batch: Callable) -> None:
    images, samples = batch()
    kd = dict(type='FeatureDistiller', losses=dict(kd=dict(loss=dict(type='KLDivergence'), features='logits')))
    model = algorithm(teacher=built(name), teacher_ckpt=None, random_teacher=True, distiller=kd).eval()
    got = model.loss(images, samples)['distill.loss_kd']
    with torch.no_grad():
        target, scores = sum(both(model.teacher, images)) / 2, model.student(images)
    want = F.kl_div(scores.log_softmax(1), target.softmax(1), reduction='batchmean')
    assert torch.allclose(got, want, atol=1e-5)
    assert find_classifier(model.teacher).endswith('head')


def test_a_copy_keeps_its_own_scores(algorithm: Callable, batch: Callable) -> None:
    model = algorithm(architecture=built('mmpretrain'), distiller=copy.deepcopy(DEIT)).train()
    copied: Any = copy.deepcopy(model)
    nn.init.zeros_(copied.student.head.layers.head.weight)
    nn.init.zeros_(copied.student.head.layers.head.bias)
    first, second = model.loss(*batch()), copied.loss(*batch())
    assert second['student.loss'].item() == pytest.approx(torch.tensor(10.0).log().item() / 2, abs=1e-5)
    assert not torch.equal(first['student.loss'], second['student.loss'])
