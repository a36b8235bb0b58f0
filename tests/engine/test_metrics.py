"""Metrics of any kind as numbers, and as JSON."""

import json
import math

import numpy as np
import pytest
import torch
from mmengine.hooks import CheckpointHook

from icd_mmrazor.engine.metrics import as_number, best_metric, json_value, numbers_in


class Report:
    def __str__(self) -> str:
        return 'a report'


@pytest.mark.parametrize(
    ('value', 'number'),
    [
        (3, 3),
        (0.5, 0.5),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.array([[2.0]]), 2.0),
        (torch.tensor(2.0, requires_grad=True), 2.0),
        (torch.tensor([2], dtype=torch.int32), 2),
        (torch.ones(2), None),
        (np.ones(0), None),
        ('3', None),
        (None, None),
        ([3], None),
        (1j, None),
        (Report(), None),
    ],
)
def test_numbers(value: object, number: float | None) -> None:
    found = as_number(value)
    assert found == number
    assert type(found) is type(number)
    assert numbers_in({'a': value}) == ({} if number is None else {'a': number})


def test_not_a_number_is_one() -> None:
    assert math.isnan(as_number(torch.tensor(float('nan'))))


@pytest.mark.parametrize(
    ('rule', 'metrics', 'best'),
    [
        (None, ['f1-score', 'accuracy/top1', 'loss'], 'accuracy/top1'),
        (None, ['f1-score', 'loss'], 'loss'),
        (None, ['f1-score'], None),
        (None, [], None),
        ('less', ['f1-score', 'loss'], 'f1-score'),
    ],
)
def test_the_best_metric(rule: str | None, metrics: list[str], best: str | None) -> None:
    hook = CheckpointHook(save_best='auto', rule=rule)
    assert best_metric(hook, metrics) == best
    assert (hook.key_indicators, hook.rules) == (['auto'], [rule])


def test_json() -> None:
    metrics = {
        'number': 0.5,
        'flag': True,
        'none': None,
        ('a', 1): torch.eye(2, dtype=torch.bfloat16),
        'sparse': torch.eye(2).to_sparse(),
        'numpy': [np.float32(0.5), np.arange(2)],
        'set': {3},
        'nested': {1: (torch.tensor(2),)},
        'object': Report(),
    }
    assert json.loads(json.dumps(json_value(metrics))) == {
        'number': 0.5,
        'flag': True,
        'none': None,
        "('a', 1)": [[1, 0], [0, 1]],
        'sparse': [[1, 0], [0, 1]],
        'numpy': [0.5, [0, 1]],
        'set': [3],
        'nested': {'1': [2]},
        'object': 'a report',
    }
