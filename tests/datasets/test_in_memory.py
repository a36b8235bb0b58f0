"""Batches made in memory against the same pipelines image by image."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from mmcv.transforms import RandomFlip
from mmengine.dataset import DefaultSampler, default_collate
from mmpretrain.datasets.transforms import RandomCrop
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.registry import DATASETS
from scipy.stats import chi2_contingency
from torch.utils.data import BatchSampler

from icd_mmrazor.datasets import InMemoryBatches, NotInMemoryError, crop_and_flip
from icd_mmrazor.datasets.samples import sample_indices

CROP = dict(type='RandomCrop', crop_size=8, padding=2)
FLIP = dict(type='RandomFlip', prob=0.5, direction='horizontal')
PACK = dict(type='PackInputs')


@pytest.fixture
def data(tmp_path: Path) -> Callable[..., object]:
    """Build a dataset of random images."""

    def build(*pipeline: dict, count: int = 12, shape: tuple = (8, 8, 3), **settings: object) -> object:
        file = tmp_path / 'images.npz'
        images = np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)
        np.savez(file, images=images, labels=np.arange(count) % 5)
        # unserialised: mmengine collects garbage when it serialises, which takes longer than a test
        settings = dict(serialize_data=False, pipeline=list(pipeline), **settings)
        return DATASETS.build(dict(type='NPZDataset', data_file=str(file), **settings))

    return build


@pytest.mark.parametrize('channels', [1, 3])
def test_crops_equal_those_of_a_loop(channels: int) -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (7, 9, 10, channels), dtype=np.uint8)
    indices, tops, lefts, flipped = (generator.integers(high, size=20) for high in (7, 9 - 6 + 1, 10 - 5 + 1, 2))
    flipped = flipped.astype(bool)
    tensors = map(torch.from_numpy, (images, indices, tops, lefts, flipped))
    crops = crop_and_flip(*tensors, size=(6, 5))
    assert crops.shape == (20, channels, 6, 5)
    assert crops.is_contiguous(memory_format=torch.channels_last)
    for crop, index, top, left, flip in zip(crops, indices, tops, lefts, flipped, strict=True):
        expected = images[index, top : top + 6, left : left + 5]
        expected = expected[:, ::-1] if flip else expected
        assert (crop.permute(1, 2, 0).numpy() == expected).all()


@pytest.mark.parametrize('channels', [1, 3])
def test_the_memory_layout_is_a_choice(channels: int, data: Callable) -> None:
    dataset = data(CROP, FLIP, PACK, shape=(8, 8, channels))
    here, there = (InMemoryBatches(dataset, channels_last=last)([0, 3, 4], 0)['inputs'] for last in (True, False))
    assert torch.equal(here, there)
    assert here.is_contiguous(memory_format=torch.channels_last)
    # images of one channel count as contiguous in either layout: convolutions go by the strides
    assert there.stride() == torch.empty(there.shape).stride()


PIPELINES = {
    'cifar': (CROP, FLIP, PACK),
    'no flip': (CROP, PACK),
    'no crop': (FLIP, PACK),
    'nothing random': (PACK,),
    'oblong': (dict(type='RandomCrop', crop_size=(6, 4), padding=(1, 2, 3, 4), pad_val=(1, 2, 3)), FLIP, PACK),
    'padded twice': (dict(CROP, crop_size=20, pad_if_needed=True, padding_mode='reflect'), FLIP, PACK),
    'larger than the images': (dict(CROP, crop_size=(20, 5)), FLIP, PACK),
    'resized': (dict(type='Resize', scale=(11, 10)), dict(type='CenterCrop', crop_size=9), CROP, FLIP, PACK),
    'always flipped': (CROP, dict(FLIP, prob=1.0), PACK),
}


@pytest.mark.parametrize('pipeline', PIPELINES.values(), ids=PIPELINES)
def test_a_pipeline_gives_the_same_with_the_same_numbers(pipeline: tuple, data: Callable) -> None:
    """mmpretrain's own transforms, given the numbers that were drawn."""
    dataset = data(*pipeline)
    batches = InMemoryBatches(dataset, seed=3)
    indices = [4, 0, 11, 4, 7, 2, 9, 5]
    batch = batches(indices, iteration=6)
    drawn = list(zip(*batches.draw(len(indices), 6), strict=True))
    crops = [(top, left, *batches.size) for top, left, _ in drawn]
    flips = [FLIP['direction'] if flip else None for *_, flip in drawn]
    with (
        mock.patch.object(RandomCrop, 'rand_crop_params', side_effect=crops),
        mock.patch.object(RandomFlip, '_choose_direction', side_effect=flips),
    ):
        expected = default_collate([dataset[index] for index in indices])
    assert torch.equal(batch['inputs'], expected['inputs'])
    assert batch['inputs'].dtype == torch.uint8
    (sample,) = batch['data_samples']
    assert torch.equal(sample.gt_label, torch.cat([sample.gt_label for sample in expected['data_samples']]))
    assert sample.sample_idx == indices
    assert sample.metainfo_keys() == ['sample_idx']

    each = InMemoryBatches(dataset, seed=3, sample_each=True)(indices, iteration=6)
    assert torch.equal(each['inputs'], expected['inputs'])
    for sample, other in zip(each['data_samples'], expected['data_samples'], strict=True):
        assert (sample.sample_idx, sample.gt_label.tolist()) == (other.sample_idx, other.gt_label.tolist())


