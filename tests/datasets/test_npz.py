import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mmpretrain.registry import DATASETS

from icd_mmrazor.errors import DatasetError


@pytest.fixture
def dataset(tmp_path: Path) -> Callable:
    def build(
        arrays: dict[str, np.ndarray], images_key: str = 'images', labels_key: str = 'labels', **settings: object
    ):
        np.savez(tmp_path / 'data.npz', **arrays)
        cfg = dict(type='NPZDataset', data_root=str(tmp_path), data_file='data.npz')
        return DATASETS.build({**cfg, 'images_key': images_key, 'labels_key': labels_key, **settings})

    return build


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize('shape', [(5, 8, 8, 3), (5, 8, 8), (5, 8, 8, 1)], ids=str)
def test_images_and_labels_come_back(shape: tuple, dataset: Callable) -> None:
    stored, labels = images(*shape), np.array([3, 0, 1, 2, 3], dtype=np.uint8)
    data = dataset({'images': stored, 'labels': labels}, pipeline=[dict(type='PackInputs')])
    assert len(data) == 5
    assert data.get_gt_labels().tolist() == labels.tolist()
    channels_first = stored.reshape(5, 8, 8, -1).transpose(0, 3, 1, 2)
    for i, want in enumerate(channels_first):
        sample = data[i]
        assert sample['inputs'].dtype == torch.uint8
        assert np.array_equal(sample['inputs'].numpy(), np.broadcast_to(want, (3, 8, 8)))
        assert sample['data_samples'].gt_label.item() == labels[i]


def test_medmnist_and_cifar10_files_load(dataset: Callable) -> None:
    medmnist = {f'{split}_images': images(4, 28, 28) for split in ('train', 'val', 'test')}
    medmnist |= {f'{split}_labels': np.zeros((4, 1), np.uint8) for split in ('train', 'val', 'test')}
    assert len(dataset(medmnist, 'val_images', 'val_labels')) == 4
    cifar10 = {'x_train': images(6, 32, 32, 3), 'y_train': np.arange(6, dtype=np.uint8)}
    assert dataset(cifar10, 'x_train', 'y_train', indices=4).get_gt_labels().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ('arrays', 'message'),
    [
        ({'images': images(4, 8, 8), 'label': np.zeros(4, int)}, 'has no array labels; it has: images, label'),
        ({'images': images(4, 8, 8).astype(np.float32), 'labels': np.zeros(4, int)}, r'float32 \(4, 8, 8\)'),
        ({'images': images(4, 8, 8, 8), 'labels': np.zeros(4, int)}, r'uint8 \(4, 8, 8, 8\)'),
        ({'images': images(4, 8), 'labels': np.zeros(4, int)}, r'uint8 \(4, 8\)'),
        ({'images': images(0, 8, 8), 'labels': np.zeros(0, int)}, 'holds no images'),
        ({'images': images(4, 8, 8), 'labels': np.zeros(3, int)}, 'one integer for each of the 4 images'),
        ({'images': images(4, 8, 8), 'labels': np.zeros((4, 14), int)}, 'one integer for each'),
        ({'images': images(4, 8, 8), 'labels': np.zeros(4)}, 'labels.* is float64'),
        ({'images': images(4, 8, 8), 'labels': np.array(3)}, r'labels.* is int64 \(\)'),
        ({'images': images(4, 8, 8), 'labels': np.array([0, 1, -1, 2])}, 'labels from -1 to 2'),
        ({'images': images(4, 8, 8), 'labels': np.array([0, 1, 2, 3], object)}, 'cannot be read as plain arrays'),
    ],
    ids=lambda value: value if isinstance(value, str) else '',
)
def test_refuses_other_arrays(arrays: dict, message: str, dataset: Callable) -> None:
    with pytest.raises(DatasetError, match=message):
        dataset(arrays)


def test_refuses_labels_beyond_the_named_classes(dataset: Callable) -> None:
    with pytest.raises(DatasetError, match=r'labels_key=.*from 0 to 2.* 0 to 1'):
        dataset({'images': images(3, 8, 8), 'labels': np.arange(3)}, classes=['cat', 'dog'])


def test_refuses_other_files(tmp_path: Path) -> None:
    def build(name: str) -> None:
        DATASETS.build(dict(type='NPZDataset', data_file=str(tmp_path / name)))

    with pytest.raises(DatasetError, match=r'absent\.npz: .*data_root'):
        build('absent.npz')
    trace = tmp_path / 'trace'

    class Hostile:
        def __reduce__(self) -> tuple:
            return Path.touch, (trace,)

    (tmp_path / 'text.npz').write_text('no numbers')
    (tmp_path / 'pickle.npz').write_bytes(pickle.dumps(Hostile()))
    (tmp_path / 'empty.npz').write_bytes(b'')
    np.save(tmp_path / 'array.npy', images(2, 8, 8))
    for name in ('text.npz', 'pickle.npz', 'empty.npz', 'array.npy'):
        with pytest.raises(DatasetError, match='cannot be read as plain arrays'):
            build(name)
    assert not trace.exists()
