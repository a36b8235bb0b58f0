"""Numbered views against slices of the images, and against the same images in other batches."""

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler, pseudo_collate
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.registry import DATASETS
from torch import nn
from torch.utils.data import DataLoader

from icd_mmrazor.datasets import InMemoryBatches
from icd_mmrazor.datasets.in_memory import prepared_size
from icd_mmrazor.datasets.loaders import NumberedIndices, NumberedLoader, number_batches, sample_of_view
from icd_mmrazor.datasets.samples import sample_indices, view_indices
from icd_mmrazor.datasets.view_numbers import AllViews, FirstView, FixedViews
from icd_mmrazor.datasets.views import number_views
from icd_mmrazor.errors import DatasetError, SettingError
from icd_mmrazor.models.algorithms.separate_mixing import SeparateMixingPreprocessor

CROP = dict(type='RandomCrop', crop_size=8, padding=2)
FLIP = dict(type='RandomFlip', prob=0.5, direction='horizontal')
ERASE = dict(type='RandomErasing', erase_prob=1.0, mode='rand')
PACK = dict(type='PackInputs')
NUMBER = 10


@pytest.fixture
def data(tmp_path: Path) -> Callable[..., Any]:
    """Build a dataset of random images, 8 x 8."""

    def build(*pipeline: dict, kind: str = 'NPZDataset', **settings: Any) -> Any:
        file = tmp_path / 'images.npz'
        images = np.random.default_rng(0).integers(0, 256, (NUMBER, 8, 8, 3), dtype=np.uint8)
        np.savez(file, images=images, labels=np.arange(NUMBER) % 5)
        settings = dict(serialize_data=False, pipeline=list(pipeline), **settings)
        return DATASETS.build(dict(type=kind, data_file=str(file), **settings))

    return build


