"""Test settings of a student without its distillation."""

from collections.abc import Mapping
from typing import Any

from icd_mmrazor.configuration.type_names import type_name

# compare the student with its teacher, or read more than its predictions
OF_DISTILLATIONS = ('TeacherAgreement', 'KNNAccuracy', 'RetrievalPrecision')
# wrappers of the images that they are computed on, each with the setting that names these
WRAPPERS = {'KNNDataset': 'queries', 'UnlabeledDataset': 'dataset'}


def plain_dataset(dataset: Any) -> Any:
    """Return the config of the images that a student alone is tested on."""
    while isinstance(dataset, Mapping) and (inner := WRAPPERS.get(type_name(dataset.get('type')))):
        dataset = dataset[inner]
    return dataset


def plain_evaluator(evaluator: Any) -> Any:
    """Return the config of an evaluator without metrics of a distillation; of the accuracy if it has no others."""
    if not needs_distillation(evaluator):
        return evaluator
    return [each for each in _metrics(evaluator) if not needs_distillation(each)] or dict(type='Accuracy')


def needs_distillation(evaluator: Any) -> bool:
    """Return whether a metric of an evaluator's config is one of a distillation."""
    return any(type_name(each.get('type')) in OF_DISTILLATIONS for each in _metrics(evaluator))


def _metrics(evaluator: Any) -> list[Mapping]:
    several = evaluator if isinstance(evaluator, list | tuple) else [evaluator]
    return [each for each in several if isinstance(each, Mapping)]
