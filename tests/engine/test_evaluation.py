"""Agreement and nearest neighbours on given predictions."""

import math
from typing import Any

import pytest
import torch
from mmengine.hooks import CheckpointHook
from mmpretrain.structures import DataSample

from icd_mmrazor.engine.evaluation import KNNAccuracy, TeacherAgreement
from icd_mmrazor.errors import SettingError


def agreement(pairs: list[tuple[list[float], list[float]]], batch: int = 2) -> dict[str, float]:
    metric = TeacherAgreement()
    samples = [{'pred_score': torch.tensor(s), 'teacher_score': torch.tensor(t)} for s, t in pairs]
    for start in range(0, len(samples), batch):
        metric.process({}, samples[start : start + batch])
    return metric.evaluate(len(samples))


def test_agreement_by_hand() -> None:
    found = agreement([([0.5, 0.5], [0.25, 0.75]), ([0.2, 0.8], [0.2, 0.8]), ([0.9, 0.1], [1.0, 0.0])])
    first = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    # of two equal probabilities the first class counts
    assert found['agreement/top1'] == pytest.approx(200 / 3)
    assert found['agreement/kl'] == pytest.approx((first - math.log(0.9)) / 3)


def test_a_student_that_is_certain_and_wrong() -> None:
    found = agreement([([1.0, 0.0], [0.0, 1.0])])
    assert found['agreement/top1'] == 0
    assert 80 < found['agreement/kl'] < 90


def sample(feature: list[float], label: int, in_bank: bool) -> dict[str, Any]:
    return {'feature': torch.tensor(feature), 'gt_label': torch.tensor([label]), 'in_bank': in_bank}


def test_neighbours_vote_by_their_similarity() -> None:
    """Length does not count; one very close image outweighs two others, unless the temperature is high."""
    bank = [sample([10.0, 0.1], 1, True), sample([0.3, 1.0], 0, True), sample([0.3, -1.0], 0, True)]
    samples = [*bank, sample([1.0, 0.0], 1, False)]
    for temperature, expected in ((0.07, 100), (100.0, 0)):
        metric = KNNAccuracy(k=20, temperature=temperature)
        metric.process({}, samples)
        assert metric.evaluate(4) == {'knn/top1': expected}
    metric = KNNAccuracy(k=1, temperature=100.0)
    metric.process({}, samples)
    assert metric.evaluate(4) == {'knn/top1': 100}


def test_no_query_as_in_a_check_of_one_image() -> None:
    metric = KNNAccuracy()
    metric.process({}, [sample([1.0], 0, True)])
    assert math.isnan(metric.compute_metrics(metric.results)['top1'])


@pytest.mark.parametrize('name', ['agreement/top1', 'knn/top1'])
def test_the_best_is_the_greatest(name: str) -> None:
    hook = CheckpointHook(save_best='auto')
    hook._init_rule(hook.rules, [name])
    assert hook.rules == ['greater']


@pytest.mark.parametrize(
    ('metric', 'prediction', 'setting'),
    [
        (TeacherAgreement(), {'pred_score': torch.ones(2)}, r"model\.predict_also=\['teacher'\]"),
        (TeacherAgreement(), {'pred_score': torch.ones(2), 'teacher_score': torch.ones(3)}, 'classes'),
        (KNNAccuracy(), {'in_bank': True}, r"model\.predict_also=\['pooled'\]"),
        (KNNAccuracy(), {'feature': torch.ones(2)}, 'KNNDataset'),
        (KNNAccuracy(), {'feature': torch.ones(2), 'in_bank': True}, 'one label'),
        (KNNAccuracy(), {**sample([1.0], 0, True), 'gt_label': torch.tensor([1, 2])}, 'one label'),
    ],
)
def test_predictions_that_lack_something(metric: Any, prediction: dict, setting: str) -> None:
    with pytest.raises(SettingError, match=setting):
        metric.process({}, [prediction])


@pytest.mark.parametrize('settings', [dict(k=0), dict(k=2.5), dict(temperature=0)])
def test_settings_out_of_range(settings: dict) -> None:
    with pytest.raises(SettingError, match=next(iter(settings))):
        KNNAccuracy(**settings)


def test_what_a_data_sample_tells_reaches_the_metric() -> None:
    """mmengine's evaluator passes dictionaries on, with the metadata."""
    metric, data = KNNAccuracy(), DataSample(metainfo={'in_bank': True}).set_gt_label(3)
    data.set_field(torch.ones(2), 'feature')
    metric.process({}, [data.to_dict()])
    assert metric.results[0][:2] == (True, 3)
