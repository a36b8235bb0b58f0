"""NoisyLabels and LongTailed against golden numbers and slow rewrites of their formulas."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import DATA
from mmpretrain.registry import DATASETS

from icd_mmrazor.datasets import InMemoryBatches, LongTailed, NoisyLabels
from icd_mmrazor.datasets.labels import image_labels
from icd_mmrazor.datasets.long_tailed import class_sizes
from icd_mmrazor.errors import DatasetError, SettingError

GOLDEN = DATA / 'study_datasets.npz'
# 30 images of class 0, 20 of class 1, 10 of class 2, in a mixed order
LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [30, 20, 10]))


@pytest.fixture
def data(tmp_path: Path) -> Callable[..., dict]:
    """Return the config of a dataset whose image ``i`` has brightness ``i``."""

    def config(labels: np.ndarray = LABELS, **settings: object) -> dict:
        images = np.arange(len(labels), dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
        np.savez(tmp_path / 'images.npz', images=images, labels=labels)
        pipeline = [dict(type='PackInputs')]
        return dict(type='NPZDataset', data_file=str(tmp_path / 'images.npz'), pipeline=pipeline, **settings)

    return config


@pytest.fixture
def of_golden_labels(tmp_path: Path) -> dict:
    labels = np.load(GOLDEN)['labels']
    np.savez(tmp_path / 'golden.npz', images=np.zeros((len(labels), 1, 1), np.uint8), labels=labels)
    return dict(type='NPZDataset', data_file=str(tmp_path / 'golden.npz'), pipeline=[])


def seen(dataset: object) -> list[tuple[int, int, int]]:
    """Return position, brightness and label of each sample."""
    samples = [dataset[i] for i in range(len(dataset))]
    return [
        (s['data_samples'].sample_idx, int(s['inputs'].float().mean()), s['data_samples'].gt_label.item())
        for s in samples
    ]


@pytest.mark.parametrize('share', [20, 40, 60])
def test_noise_is_that_of_the_published_code(of_golden_labels: dict, share: int) -> None:
    noisy = NoisyLabels(of_golden_labels, share / 100)
    np.testing.assert_array_equal(noisy.get_gt_labels(), np.load(GOLDEN)[f'noise{share}'])
    # a label may be drawn as it was
    assert abs((noisy.labels != np.load(GOLDEN)['labels']).mean() - 0.9 * share / 100) < 0.005


def test_slow_noise(data: Callable) -> None:
    noisy = NoisyLabels(data(), 0.5, seed=7)
    generator, want = np.random.RandomState(7), LABELS.copy()
    mask = generator.rand(len(LABELS)) <= 0.5
    want[mask] = generator.choice(3, mask.sum())
    assert noisy.get_gt_labels().tolist() == want.tolist()
    assert (want != LABELS).any()
    assert seen(noisy) == [(i, i, label) for i, label in enumerate(want)]
    assert [noisy.get_data_info(i)['gt_label'] for i in range(len(want))] == want.tolist()
    assert [noisy.get_cat_ids(i) for i in range(3)] == [[label] for label in want[:3]]
    assert NoisyLabels(data(), 0.0).labels.tolist() == LABELS.tolist()
    assert seen(pickle.loads(pickle.dumps(noisy))) == seen(noisy)


def test_noise_of_a_part_is_that_of_all_images(data: Callable) -> None:
    all_images = NoisyLabels(data(), 0.5)
    first, some = NoisyLabels(data(), 0.5, indices=20), NoisyLabels(data(), 0.5, indices=[50, 3])
    assert first.labels.tolist() == all_images.labels[:20].tolist()
    assert seen(some) == [(0, 50, all_images.labels[50]), (1, 3, all_images.labels[3])]


def test_classes_count_that_have_no_image(data: Callable) -> None:
    assert NoisyLabels(data(classes=list('abcde')), 1.0).labels.max() == 4


@pytest.mark.parametrize('gamma', [0.2, 0.6, 1, 2, 10])
def test_imbalance_is_that_of_the_published_code(of_golden_labels: dict, gamma: float) -> None:
    golden, labels = np.load(GOLDEN), np.load(GOLDEN)['labels']
    tail = LongTailed(of_golden_labels, gamma)
    np.testing.assert_array_equal(tail.positions, golden[f'imbalance{gamma}.positions'])
    np.testing.assert_array_equal(tail.get_gt_labels(), labels[tail.positions])
    assert np.bincount(tail.labels).tolist() == golden[f'imbalance{gamma}.counts'].tolist()


def test_a_long_tail_keeps_the_first_images_of_each_class(data: Callable) -> None:
    tail = LongTailed(data(), 1.0, most=30, fewest=3)
    assert class_sizes(3, 1.0, 30, 3) == [30, 5, 3]
    kept = [i for label, number in enumerate((30, 5, 3)) for i in np.flatnonzero(label == LABELS)[:number]]
    assert seen(tail) == [(i, position, LABELS[position]) for i, position in enumerate(kept)]
    assert image_labels(tail).tolist() == LABELS[kept].tolist()
    assert (class_sizes(1, 1.0, 8, 2), class_sizes(3, 2.0, 4, 4)) == ([8], [4, 4, 4])


@pytest.mark.parametrize('kind', [dict(type='NoisyLabels', probability=0.5), dict(type='LongTailed', gamma=1.0)])
def test_batches_in_memory_are_those_of_the_dataset(data: Callable, kind: dict) -> None:
    sizes = dict(most=30, fewest=3) if kind['type'] == 'LongTailed' else {}
    dataset = DATASETS.build(dict(kind, **sizes, dataset=data()))
    batch = InMemoryBatches(dataset)([32, 5, 7], iteration=0)
    (sample,) = batch['data_samples']
    images = batch['inputs'].float().mean(dim=(1, 2, 3)).int().tolist()
    want = seen(dataset)
    assert [*zip(sample.sample_idx, images, sample.gt_label.tolist(), strict=True)] == [want[i] for i in (32, 5, 7)]


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (dict(type='NoisyLabels', probability=1.5), r'probability=1.5 must be a number from 0, no noise, to 1'),
        (dict(type='NoisyLabels', probability=-0.1), r'probability=-0.1'),
        (dict(type='NoisyLabels', probability='0.2'), r"probability='0.2'"),
        (dict(type='NoisyLabels', probability=0.2, seed=-1), r'seed=-1'),
        (dict(type='NoisyLabels', probability=0.2, indices=61), r'indices=61 must be a number of images, up to 60'),
        (dict(type='NoisyLabels', probability=0.2, indices=[60]), r'indices=\[60\]'),
        (dict(type='NoisyLabels', probability=0.2, indices=0), r'indices=0'),
        (dict(type='LongTailed', gamma=0), r'gamma=0'),
        (dict(type='LongTailed', gamma=1.0, most=2, fewest=3), r'fewest=3 is more than most=2. Swap them'),
        (dict(type='LongTailed', gamma=1.0, most=2.5), r'most=2.5'),
    ],
)
def test_bad_settings(data: Callable, cfg: dict, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        DATASETS.build(dict(cfg, dataset=data()))


def test_bad_datasets(data: Callable) -> None:
    with pytest.raises(SettingError, match='dataset is a int'):
        NoisyLabels(3, 0.2)
    with pytest.raises(DatasetError, match='do not have one integer label each'):
        NoisyLabels(dict(type='UnlabeledDataset', dataset=data()), 0.2)
    with pytest.raises(DatasetError, match='class 2 should keep 12 images, and dataset has 10'):
        LongTailed(data(), 1.0, most=20, fewest=12)