def test_the_images_need_no_labels(data: Callable) -> None:
    dataset = data(CROP, PACK, count=6)
    labelled = InMemoryBatches(dataset)([3, 0], 0)
    info = dataset.get_data_info
    with_label: set[int] = set()

    def unlabelled(index: int) -> dict:
        return {key: value for key, value in info(index).items() if key != 'gt_label' or index in with_label}

    with mock.patch.object(dataset, 'get_data_info', unlabelled):
        for sample_each in (False, True):
            batch = InMemoryBatches(dataset, sample_each=sample_each)([3, 0], 0)
            assert torch.equal(batch['inputs'], labelled['inputs'])
            assert [sample.keys() for sample in batch['data_samples']] == [[]] * (2 if sample_each else 1)
            assert sample_indices(batch['data_samples']) == [3, 0]
        with_label.add(4)
        with pytest.raises(NotInMemoryError, match='5 of 6 images have no label'):
            InMemoryBatches(dataset)


def test_the_images_need_no_channels(data: Callable, tmp_path: Path) -> None:
    """Gray images as mmpretrain packs them."""
    dataset = data(CROP, PACK)
    gray = {'img': np.arange(64, dtype=np.uint8).reshape(8, 8), 'gt_label': 1}
    with mock.patch.object(dataset, 'get_data_info', lambda index: {**gray, 'sample_idx': index}):
        batches = InMemoryBatches(dataset)
        tops, lefts, _ = batches.draw(1, 0)
        with mock.patch.object(RandomCrop, 'rand_crop_params', return_value=(tops[0], lefts[0], 8, 8)):
            assert torch.equal(batches([3], 0)['inputs'][0], dataset[3]['inputs'])


def test_the_distribution_is_that_of_the_pipeline(data: Callable) -> None:
    dataset = data(dict(CROP, padding=1), dict(FLIP, prob=0.3), PACK, count=1)
    batches = InMemoryBatches(dataset)
    # which crop it is can be seen: all 9 x 2 are different
    choices = [(top, left, flip) for top in range(3) for left in range(3) for flip in (False, True)]
    crops = crop_and_flip(batches.images, torch.zeros(18, dtype=torch.int64), *torch.tensor(choices).T[:2],
                          torch.tensor([flip for *_, flip in choices]), batches.size)  # fmt: skip
    names = {crop.numpy().tobytes(): name for crop, name in zip(crops, choices, strict=True)}
    assert len(names) == 18

    def counts(images: list[torch.Tensor]) -> list[int]:
        found = Counter(names[image.contiguous().numpy().tobytes()] for image in images)
        return [found[name] for name in choices]

    np.random.seed(0)  # noqa: NPY002 mmpretrain's transforms draw from it
    one_by_one = counts([dataset[0]['inputs'] for _ in range(3000)])
    whole = counts([image for i in range(60) for image in batches([0] * 100, i)['inputs']])
    assert chi2_contingency([one_by_one, whole]).pvalue > 0.05
    expected = np.array([6000 / 9 * (0.3 if flip else 0.7) for *_, flip in choices])
    # 18 cells: at a level of 5 %
    assert ((np.array(whole) - expected) ** 2 / expected).sum() < 27.6


