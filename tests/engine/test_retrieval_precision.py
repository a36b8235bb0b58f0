"""Precision of retrieval against golden numbers of PKT's and HKD's code, and a rewrite by its loops."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers import DATA, scalars, shipped
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config

from icd_mmrazor.engine.retrieval_precision import RetrievalPrecision, precisions
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.classifiers import FeatureClassifier

GOLDEN = np.load(DATA / 'hkd_retrieval_metrics.npz')


def metric(features: dict[bool, np.ndarray], labels: dict[bool, np.ndarray], **settings: object) -> dict[str, float]:
    found = RetrievalPrecision(**settings)
    for in_bank in (True, False):
        for feature, label in zip(features[in_bank], labels[in_bank], strict=True):
            sample = {'feature': torch.from_numpy(feature), 'gt_label': torch.tensor([label]), 'in_bank': in_bank}
            found.process({}, [sample])
    return found.evaluate(len(found.results))


@pytest.mark.parametrize('batch_size', [1, 4, 12])
@pytest.mark.parametrize('rank', [1, 10, 40])
def test_golden_numbers(batch_size: int, rank: int) -> None:
    """They depend on the size of a batch of queries, as the published ones do."""
    features = {True: GOLDEN['database'], False: GOLDEN['queries']}
    labels = {True: GOLDEN['database_labels'], False: GOLDEN['query_labels']}
    found = metric(features, labels, batch_size=batch_size, rank=rank)
    assert len(found) == 4
    for ours, theirs in (('euclidean', 'l2'), ('cosine', 'cosine')):
        golden = {name: GOLDEN[f'{theirs}.batch{batch_size}.{name}'] for name in ('map', 'raw_precision')}
        assert found[f'retrieval/map_{ours}'] == pytest.approx(100 * golden['map'].item(), rel=1e-8)
        assert found[f'retrieval/top{rank}_{ours}'] == pytest.approx(100 * golden['raw_precision'][rank - 1], rel=1e-8)
    assert metric(features, labels, distances='cosine', batch_size=batch_size, rank=rank) == {
        name: value for name, value in found.items() if 'cosine' in name
    }


def by_loops(relevant: list[list[bool]], rank: int) -> tuple[list[float], list[float]]:
    averages, at_rank = [], []
    for row in relevant:
        precision, recall = [], []
        for i in range(len(row)):
            hits = sum(row[: i + 1])
            precision.append(hits / (i + 1))
            recall.append(hits / max(sum(row), 1))
        # over as many ranks as there are queries
        for i in reversed(range(min(len(relevant), len(row)) - 1)):
            precision[i] = max(precision[i], precision[i + 1])
        levels = []
        for level in range(11):
            distances = [abs(each - 0.1 * level) for each in recall]
            levels.append(precision[distances.index(min(distances))])
        averages.append(sum(levels) / 11)
        at_rank.append(precision[min(rank, len(row)) - 1])
    return averages, at_rank


@given(data=st.data(), number=st.integers(1, 25), queries=st.integers(1, 12), rank=st.integers(1, 30))
def test_against_loops(data: st.DataObject, number: int, queries: int, rank: int) -> None:
    rows = st.lists(st.booleans(), min_size=number, max_size=number)
    relevant = data.draw(st.lists(rows, min_size=queries, max_size=queries))
    for found, expected in zip(precisions(torch.tensor(relevant), rank), by_loops(relevant, rank), strict=True):
        assert found.tolist() == pytest.approx(expected, abs=1e-12)


def test_distances() -> None:
    """A long vector in the same direction, and a zero vector, which has no direction: half way to the opposite one."""
    bank = np.array([[9.0, 0.0], [0.0, 0.0], [-1.0, 0.0]])
    labels = {True: np.array([0, 1, 2]), False: np.array([0, 1, 2, 3])}
    for rank, euclidean, cosine in ((1, [0, 1, 0, 0], [1, 0, 0, 0]), (2, [0, 1, 1, 0], [1, 1, 0, 0])):
        for distance, hits in (('euclidean', euclidean), ('cosine', cosine)):
            found = metric({True: bank, False: np.array([[1.0, 0.0]] * 4)}, labels, batch_size=1, rank=rank)
            assert found[f'retrieval/top{rank}_{distance}'] == pytest.approx(100 * sum(hits) / rank / 4)


def test_no_query_as_in_a_check_of_one_image() -> None:
    found = metric({True: np.ones((1, 2)), False: np.ones((0, 2))}, {True: np.array([0]), False: np.array([])})
    assert [math.isnan(value) for value in found.values()] == [True] * 4


@pytest.mark.parametrize(
    'settings', [dict(distances='l2'), dict(distances=[]), dict(distances=3), dict(batch_size=0), dict(rank=1.5)]
)
def test_settings_out_of_range(settings: dict) -> None:
    with pytest.raises(SettingError, match=f'RetrievalPrecision: {next(iter(settings))}='):
        RetrievalPrecision(**settings)


def test_a_prediction_without_feature() -> None:
    with pytest.raises(SettingError, match=r'RetrievalPrecision: .*predict_also=.*FeatureClassifier'):
        RetrievalPrecision().process({}, [{'in_bank': True}])


@pytest.fixture
def small(images_file: object) -> Callable[[str], Config]:
    """Return a shipped config of CIFAR-10 for the small problem: one epoch of images of 16 x 16, enlarged."""

    def config(name: str) -> Config:
        cfg = shipped(f'{name}.py')
        images = dict(type='NPZDataset', data_file=str(images_file))
        enlarged = [dict(type='Resize', scale=32), dict(type='PackInputs')]
        train = dict(images, images_key='train_images', labels_key='train_labels', pipeline=enlarged)
        queries = dict(train, images_key='test_images', labels_key='test_labels')
        cfg.train_dataloader.dataset, cfg.train_dataloader.batch_size = train, 16
        for split in ('val', 'test'):
            cfg[f'{split}_dataloader'].dataset.bank = train
            cfg[f'{split}_dataloader'].dataset.queries = queries
        for split in ('train', 'val', 'test'):
            cfg[f'{split}_dataloader'].num_workers = 0
        cfg.merge_from_dict({'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 1, 'work_dir': 'work'})
        return cfg

    return config


@pytest.mark.slow
def test_a_network_alone_and_a_distillation(small: Callable, runner: Callable) -> None:
    """HKD's protocol: the auxiliary teacher, trained alone, is the teacher of the student."""
    run = runner(small('vanilla/cnn1-a_cifar10'))
    run.train()
    assert isinstance(run.model, FeatureClassifier)
    assert (
        len(
            scalars(run)[-1].keys() & {f'retrieval/{m}_{d}' for m in ('map', 'top100') for d in ('euclidean', 'cosine')}
        )
        == 4
    )

    cfg = small('hkd/hkd_cnn1-a_cnn1_cifar10')
    cfg.model.teacher_ckpt, cfg.work_dir = 'work/epoch_1.pth', 'work_of_student'
    cfg.val_evaluator.rank = 10
    run = runner(cfg)
    run.train()
    assert run.model.distiller.distill_losses.loss_flow3.reduction == 'mean'
    found = scalars(run)[-1]
    # by a plain loop over the network
    model, features, labels = run.model.eval(), {}, {}
    with torch.no_grad():
        batches = [model.data_preprocessor(batch) for batch in run.val_dataloader]
        feature = torch.cat([model.student.backbone(batch['inputs'])[0] for batch in batches]).numpy()
    label = np.array([sample.gt_label.item() for batch in batches for sample in batch['data_samples']])
    for in_bank, part in ((True, slice(64)), (False, slice(64, None))):
        features[in_bank], labels[in_bank] = feature[part], label[part]
    expected = metric(features, labels, rank=10)
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-6)
