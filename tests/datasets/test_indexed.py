"""IndexedDataset around and inside other datasets."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mmpretrain.registry import DATASETS

from icd_mmrazor.datasets.labels import image_labels
from icd_mmrazor.errors import DatasetError, SettingError

PACK = [dict(type='PackInputs')]


@pytest.fixture
def plain(tmp_path: Path) -> Callable[..., dict]:
    """Return the config of a dataset whose image ``i`` has brightness ``first + i``."""

    def config(labels: list[int], first: int = 0, pipeline: list[dict] = PACK, **settings: object) -> dict:
        file = tmp_path / f'{first}.npz'
        images = np.arange(first, first + len(labels), dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
        np.savez(file, images=images, labels=np.array(labels))
        return dict(type='NPZDataset', data_file=str(file), pipeline=pipeline, **settings)

    return config


def indexed(dataset: object) -> object:
    return DATASETS.build(dict(type='IndexedDataset', dataset=dataset))


def seen(dataset: object) -> list[tuple[int, int, int]]:
    """Return index, brightness and label of each sample."""
    samples = [dataset[i] for i in range(len(dataset))]
    return [
        (s['data_samples'].sample_idx, s['inputs'].float().mean().item(), s['data_samples'].gt_label.item())
        for s in samples
    ]


def test_a_plain_dataset_stays_as_it_is(plain: Callable) -> None:
    cfg = plain([2, 0, 1], classes=list('abc'))
    data, inside = indexed(cfg), DATASETS.build(cfg)
    assert len(data) == 3
    assert seen(data) == [(0, 0, 2), (1, 1, 0), (2, 2, 1)]
    assert data.metainfo == inside.metainfo
    assert data.metainfo['classes'] == ('a', 'b', 'c')
    assert data.get_gt_labels().tolist() == [2, 0, 1]
    assert [data.get_cat_ids(i) for i in range(3)] == [[2], [0], [1]]
    assert data.get_data_info(1)['sample_idx'] == 1
    assert seen(pickle.loads(pickle.dumps(data))) == seen(data)


def test_a_built_dataset_can_be_given(plain: Callable) -> None:
    assert seen(indexed(DATASETS.build(plain([1, 0])))) == [(0, 0, 1), (1, 1, 0)]


def test_lazy_datasets_are_read_when_asked(plain: Callable) -> None:
    data = indexed(plain([1, 0], lazy_init=True))
    assert not data.dataset._fully_initialized
    data.full_init()
    assert data.dataset._fully_initialized
    assert seen(data) == [(0, 0, 1), (1, 1, 0)]


def test_indices_run_through_a_concatenation(plain: Callable) -> None:
    parts = [plain([2, 0, 1]), plain([1, 1], first=10)]
    concatenated = dict(type='ConcatDataset', datasets=parts)
    assert [index for index, *_ in seen(DATASETS.build(concatenated))] == [0, 1, 2, 0, 1]
    data = indexed(concatenated)
    assert seen(data) == [(0, 0, 2), (1, 1, 0), (2, 2, 1), (3, 10, 1), (4, 11, 1)]
    assert data.get_gt_labels().tolist() == [2, 0, 1, 1, 1]
    assert data[-1]['data_samples'].sample_idx == data.get_data_info(-1)['sample_idx'] == 4
    with pytest.raises(IndexError):
        data[5]


def test_repetitions_have_their_own_index_inside_and_share_it_outside(plain: Callable) -> None:
    cfg = plain([1, 0])
    inside = indexed(dict(type='RepeatDataset', times=2, dataset=cfg))
    assert seen(inside) == [(0, 0, 1), (1, 1, 0), (2, 0, 1), (3, 1, 0)]
    assert inside.get_gt_labels().tolist() == [1, 0, 1, 0]
    outside = DATASETS.build(dict(type='RepeatDataset', times=2, dataset=dict(type='IndexedDataset', dataset=cfg)))
    assert [index for index, *_ in seen(outside)] == [0, 1, 0, 1]


def test_class_balanced_datasets(plain: Callable) -> None:
    cfg, settings = plain([0] * 7 + [1]), dict(type='ClassBalancedDataset', oversample_thr=0.5)
    inside = indexed(dict(dataset=cfg, **settings))
    assert [index for index, *_ in seen(inside)] == list(range(9))
    assert inside.get_gt_labels().tolist() == [0] * 7 + [1, 1]
    outside = DATASETS.build(dict(dataset=dict(type='IndexedDataset', dataset=cfg), **settings))
    assert [index for index, *_ in seen(outside)] == [*range(8), 7]


def test_folds(plain: Callable) -> None:
    cfg = plain([0, 1, 2, 3])
    data = indexed(dict(type='KFoldDataset', dataset={**cfg, 'lazy_init': False}, fold=0, num_splits=2))
    assert seen(data) == [(0, 2, 2), (1, 3, 3)]
    assert data.get_gt_labels().tolist() == [2, 3]


def test_labels_in_a_list(plain: Callable) -> None:
    """As datasets of users give them."""
    data = DATASETS.build(plain([2, 0]))
    data.get_gt_labels = lambda: [2, 0]
    assert image_labels(indexed(data)).tolist() == [2, 0]
    data.get_gt_labels = lambda: [[2], [0, 1]]
    assert image_labels(indexed(data)) is None


def test_marks_what_is_packed_without_an_index(plain: Callable) -> None:
    cfg = plain([1, 0], pipeline=[dict(type='PackInputs', meta_keys=('ori_shape',))])
    assert 'sample_idx' not in DATASETS.build(cfg)[1]['data_samples']
    assert [index for index, *_ in seen(indexed(cfg))] == [0, 1]


def test_workers_give_the_same(plain: Callable) -> None:
    data = indexed(dict(type='ConcatDataset', datasets=[plain([2, 0, 1]), plain([1, 1], first=10)]))
    loader = torch.utils.data.DataLoader(data, batch_size=2, num_workers=1, collate_fn=list)
    got = [sample['data_samples'].sample_idx for batch in loader for sample in batch]
    assert got == [0, 1, 2, 3, 4]


def test_refuses_what_it_cannot_mark(plain: Callable) -> None:
    with pytest.raises(DatasetError, match=r"IndexedDataset: .*type='PackInputs'"):
        indexed(plain([1, 0], pipeline=[]))[0]
    with pytest.raises(SettingError, match='IndexedDataset: dataset is a list'):
        indexed([1, 2, 3])
