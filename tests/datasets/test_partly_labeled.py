"""Images without labels, and batches of which a part has some, against slow rewrites."""

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import mmcv
import numpy as np
import pytest
import torch
from launches import in_processes
from mmengine.dataset import DefaultSampler, InfiniteSampler, default_collate
from mmengine.runner import Runner
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.registry import DATASETS
from torch.utils.data import DataLoader

from icd_mmrazor.datasets import (
    InMemoryBatches,
    NotInMemoryError,
    PartlyLabeledBatchSampler,
    PartlyLabeledDataset,
    UnlabeledDataset,
)
from icd_mmrazor.datasets.labels import has_labels, image_labels
from icd_mmrazor.datasets.loaders import number_batches
from icd_mmrazor.datasets.randomness import seed_all
from icd_mmrazor.datasets.samples import merge_samples, number_labeled, sample_indices
from icd_mmrazor.errors import DatasetError, SettingError

CROP = dict(type='RandomCrop', crop_size=8, padding=2)
FLIP = dict(type='RandomFlip', prob=0.5, direction='horizontal')
PACK = dict(type='PackInputs')
LOAD = dict(type='LoadImageFromFile')
NAMES = ('a.png', 'B.PNG', 'with blanks/and more/c d.JPEG', 'größe/图像.jpg', 'deep/er/still/e.bmp')


@pytest.fixture
def arrays(tmp_path: Path) -> Callable[..., dict]:
    """Return the config of a dataset of random images with labels."""

    def config(count: int, *pipeline: dict, seed: int = 0) -> dict:
        file = tmp_path / f'images_{count}_{seed}.npz'
        images = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
        np.savez(file, images=images, labels=np.arange(count) % 5)
        pipeline = list(pipeline or (PACK,))
        return dict(type='NPZDataset', data_file=str(file), serialize_data=False, pipeline=pipeline)

    return config


@pytest.fixture
def partly(arrays: Callable) -> Callable[..., PartlyLabeledDataset]:
    def build(labeled: int = 5, unlabeled: int = 7, *pipeline: dict) -> PartlyLabeledDataset:
        parts = dict(labeled=arrays(labeled, *pipeline), unlabeled=arrays(unlabeled, *pipeline, seed=1))
        return DATASETS.build(dict(type='PartlyLabeledDataset', **parts))

    return build


def test_a_folder_without_classes(tmp_path: Path) -> None:
    """mmpretrain's own dataset reads any names in any subfolders; hidden and other files are left out."""
    for number, name in enumerate(NAMES):
        mmcv.imwrite(np.full((4, 4, 3), number, np.uint8), str(tmp_path / name))
    for name in ('.hidden.png', 'notes.txt', 'deep/er/._e.bmp'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b'no image')
    cfg = dict(type='CustomDataset', data_root=str(tmp_path), with_label=False, pipeline=[LOAD, PACK])
    dataset = DATASETS.build(cfg)
    found = {Path(dataset.get_data_info(i)['img_path']).relative_to(tmp_path).as_posix() for i in range(len(dataset))}
    assert found == {*NAMES}
    assert all(dataset[i]['inputs'].shape == (3, 4, 4) for i in range(len(dataset)))
    assert 'gt_label' not in dataset[0]['data_samples']
    assert (has_labels(dataset), image_labels(dataset)) == (False, None)


def test_labelled_images_come_first_and_have_the_labels(partly: Callable, arrays: Callable) -> None:
    dataset, labeled, unlabeled = partly(), DATASETS.build(arrays(5)), DATASETS.build(arrays(7, seed=1))
    assert (len(dataset), dataset.num_labeled) == (12, 5)
    assert dataset.metainfo == labeled.metainfo
    for index in range(12):
        sample = dataset[index]
        original = labeled[index] if index < 5 else unlabeled[index - 5]
        assert torch.equal(sample['inputs'], original['inputs'])
        assert sample['data_samples'].sample_idx == dataset.get_data_info(index)['sample_idx'] == index
        assert sample['data_samples'].gt_label.tolist() == ([index % 5] if index < 5 else [])
        assert ('gt_label' in dataset.get_data_info(index)) is (index < 5)
    assert dataset[-1]['data_samples'].sample_idx == 11
    assert dataset.get_gt_labels().tolist() == [0, 1, 2, 3, 4, *[-1] * 7]
    with pytest.raises(IndexError):
        dataset[12]


