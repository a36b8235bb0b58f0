"""Weak and strong views of the images of a batch, one by one and in memory, against single views and slow rewrites."""

import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from helpers import shipped
from mmcv.transforms import RandomFlip
from mmengine.dataset import pseudo_collate
from mmpretrain.datasets.transforms import RandomCrop
from mmpretrain.registry import DATASETS, TRANSFORMS
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from torch.utils.data import DataLoader

from icd_mmrazor.datasets import InMemoryBatches, SquareCutout, TwoViewDataset
from icd_mmrazor.datasets.labels import image_labels, plain_datasets
from icd_mmrazor.datasets.loaders import number_batches
from icd_mmrazor.datasets.randomness import STRONG_VIEW, seed_all
from icd_mmrazor.datasets.samples import merge_samples, number_of_weak_views, sample_indices
from icd_mmrazor.datasets.views import number_views
from icd_mmrazor.errors import DatasetError, SettingError

CROP = dict(type='RandomCrop', crop_size=8, padding=2)
FLIP = dict(type='RandomFlip', prob=0.5, direction='horizontal')
PACK = dict(type='PackInputs')
STRONG = [dict(type='Solarize', magnitude_range=(0, 256), prob=0.8), dict(type='SquareCutout')]
STRONG[0] |= dict(magnitude_level=10, magnitude_std='inf')
INDICES = [4, 0, 11, 4, 7]


@pytest.fixture
def images(tmp_path: Path) -> Callable[..., dict]:
    """Return the config of a dataset of 12 random images."""

    def config(*pipeline: dict, **settings: Any) -> dict:
        file = tmp_path / 'images.npz'
        arrays = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
        np.savez(file, images=arrays, labels=np.arange(12) % 5)
        pipeline = list(pipeline or (CROP, FLIP, PACK))
        return dict(type='NPZDataset', data_file=str(file), serialize_data=False, pipeline=pipeline, **settings)

    return config


@pytest.fixture
def data(images: Callable) -> Callable[..., TwoViewDataset]:
    def build(*pipeline: dict, strong: list | tuple = STRONG) -> TwoViewDataset:
        return DATASETS.build(dict(type='TwoViewDataset', dataset=images(*pipeline), strong=list(strong)))

    return build


def stacked(samples: list[dict]) -> torch.Tensor:
    return torch.stack([sample['inputs'] for sample in samples])


def augmentations(samples: list[dict]) -> list[str]:
    return [sample['data_samples'].augmentation for sample in samples]


def by_hand(image: torch.Tensor, transforms: list) -> torch.Tensor:
    results = dict(img=image.permute(1, 2, 0).numpy())
    for transform in transforms:
        results = transform(results)
    return torch.from_numpy(results['img']).permute(2, 0, 1)


def test_a_batch_has_the_weak_views_and_then_the_strong_ones(data: Callable) -> None:
    """The weak ones as without the wrapper; the strong ones cropped and flipped anew, then transformed."""
    dataset = data()
    seed_all(3)
    samples = dataset.__getitems__(INDICES)
    assert augmentations(samples) == ['weak'] * 5 + ['strong'] * 5
    assert sample_indices([sample['data_samples'] for sample in samples]) == INDICES * 2
    assert [sample['data_samples'].gt_label.item() for sample in samples] == [index % 5 for index in INDICES] * 2
    seed_all(3)
    weak = [dataset.dataset[index] for index in INDICES]
    assert torch.equal(stacked(samples[:5]), stacked(weak))
    # what is drawn next goes to the strong views, an image after the other
    strong = [by_hand(dataset.dataset[index]['inputs'], dataset.strong) for index in INDICES]
    assert torch.equal(stacked(samples[5:]), torch.stack(strong))
    assert not any(torch.equal(*pair) for pair in zip(stacked(samples[:5]), strong, strict=True))


def test_without_transforms_both_views_are_made_alike(data: Callable) -> None:
    samples = data(CROP, PACK, strong=()).__getitems__(INDICES)
    padded = torch.nn.functional.pad(data(PACK)[4]['inputs'], [2] * 4)
    places = {padded[:, i : i + 8, j : j + 8].contiguous().numpy().tobytes() for i in range(5) for j in range(5)}
    views = [samples[position]['inputs'].contiguous() for position in (0, 3, 5, 8)]
    assert all(view.numpy().tobytes() in places for view in views)
    assert len({view.numpy().tobytes() for view in views}) > 1


