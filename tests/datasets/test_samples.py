"""Data samples of a batch, merged into one."""

from collections.abc import Callable

import pytest
import torch
from mmpretrain.models import ClsHead, ImageClassifier
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS

from icd_mmrazor.datasets.samples import (
    accepts_merged_samples,
    merge_samples,
    number_view,
    sample_indices,
    view_indices,
    without_labels,
)


def test_one_sample_means_the_same_to_a_head(network: Callable, batch: Callable) -> None:
    model = MODELS.build(network('res8')).eval()
    images, samples = batch()
    for position, sample in enumerate(samples):
        sample.set_metainfo({'sample_idx': position + 10})
    (merged,) = merge_samples(samples)
    torch.testing.assert_close(model(images, [merged], mode='loss'), model(images, samples, mode='loss'))
    assert merged.sample_idx == [10, 11, 12, 13, 14, 15]
    assert merge_samples([merged]) == [merged]


def test_other_labels_are_not_merged() -> None:
    scores = [DataSample().set_gt_score(torch.ones(2)) for _ in range(2)]
    several = [DataSample().set_gt_label([0, 1]) for _ in range(2)]
    for samples in (None, [], scores, several, ['a', 'b']):
        assert merge_samples(samples) is samples
    some = [DataSample().set_gt_label(1), DataSample()]
    assert merge_samples(some) is some
    without_position = merge_samples([DataSample().set_gt_label(label) for label in (1, 2)])
    assert without_position[0].gt_label.tolist() == [1, 2]
    assert 'sample_idx' not in without_position[0]


def test_samples_without_labels_are_merged() -> None:
    samples = [DataSample(metainfo={'sample_idx': position}) for position in (7, 3)]
    (merged,) = merge_samples(samples)
    assert (merged.keys(), merged.sample_idx) == ([], [7, 3])


def test_whether_there_are_labels() -> None:
    label, score = DataSample().set_gt_label(1), DataSample().set_gt_score(torch.ones(2))
    assert not without_labels([label, score])
    assert not without_labels(['of another package'])
    for samples in (None, [], [DataSample()], [label, DataSample()]):
        assert without_labels(samples)


def test_indices_are_read_from_either_form(batch: Callable) -> None:
    _, samples = batch()
    assert sample_indices(samples) == [None] * 6
    for position, sample in enumerate(samples):
        sample.set_metainfo({'sample_idx': position + 10})
    assert sample_indices(samples) == sample_indices(merge_samples(samples)) == [10, 11, 12, 13, 14, 15]


def test_views_are_read_from_either_form(batch: Callable) -> None:
    _, samples = batch()
    assert view_indices(samples) is view_indices([]) is view_indices(None) is None
    for number, sample in enumerate(samples):
        number_view({'data_samples': sample}, number + 10)
    assert view_indices(samples) == view_indices(merge_samples(samples)) == [10, 11, 12, 13, 14, 15]
    assert view_indices([*samples, DataSample()]) is None
    assert 'view_idx' not in merge_samples([*samples, DataSample().set_gt_label(1)])[0]


def test_several_views_of_an_image_in_a_sample_share_a_number() -> None:
    samples = [DataSample(), DataSample()]
    number_view({'data_samples': samples}, 3)
    assert [sample.view_idx for sample in samples] == [3, 3]


BACKBONE = dict(type='ResNet_CIFAR', depth=18)
FEATURES = dict(num_classes=10, in_channels=512)
MIXUP = dict(type='ClsDataPreprocessor', num_classes=10, batch_augments=dict(augments=dict(type='Mixup', alpha=1.0)))


class OwnLoss(ClsHead):
    def _get_loss(self, cls_score: torch.Tensor, data_samples: list, **kwargs: object) -> dict:
        return {}


class OwnClassifier(ImageClassifier):
    def loss(self, inputs: torch.Tensor, data_samples: list) -> dict:
        return {}


@pytest.mark.parametrize(
    ('changes', 'expected'),
    [
        ({}, True),
        ({'head': dict(type='ClsHead')}, True),
        ({'head': dict(type='VisionTransformerClsHead', **FEATURES)}, True),
        ({'head': dict(type='MultiLabelLinearClsHead', **FEATURES)}, False),
        ({'head': dict(type='MultiTaskHead', task_heads=dict(a=dict(type='ClsHead')))}, False),
        ({'head': dict(type='ArcFaceClsHead', **FEATURES)}, False),
        ({'head': dict(type=OwnLoss)}, False),
        ({'head': None}, False),
        ({'type': OwnClassifier}, False),
        ({'data_preprocessor': MIXUP}, False),
    ],
    ids=str,
)
def test_only_heads_that_concatenate_labels_take_them_merged(changes: dict, expected: bool) -> None:
    cfg = dict(type='ImageClassifier', backbone=BACKBONE, head=dict(type='LinearClsHead', **FEATURES))
    assert accepts_merged_samples(MODELS.build({**cfg, **changes})) is expected


@pytest.mark.parametrize('algorithm', ['FrozenTeacherDistill', 'SingleTeacherDistill'])
def test_both_networks_of_an_algorithm_are_asked(algorithm: str, demo_config: Callable) -> None:
    cfg = demo_config(**{'model.type': algorithm}).model
    assert accepts_merged_samples(MODELS.build(cfg))
    for network in ('architecture', 'teacher'):
        model = MODELS.build(cfg)
        getattr(model, network).head = OwnLoss()
        assert not accepts_merged_samples(model)
    model = MODELS.build(cfg)
    model.data_preprocessor.to_onehot = True
    assert not accepts_merged_samples(model)
