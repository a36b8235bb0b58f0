"""Test settings of an exported student."""

import pytest
from mmengine.config import Config

from icd_mmrazor.export.student import plain_student

IMAGES = dict(
    type='CustomDataset', data_root='data/val', pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')]
)
ACCURACY, CONFUSION = dict(type='Accuracy'), dict(type='ConfusionMatrix')


@pytest.mark.parametrize(
    ('dataset', 'evaluator', 'expected'),
    [
        (dict(type='KNNDataset', bank=dict(type='CIFAR10'), queries=IMAGES), dict(type='KNNAccuracy'), ACCURACY),
        (dict(type='UnlabeledDataset', dataset=IMAGES), [dict(type='TeacherAgreement'), CONFUSION], [CONFUSION]),
        (IMAGES, [ACCURACY, CONFUSION], [ACCURACY, CONFUSION]),
        (IMAGES, CONFUSION, CONFUSION),
    ],
)
def test_metrics_and_datasets_of_a_distillation_stay_there(dataset: dict, evaluator: object, expected: object) -> None:
    cfg = dict(
        data_preprocessor=dict(mean=[1, 2, 3], std=[4, 5, 6]),
        model=dict(type='FrozenTeacherDistill', architecture=dict(type='ImageClassifier')),
        test_dataloader=dict(batch_size=2, dataset=dataset),
        test_evaluator=evaluator,
    )
    plain = plain_student(Config(cfg))
    assert plain.test_dataloader.dataset == IMAGES
    assert plain.to_dict()['test_evaluator'] == expected
    assert 'custom_imports' not in plain
