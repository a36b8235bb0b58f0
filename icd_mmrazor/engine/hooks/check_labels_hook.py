"""Classes and labels against the classifier, before the first batch."""

import itertools
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from icd_mmrazor.datasets.class_names import class_names, differing_labels, listed_differences
from icd_mmrazor.datasets.labels import datasets_in_use, image_labels
from icd_mmrazor.errors import DatasetError
from icd_mmrazor.models.networks.classifier_layer import number_of_classes

REMEDY = (
    'Set head.num_classes of the model (of teacher and architecture in a distillation), or correct the dataset and '
    'its classes.'
)


@HOOKS.register_module()
class CheckLabelsHook(Hook):
    """Refuse a dataset that does not fit the classifier.

    Without it a loss fails deep inside the first epoch, on a GPU with an assertion that names nothing, or a network
    of 100 classes learns 10. Checked are the training and the validation set, also inside mmengine's wrappers, where
    a dataset offers ``get_gt_labels`` (mmpretrain's do), against ``head.num_classes`` of the model, or of the student
    of a distillation. Where a dataset names no classes and has labels for only some of the model's, it warns.

    Raises:
        DatasetError: The dataset names another number of classes, or the two sets name them differently, or a label is
            negative or too large.

    Config example::

        default_hooks=dict(check_labels=dict(type='CheckLabelsHook'))
    """

    def before_train(self, runner: Runner) -> None:
        """Check the training and the validation set."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        classifier = getattr(model, 'architecture', model)
        classes = number_of_classes(classifier)
        if classes is None:
            return
        datasets = [(setting, d) for setting, d in datasets_in_use(runner) if setting != 'test_dataloader']
        for setting, dataset in datasets:
            self._check(runner, setting, dataset, classes)
        _compare_names(datasets)

    @staticmethod
    def _check(runner: Runner, setting: str, dataset: Any, classes: int) -> None:
        labels = image_labels(dataset)
        if labels is None:
            return
        named, low, high = class_names(getattr(dataset, 'metainfo', None)), labels.min(), labels.max()
        model = f'the model has {classes} classes, labels 0 to {classes - 1}. {REMEDY}'
        dataset_name = f'{setting}.dataset ({type(dataset).__name__})'
        if named and len(named) != classes:
            raise DatasetError(f'{dataset_name} has {len(named)} classes; {model}')
        if low < 0 or high >= classes:
            raise DatasetError(f'{dataset_name} has labels from {low} to {high}; {model}')
        if not named and high < classes - 1:
            runner.logger.warning(f'{dataset_name} has labels up to {high} only; {model}')


def _compare_names(datasets: list[tuple[str, Any]]) -> None:
    """Refuse sets whose classes have other names, or another order: a label would mean two things."""
    every = [(setting, class_names(getattr(dataset, 'metainfo', None))) for setting, dataset in datasets]
    named = [(setting, names) for setting, names in every if names]
    for (one, names), (other, others) in itertools.pairwise(named):
        differing = differing_labels(names, others)
        places = (f'in {one}.dataset', f'in {other}.dataset')
        if differing:
            raise DatasetError(
                f'{listed_differences(names, others, differing, places)}. A folder of images gives its classes the '
                'alphabetical order of its folders: both must have the same folders.'
            )
