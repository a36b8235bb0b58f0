"""Mixtures of two images that follow from a key, against the formulas of the augmentations."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmpretrain.models import CutMix, Mixup, RandomBatchAugment, ResizeMix
from mmpretrain.structures import DataSample
from scipy.stats import binomtest, kstest

from icd_mmrazor.datasets.keyed_mixing import KeyedMixing
from icd_mmrazor.datasets.loaders import sample_of_view
from icd_mmrazor.datasets.samples import mark_unlabeled
from icd_mmrazor.datasets.view_numbers import FixedViews
from icd_mmrazor.errors import DatasetError, SettingError


class Noisy:
    """Noise images, 8 x 6, one for each class."""

    def __init__(self, number: int = 6, num_labeled: int | None = None) -> None:
        self.number, self.num_labeled = number, num_labeled

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: int) -> dict:
        image = torch.from_numpy(np.random.randint(0, 256, (3, 8, 6), dtype=np.uint8))  # noqa: NPY002
        sample = DataSample().set_gt_label(index)
        if self.num_labeled is not None and index >= self.num_labeled:
            mark_unlabeled(sample)
        return {'inputs': image, 'data_samples': sample}


def views_with(augments: Any, **settings: Any) -> FixedViews:
    return FixedViews(1000, 4, KeyedMixing(augments, settings.get('num_classes', 6)))


def pair_of(sample: dict, dataset: Any, index: int, view: int) -> tuple[torch.Tensor, torch.Tensor, float, int]:
    """Return the two images of a mixture, the share of the first, and which the second is, by the scores."""
    scores = sample['data_samples'].gt_score
    assert scores.sum().item() == pytest.approx(1)
    others = [i for i in range(6) if scores[i] > 0 and i != index] or [index]
    plain = FixedViews(1000, 4)
    first, second = (sample_of_view(dataset, plain, i, view)['inputs'].float() for i in (index, others[0]))
    return first, second, scores[index].item(), others[0]


EACH = [(index, view) for index in range(6) for view in range(8)]


def test_mixup_is_the_sum_of_two_views() -> None:
    dataset, views, partners = Noisy(), views_with(Mixup(alpha=1.0)), set()
    for index, view in EACH:
        mixed = sample_of_view(dataset, views, index, view)
        first, second, share, other = pair_of(mixed, dataset, index, view)
        torch.testing.assert_close(mixed['inputs'], share * first + (1 - share) * second)
        assert mixed['data_samples'].gt_label.item() == index
        partners.add((index, other))
    assert len(partners) > 20


@pytest.mark.parametrize('kind', [CutMix, ResizeMix])
def test_a_part_of_an_image_is_replaced(kind: type) -> None:
    dataset, views, places = Noisy(), views_with(kind(alpha=1.0)), set()
    for index, view in EACH:
        mixed = sample_of_view(dataset, views, index, view)
        first, second, share, other = pair_of(mixed, dataset, index, view)
        rows, columns = ((mixed['inputs'] != first).any(0).any(dim).nonzero().flatten().tolist() for dim in (1, 0))
        if other == index or not rows:
            continue
        places.add((rows[0], rows[-1], columns[0], columns[-1]))
        height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
        assert share == pytest.approx(1 - height * width / 48)
        box = (slice(None), slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        part = (
            second[box]
            if kind is CutMix
            else F.interpolate(second[None], (height, width), mode='bilinear', align_corners=False)[0]
        )
        torch.testing.assert_close(mixed['inputs'][box], part)
    assert len(places) > 20


def test_shares_and_partners_have_the_distribution_of_a_batch() -> None:
    dataset, views = Noisy(), views_with(Mixup(alpha=0.5))
    scores = torch.stack([sample_of_view(dataset, views, 0, view)['data_samples'].gt_score for view in range(500)])
    mixed = scores[:, 0] < 1
    # an image may be its own partner, as in a batch
    assert binomtest(int((~mixed).sum()), 500, 1 / 6).pvalue > 0.05
    assert kstest(scores[mixed, 0].numpy(), 'beta', (0.5, 0.5)).pvalue > 0.05


def test_an_augmentation_is_chosen_for_each_image() -> None:
    dataset = Noisy()
    augments = RandomBatchAugment([dict(type='Mixup', alpha=1.0), dict(type='CutMix', alpha=1.0)], probs=[0.3, 0.2])
    views, plain, kinds = views_with(augments), FixedViews(1000, 4), {'plain': 0, 'CutMix': 0, 'Mixup': 0}
    for view in range(300):
        mixed, before = (sample_of_view(dataset, each, 0, view) for each in (views, plain))
        same = (mixed['inputs'] == before['inputs']).float().mean().item()
        kinds['plain' if same == 1 else 'CutMix' if same > 0.05 else 'Mixup'] += 1
        assert mixed['inputs'].dtype == torch.float32
        assert mixed['data_samples'].gt_score.shape == (6,)
    # images that have met themselves, or a box of no area or all of it, look as in another case
    assert abs(kinds['Mixup'] - 75) < 30
    assert abs(kinds['CutMix'] - 45) < 25


def test_a_mixture_follows_from_its_key_alone() -> None:
    dataset, views = Noisy(), views_with(CutMix(alpha=1.0))
    first = sample_of_view(dataset, views, 2, 7)
    torch.rand(3), np.random.random(3)  # noqa: NPY002
    again = sample_of_view(dataset, views_with(CutMix(alpha=1.0)), 2, 7)
    assert torch.equal(first['inputs'], again['inputs'])
    assert torch.equal(first['data_samples'].gt_score, again['data_samples'].gt_score)
    assert not torch.equal(first['inputs'], sample_of_view(dataset, views, 2, 8)['inputs'])


def test_images_are_mixed_with_those_of_their_kind() -> None:
    dataset, views = Noisy(num_labeled=3), views_with(Mixup(alpha=1.0))
    for view in range(20):
        scores = sample_of_view(dataset, views, 1, view)['data_samples'].gt_score
        assert (scores[:3] > 0).any()
        assert (scores[3:] == 0).all()
        unlabelled = sample_of_view(dataset, views, 4, view)
        assert unlabelled['inputs'].dtype == torch.float32
        assert unlabelled['data_samples'].keys() == ['gt_label']


class OwnMixing(Mixup):
    pass


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: KeyedMixing(RandomBatchAugment([OwnMixing(1.0)]), 6), 'OwnMixing .*batch_augments'),
        (lambda: KeyedMixing(RandomBatchAugment([Mixup(1.0)]), None), 'num_classes'),
    ],
)
def test_other_augmentations_are_refused(make: Callable, message: str) -> None:
    with pytest.raises(SettingError, match=f'model.teacher_cache: .*{message}'):
        make()


def test_images_of_several_shapes_are_refused() -> None:
    class Growing(Noisy):
        def __getitem__(self, index: int) -> dict:
            return {**super().__getitem__(index), 'inputs': torch.zeros(3, 8, index + 1)}

    views = views_with(Mixup(1.0))
    with pytest.raises(DatasetError, match='cannot be mixed'):
        [sample_of_view(Growing(), views, 0, view) for view in range(5)]


def test_other_mixtures_have_another_description() -> None:
    augments = [Mixup(1.0), Mixup(0.5), CutMix(1.0), RandomBatchAugment([Mixup(1.0)], probs=0.5)]
    described = {json.dumps(views_with(each).description) for each in augments}
    assert len({*described, json.dumps(FixedViews(1000, 4).description)}) == 5
    assert str(views_with(Mixup(1.0))) == '1,000 fixed mixed views'
