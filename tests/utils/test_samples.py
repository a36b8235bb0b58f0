"""Data samples of a batch, joined into one."""

from collections.abc import Callable

import torch
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS

from icd_mmrazor.utils.samples import as_one_sample, positions_of


def test_one_sample_means_the_same_to_a_head(network: Callable, batch: Callable) -> None:
    model = MODELS.build(network('res8')).eval()
    images, samples = batch()
    for position, sample in enumerate(samples):
        sample.set_metainfo({'sample_idx': position + 10})
    (joined,) = as_one_sample(samples)
    torch.testing.assert_close(model(images, [joined], mode='loss'), model(images, samples, mode='loss'))
    assert joined.sample_idx == [10, 11, 12, 13, 14, 15]
    assert as_one_sample([joined]) == [joined]


def test_what_is_no_single_label_stays() -> None:
    scores = [DataSample().set_gt_score(torch.ones(2)) for _ in range(2)]
    several = [DataSample().set_gt_label([0, 1]) for _ in range(2)]
    for samples in (None, [], scores, several, ['a', 'b']):
        assert as_one_sample(samples) is samples
    without_position = as_one_sample([DataSample().set_gt_label(label) for label in (1, 2)])
    assert without_position[0].gt_label.tolist() == [1, 2]
    assert 'sample_idx' not in without_position[0]


def test_positions_are_read_from_either_form(batch: Callable) -> None:
    _, samples = batch()
    assert positions_of(samples) == [None] * 6
    for position, sample in enumerate(samples):
        sample.set_metainfo({'sample_idx': position + 10})
    assert positions_of(samples) == positions_of(as_one_sample(samples)) == [10, 11, 12, 13, 14, 15]
