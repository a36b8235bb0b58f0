"""Labels of the datasets against the classes of the classifier."""

import itertools
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from icd_mmrazor.datasets.class_names import class_names, differing_labels, listed_differences
from icd_mmrazor.datasets.labels import datasets_in_use, image_labels
from icd_mmrazor.engine.checks.missing_labels import check_missing_labels
from icd_mmrazor.engine.runs import model_of
from icd_mmrazor.errors import DatasetError
from icd_mmrazor.models.algorithms.records import classifier_is_used
from icd_mmrazor.models.networks.classifier_layer import number_of_classes

REMEDY = (
    'Set head.num_classes of the model (of teacher and architecture in a distillation), or correct the dataset and '
    'its classes.'
)


class LabelCheck(Hook):
    """Refuse a training or validation set that does not fit the classifier.

    Checked are datasets with ``get_gt_labels`` (mmpretrain's), inside mmengine's wrappers too.

    Raises:
        SettingError: Something reads labels that training images do not have.
        DatasetError: A set names another number of classes, the two sets name them differently, or a label is out of
            range.
    """

    def before_train(self, runner: Runner) -> None:
        """Check both sets."""
        model = model_of(runner)
        check_missing_labels(runner, model)
        classes = number_of_classes(getattr(model, 'architecture', model))
        if classes is None:
            return
        datasets = [(setting, d) for setting, d in datasets_in_use(runner) if setting != 'test_dataloader']
        for setting, dataset in datasets if classifier_is_used(model) else []:
            _check_labels(runner, setting, dataset, classes)
        _check_names(datasets)


def _check_labels(runner: Runner, setting: str, dataset: Any, classes: int) -> None:
    labels = image_labels(dataset)
    if labels is None:
        return
    names, low, high = class_names(getattr(dataset, 'metainfo', None)), labels.min(), labels.max()
    model = f'the model has {classes} classes, labels 0 to {classes - 1}. {REMEDY}'
    where = f'{setting}.dataset ({type(dataset).__name__})'
    if names and len(names) != classes:
        raise DatasetError(f'{where} has {len(names)} classes; {model}')
    if low < 0 or high >= classes:
        raise DatasetError(f'{where} has labels from {low} to {high}; {model}')
    if not names and high < classes - 1:
        runner.logger.warning(f'{where} has labels up to {high} only; {model}')


def _check_names(datasets: list[tuple[str, Any]]) -> None:
    """Refuse sets in which a label stands for different classes."""
    every = [(setting, class_names(getattr(dataset, 'metainfo', None))) for setting, dataset in datasets]
    named = [(setting, names) for setting, names in every if names]
    for (one, names), (other, others) in itertools.pairwise(named):
        differing = differing_labels(names, others)
        if differing:
            places = (f'in {one}.dataset', f'in {other}.dataset')
            raise DatasetError(
                f'{listed_differences(names, others, differing, places)}. Give both sets the same classes in the same '
                'order: a folder of images takes the alphabetical order of its folders.'
            )