def test_it_counts_images_and_gives_one_of_them_weakly(data: Callable) -> None:
    dataset = data()
    assert len(dataset) == 12
    seed_all(1)
    sample = dataset[4]
    seed_all(1)
    assert torch.equal(sample['inputs'], dataset.dataset[4]['inputs'])
    assert sample['data_samples'].augmentation == 'weak'
    assert dataset.metainfo == dataset.dataset.metainfo
    assert dataset.get_data_info(4)['sample_idx'] == 4
    assert [*plain_datasets(dataset)] == [dataset.dataset]
    (plain,) = plain_datasets(dataset)
    assert image_labels(plain).tolist() == [i % 5 for i in range(12)]


def test_wrappers_inside_number_the_images(images: Callable) -> None:
    inner = dict(type='IndexedDataset', dataset=dict(type='ConcatDataset', datasets=[images(), images()]))
    dataset = TwoViewDataset(inner)
    samples = dataset.__getitems__([3, 15])
    assert sample_indices([sample['data_samples'] for sample in samples]) == [3, 15, 3, 15]
    assert dataset.get_data_info(15)['sample_idx'] == 15


@pytest.mark.parametrize('workers', [0, pytest.param(2, marks=pytest.mark.slow)])
def test_batches_of_a_loader(workers: int, data: Callable) -> None:
    """With and without workers the same, and the weak half as with one view."""
    batches = {}
    for name, dataset in (('two', data()), ('one', data().dataset)):
        loader = DataLoader(dataset, batch_size=5, num_workers=workers, collate_fn=pseudo_collate)
        loop = SimpleNamespace(dataloader=loader, epoch=0, iter=7)
        numbered = number_batches(loop, seed=2, rank=1)
        batches[name] = [*numbered.loader]
        numbered.undo()
    assert [len(batch['inputs']) for batch in batches['two']] == [10, 10, 4]
    for two, one in zip(batches['two'], batches['one'], strict=True):
        images = len(one['inputs'])
        assert torch.equal(torch.stack(two['inputs'][:images]), torch.stack(one['inputs']))
        assert number_of_weak_views(two['data_samples']) == images
    seed_all(2, 1, 7, 3)
    assert torch.equal(torch.stack(batches['two'][0]['inputs']), stacked(data().__getitems__(range(5))))


@pytest.mark.parametrize('strong', [(), STRONG], ids=['alike', 'strong'])
@pytest.mark.parametrize('each', [False, True])
def test_batches_in_memory(each: bool, strong: list, data: Callable) -> None:
    """Weak views have the crops and flips of single views; strong ones others, and the pipeline's transforms."""
    dataset = data(strong=strong)
    settings: dict = dict(seed=3, rank=2, sample_each=each)
    state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    batch = InMemoryBatches(dataset, **settings)(INDICES, iteration=6)
    assert (state[0], state[1]) == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    assert torch.equal(state[2], torch.get_rng_state())
    one = InMemoryBatches(dataset.dataset, **settings)
    alone = one(INDICES, iteration=6)
    assert batch['inputs'].dtype == torch.uint8
    assert torch.equal(batch['inputs'][:5], alone['inputs'])

    drawn = list(zip(*one.draw(5, 6, STRONG_VIEW), strict=True))
    crops = [(top, left, 8, 8) for top, left, _ in drawn]
    flips = [FLIP['direction'] if flip else None for *_, flip in drawn]
    with (
        mock.patch.object(RandomCrop, 'rand_crop_params', side_effect=crops),
        mock.patch.object(RandomFlip, '_choose_direction', side_effect=flips),
    ):
        cropped = [dataset.dataset[index]['inputs'] for index in INDICES]
    seed_all(3, 2, 6, STRONG_VIEW)
    expected = torch.stack([by_hand(image, dataset.strong) for image in cropped])
    assert torch.equal(batch['inputs'][5:], expected)

    samples = batch['data_samples']
    assert len(samples) == (10 if each else 1)
    assert sample_indices(samples) == INDICES * 2
    assert torch.cat([sample.gt_label for sample in samples]).tolist() == [index % 5 for index in INDICES] * 2
    assert number_of_weak_views(samples) == 5
    assert number_of_weak_views(alone['data_samples']) is None


def test_batches_in_memory_follow_from_seed_rank_and_iteration(data: Callable) -> None:
    made = {
        (seed, rank, iteration): InMemoryBatches(data(), seed=seed, rank=rank)(INDICES, iteration)['inputs']
        for seed, rank, iteration in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    }
    again = InMemoryBatches(data())
    again(INDICES, 5)
    assert torch.equal(again(INDICES, 0)['inputs'], made[0, 0, 0])
    strong = [batch[5:].numpy().tobytes() for batch in made.values()]
    assert len({*strong}) == 4


