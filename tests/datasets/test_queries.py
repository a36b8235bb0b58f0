"""Galleries, the queries that search them, and the degraded views that these are."""

import random
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmpretrain.registry import DATASETS, TRANSFORMS
from mmpretrain.structures import DataSample

from icd_mmrazor.datasets import DegradedView, GalleryDataset, QueryDataset
from icd_mmrazor.datasets.queries import documents_of
from icd_mmrazor.datasets.samples import merge_samples, number_of_weak_views
from icd_mmrazor.errors import DatasetError, SettingError

PACK = dict(type='PackInputs')
NOISY = dict(type='DegradedView', shift=1, noise=0.1)


@pytest.fixture
def images(tmp_path: Path) -> Callable[..., dict]:
    """Return the config of a dataset of 12 random images of 5 classes."""

    def config(*pipeline: dict, **settings: object) -> dict:
        file = tmp_path / 'images.npz'
        arrays = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
        np.savez(file, images=arrays, labels=np.arange(12) % 5)
        return dict(type='NPZDataset', data_file=str(file), pipeline=list(pipeline or [PACK]), **settings)

    return config


def label_of(sample: dict) -> list[int]:
    return sample['data_samples'].gt_label.tolist()


def test_a_gallery_numbers_its_images(images: Callable) -> None:
    gallery = GalleryDataset(dict(type='ConcatDataset', datasets=[images(indices=3), images(indices=-4)]))
    plain = DATASETS.build(images())
    for position, index in enumerate([0, 1, 2, 8, 9, 10, 11]):
        sample = gallery[position]
        assert sample['data_samples'].sample_idx == position
        assert torch.equal(sample['inputs'], plain[index]['inputs'])
    assert len(gallery) == 7


def test_queries_are_found_in_a_gallery_in_another_order(images: Callable) -> None:
    gallery = images(indices=[7, 3, 11, 5])
    queries = QueryDataset(images(indices=[5, 7]), gallery)
    assert [label_of(queries[i]) for i in range(2)] == [[3], [0]]
    assert [queries.get_data_info(i)['gt_label'] for i in range(2)] == [[3], [0]]
    assert [queries[i]['data_samples'].sample_idx for i in range(2)] == [0, 1]
    assert (len(queries), queries.gallery_size) == (2, 4)


def test_files_are_matched_by_their_paths(tmp_path: Path) -> None:
    for i in range(4):  # with equal pixels
        cv2.imwrite(str(tmp_path / f'{i}.png'), np.zeros((4, 4, 3), np.uint8))
    folder = dict(type='CustomDataset', data_root=str(tmp_path), with_label=False)
    folder['pipeline'] = [dict(type='LoadImageFromFile'), PACK]
    queries = QueryDataset({**folder, 'indices': [2, 0]}, folder)
    assert [label_of(queries[i]) for i in range(2)] == [[2], [0]]


def test_of_copies_the_first_is_relevant(images: Callable) -> None:
    twice = dict(type='ConcatDataset', datasets=[images(indices=2), images(indices=2)])
    assert QueryDataset(twice, twice).positions == [[0], [1], [0], [1]]


def test_all_others_of_a_class_are_relevant(images: Callable) -> None:
    own = QueryDataset(images(), relevant='same_class')
    assert own.positions[0] == [5, 10]
    assert own.positions[7] == [2]
    other = QueryDataset(images(indices=[0, 6]), images(indices=[5, 10, 0, 1]), relevant='same_class')
    assert other.positions == [[0, 1], [3]]


def test_a_seed_fixes_each_query(images: Callable) -> None:
    fixed, again = (QueryDataset(images(NOISY, PACK), seed=3) for _ in range(2))
    views = [fixed[i]['inputs'] for i in range(12)]
    for i in (11, 4, 4, 0):
        assert torch.equal(again[i]['inputs'], views[i])
    assert not torch.equal(QueryDataset(images(NOISY, PACK), seed=4)[0]['inputs'], views[0])
    new = QueryDataset(images(NOISY, PACK))
    assert not torch.equal(new[0]['inputs'], new[0]['inputs'])


