"""The labels of a batch reach the losses that read them, ours and mmrazor's, or are refused."""

from collections.abc import Callable

import pytest
import torch
from helpers import whole_network
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor.datasets.samples import merge_samples
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.distillers.class_labels import ClassLabels

OURS = {
    'dkd': dict(type='DecoupledKDLoss'),
    'nkd': dict(type='NKDLoss'),
    'rld': dict(type='RLDLoss'),
    'wsld': dict(type='WeightedSoftLabelLoss'),
}
LOSSES = {
    **OURS,
    "mmrazor's DKD": dict(type='DKDLoss', tau=4.0),
    "mmrazor's WSLD": dict(type='WSLD', tau=4.0, num_classes=10),
}
READ_SCORES = ('nkd',)
# of mmrazor's DKD
pytestmark = pytest.mark.filterwarnings('ignore:size_average')
BY_NAME = pytest.mark.parametrize('name', LOSSES)
MIXUP = dict(type='ClsDataPreprocessor', num_classes=10, batch_augments=dict(augments=dict(type='Mixup', alpha=1.0)))


@pytest.fixture
def algorithm(network: Callable) -> Callable[..., nn.Module]:
    """Build a distillation from a res14 to a res8 with one of the losses."""

    def build(name: str, **settings: object) -> nn.Module:
        distiller = dict(type='FeatureDistiller', losses=dict(it=dict(loss=dict(LOSSES[name]), features='logits')))
        networks = dict(architecture=network('res8'), teacher=network('res14'), random_teacher=True)
        model = MODELS.build(
            {'_scope_': 'mmrazor', 'type': 'FrozenTeacherDistill', 'distiller': distiller, **networks, **settings}
        )
        for each in (model.student, model.teacher):
            # logits that differ from class to class
            each.head.fc.weight.data *= 30
        return model.eval()

    return build


def expected(model: nn.Module, images: Tensor, labels: list[int]) -> float:
    """Return the loss of the logits and labels, handed to it directly."""
    with torch.no_grad():
        logits = [network(images, mode='tensor') for network in (model.student, model.teacher)]
        return MODELS.build(LOSSES_OF[type(model.distiller.distill_losses['loss_it'])])(
            *logits, torch.tensor(labels)
        ).item()


def value(model: nn.Module, images: Tensor, samples: list[DataSample]) -> float:
    return model(images, samples, mode='loss')['distill.loss_it'].item()


LOSSES_OF = {type(MODELS.build(dict(cfg, _scope_='mmrazor'))): dict(cfg, _scope_='mmrazor') for cfg in LOSSES.values()}


@BY_NAME
def test_labels_of_a_sample_per_image_and_of_one_for_all(name: str, algorithm: Callable, batch: Callable) -> None:
    model = algorithm(name)
    images, _ = batch(4)
    labels = [7, 2, 2, 9]
    samples = [DataSample().set_gt_label(label) for label in labels]
    want = expected(model, images, labels)
    # the labels make a difference
    assert want != pytest.approx(expected(model, images, labels[::-1]), rel=1e-4)
    assert value(model, images, samples) == pytest.approx(want, rel=1e-5)
    merged = merge_samples(samples)
    assert len(merged) == 1
    assert value(model, images, merged) == pytest.approx(want, rel=1e-5)


@BY_NAME
def test_mixed_images_are_refused_unless_the_loss_reads_scores(name: str, algorithm: Callable, batch: Callable) -> None:
    if name not in READ_SCORES:
        with pytest.raises(SettingError, match=rf'{LOSSES[name]["type"]} \(loss_it\) reads one label.*Mixup'):
            algorithm(name, data_preprocessor=dict(MIXUP))
        return
    model = algorithm(name, data_preprocessor=dict(MIXUP))
    images, samples = batch(4)
    scores = torch.rand(4, 10)
    # the label of a mixed image is that of one of the two
    samples = [sample.set_gt_score(score) for sample, score in zip(samples, scores, strict=True)]
    labels = scores.argmax(1).tolist()
    assert labels != [0, 1, 2, 3]
    assert value(model, images, samples) == pytest.approx(expected(model, images, labels), rel=1e-5)


@BY_NAME
@pytest.mark.parametrize(
    ('labels', 'named'), [(None, 'the images have no labels'), ([0, 9], 'several labels or none')], ids=['none', 'two']
)
def test_no_label_and_several_are_refused(
    labels: list | None, named: str, name: str, algorithm: Callable, batch: Callable
) -> None:
    model = algorithm(name, calculate_student_loss=False)
    images, _ = batch(3)
    samples = [DataSample() if labels is None else DataSample().set_gt_label(labels) for _ in images]
    with pytest.raises(SettingError, match=rf'{LOSSES[name]["type"]} reads .*{named}.* Use '):
        value(model, images, samples)


@pytest.mark.parametrize('name', OURS)
def test_a_single_image_with_several_labels_is_refused(name: str, algorithm: Callable, batch: Callable) -> None:
    model = algorithm(name, calculate_student_loss=False)
    images, _ = batch(1)
    with pytest.raises(SettingError, match=rf'{LOSSES[name]["type"]}: gt_labels .*several labels'):
        value(model, images, [DataSample().set_gt_label([0, 9])])


@BY_NAME
def test_a_classifier_of_several_labels_is_refused_before_the_training(name: str, algorithm: Callable) -> None:
    several = whole_network()
    several['head'] = dict(type='MultiLabelLinearClsHead', num_classes=10, in_channels=64)
    with pytest.raises(SettingError, match=rf'{LOSSES[name]["type"]}.*MultiLabelLinearClsHead'):
        algorithm(name, architecture={'_scope_': 'mmpretrain', **several})


@pytest.mark.parametrize('samples', [None, [], {}, [DataSample()]], ids=['none', 'empty', 'dict', 'unlabelled'])
def test_without_data_samples(samples: object) -> None:
    with pytest.raises(SettingError, match=r'NKDLoss reads the class of each image.* no labels'):
        ClassLabels('NKDLoss', from_scores=True)(samples)


def test_labels_of_images_with_scores_are_read_by_losses_of_labels() -> None:
    samples = [DataSample().set_gt_label(2).set_gt_score(torch.tensor([0.6, 0.0, 0.4])) for _ in range(2)]
    assert ClassLabels('RLDLoss')(samples).tolist() == [2, 2]
    assert ClassLabels('NKDLoss', from_scores=True)(samples).tolist() == [0, 0]
    # one of the images has none
    assert ClassLabels('NKDLoss', from_scores=True)([samples[0], DataSample().set_gt_label(1)]).tolist() == [2, 1]