def test_looking_for_a_label_draws_no_random_numbers(arrays: Callable) -> None:
    dataset = DATASETS.build(dict(type='UnlabeledDataset', dataset=arrays(6, CROP, FLIP, PACK)))

    def next_numbers() -> tuple:
        return random.random(), np.random.random(), torch.rand(()).item()  # noqa: NPY002 transforms draw from it

    results = []
    for look in (False, True):
        seed_all(7)
        assert not look or has_labels(dataset) is False
        results.append(next_numbers())
    assert results[0] == results[1]
    seed_all(7)
    dataset[0]
    assert next_numbers() != results[0]


def test_labels_that_are_left_out_cannot_be_found(arrays: Callable) -> None:
    dataset = DATASETS.build(dict(type='UnlabeledDataset', dataset=arrays(6)))
    assert (len(dataset), dataset.metainfo, has_labels(dataset), image_labels(dataset)) == (6, {}, False, None)
    assert dataset[3]['data_samples'].keys() == []


def test_mmpretrain_prepares_such_a_batch(partly: Callable) -> None:
    """Its own preprocessor, with and without scores in place of labels."""
    dataset = partly()
    for onehot in (False, True):
        batch = default_collate([dataset[i] for i in (1, 3, 6, 9)])
        data = ClsDataPreprocessor(num_classes=5, to_onehot=onehot)(batch, training=True)
        samples = data['data_samples']
        assert torch.cat([sample.gt_label for sample in samples]).tolist() == [1, 3]
        assert number_labeled(samples, 4) == 2
        if onehot:
            scores = torch.stack([sample.gt_score for sample in samples])
            assert scores.nonzero().tolist() == [[0, 1], [1, 3]]


def test_how_many_are_labelled(partly: Callable) -> None:
    dataset = partly()
    samples = [dataset[i]['data_samples'] for i in range(12)]
    assert number_labeled(samples, 12) == 5
    assert number_labeled(samples[:5], 5) is number_labeled(samples[5:], 7) is number_labeled(None, 3) is None
    (merged,) = merge_samples(samples)
    assert (merged.gt_label.tolist(), sample_indices([merged])) == ([0, 1, 2, 3, 4], [*range(12)])
    assert number_labeled([merged], 12) == 5
    assert number_labeled(merge_samples(samples[:5]), 5) is None
    with pytest.raises(SettingError, match='PartlyLabeledBatchSampler'):
        number_labeled([samples[6], samples[0]], 2)


class Images:
    """As many images as asked for, of which the first have labels."""

    def __init__(self, labeled: int, unlabeled: int) -> None:
        self.num_labeled, self.number = labeled, labeled + unlabeled

    def __len__(self) -> int:
        return self.number


def sampler_of(
    images: int, more: int, batch_size: int, rank: int = 0, size: int = 1, **settings: Any
) -> PartlyLabeledBatchSampler:
    """Build the sampler of one of several processes for images with labels, and more without."""
    with mock.patch('mmengine.dataset.sampler.get_dist_info', return_value=(rank, size)):
        sampler = DefaultSampler(Images(images, more), settings.pop('shuffle', True), seed=3)
        return PartlyLabeledBatchSampler(sampler, batch_size, **settings)


def slow_epochs(
    labeled: int, unlabeled: int, batch_size: int, number: int, epochs: int, of: str = 'labeled', size: int = 1
) -> list[list[list[list[int]]]]:
    """Deal out the images of each epoch one after the other: epochs x batches x processes x positions."""
    counts = {'labeled': labeled, 'unlabeled': unlabeled}
    per_batch = {'labeled': batch_size - number, 'unlabeled': number}
    other = {'labeled': 'unlabeled', 'unlabeled': 'labeled'}[of]
    passes = (np.random.default_rng((3, 1, index)).permutation(counts[other]) for index in itertools.count())
    repeated = itertools.chain.from_iterable(passes)
    found = []
    for epoch in range(epochs):
        order = torch.randperm(counts[of], generator=torch.Generator().manual_seed(3 + epoch)).tolist()
        while len(order) % size:  # as mmengine's DefaultSampler fills up
            order.append(order[len(order) % counts[of]])
        shares = [order[rank::size] for rank in range(size)]
        batches = []
        while shares[0]:
            batch = [{of: share[: per_batch[of]], other: []} for share in shares]
            shares = [share[per_batch[of] :] for share in shares]
            for _ in range(math.ceil(per_batch[other] * len(batch[0][of]) / per_batch[of])):
                for each in batch:
                    each[other].append(int(next(repeated)))
            batches.append([each['labeled'] + [labeled + i for i in each['unlabeled']] for each in batch])
        found.append(batches)
    return found