@pytest.mark.parametrize('last', [False, True])
def test_the_memory_layout_is_kept(last: bool, data: Callable) -> None:
    batch = InMemoryBatches(data(), channels_last=last)(INDICES, 0)['inputs']
    assert batch.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def test_merged_data_samples_say_which_views_they_are_of(data: Callable) -> None:
    samples = [sample['data_samples'] for sample in data().__getitems__(INDICES)]
    (merged,) = merge_samples(samples)
    assert merged.augmentation == ['weak'] * 5 + ['strong'] * 5
    assert number_of_weak_views([merged]) == number_of_weak_views(samples) == 5
    for other in (None, [], samples[:5], samples[5:] + samples[:5], samples[:-1]):
        assert number_of_weak_views(other) is None


@pytest.mark.parametrize('setting', ['all', 'first', 1])
def test_views_of_a_batch_with_two_have_no_numbers(setting: str | int, data: Callable) -> None:
    loop = SimpleNamespace(dataloader=DataLoader(data(), batch_size=4), epoch=0, iter=0)
    run = SimpleNamespace(train_loop=loop, seed=0, model=torch.nn.Identity())
    with pytest.raises(SettingError, match=r'teacher_cache.views=.*TwoViewDataset has two views.*Remove'):
        number_views(run, setting)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(dataset=5), 'dataset is a int'),
        (dict(dataset=dict(type='TwoViewDataset')), 'dataset is a TwoViewDataset, of which a batch has a given order'),
        (dict(dataset=dict(type='PartlyLabeledDataset')), 'dataset is a PartlyLabeledDataset, of which a batch'),
        (dict(strong='RandAugment'), "strong='RandAugment' must be a list"),
        (dict(strong=dict(type='RandAugment')), r'strong=.* must be a list'),
        (dict(strong=['RandAugment']), r'strong=.* must be a list'),
    ],
    ids=str,
)
def test_bad_settings(change: dict, message: str, images: Callable) -> None:
    inside = dict(
        TwoViewDataset=dict(dataset=images()), PartlyLabeledDataset=dict(labeled=images(), unlabeled=images())
    )
    settings = dict(dataset=images(), strong=[]) | change
    if isinstance(settings['dataset'], dict):
        settings['dataset'] = settings['dataset'] | inside.get(settings['dataset']['type'], {})
    with pytest.raises(SettingError, match=f'TwoViewDataset: {message}'):
        TwoViewDataset(**settings)


@pytest.mark.parametrize(
    ('strong', 'message'),
    [
        (dict(type='Resize', scale=4), r'Resize in strong made \(4, 4, 3\) of an image of shape \(8, 8, 3\)'),
        (PACK, 'PackInputs in strong made nothing'),
        (lambda _: None, 'function in strong made nothing'),
        (lambda results: {'img': results['img'][..., 0]}, r'made \(8, 8\)'),
    ],
    ids=['size', 'packed', 'left out', 'channels'],
)
def test_transforms_that_do_not_keep_the_image(strong: Any, message: str, data: Callable) -> None:
    with pytest.raises(DatasetError, match=message):
        data(strong=[strong]).__getitems__([0])


def test_a_pipeline_without_packed_images(images: Callable) -> None:
    with pytest.raises(DatasetError, match='PackInputs'):
        TwoViewDataset(images(CROP))[0]
    several = TwoViewDataset(images(PACK))
    samples = mock.patch.object(type(several.dataset), '__getitem__', return_value=dict(inputs=[], data_samples=[]))
    with samples, pytest.raises(DatasetError, match='tensor, C x H x W'):
        several[0]


# as the authors of MLKD have them, by Pillow; mmpretrain's settings are relative to 1, and turn the other way
PILLOW: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    'AutoContrast': lambda image, _: ImageOps.autocontrast(image),
    'Brightness': lambda image, v: ImageEnhance.Brightness(image).enhance(1 + v),
    'ColorTransform': lambda image, v: ImageEnhance.Color(image).enhance(1 + v),
    'Contrast': lambda image, v: ImageEnhance.Contrast(image).enhance(1 + v),
    'Equalize': lambda image, _: ImageOps.equalize(image),
    'Posterize': lambda image, v: ImageOps.posterize(image, int(np.ceil(v))),
    'Rotate': lambda image, v: image.rotate(-v),
    'Sharpness': lambda image, v: ImageEnhance.Sharpness(image).enhance(1 + v),
    'Shear horizontal': lambda image, v: image.transform(image.size, Image.AFFINE, (1, -v, 0, 0, 1, 0)),
    'Shear vertical': lambda image, v: image.transform(image.size, Image.AFFINE, (1, 0, 0, -v, 1, 0)),
    'Solarize': lambda image, v: ImageOps.solarize(image, v),
    'Translate horizontal': lambda image, v: image.transform(image.size, Image.AFFINE, (1, 0, -32 * v, 0, 1, 0)),
    'Translate vertical': lambda image, v: image.transform(image.size, Image.AFFINE, (1, 0, 0, 0, 1, -32 * v)),
}
# their ranges
RANGES = {
    **dict.fromkeys(('Brightness', 'ColorTransform', 'Contrast', 'Sharpness'), (0.05 - 1, 0.95 - 1)),
    **dict.fromkeys(('Shear horizontal', 'Shear vertical', 'Translate horizontal', 'Translate vertical'), (-0.3, 0.3)),
    'Rotate': (-30, 30),
    'Solarize': (0, 256),
    # their numbers from 4 to 8 are rounded down, ours up
    'Posterize': (3, 7),
}


