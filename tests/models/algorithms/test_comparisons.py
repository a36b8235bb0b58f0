"""Comparative KD in a distillation: labels, cross-entropy, classes, and what the classifier's bias learns."""

import copy
from collections.abc import Callable

import pytest
import torch
from helpers import CONFIGS, whole_network
from mmengine.config import Config
from mmpretrain.structures import DataSample
from torch import nn

from icd_mmrazor import recipes
from icd_mmrazor.datasets.samples import mark_unlabeled, merge_samples
from icd_mmrazor.errors import SettingError

CKD = Config.fromfile(CONFIGS / '_base_' / 'methods' / 'ckd.py').ckd


def of(**settings: object) -> dict:
    """Return the method's distiller with other settings of the loss."""
    distiller = copy.deepcopy(CKD)
    distiller.losses.ckd.loss.update(settings)
    return distiller


def variance(x: torch.Tensor) -> torch.Tensor:
    return x.var(0).mean()


def test_the_teacher_and_the_labels_count_and_cross_entropy_does_not(algorithm: Callable, batch: Callable) -> None:
    model = algorithm(distiller=of()).eval()
    images, samples = batch()
    losses = model(images, samples, mode='loss')
    assert losses['student.loss'].item() == 0
    with torch.no_grad():
        student, teacher = (each(images, mode='tensor') for each in (model.architecture, model.teacher))
    labels = torch.eye(10)[[sample.gt_label.item() for sample in samples]]
    want = 2 * variance(student - teacher) + 2 * variance(student - labels)
    assert losses['distill.loss_ckd'].item() == pytest.approx(want.item(), rel=1e-5)
    assert model(images, merge_samples(samples), mode='loss')['distill.loss_ckd'] == losses['distill.loss_ckd']

    sum(value for name, value in losses.items() if 'loss' in name).backward()
    classifier = model.architecture.head.fc
    assert classifier.bias.grad.abs().max() < 1e-6
    assert classifier.weight.grad.abs().max() > 1e-3


def test_beside_another_method_cross_entropy_has_the_labels(algorithm: Callable, batch: Callable) -> None:
    model = algorithm(distiller=recipes.compose_distiller(['ckd', 'icd'])).eval()
    images, samples = batch()
    losses = model(images, samples, mode='loss')
    with torch.no_grad():
        student, teacher = (each(images, mode='tensor') for each in (model.architecture, model.teacher))
    labels = torch.cat([sample.gt_label for sample in samples])
    assert losses['student.loss'].item() == pytest.approx(nn.functional.cross_entropy(student, labels).item(), rel=1e-5)
    assert losses['distill.ckd.loss_ckd'].item() == pytest.approx(2 * variance(student - teacher).item(), rel=1e-5)


def test_images_without_labels(algorithm: Callable, batch: Callable) -> None:
    images, _ = batch()
    for samples in ([DataSample() for _ in images], None):
        with pytest.raises(SettingError, match=r'ComparativeLoss: .*no labels.*label_weight=0'):
            algorithm(distiller=of(), calculate_student_loss=False)(images, samples, mode='loss')
        model = algorithm(distiller=of(label_weight=0.0), calculate_student_loss=False)
        assert model(images, samples, mode='loss')['distill.loss_ckd'].item() > 0


def test_batches_of_which_a_part_has_labels(algorithm: Callable, batch: Callable) -> None:
    images, samples = batch()
    for sample in samples[4:]:
        mark_unlabeled(sample)
    with pytest.raises(SettingError, match=r'ComparativeLoss \(loss_ckd\) reads the label of every image'):
        algorithm(distiller=of())(images, samples, mode='loss')
    assert algorithm(distiller=of(label_weight=0.0))(images, samples, mode='loss')['distill.loss_ckd'].item() > 0


@pytest.mark.parametrize('label_weight', [0.0, 1.0])
def test_a_teacher_of_other_classes_is_refused_when_it_is_built(
    label_weight: float, algorithm: Callable, network: Callable, teacher_file: Callable
) -> None:
    with pytest.raises(SettingError, match=r'ckd compares logits, but the teacher has 7 classes .* the student 10'):
        algorithm(
            teacher=network('res20', 7), teacher_ckpt=teacher_file('res20', 7), distiller=of(label_weight=label_weight)
        )


def test_softmaxes_of_several_labels_are_refused(algorithm: Callable, batch: Callable) -> None:
    head = dict(type='MultiLabelLinearClsHead', num_classes=10, in_channels=64)
    networks = dict(architecture={**whole_network(), 'head': head}, teacher={**whole_network(), 'head': head})
    networks |= dict(teacher_ckpt=None, random_teacher=True)
    with pytest.raises(SettingError, match=r'compares softmaxes of logits.*MultiLabelLinearClsHead'):
        algorithm(distiller=of(distance='kl'), **networks)
    images, _ = batch()
    samples = [DataSample().set_gt_label([i, 9]) for i in range(len(images))]
    model = algorithm(distiller=of(label_weight=0.0), **networks)
    assert model(images, samples, mode='loss')['distill.loss_ckd'].item() > 0


@pytest.mark.slow
@pytest.mark.parametrize('groups', [(1, 1), (2, 1)], ids=str)
def test_compiled_it_is_the_same(groups: tuple[int, int], algorithm: Callable, batch: Callable) -> None:
    plain = algorithm(distiller=of(distance='kl', groups=groups)).eval()
    compiled = copy.deepcopy(plain)
    compiled.torch_compile = dict(backend='aot_eager')
    values = []
    for model in (plain, compiled):
        torch.manual_seed(1)
        values.append([model.loss(*batch())['distill.loss_ckd'].item() for _ in range(2)])
    assert compiled.torch_compile
    assert values[0] == pytest.approx(values[1], rel=1e-5)
