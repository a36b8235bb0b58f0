"""Augmentations of whole batches: ours against slow rewrites, mmpretrain's as R2KD and MixKD take them."""

import numpy as np
import pytest
import torch
from helpers import DATA
from mmpretrain.models import ClsDataPreprocessor
from torch import Tensor
from torchvision.transforms import AutoAugment, AutoAugmentPolicy

from icd_mmrazor.datasets.randomness import seed_all
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.algorithms.augmentation import build_augmentation
from icd_mmrazor.models.batch_augments import BatchAutoAugment, BatchCutout

NORMALISED = dict(mean=[120.0, 110.0, 100.0], std=[60.0, 61.0, 62.0])


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    return torch.rand(5, 3, 12, 9) + 1, torch.eye(5)


def test_one_square_of_all_images(batch: tuple) -> None:
    images, scores = batch
    before = images.clone()
    seen = set()
    for seed in range(400):
        seed_all(seed)
        cut, same = BatchCutout(side=4)(images, scores)
        assert same is scores
        seed_all(seed)
        row, column = np.random.randint(12), np.random.randint(9)  # noqa: NPY002
        for i in range(12):
            for j in range(9):
                inside = row - 2 <= i < row + 2 and column - 2 <= j < column + 2
                if inside:
                    assert (cut[:, :, i, j] == 0).all()
        zeros = int((cut[0, 0] == 0).sum())
        rows, columns = min(row + 2, 12) - max(row - 2, 0), min(column + 2, 9) - max(column - 2, 0)
        assert zeros == rows * columns
        assert torch.equal(cut[cut != 0], images.masked_select(cut != 0))
        seen.add((row, column))
    # every centre, also at the border
    assert len(seen) > 100
    assert torch.equal(images, before)


@pytest.mark.parametrize('policy', ['cifar10', 'imagenet', 'svhn'])
def test_one_policy_of_all_images(policy: str) -> None:
    """That of torchvision, on the pixels."""
    pixels = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    mean, std = (torch.tensor(NORMALISED[name]).view(1, 3, 1, 1) for name in ('mean', 'std'))
    images, scores = (pixels - mean) / std, torch.eye(4)
    augment = BatchAutoAugment(policy, **NORMALISED)
    changed = 0
    for seed in range(8):
        seed_all(seed)
        got, same = augment(images, scores)
        seed_all(seed)
        want = AutoAugment(AutoAugmentPolicy(policy))(pixels)
        assert same is scores
        assert torch.equal((got * std + mean).round().to(torch.uint8), want)
        assert got.dtype == images.dtype
        changed += not torch.equal(want, pixels)
    assert changed > 4


def test_mixup_is_mmpretrains() -> None:
    """Against its stored numbers."""
    z = np.load(DATA / 'mixup_mmpretrain.npz')
    lam, index, x = z['lam'].item(), z['index'], z['x']
    mixed = lam * x + (1 - lam) * x[index]
    assert np.abs(mixed - z['mixed_x']).max() < 1e-12
    augment = build_augmentation('it', dict(type='Mixup', alpha=z['alpha'].item()), ClsDataPreprocessor())
    seed_all(3)
    images, scores = augment(torch.from_numpy(x), torch.from_numpy(z['y']))
    seed_all(3)
    lam = np.random.beta(z['alpha'].item(), z['alpha'].item())  # noqa: NPY002
    index = torch.randperm(len(x)).numpy()
    for got, whole in ((images, x), (scores, z['y'])):
        want = np.stack([lam * whole[i] + (1 - lam) * whole[index[i]] for i in range(len(x))])
        assert np.abs(got.numpy() - want).max() < 1e-6


def test_settings_come_from_the_data_preprocessor() -> None:
    augment = build_augmentation('it', dict(type='BatchAutoAugment'), ClsDataPreprocessor(**NORMALISED))
    assert (augment.mean, augment.std) == ((120.0, 110.0, 100.0), (60.0, 61.0, 62.0))
    augment = build_augmentation('it', dict(type='BatchAutoAugment', mean=[1.0], std=[2.0]), ClsDataPreprocessor())
    assert (augment.mean, augment.std) == ((1.0,), (2.0,))
    # as an integer on the command line
    assert build_augmentation('it', dict(type='mmpretrain.CutMix', alpha=1), ClsDataPreprocessor()).alpha == 1.0


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ('Mixup', "augment='Mixup' must be a dict"),
        (dict(type='Mixupp', alpha=1.0), "augment.type='Mixupp'.*Mixup"),
        (dict(type='Mixup'), 'Mixup, which takes alpha'),
        (dict(type='Mixup', alpha=-1.0), 'Mixup, which takes alpha'),
        (dict(type='BatchCutout', side=0), 'BatchCutout: side=0'),
        (dict(type='BatchCutout', size=3), 'BatchCutout, which takes side'),
        (dict(type='BatchAutoAugment', policy='cifar'), "BatchAutoAugment: policy='cifar'"),
        (dict(type='BatchAutoAugment', std=[0.0]), r'BatchAutoAugment: std=\[0\.0\].*positive'),
    ],
    ids=str,
)
def test_bad_settings_are_refused(settings: object, message: str) -> None:
    with pytest.raises(SettingError, match=f'^AugmentedDistill: .*{message}'):
        build_augmentation('AugmentedDistill', settings, ClsDataPreprocessor())


def test_images_of_other_channels_are_refused() -> None:
    with pytest.raises(SettingError, match='BatchAutoAugment'):
        BatchAutoAugment()(torch.zeros(2, 4, 8, 8), torch.eye(2))
