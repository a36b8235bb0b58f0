"""Training images without labels, against what reads labels."""

from collections.abc import Mapping
from typing import Any

from mmengine.runner import Runner
from torch import nn

from icd_mmrazor.datasets.labels import has_labels, plain_datasets
from icd_mmrazor.datasets.partly_labeled_sampler import PartlyLabeledBatchSampler
from icd_mmrazor.errors import DatasetError, SettingError
from icd_mmrazor.models.algorithms.first_batch import refuse_need_of_labels
from icd_mmrazor.models.algorithms.student_losses import refuse_need_of_every_label
from icd_mmrazor.models.networks.preparation import OTHER_ORDER, source_of_images

SAMPLER = "train_dataloader.batch_sampler=dict(type='PartlyLabeledBatchSampler', unlabeled=0.5)"


def check_missing_labels(runner: Runner, model: nn.Module) -> None:
    """Refuse a distillation that reads labels which training images do not have.

    Raises:
        SettingError: The student's loss, a loss of the distiller or an augmentation reads the missing labels, nothing
            brings images with and without labels together, or they have different orders of the channels.
        DatasetError: Images with and without labels are not in a ``PartlyLabeledDataset``.
    """
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
