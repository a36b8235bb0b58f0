"""The training set, for losses that remember every image of it."""

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner
from torch import Tensor, nn

from icd_mmrazor.datasets.fingerprints import fingerprint_of_dataset
from icd_mmrazor.datasets.labels import image_labels
from icd_mmrazor.errors import DatasetError


@HOOKS.register_module()
class SampleMemoryHook(Hook):
    """Tell losses with a memory of each training image how many there are, and their labels.

    Every module of the model with a method ``set_dataset(labels)`` is told, before a checkpoint is resumed, and again
    where the labels have changed before a pass over the data. Without such a module the hook does nothing.

    Raises:
        DatasetError: There is such a module, but the training set has not one label for each image, or its samples
            have no index in the whole set, or it has another number of images than before.

    Config example::

        default_hooks=dict(sample_memory=dict(type='SampleMemoryHook'))
    """

    # before EMAHook copies the model
    priority = 'HIGH'

    def __init__(self) -> None:
        self._told: list[nn.Module] = []

    def before_run(self, runner: Runner) -> None:
        """Tell the modules."""
        self._told = []
        # runs that only test have built no training set, and asking for it would build it
        if not isinstance(runner._train_loop, BaseLoop):
            return
        modules = [module for module in runner.model.modules() if hasattr(module, 'set_dataset')]
        if not modules:
            return
        self._tell(runner, modules)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Look at the training set before the first step of a pass, after all hooks had their turn."""
        if not self._told or batch_idx % len(runner.train_dataloader):
            return
        state = _state_of(runner.train_dataloader.dataset)
        if state is None or state != self._state:
            self._tell(runner, self._told)

    def _tell(self, runner: Runner, modules: list[nn.Module]) -> None:
        dataset = runner.train_dataloader.dataset
        self._state = _state_of(dataset)
        labels = training_labels(dataset, type(modules[0]).__name__)
        if self._told and len(labels) != len(self._labels):
            raise DatasetError(
                f'{type(modules[0]).__name__} remembers each of {len(self._labels)} training images, and '
                f'train_dataloader.dataset has {len(labels)} now. Its images must stay the same in a training.'
            )
        if self._told:
            if torch.equal(labels, self._labels):
                return
            runner.logger.info('SampleMemoryHook: the labels of the training set have changed.')
        self._told, self._labels = modules, labels
        for module in modules:
            module.set_dataset(labels)


def _state_of(dataset: Any) -> int | None:
    try:
        return fingerprint_of_dataset(dataset)
    except Exception:  # pickle raises anything
        return None


def training_labels(dataset: Any, wanted_by: str) -> Tensor:
    """Return the labels of a training set by ``sample_idx``.

    Args:
        dataset: The training set. Inside mmengine's ``RepeatDataset`` and ``ClassBalancedDataset`` an image keeps its
            index.
        wanted_by: What needs them, for the message.

    Returns:
        Integers, one for each image.

    Raises:
        DatasetError: See :class:`SampleMemoryHook`.
    """
    while not hasattr(dataset, 'get_gt_labels') and hasattr(dataset, 'dataset'):
        dataset = dataset.dataset
    name = f'train_dataloader.dataset ({type(dataset).__name__})'
    if not hasattr(dataset, 'get_gt_labels'):
        raise DatasetError(
            f'{wanted_by} remembers every training image, but {name} does not number its images. Wrap it: '
            "train_dataloader.dataset=dict(type='IndexedDataset', dataset=...)."
        )
    labels = image_labels(dataset)
    if labels is None:
        raise DatasetError(
            f'{wanted_by} needs the class of every training image, but {name} has not one integer label for each '
            '(get_gt_labels). Give a classification dataset with labels.'
        )
    return torch.as_tensor(labels, dtype=torch.int64)
