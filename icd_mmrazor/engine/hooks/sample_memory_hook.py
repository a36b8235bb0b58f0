"""The training set for what remembers every image."""

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from icd_mmrazor.datasets.fingerprints import fingerprint_of_dataset
from icd_mmrazor.datasets.labels import image_labels
from icd_mmrazor.datasets.loaders import NumberedLoader
from icd_mmrazor.engine.runs import is_training, model_of, steps_done
from icd_mmrazor.engine.teacher_caching import open_teacher_cache
from icd_mmrazor.errors import DatasetError

# in a checkpoint's meta, and in the log's scalars
COUNTS, NAMES = 'teacher_cache', ('teacher_asked', 'teacher_images')


@HOOKS.register_module()
class SampleMemoryHook(Hook):
    """Tell losses that remember each training image (CRD, RRD) the labels of all, and open the teacher's cache.

    Every module of the model with a method ``set_dataset(labels)`` is told before a checkpoint is resumed, and again if
    the labels have changed before a pass over the data. ``FrozenTeacherDistill.teacher_cache`` is opened for the
    training set when the training starts; how often the teacher was run is logged at the end.

    Raises:
        SettingError, CacheError: The cache is of another teacher or other images, is damaged, or cannot be made.
        DatasetError: There is such a module, but the training set does not have one label per image or does not number
            its images, or their number has changed.

    Config example::

        default_hooks=dict(sample_memory=dict(type='SampleMemoryHook'))
    """

    # before EMAHook copies the model
    priority = 'HIGH'
    changes_training = True

    def __init__(self) -> None:
        self._modules: list[nn.Module] = []
        self._labels: Tensor | None = None
        self._fingerprint: int | None = None
        # how often the teacher of a resumed run was asked, and run
        self._before: dict[str, int] = {}

    def before_run(self, runner: Runner) -> None:
        """Tell the modules."""
        self._modules, self._labels, self._before = [], None, {}
        # asking a run that only tests for its training set would build it
        if is_training(runner):
            self._modules = [module for module in runner.model.modules() if hasattr(module, 'set_dataset')]
        if self._modules:
            self._tell(runner)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Read how often the teacher was run before."""
        meta = checkpoint.get('meta')
        counts = meta.get(COUNTS) if runner._resume and isinstance(meta, dict) else None
        if isinstance(counts, dict):
            self._before = {name: counts[name] for name in NAMES if type(counts.get(name)) is int}

    def before_train(self, runner: Runner) -> None:
        """Open the teacher's cache."""
        open_teacher_cache(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Store how often the teacher was run."""
        if counts := self._counts(runner):
            checkpoint['meta'][COUNTS] = counts

    def after_train(self, runner: Runner) -> None:
        """Log how often the teacher was run, and restore the DataLoader whose views were numbered for its cache."""
        if _cache_of(runner) is not None and isinstance(runner.train_dataloader, NumberedLoader):
            runner.train_dataloader.numbered.undo()
        if not (counts := self._counts(runner)):
            return
        runner.visualizer.add_scalars(counts, step=steps_done(runner))
        asked, run = counts.values()
        share = f' ({run / asked:.1%})' if asked else ''
        runner.logger.info(f'The teacher was run on {run:,} images for {asked:,} outputs{share}.')

    def _counts(self, runner: Runner) -> dict[str, int]:
        cache = _cache_of(runner)
        if cache is None or not cache.in_use:
            return {}
        return {
            name: self._before.get(name, 0) + n for name, n in zip(NAMES, (cache.asked, cache.computed), strict=True)
        }

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Look at the training set before the first step of a pass, when all hooks have had their turn."""
        if self._modules and batch_idx % len(runner.train_dataloader) == 0:
            fingerprint = _fingerprint(runner.train_dataloader.dataset)
            if fingerprint is None or fingerprint != self._fingerprint:
                self._tell(runner)

    def _tell(self, runner: Runner) -> None:
        dataset, name = runner.train_dataloader.dataset, type(self._modules[0]).__name__
        self._fingerprint = _fingerprint(dataset)
        labels, before = training_labels(dataset, name), self._labels
        if before is not None:
            if len(labels) != len(before):
                raise DatasetError(
                    f'{name} remembers each of {len(before)} training images, and train_dataloader.dataset has '
                    f'{len(labels)} now. The images must stay the same during a training.'
                )
            if torch.equal(labels, before):
                return
            runner.logger.info('SampleMemoryHook: the labels of the training set have changed.')
        self._labels = labels
        for module in self._modules:
            module.set_dataset(labels)


def _cache_of(runner: Runner) -> Any:
    return getattr(model_of(runner), 'teacher_cache', None)


def _fingerprint(dataset: Any) -> int | None:
    try:
        return fingerprint_of_dataset(dataset)
    except Exception:  # pickle raises anything
        return None


def numbered_images(dataset: Any, wanted_by: str) -> Any:
    """Return the dataset whose positions ``sample_idx`` counts: the training set, or the one that it repeats.

    Args:
        dataset: The training set.
        wanted_by: What remembers each image, for the message.

    Raises:
        DatasetError: It does not number its images.
    """
    # an image keeps its index inside mmengine's RepeatDataset and ClassBalancedDataset
    while not hasattr(dataset, 'get_gt_labels') and hasattr(dataset, 'dataset'):
        dataset = dataset.dataset
    if not hasattr(dataset, 'get_gt_labels'):
        raise DatasetError(
            f'{wanted_by} remembers every training image, but train_dataloader.dataset ({type(dataset).__name__}) does '
            "not number its images. Wrap it: train_dataloader.dataset=dict(type='IndexedDataset', dataset=...)."
        )
    return dataset


def training_labels(dataset: Any, wanted_by: str) -> Tensor:
    """Return the labels of a training set by ``sample_idx``.

    Args:
        dataset: The training set.
        wanted_by: What needs them, for the message.

    Raises:
        DatasetError: It does not number its images, or has no labels.
    """
    dataset = numbered_images(dataset, wanted_by)
    labels = image_labels(dataset)
    if labels is None:
        raise DatasetError(
            f'{wanted_by} needs the class of every training image, but train_dataloader.dataset '
            f'({type(dataset).__name__}) does not have one integer label per image (get_gt_labels). Give a '
            'classification dataset with labels.'
        )
    if missing := int((labels < 0).sum()):
        raise DatasetError(
            f'{wanted_by} needs the class of every training image, and {missing:,} of the {len(labels):,} have none. '
            'Use another method, or labelled images alone.'
        )
    return torch.as_tensor(labels, dtype=torch.int64)