def test_batches_follow_from_seed_rank_and_iteration(data: Callable) -> None:
    dataset, indices = data(CROP, FLIP, PACK), list(range(12))

    def images(iteration: int, **settings: int) -> bytes:
        return InMemoryBatches(dataset, **settings)(indices, iteration)['inputs'].numpy().tobytes()

    state = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    first = images(0, seed=1)
    different = {first, images(1, seed=1), images(0, seed=2), images(0, seed=1, rank=1), images(1, seed=0)}
    assert len(different) == 5
    batches = InMemoryBatches(dataset, seed=1)
    batches(indices, 5)
    assert batches(indices, 0)['inputs'].numpy().tobytes() == first
    # nobody else's random numbers are used
    assert state == (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # noqa: NPY002


def test_processes_share_the_images(data: Callable) -> None:
    dataset = data(CROP, PACK, count=10)
    seen, labels = [], dataset.get_gt_labels()
    for rank in (0, 1):
        with mock.patch('mmengine.dataset.sampler.get_dist_info', return_value=(rank, 2)):
            sampler = DefaultSampler(dataset, shuffle=True, seed=4)
        batches = InMemoryBatches(dataset, rank=rank)
        for batch in (batches(indices, 0) for indices in BatchSampler(sampler, 2, drop_last=False)):
            (sample,) = batch['data_samples']
            assert len(batch['inputs']) == len(sample.sample_idx)
            assert sample.gt_label.tolist() == labels[sample.sample_idx].tolist()
            seen += sample.sample_idx
    assert sorted(seen) == list(range(10))


def test_subsets_and_wrapped_datasets_keep_their_indices(data: Callable) -> None:
    part = data(PACK, count=6, indices=[5, 2])
    indexed = DATASETS.build(dict(type='IndexedDataset', dataset=data(PACK, count=6)))
    for dataset in (part, indexed):
        indices = [1, 0]
        (sample,) = InMemoryBatches(dataset)(indices, 0)['data_samples']
        one_by_one = [dataset[index]['data_samples'] for index in indices]
        assert sample.sample_idx == [s.sample_idx for s in one_by_one]
        assert sample.gt_label.tolist() == [s.gt_label.item() for s in one_by_one]


@pytest.mark.parametrize(
    ('pipeline', 'reason'),
    [
        ((dict(type='RandomResizedCrop', scale=8), PACK), r'pipeline \(RandomResizedCrop, PackInputs\)'),
        ((FLIP, CROP, PACK), 'in this order'),
        ((CROP, dict(FLIP, direction='vertical'), PACK), 'a horizontal RandomFlip'),
        ((CROP, dict(FLIP, prob=[0.2, 0.3], direction=['horizontal', 'vertical']), PACK), 'a horizontal RandomFlip'),
        ((CROP, dict(type='Resize', scale=(8, 8)), PACK), 'RandomCrop, Resize, PackInputs'),
        ((CROP, dict(PACK, meta_keys=('ori_shape',))), 'PackInputs with its defaults'),
        ((CROP,), 'RandomCrop, .*PackInputs'),
    ],
    ids=str,
)
def test_other_pipelines_are_refused(pipeline: tuple, reason: str, data: Callable) -> None:
    with pytest.raises(NotInMemoryError, match=reason):
        InMemoryBatches(data(*pipeline))


@pytest.mark.parametrize(
    ('changed', 'reason'),
    [
        ({'img': np.zeros((8, 9, 3), dtype=np.uint8)}, r'image 2 is 12 x 13 x 3, those before it are 12 x 12 x 3'),
        ({'img': np.zeros((8, 8, 3), dtype=np.float32)}, 'not uint8'),
        ({'gt_label': [1, 2]}, 'more or less than one label'),
        ({'gt_label': None}, 'more or less than one label'),
        ({'gt_score': np.ones(5)}, 'more or less than one label'),
    ],
    ids=str,
)
def test_images_that_are_not_alike_are_refused(changed: dict, reason: str, data: Callable) -> None:
    dataset = data(CROP, PACK)
    info = dataset.get_data_info
    other = mock.patch.object(dataset, 'get_data_info', lambda index: info(index) | (changed if index == 2 else {}))
    with other, pytest.raises(NotInMemoryError, match=reason):
        InMemoryBatches(dataset)


def test_other_datasets_are_refused(data: Callable) -> None:
    dataset = data(CROP, PACK)
    wrapped = DATASETS.build(dict(type='RepeatDataset', times=2, dataset=dataset))
    with pytest.raises(NotInMemoryError, match='RepeatDataset makes its samples in its own way'):
        InMemoryBatches(wrapped)
    with (
        mock.patch.object(type(dataset), 'prepare_data', return_value=None),
        pytest.raises(NotInMemoryError, match='NPZDataset makes its samples in its own way'),
    ):
        InMemoryBatches(dataset)


def test_what_takes_too_much_memory_is_refused_unread(data: Callable) -> None:
    dataset = data(CROP, PACK)
    size = 12 * 12 * 12 * 3
    assert InMemoryBatches(dataset, max_memory=size / 1e9).images.nbytes == size
    with (
        mock.patch.object(dataset, 'get_data_info', wraps=dataset.get_data_info) as read,
        pytest.raises(NotInMemoryError, match=r'5.18e-06 GB .* more than max_memory=5e-06\. default_hooks\.whole_b'),
    ):
        InMemoryBatches(dataset, max_memory=5e-6)
    assert read.call_count == 1


def test_mirrored_and_read_only_arrays_are_read(data: Callable) -> None:
    dataset = data(PACK)
    info = dataset.get_data_info
    expected = np.stack([info(i)['img'][:, :, ::-1] for i in range(len(dataset))])

    def mirrored(index: int) -> dict:
        sample = info(index)
        image = sample['img'][:, :, ::-1]
        image.flags.writeable = False
        return sample | {'img': image}

    with mock.patch.object(dataset, 'get_data_info', mirrored):
        assert (InMemoryBatches(dataset).images.numpy() == expected).all()


@pytest.mark.parametrize('normalised', [True, False])
def test_cutmix_does_not_write_into_the_images(normalised: bool, data: Callable) -> None:
    batches = InMemoryBatches(data(PACK), sample_each=True)
    before = batches.images.clone()
    settings = dict(mean=[1.0] * 3, std=[2.0] * 3) if normalised else {}
    preprocessor = ClsDataPreprocessor(
        num_classes=5, batch_augments=dict(augments=dict(type='CutMix', alpha=1.0)), **settings
    )
    batch = batches(list(range(12)), 0)
    mixed = preprocessor(batch, True)['inputs']
    assert not torch.equal(mixed, preprocessor(batches(list(range(12)), 0), False)['inputs'])
    assert torch.equal(batches.images, before)


def test_a_dataset_that_cannot_be_pickled_is_compared_by_its_annotations(data: Callable) -> None:
    dataset = data(PACK)
    dataset.handle = lambda: None
    batches = InMemoryBatches(dataset)
    assert not batches.changed(data=True)
    dataset.data_list[3]['gt_label'] = 1 - dataset.data_list[3]['gt_label']
    assert batches.changed(data=True)
    assert not batches.changed()
    dataset.data_list[3]['handle'] = dataset.handle
    with pytest.raises(NotInMemoryError, match='cannot be pickled'):
        batches.changed(data=True)


@pytest.mark.parametrize('change', ['pipeline', 'transform', 'prepare_data'])
def test_replaced_methods_are_noticed(change: str, data: Callable) -> None:
    dataset = data(CROP, PACK)
    batches = InMemoryBatches(dataset)
    owner = dict(pipeline=dataset, transform=dataset.pipeline.transforms[0], prepare_data=dataset)[change]
    setattr(owner, change, lambda sample: sample)
    with pytest.raises(NotInMemoryError, match=r'the pipeline is a function|was replaced|in its own way'):
        batches.changed()


@pytest.mark.gpu
def test_a_gpu_gives_the_same_without_synchronisation(data: Callable) -> None:
    dataset, indices = data(CROP, FLIP, PACK), [3, 1, 4, 1, 5]
    cpu, gpu = InMemoryBatches(dataset), InMemoryBatches(dataset, device='cuda')
    gpu(indices, 0)
    torch.cuda.set_sync_debug_mode('error')
    try:
        batch = gpu(indices, 7)
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert batch['inputs'].device.type == batch['data_samples'][0].gt_label.device.type == 'cuda'
    assert torch.equal(batch['inputs'].cpu(), cpu(indices, 7)['inputs'])