@pytest.mark.parametrize(
    ('labeled', 'unlabeled', 'batch', 'number', 'of', 'size'),
    [
        (10, 40, 6, 4, 'labeled', 1),
        (10, 7, 8, 5, 'labeled', 1),
        (11, 3, 4, 3, 'labeled', 2),
        (5, 23, 8, 6, 'unlabeled', 1),
        (7, 20, 4, 1, 'unlabeled', 3),
    ],
)
def test_the_order_of_the_images(labeled: int, unlabeled: int, batch: int, number: int, of: str, size: int) -> None:
    expected = slow_epochs(labeled, unlabeled, batch, number, 3, of, size)
    for rank in range(size):
        sampler = sampler_of(labeled, unlabeled, batch, rank, size, unlabeled=number, epoch_of=of)
        for epoch, batches in enumerate(expected):
            sampler.sampler.set_epoch(epoch)
            assert [*sampler] == [each[rank] for each in batches]
            assert len(sampler) == len(batches)
    # an epoch in between, as after a resume
    sampler.sampler.set_epoch(1)
    assert [*sampler] == [each[-1] for each in expected[1]]


def test_an_epoch_is_a_pass_and_the_others_are_used_equally_often() -> None:
    sampler = sampler_of(10, 30, 7, unlabeled=5)
    counts: Counter = Counter()
    for epoch in range(6):
        sampler.sampler.set_epoch(epoch)
        batches = [*sampler]
        assert [len(batch) for batch in batches] == [7] * 5
        assert all(max(batch[:2]) < 10 <= min(batch[2:]) for batch in batches)
        assert sorted(i for batch in batches for i in batch[:2]) == [*range(10)]
        counts.update(i for batch in batches for i in batch[2:])
    assert sorted(counts) == [*range(10, 40)]
    assert {*counts.values()} == {5}


def test_the_last_batch() -> None:
    assert [len(batch) for batch in sampler_of(10, 30, 8, unlabeled=4)] == [8, 8, 4]
    assert [len(batch) for batch in sampler_of(10, 30, 8, unlabeled=4, drop_last=True)] == [8, 8]
    # the same share of both, rounded up
    assert [len(batch) for batch in sampler_of(10, 30, 16, unlabeled=0.25)] == [14]


def test_a_sampler_that_does_not_shuffle() -> None:
    assert [*sampler_of(3, 2, 3, unlabeled=2, shuffle=False)] == [[0, 3, 4], [1, 3, 4], [2, 3, 4]]


@pytest.mark.parametrize(('unlabeled', 'number'), [(1, 1), (7, 7), (0.75, 6), (0.001, 1), (0.999, 7)])
def test_the_ratio(unlabeled: float, number: int) -> None:
    sampler = sampler_of(20, 20, 8, unlabeled=unlabeled)
    assert (sampler.labeled_per_batch, sampler.unlabeled_per_batch) == (8 - number, number)


@pytest.mark.parametrize('unlabeled', [0, 8, 9, -1, 0.0, 1.0, 2.5, True, '4', None])
def test_a_ratio_that_leaves_out_one_of_them(unlabeled: Any) -> None:
    with pytest.raises(SettingError, match='unlabeled='):
        sampler_of(20, 20, 8, unlabeled=unlabeled)


def test_other_settings_that_cannot_be(partly: Callable) -> None:
    with pytest.raises(SettingError, match='epoch_of'):
        sampler_of(20, 20, 8, epoch_of='both')
    with pytest.raises(SettingError, match='batch_size'):
        sampler_of(3, 20, 8, unlabeled=4, drop_last=True)
    with pytest.raises(SettingError, match='DefaultSampler'):
        PartlyLabeledBatchSampler(InfiniteSampler(partly()), 4)
    with pytest.raises(SettingError, match='PartlyLabeledDataset'):
        PartlyLabeledBatchSampler(DefaultSampler(range(8), seed=0), 4)
    with pytest.raises(SettingError, match='labeled is a list'):
        PartlyLabeledDataset(labeled=[], unlabeled=[])


@pytest.mark.parametrize('setting', ['labeled', 'unlabeled'])
def test_empty_parts(setting: str, arrays: Callable) -> None:
    parts = dict(labeled=arrays(4), unlabeled=arrays(3))
    parts[setting]['indices'] = 0
    with pytest.raises(DatasetError, match=rf'PartlyLabeledDataset: {setting} has no images'):
        DATASETS.build(dict(type='PartlyLabeledDataset', **parts))


def test_missing_labels_and_samples(arrays: Callable) -> None:
    without = dict(type='UnlabeledDataset', dataset=arrays(4))
    with pytest.raises(DatasetError, match='has no label'):
        DATASETS.build(dict(type='PartlyLabeledDataset', labeled=without, unlabeled=arrays(3)))[0]
    with pytest.raises(DatasetError, match='PackInputs'):
        UnlabeledDataset(DATASETS.build(dict(arrays(4), pipeline=[])))[0]