def test_a_seeded_query_leaves_all_generators_alone(images: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of CUDA, too, which a loader without workers shares with the training."""
    queries = QueryDataset(images(NOISY, PACK), seed=3)
    reseeded = []
    monkeypatch.setattr(torch.cuda, 'is_initialized', lambda: True)
    monkeypatch.setattr(torch.cuda, 'manual_seed_all', reseeded.append)

    def states() -> tuple:
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002

    before = states()
    assert queries[4]['inputs'].shape == (3, 8, 8)
    assert states() == before
    assert not reseeded


def test_a_batch_with_documents(images: Callable) -> None:
    clean = DATASETS.build(images())
    queries = QueryDataset(images(NOISY, PACK, indices=[4, 6, 9]), images(), with_documents=True, seed=0)
    batch = queries.__getitems__([2, 0])
    assert [label_of(each) for each in batch] == [[9], [4]] * 2
    for sample, index in zip(batch[:2], (9, 4), strict=True):
        assert torch.equal(sample['inputs'], clean[index]['inputs'])
    assert [torch.equal(sample['inputs'], queries[i]['inputs']) for sample, i in zip(batch[2:], (2, 0))] == [True] * 2  # noqa: B905
    assert number_of_weak_views([each['data_samples'] for each in batch]) == 2
    assert queries.views == 2
    # of several relevant images, any
    labelled = QueryDataset(images(indices=[0]), images(), relevant='same_class', with_documents=True)
    drawn = {tuple(labelled.__getitems__([0])[0]['inputs'].flatten().tolist()) for _ in range(30)}
    assert drawn == {tuple(clean[i]['inputs'].flatten().tolist()) for i in (5, 10)}


def test_documents_of_a_batch() -> None:
    samples = [DataSample().set_gt_label([3]), DataSample().set_gt_label([8, 1])]
    assert documents_of(samples, 2, 'loss').tolist() == [3, 8]
    merged = merge_samples([DataSample().set_gt_label([3]), DataSample().set_gt_label([8])])
    assert documents_of(merged, 2, 'loss').tolist() == [3, 8]


def test_partly_labelled_batches(images: Callable) -> None:
    data = DATASETS.build(
        dict(
            type='PartlyLabeledDataset',
            labeled=dict(type='QueryDataset', dataset=images(indices=[6, 2]), gallery=images()),
            unlabeled=images(NOISY, PACK),
        )
    )
    samples = [data[i]['data_samples'] for i in (1, 0, 5, 9)]
    assert documents_of(samples, 4, 'loss').tolist() == [2, 6]


@pytest.mark.parametrize(
    ('settings', 'named'),
    [
        (dict(relevant='same'), 'relevant'),
        (dict(seed=-1), 'seed'),
        (dict(seed=True), 'seed'),
        (dict(with_documents=True), 'gallery'),
        (dict(gallery=3), 'gallery'),
    ],
)
def test_wrong_settings(images: Callable, settings: dict, named: str) -> None:
    with pytest.raises(SettingError, match=named):
        QueryDataset(images(), **settings)


def test_queries_and_gallery_without_common_images(images: Callable) -> None:
    with pytest.raises(DatasetError, match=r'3 of 3 queries are not in the gallery of 5 images.*data_root'):
        QueryDataset(images(indices=3), images(indices=-5))
    with pytest.raises(DatasetError, match=r'1 of 2 queries have no other image of their class in .* Add images'):
        QueryDataset(images(indices=[0, 1]), images(indices=[5, 7]), relevant='same_class')


def test_an_empty_gallery(images: Callable) -> None:
    for serialized in (True, False):
        with pytest.raises(DatasetError, match='gallery has no images'):
            GalleryDataset(images(indices=0, serialize_data=serialized))
        with pytest.raises(DatasetError, match='QueryDataset: dataset has no images'):
            QueryDataset(images(indices=0, serialize_data=serialized), images())
        with pytest.raises(DatasetError, match='QueryDataset: gallery has no images'):
            QueryDataset(images(), images(indices=0, serialize_data=serialized))


class Unknown:
    """A dataset of our own, whose annotations say nothing of the images."""

    def full_init(self) -> None:
        pass

    def __len__(self) -> int:
        return 1

    def get_data_info(self, idx: int) -> dict:
        return {}


def test_images_that_cannot_be_compared() -> None:
    with pytest.raises(DatasetError, match='neither img_path nor img'):
        QueryDataset(Unknown(), Unknown())
    assert QueryDataset(Unknown()).positions == [[0]]


def test_classes_are_needed_for_same_class(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / '0.png'), np.zeros((4, 4, 3), np.uint8))
    folder = dict(type='CustomDataset', data_root=str(tmp_path), with_label=False, pipeline=[])
    with pytest.raises(DatasetError, match='same_image'):
        QueryDataset(folder, relevant='same_class')


def view(image: np.ndarray, **settings: float) -> np.ndarray:
    return TRANSFORMS.build(dict(type='DegradedView', **settings))(dict(img=image.copy()))['img']


class TestDegradedView:
    image = np.random.default_rng(1).integers(0, 256, (10, 12, 3), dtype=np.uint8)

    def test_it_changes_nothing_by_default(self) -> None:
        assert (view(self.image) == self.image).all()

    def test_a_shift_moves_the_inner_part(self) -> None:
        found = set()
        for _ in range(60):
            moved = view(self.image, shift=1)
            matches = [
                (down, right)
                for down in (-1, 0, 1)
                for right in (-1, 0, 1)
                if (moved[2:8, 2:10] == self.image[2 + down : 8 + down, 2 + right : 10 + right]).all()
            ]
            assert len(matches) == 1
            found.update(matches)
        assert len(found) == 9

    def test_a_crop_has_only_colours_of_the_image(self) -> None:
        ramp = np.repeat(np.linspace(20, 200, 12, dtype=np.uint8)[None, :, None], 10, axis=0).repeat(3, axis=2)
        spans = [int(crop.max()) - int(crop.min()) for crop in (view(ramp, crop=0.5) for _ in range(40))]
        assert min(spans) < 120
        assert max(spans) <= 180

    def test_noise_has_its_deviation(self) -> None:
        gray = np.full((60, 60, 3), 128, np.uint8)
        assert (view(gray, noise=0.05).astype(float) - 128).std() == pytest.approx(0.05 * 255, rel=0.05)

    def test_a_blur_keeps_the_mean_and_takes_details(self) -> None:
        blurred = [view(self.image, blur=2.0).astype(float) for _ in range(10)]
        assert min(each.std() for each in blurred) < 0.5 * self.image.std()
        assert np.mean([each.mean() for each in blurred]) == pytest.approx(self.image.mean(), rel=0.05)

    def test_colours_change_within_bounds(self) -> None:
        gray = np.full((4, 4, 3), 100, np.uint8)
        means = np.array([view(gray, color=0.2).mean(axis=(0, 1)) for _ in range(200)])
        assert means.min() >= round(100 * 0.8 * 0.9)
        assert means.max() <= round(100 * 1.2 * 1.1)
        assert np.ptp(means) > 30
        assert (means[:, 0] != means[:, 1]).any()

    def test_gray_images_of_one_channel(self) -> None:
        one = self.image[..., :1]
        assert view(one, crop=0.5, shift=2, color=0.3, blur=1.0, noise=0.1).shape == one.shape

    @pytest.mark.parametrize('settings', [{'crop': 0}, {'crop': 1.5}, {'shift': 0.5}, {'noise': -1}, {'blur': 'x'}])
    def test_wrong_settings(self, settings: dict) -> None:
        (name,) = settings
        with pytest.raises(SettingError, match=name):
            DegradedView(**settings)

    def test_its_settings_are_shown(self) -> None:
        assert repr(DegradedView(shift=2)) == 'DegradedView(crop=1.0, shift=2, color=0.0, blur=0.0, noise=0.0)'