class Run(SimpleNamespace):
    """A run whose loop has batches of four images, three of them in a pass."""

    def __init__(self, dataset: Any, trained: int = 0, seed: int = 5, endless: bool = False, **settings: Any) -> None:
        sampler = (InfiniteSampler if endless else DefaultSampler)(dataset, shuffle=True, seed=seed)
        loader = DataLoader(dataset, batch_size=4, sampler=sampler, collate_fn=pseudo_collate, **settings)
        loop = SimpleNamespace(dataloader=loader, iter=trained, epoch=trained // 3)
        model = nn.Module()
        model.data_preprocessor = ClsDataPreprocessor()
        model.teacher_cache = mock.Mock()
        super().__init__(train_loop=loop, seed=seed, model=model)
        self.sampler, self.trained, self.by_epoch = sampler, trained, not endless
        if endless:
            loop.dataloader_iterator = SimpleNamespace(skip_iter=None)

    def batches(self, number: int) -> Iterator[dict]:
        """Yield the batches of a run of so many, as mmengine's loops do."""
        loop = self.train_loop
        numbered = number_batches(loop, self.seed, 0)
        numbered.skip = self.trained % 3
        while loop.iter < number:
            if self.by_epoch:
                self.sampler.set_epoch(loop.epoch)
            for batch in loop.dataloader if self.by_epoch else iter(lambda: next(loop.dataloader_iterator), None):
                yield batch
                loop.iter += 1
                if loop.iter == number:
                    break
            loop.epoch += 1
        numbered.undo()


def seen(batches: Any) -> list[tuple[int, int, bytes]]:
    """Return the index and row number of each image, with its pixels."""
    return [
        (index, row, image.contiguous().numpy().tobytes())
        for batch in batches
        for index, row, image in zip(
            sample_indices(batch['data_samples']), view_indices(batch['data_samples']), batch['inputs'], strict=True
        )
    ]


@pytest.mark.parametrize('prob', [0.5, 1.0])
def test_the_number_of_a_view_tells_its_pixels(prob: float, data: Callable) -> None:
    dataset = data(CROP, dict(FLIP, prob=prob), PACK)
    run = Run(dataset)
    views = number_views(run, 'all')
    assert views == AllViews((12, 12), (8, 8), (False, True) if prob < 1 else (True,))
    assert run.train_loop.dataloader.views is views
    assert prepared_size(dataset) == views.images
    batches = InMemoryBatches(dataset, seed=3)
    plain = batches([4, 0, 4, 7], 6)
    batches.views = views
    indices = list(range(NUMBER)) * 10
    for sample_each in (False, True):
        batches.sample_each = sample_each
        numbered = batches([4, 0, 4, 7], 6)
        assert torch.equal(numbered['inputs'], plain['inputs'])
        assert sample_indices(numbered['data_samples']) == [4, 0, 4, 7]
        assert len(numbered['data_samples']) == (4 if sample_each else 1)
        rows = [row for _, row, _ in seen([batches(indices, 1)])]
        images = batches(indices, 1)['inputs']
        assert len(set(rows)) > 60
        for index, row, image in zip(indices, rows, images, strict=True):
            assert row // views.number == index
            top, left, flipped = views.crop(row % views.number)
            padded = np.pad(dataset.get_data_info(index)['img'], ((2, 2), (2, 2), (0, 0)))
            expected = padded[top : top + 8, left : left + 8]
            assert (image.permute(1, 2, 0).numpy() == (expected[:, ::-1] if flipped else expected)).all()
        # made again from its number
        again = batches.of_views(indices, np.array(rows) % views.number)
        assert torch.equal(again, images)


PIPELINES = {
    'cifar': (CROP, FLIP, PACK),
    'no flip': (CROP, PACK),
    'no crop': (FLIP, PACK),
    'oblong': (dict(type='RandomCrop', crop_size=(6, 4), padding=(1, 2, 3, 4), pad_val=(1, 2, 3)), FLIP, PACK),
    'larger than the images': (dict(CROP, crop_size=(20, 5)), FLIP, PACK),
    'always flipped': (CROP, dict(FLIP, prob=1.0), PACK),
    'nothing random': (PACK,),
}


@pytest.mark.parametrize('pipeline', PIPELINES.values(), ids=PIPELINES)
def test_fixed_views_are_the_same_in_memory_and_image_by_image(pipeline: tuple, data: Callable) -> None:
    dataset, views = data(*pipeline), FixedViews(3, seed=2)
    batches, indices = InMemoryBatches(dataset, seed=8, rank=1), [4, 0, 9, 4, 2]
    batches.views = views
    for view in (2, 0, 2):
        state = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
        batch = batches(indices, iteration=7, view=view)
        assert state == (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # noqa: NPY002
        one_by_one = [sample_of_view(dataset, views, index, view)['inputs'] for index in indices]
        assert torch.equal(batch['inputs'], torch.stack(one_by_one))
        assert view_indices(batch['data_samples']) == [3 * index + view for index in indices]
        assert torch.equal(batches.of_views(indices, [view] * 5), batch['inputs'])


def test_fixed_views_follow_a_crop_that_grows(data: Callable) -> None:
    dataset, views = data(CROP, FLIP, PACK), FixedViews(1)
    batches = InMemoryBatches(dataset)
    batches.views = views
    batches([1], 0)
    dataset.pipeline.transforms[0].crop_size = (9, 9)
    assert torch.equal(batches([1], 0)['inputs'][0], sample_of_view(dataset, views, 1, 0)['inputs'])


def test_only_so_many_tables_of_crops_are_kept(data: Callable) -> None:
    batches = InMemoryBatches(data(CROP, FLIP, PACK))
    batches.views = FixedViews(40)
    first = [batches([3, 5], 0, view=view)['inputs'] for view in range(40)]
    assert len(batches._keyed._known) == 16
    assert len({image.numpy().tobytes() for image in first}) > 30
    for view, images in enumerate(first):
        assert torch.equal(batches([3, 5], 0, view=view)['inputs'], images)


def test_fixed_views_have_the_distribution_of_the_pipeline(data: Callable) -> None:
    batches = InMemoryBatches(data(dict(CROP, padding=1), dict(FLIP, prob=0.3), PACK))
    batches.views = FixedViews(300)
    codes = AllViews((10, 10), (8, 8))
    counts = np.zeros(18)
    for view in range(300):
        np.add.at(counts, codes.of(*batches._fixed_crops()(range(NUMBER), view)), 1)
    expected = np.tile([3000 / 9 * 0.7, 3000 / 9 * 0.3], 9)
    # 18 cells: at a level of 5 %
    assert ((counts - expected) ** 2 / expected).sum() < 27.6


def test_a_view_of_an_image_is_the_same_in_all_runs(data: Callable) -> None:
    dataset, known = data(CROP, ERASE, PACK), {}
    rows: dict[str, list[int]] = {}

    def look(name: str, number: int, **settings: Any) -> None:
        run = Run(dataset, **settings)
        assert number_views(run, 2, seed=7) == FixedViews(2, 7)
        found = seen(run.batches(number))
        rows[name] = [row for _, row, _ in found]
        for index, row, pixels in found:
            assert row // 2 == index
            assert known.setdefault(row, pixels) == pixels

    look('whole', 9)
    assert len(known) == len(set(known.values())) == 2 * NUMBER
    # passes over the data take turns
    views = np.array(rows['whole']).reshape(3, NUMBER)
    assert (np.sort(views) == 2 * np.arange(NUMBER) + [[0], [1], [0]]).all()
    look('resumed between two passes', 9, trained=3)
    look('resumed within one', 9, trained=5)
    assert rows['resumed between two passes'] == rows['whole'][10:]
    assert rows['resumed within one'] == rows['whole'][18:]
    look('workers', 9, num_workers=2)
    assert rows['workers'] == rows['whole']
    look('another seed', 6, seed=6)
    assert rows['another seed'] != rows['whole'][:20]
    look('by iterations', 9, endless=True)
    look('by iterations, resumed', 9, trained=4, endless=True)
    assert rows['by iterations, resumed'] == rows['by iterations'][16:]
    assert [row % 2 for row in rows['by iterations']] == [0] * 12 + [1] * 12 + [0] * 12
    # with other views
    run = Run(dataset)
    number_views(run, 2, seed=8)
    assert not {pixels for *_, pixels in seen(run.batches(6))} & {*known.values()}


@pytest.mark.parametrize('endless', [False, True])
def test_processes_show_the_same_views(endless: bool, data: Callable) -> None:
    dataset, known, rows = data(CROP, ERASE, PACK), {}, []
    for rank in (0, 1):
        with (
            mock.patch('mmengine.dataset.sampler.get_dist_info', return_value=(rank, 2)),
            mock.patch('icd_mmrazor.datasets.views.get_rank', return_value=rank),
        ):
            run = Run(dataset, endless=endless)
            number_views(run, 3)
        # two batches are a pass
        found = seen(run.batches(4))
        assert [row % 3 for _, row, _ in found][::4] == [0, 0, 1, 1] if endless else True
        rows += [row for _, row, _ in found]
        for _, row, pixels in found:
            assert known.setdefault(row, pixels) == pixels
    assert len(set(known.values())) == len(known)
    if not endless:
        assert set(rows) == {3 * index + view for index in range(NUMBER) for view in (0, 1)}


@pytest.mark.parametrize('workers', [0, 1])
def test_the_first_view_leaves_the_random_numbers_as_they_are(workers: int, data: Callable) -> None:
    dataset = data(CROP, ERASE, PACK)
    plain, run = Run(dataset), Run(dataset, num_workers=workers)
    assert number_views(run, 'first') == FirstView()
    for without, with_numbers in zip(plain.batches(6), run.batches(6), strict=True):
        assert torch.equal(torch.stack(with_numbers['inputs']), torch.stack(without['inputs']))
        assert view_indices(without['data_samples']) is None
        assert view_indices(with_numbers['data_samples']) == sample_indices(without['data_samples'])


def test_views_have_the_indices_of_the_dataset_of_the_loader(data: Callable) -> None:
    repeated = DATASETS.build(dict(type='RepeatDataset', times=2, dataset=data(CROP, PACK)))
    run = Run(repeated)
    number_views(run, 'first')
    found = seen(run.batches(5))
    assert sorted(row for _, row, _ in found) == list(range(2 * NUMBER))
    assert all(index == row % NUMBER for index, row, _ in found)


class InBatches:
    """A dataset that prepares whole batches by itself."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: list[int]) -> list[dict]:
        return [self.dataset[index] for index in indices]


def test_datasets_that_prepare_batches_themselves_still_do(data: Callable) -> None:
    plain, own = (Run(each) for each in (data(CROP, ERASE, PACK), InBatches(data(CROP, ERASE, PACK))))
    for run in (plain, own):
        number_views(run, 2)
    assert seen(own.batches(6)) == seen(plain.batches(6))


def test_spawned_workers_get_the_views(data: Callable) -> None:
    indices = pickle.loads(pickle.dumps(NumberedIndices([3, 1], 6, 2)))
    assert (indices, indices.number, indices.view) == ([3, 1], 6, 2)


def test_what_comes_after_the_images_of_a_batch_is_seeded_by_the_batch(data: Callable) -> None:
    """With fixed views of one image in all batches it would be the same every time."""
    run, drawn = Run(data(CROP, PACK, indices=1)), []
    number_views(run, 1)
    for _ in run.batches(3):
        drawn.append(torch.rand(()).item())
    assert len(set(drawn)) == 3


def test_samples_without_metadata_are_refused(data: Callable) -> None:
    run = Run(data(CROP))
    number_views(run, 1)
    with pytest.raises(DatasetError, match=r'model.teacher_cache: .* no data_samples'):
        next(run.batches(1))


def test_other_pipelines_do_not_have_all_views_numbered(data: Callable) -> None:
    with pytest.raises(SettingError, match=r"model.teacher_cache.views='all' .*RandomErasing.*views=1"):
        number_views(Run(data(CROP, ERASE, PACK)), 'all')


def test_all_views_need_batches_made_in_memory(data: Callable) -> None:
    run = Run(data(CROP, PACK))
    number_views(run, 'all')
    with pytest.raises(SettingError, match=r"views='all' .*default_hooks.whole_batches"):
        next(run.batches(1))


def test_a_loader_without_indices_is_refused(data: Callable) -> None:
    run = Run(data(CROP, PACK))
    run.train_loop.dataloader = [1, 2]
    with pytest.raises(SettingError, match=r'model.teacher_cache.views=3: train_dataloader'):
        number_views(run, 3)


MIXING = dict(
    num_classes=5, batch_augments=dict(augments=[dict(type='Mixup', alpha=1.0), dict(type='CutMix', alpha=1.0)])
)


@pytest.mark.parametrize('views', ['all', 'first'])
def test_mixed_images_have_no_numbers_unless_their_views_are_fixed(views: Any, data: Callable) -> None:
    run = Run(data(CROP, PACK))
    run.model.data_preprocessor = ClsDataPreprocessor(**MIXING)
    with pytest.raises(SettingError, match=r'model.teacher_cache.views=.*Mixup or CutMix.*batch_augments=None'):
        number_views(run, views)


def test_mixtures_that_would_be_mixed_again_are_refused(data: Callable) -> None:
    run = Run(data(CROP, PACK))
    run.model.data_preprocessor = ClsDataPreprocessor(**MIXING)
    with pytest.raises(SettingError, match=r'views=2: a ClsDataPreprocessor .*SeparateMixingPreprocessor'):
        number_views(run, 2)


def test_a_mixture_is_the_same_in_all_runs(data: Callable) -> None:
    dataset, known = data(CROP, ERASE, PACK), {}
    preprocessor = SeparateMixingPreprocessor(mean=[3.0] * 3, std=[2.0] * 3, **MIXING)
    for settings in ({}, {'trained': 4}, {'num_workers': 1}, {'seed': 8}):
        run = Run(dataset, **settings)
        run.model.data_preprocessor = preprocessor
        assert number_views(run, 2, seed=7).mixing.num_classes == 5
        for batch in run.batches(7):
            scores = [sample.gt_score for sample in batch['data_samples']]
            for image, row, score in zip(batch['inputs'], view_indices(batch['data_samples']), scores, strict=True):
                assert known.setdefault(row, (image.tolist(), score.tolist())) == (image.tolist(), score.tolist())
            # not mixed again
            prepared = preprocessor(batch, training=True)
            torch.testing.assert_close(prepared['inputs'], (torch.stack(batch['inputs']) - 3) / 2)
            for sample, score in zip(prepared['data_samples'], scores, strict=True):
                assert torch.equal(sample.gt_score, score)
    assert len(known) == 2 * NUMBER


@pytest.mark.parametrize('views', ['all', 2])
def test_the_teacher_cache_is_told_of_another_pipeline(views: Any, data: Callable) -> None:
    dataset = data(CROP, FLIP, PACK)
    run = Run(dataset)
    number_views(run, views)
    loader = run.train_loop.dataloader
    assert isinstance(loader, NumberedLoader)
    refuse = run.model.teacher_cache.refuse_change
    loader.make = None if views == 2 else lambda indices: [indices]
    for i, _ in enumerate(run.batches(9)):
        # with the next pass
        assert refuse.call_count == (i > 5)
        if i == 4:
            dataset.pipeline.transforms[1].prob = 0.1
    refuse.assert_called_once_with('the training set or its pipeline has changed')
    # fixed views stay fixed
    assert loader.views == (None if views == 'all' else FixedViews(2))


def test_the_teacher_cache_is_told_of_other_images(data: Callable) -> None:
    dataset = data(CROP, FLIP, PACK)
    run = Run(dataset)
    number_views(run, 2)
    refuse = run.model.teacher_cache.refuse_change
    dataset.read = 0
    for i, _ in enumerate(run.batches(9)):
        assert refuse.call_count == (i > 5)
        dataset.read += 1
        if i == 4:
            dataset.data_list[0], dataset.data_list[1] = dataset.data_list[1], dataset.data_list[0]
    refuse.assert_called_once_with('the training set or its pipeline has changed')


def test_pipelines_inside_other_datasets_are_looked_at(data: Callable) -> None:
    for kind in ('RepeatDataset', 'UnlabeledDataset', 'PartlyLabeledDataset'):
        inside = data(CROP, FLIP, PACK)
        parts = dict(labeled=data(PACK), unlabeled=inside) if kind == 'PartlyLabeledDataset' else dict(dataset=inside)
        run = Run(DATASETS.build(dict(type=kind, **parts, **(dict(times=2) if kind == 'RepeatDataset' else {}))))
        number_views(run, 1)
        in_use = run.train_loop.dataloader.views_in_use
        in_use.look()
        run.model.teacher_cache.refuse_change.assert_not_called()
        inside.pipeline.transforms[1].prob = 0.1
        in_use.look()
        run.model.teacher_cache.refuse_change.assert_called_once()


def test_the_teacher_cache_is_told_of_another_loader(data: Callable) -> None:
    run = Run(data(CROP, FLIP, PACK))
    number_views(run, 1)
    numbered = number_batches(run.train_loop, 5, 0)
    run.train_loop.dataloader = [1, 2]
    numbered.undo()
    numbered.undo()
    run.model.teacher_cache.refuse_change.assert_called_once()