def of_a_process(rank: int, config: dict, epochs: int) -> list[list[list[int]]]:
    loader = Runner.build_dataloader(config, seed=3)
    found = []
    for epoch in range(epochs):
        loader.batch_sampler.sampler.set_epoch(epoch)
        found.append([sample_indices(batch['data_samples']) for batch in loader])
    return found


@pytest.mark.slow
def test_two_processes_share_the_batches(arrays: Callable, tmp_path: Path) -> None:
    config = dict(
        batch_size=4,
        sampler=dict(type='DefaultSampler', shuffle=True),
        batch_sampler=dict(type='PartlyLabeledBatchSampler', unlabeled=3),
        dataset=dict(type='PartlyLabeledDataset', labeled=arrays(7), unlabeled=arrays(9, seed=1)),
    )
    found = in_processes(of_a_process, 2, tmp_path, config, 2)
    expected = slow_epochs(7, 9, 4, 3, 2, size=2)
    assert found == [[[each[rank] for each in batches] for batches in expected] for rank in range(2)]


@pytest.mark.parametrize('iterations', [False, True])
def test_a_resumed_run_continues_with_the_next_batch(iterations: bool, partly: Callable) -> None:
    """Within an epoch, from any batch; in loops that count epochs and iterations."""

    def positions(trained: int) -> list[list[int]]:
        dataset = partly(5, 7)
        batches = PartlyLabeledBatchSampler(DefaultSampler(dataset, seed=3), 4, unlabeled=2)
        loader = DataLoader(dataset, batch_sampler=batches, collate_fn=list)
        loop: Any = SimpleNamespace(dataloader=loader, iter=trained, epoch=trained // 3)
        if iterations:
            loop.dataloader_iterator = iter(())
        numbered = number_batches(loop, 5, 0)
        numbered.skip = 0 if iterations else trained % 3
        found: list[list[int]] = []
        while len(found) < 9 - trained:
            if not iterations:
                batches.sampler.set_epoch(loop.epoch)
            for batch in loop.dataloader:
                found.append([sample['data_samples'].sample_idx for sample in batch])
                loop.iter += 1
            loop.epoch += 1
        return found

    whole = positions(0)
    assert whole == [each[0] for batches in slow_epochs(5, 7, 4, 2, 3) for each in batches]
    assert [positions(trained) for trained in (1, 3, 5, 8)] == [whole[trained:] for trained in (1, 3, 5, 8)]


def test_batches_in_memory(partly: Callable) -> None:
    dataset = partly(5, 7, CROP, FLIP, PACK)
    indices, batches = [4, 0, 9, 5, 11], InMemoryBatches(dataset, seed=3)
    batch = batches(indices, iteration=6)
    (sample,) = batch['data_samples']
    assert (sample.gt_label.tolist(), sample.sample_idx) == ([4, 0], indices)
    assert number_labeled(batch['data_samples'], 5) == 2
    # the images as those of a dataset in which all have labels
    padded = [np.pad(dataset.get_data_info(i)['img'], ((2, 2), (2, 2), (0, 0))) for i in indices]
    for image, whole, top, left, flip in zip(batch['inputs'], padded, *batches.draw(5, 6), strict=True):
        crop = whole[top : top + 8, left : left + 8]
        assert (image.permute(1, 2, 0).numpy() == (crop[:, ::-1] if flip else crop)).all()
    each = InMemoryBatches(dataset, seed=3, sample_each=True)(indices, iteration=6)
    assert torch.equal(each['inputs'], batch['inputs'])
    assert [sample.gt_label.tolist() for sample in each['data_samples']] == [[4], [0], [], [], []]
    assert number_labeled(each['data_samples'], 5) == 2


def test_each_part_in_memory_has_its_own_fixed_transforms(arrays: Callable) -> None:
    resized = [dict(type='Resize', scale=(4, 4)), dict(type='Resize', scale=(8, 8)), CROP, PACK]
    parts = dict(labeled=arrays(3, CROP, PACK), unlabeled=arrays(4, *resized, seed=1))
    dataset = DATASETS.build(dict(type='PartlyLabeledDataset', **parts))
    images = InMemoryBatches(dataset).images[:, 2:-2, 2:-2].numpy()
    assert (images[0] == dataset.get_data_info(0)['img']).all()
    image = dataset.get_data_info(3)['img']
    assert (images[3] == mmcv.imresize(mmcv.imresize(image, (4, 4)), (8, 8))).all()
    parts['unlabeled'] = arrays(4, dict(CROP, padding=1), PACK)
    with pytest.raises(NotInMemoryError, match='alike'):
        InMemoryBatches(DATASETS.build(dict(type='PartlyLabeledDataset', **parts)))