def test_strong_views_of_mlkd_are_those_of_its_authors() -> None:
    rand_augment = TRANSFORMS.build(shipped('_base_/methods/mlkd.py').mlkd_dataset.strong[0])
    assert (rand_augment.num_policies, len(rand_augment.transforms)) == (2, 14)
    # smooth, with a coloured half
    small = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(small).resize((32, 32), Image.Resampling.BICUBIC))
    found = []
    for transform in rand_augment.transforms:
        name = ' '.join([type(transform).__name__, *filter(None, [getattr(transform, 'direction', None)])])
        if not transform.prob:  # the identity
            assert np.array_equal(transform(dict(img=image))['img'], image)
            continue
        found.append(name)
        assert transform.prob == 1
        assert transform.magnitude_range == (pytest.approx(RANGES[name]) if name in RANGES else None)
        drawn = [transform.random_magnitude() for _ in range(50)] if name in RANGES else []
        if drawn:
            low, high = RANGES[name]
            assert low <= min(drawn) < low + (high - low) / 4 < high - (high - low) / 4 < max(drawn) <= high
        for magnitude in [*drawn[:3], *([] if drawn else [None])]:
            transform.random_magnitude = lambda magnitude=magnitude: magnitude
            # its gray weighs the channels as if they were BGR
            given = image[..., ::-1] if name == 'ColorTransform' else image
            got = transform(dict(img=np.ascontiguousarray(given)))['img']
            got = got[..., ::-1] if name == 'ColorTransform' else got
            difference = np.abs(got.astype(int) - np.asarray(PILLOW[name](Image.fromarray(image), magnitude)))
            if name == 'Sharpness':
                difference = difference[1:-1, 1:-1]
            if name.startswith('Shear'):  # about another half pixel
                assert np.mean(difference > 2) < 0.2
            elif name == 'Rotate':  # between two pixels, a tie may fall to either
                assert np.mean(difference > 1) < 0.01
            else:
                assert difference.max() <= 1, name
    assert sorted(found) == sorted(PILLOW)


def test_cutout_is_pillows() -> None:
    """As in the authors' code, with the numbers that are drawn."""
    cutout = SquareCutout(max_side=0.5, fill=(1, 2, 3))
    image = np.random.default_rng(0).integers(4, 256, (20, 30, 3), dtype=np.uint8)
    for seed in range(20):
        np.random.seed(seed)  # noqa: NPY002
        side, row, column = cutout.random_square(20, 30)
        assert 0 <= side <= 15
        assert 1 <= row <= 20
        assert 1 <= column <= 30
        left, top = (int(max(0, centre - side / 2)) for centre in (column, row))
        expected = Image.fromarray(image)
        ImageDraw.Draw(expected).rectangle((left, top, min(30, left + side), min(20, top + side)), (1, 2, 3))
        np.random.seed(seed)  # noqa: NPY002
        before = image.copy()
        got = cutout(dict(img=image, img_shape=(20, 30)))
        assert np.array_equal(got['img'], np.asarray(expected))
        assert np.array_equal(image, before)
        assert got['img_shape'] == (20, 30)


def test_cutout_of_a_gray_image() -> None:
    image = np.full((9, 9), 200, np.uint8)
    assert {*np.unique(SquareCutout(1.0, fill=0)(dict(img=image))['img'])} == {0, 200}
    with pytest.raises(SettingError, match=r'fill=\(125, 123, 114\) has 3 values.*\(9, 9\)'):
        SquareCutout()(dict(img=image))


@pytest.mark.parametrize(
    'setting',
    [dict(max_side=0), dict(max_side=1.5), dict(max_side='half'), dict(fill=256), dict(fill=()), dict(fill=(0.5,))],
    ids=str,
)
def test_bad_settings_of_cutout(setting: dict) -> None:
    with pytest.raises(SettingError, match=f'SquareCutout: {next(iter(setting))}='):
        SquareCutout(**setting)
