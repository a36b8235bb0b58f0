"""Labels of the datasets against what reads them."""

import itertools
from collections.abc import Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from icd_mmrazor.datasets.class_names import class_names, differing_labels, listed_differences
from icd_mmrazor.datasets.labels import datasets_in_use, has_labels, image_labels, plain_datasets
from icd_mmrazor.datasets.partly_labeled_sampler import PartlyLabeledBatchSampler
from icd_mmrazor.engine.runs import model_of
from icd_mmrazor.errors import DatasetError, SettingError
from icd_mmrazor.models.algorithms.first_batch import refuse_need_of_labels
from icd_mmrazor.models.algorithms.records import classifier_is_used
from icd_mmrazor.models.algorithms.student_losses import losses_of_labels, refuse_need_of_every_label
from icd_mmrazor.models.networks.classifier_layer import number_of_classes
from icd_mmrazor.models.networks.preparation import OTHER_ORDER, source_of_images

REMEDY = (
    'Set head.num_classes of the model (of teacher and architecture in a distillation), or correct the dataset and '
    'its classes.'
)
SAMPLER = "train_dataloader.batch_sampler=dict(type='PartlyLabeledBatchSampler', unlabeled=0.5)"


class LabelCheck(Hook):
    """Refuse a training or validation set that does not fit the classifier.

    Checked are datasets with ``get_gt_labels`` (mmpretrain's), inside mmengine's wrappers too.

    Raises:
        SettingError: The student's loss, a loss of the distiller or an augmentation reads labels that training images
            do not have, nothing brings images with and without labels together, or they have different orders of the
            channels.
        DatasetError: A set names another number of classes, the two sets name them differently, a label is out of
            range, or images with and without labels are not in a ``PartlyLabeledDataset``.
    """

    def before_train(self, runner: Runner) -> None:
        """Check both sets."""
        model = model_of(runner)
        _check_missing_labels(runner, model)
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


def _check_missing_labels(runner: Runner, model: nn.Module) -> None:
    """Refuse a distillation that reads labels which training images do not have."""
    loader = runner.train_dataloader
    dataset = getattr(loader, 'dataset', None)
    if not hasattr(model, 'calculate_student_loss') or dataset is None:
        return
    if hasattr(dataset, 'num_labeled'):
        _check_batches(loader)
        check_channels(runner.cfg.get('train_dataloader'))
        refuse_need_of_every_label(model)
        return
    labels = {has_labels(part) for part in plain_datasets(dataset)}
    if labels >= {True, False}:
        raise DatasetError(
            f'train_dataloader.dataset ({type(dataset).__name__}) has images with labels and images without. Set '
            f"dataset=dict(type='PartlyLabeledDataset', labeled=..., unlabeled=...) and {SAMPLER}."
        )
    if labels == {False} and hasattr(model, 'first_batch_passed'):
        refuse_need_of_labels(model)
        for loss in losses_of_labels(model.distiller):
            raise SettingError(
                f'FrozenTeacherDistill: the training images have no labels, which {loss} reads. Use a dataset with '
                'labels, or another loss.'
            )


def check_channels(loader: Any) -> None:
    """Refuse parts whose channels come in different orders, as those of arrays and of image files do."""
    dataset = loader.get('dataset') if isinstance(loader, Mapping) else None
    parts = [dataset.get(name) if isinstance(dataset, Mapping) else None for name in ('labeled', 'unlabeled')]
    labeled, unlabeled = (source_of_images({'train_dataloader': {'dataset': part}}) for part in parts)
    if OTHER_ORDER.get(labeled) == unlabeled is not None:
        raise SettingError(
            f'train_dataloader.dataset: the images of labeled come with channels {labeled}, those of unlabeled with '
            f'{unlabeled}. Add dict(type="NumpyToPIL", to_rgb=True), dict(type="PILToNumpy") to the pipeline of one, '
            'before PackInputs.'
        )


def _check_batches(loader: Any) -> None:
    sampler = getattr(loader, 'batch_sampler', None)
    if not isinstance(sampler, PartlyLabeledBatchSampler):
        raise SettingError(
            'train_dataloader.dataset is a PartlyLabeledDataset, and nothing says how many images of a batch have '
            f'labels. Set {SAMPLER}.'
        )
