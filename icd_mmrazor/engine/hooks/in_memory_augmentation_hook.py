"""Augmentation of whole training batches, on the training device."""

import math
from typing import Any

import torch
from mmengine.dataset import default_collate, pseudo_collate
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmpretrain.models import ClsDataPreprocessor
from torch import nn
from torch.utils.data import DataLoader

from icd_mmrazor import checks
from icd_mmrazor.compat.layout import channels_last_is_sound, flattens_by_view
from icd_mmrazor.datasets.in_memory import MAX_MEMORY, InMemoryBatches
from icd_mmrazor.datasets.loaders import NumberedBatches, NumberedIndices, number_batches
from icd_mmrazor.datasets.pipelines import NotInMemoryError, split_pipelines
from icd_mmrazor.datasets.samples import accepts_merged_samples
from icd_mmrazor.datasets.views import no_views_in_memory
from icd_mmrazor.engine.runs import model_of
from icd_mmrazor.errors import SettingError

MB = 1e6
# a key of mmengine's message hub, which checkpoints hold
KEY = 'whole_batches'


# WholeBatchHook is its name in configs of 0.1
@HOOKS.register_module(name=['InMemoryAugmentationHook', 'WholeBatchHook'])
class InMemoryAugmentationHook(Hook):
    """Keep training images that fit in memory on the training device, and crop and flip a whole batch at once.

    A batch has the same distribution as with the pipeline's transforms image by image, but other random numbers, drawn
    from the run's seed and the iteration: a resumed run sees what it would have seen.
    :class:`~icd_mmrazor.datasets.in_memory.InMemoryBatches` lists the datasets and pipelines it supports. With any
    other, or if the images take too much memory, they are prepared one by one as usual, and the log says why.
    Validation is not affected.

    Training starts no workers meanwhile, whatever ``train_dataloader.num_workers``. A batch has one data sample with
    all labels, or one per image if the network's head needs them
    (:func:`~icd_mmrazor.datasets.samples.accepts_merged_samples`); of the metadata it has ``sample_idx`` alone.
    Of a ``TwoViewDataset``, a batch has two views of each image, and ``augmentation``, which says what each is.

    Args:
        device: Where the images stay; by default on the device of the model.
        max_memory: How much memory they may take in each process, in GB, with their padding; 0: none are kept.

    Raises:
        SettingError: The device cannot be used, ``max_memory`` is negative or not a number, or images would be prepared
            one by one and the teacher's cache has all views.

    Config example::

        default_hooks=dict(whole_batches=dict(type='InMemoryAugmentationHook', max_memory=16))
    """

    # after the hooks that refuse bad input, before those that take long
    priority = 'BELOW_NORMAL'
    changes_training = True

    def __init__(self, device: str | None = None, max_memory: float = MAX_MEMORY) -> None:
        self.max_memory = checks.not_negative(self, 'max_memory', max_memory)
        try:
            if device is not None:
                torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).partition('\n')[0]
            raise SettingError(
                f"InMemoryAugmentationHook: device={device!r} cannot be used ({reason}). Set 'cpu', or leave it out."
            ) from None
        self.device = device
        self._forget()

    def _forget(self) -> None:
        self._runner: Runner | None = None
        self._batches: InMemoryBatches | None = None
        self._numbered: NumberedBatches | None = None
        # the iteration from which on the dataset is checked again, and that of the last change
        self._next_check = self._last_change = -math.inf

    def before_train(self, runner: Runner) -> None:
        """Read the training images, or log why not."""
        self._stop()  # an interrupted run
        model = model_of(runner)
        views_in_use = getattr(runner.train_dataloader, 'views_in_use', None)
        if views_in_use is not None:  # hooks of a resumed run may have changed the pipeline
            views_in_use.look()
        try:
            # so that a resumed run sees the images that it would have seen
            if runner.message_hub.get_info(KEY) is False:
                raise NotInMemoryError('they were before this run was resumed')
            self._check(runner.train_dataloader, model)
            self._numbered = number_batches(runner.train_loop, runner.seed, get_rank())
            if self._numbered is None:
                raise NotInMemoryError('train_dataloader yields its batches in its own way')
            if getattr(self._numbered.loader.views, 'mixing', None) is not None:
                raise NotInMemoryError('model.teacher_cache.views needs mixtures that are made one by one')
            dataset = runner.train_dataloader.dataset
            # first: it may take a while
            runner.logger.info(f'InMemoryAugmentationHook: reading {len(dataset):,} training images.')
            batches = InMemoryBatches(
                dataset,
                self.device or next(model.parameters()).device,
                seed=runner.seed,
                rank=get_rank(),
                max_memory=self.max_memory,
                channels_last=channels_last_is_sound(model) and not flattens_by_view(model),
            )
        except NotInMemoryError as reason:
            views = getattr(runner.train_dataloader, 'views', None)
            if views is not None and views.in_memory:
                raise no_views_in_memory(reason, views) from None
            runner.logger.info(f'InMemoryAugmentationHook: training images are prepared one by one: {reason}.')
            if runner.message_hub.get_info(KEY):
                runner.logger.warning(
                    'InMemoryAugmentationHook: before this run was resumed, its images were cropped and flipped in '
                    'memory. Prepared one by one they have other random numbers, so the result differs. '
                    'default_hooks.whole_batches.max_memory sets how many GB the images may take.'
                )
            runner.message_hub.update_info(KEY, False)
            return
        runner.message_hub.update_info(KEY, True)
        height, width = batches.size
        runner.logger.info(
            f'InMemoryAugmentationHook: {len(batches.images):,} training images are on {batches.device} '
            f'({batches.images.nbytes / MB:,.1f} MB), where whole batches of {height} x {width} are made.'
        )
        self._runner, self._batches = runner, batches
        self._numbered.loader.make = self._make

    def before_train_epoch(self, runner: Runner) -> None:
        """Have the dataset checked with the first batch, which is after all hooks had their turn."""
        self._next_check = -math.inf
        if self._batches and runner.train_dataloader is not self._numbered.loader:  # a hook has set another
            self._end_views()
            self.before_train(runner)

    def after_train(self, runner: Runner) -> None:
        """Restore the DataLoader and free the memory."""
        if self._numbered:
            self._numbered.undo()
        self._stop()

    def _stop(self) -> None:
        if self._numbered:
            self._numbered.loader.make = None
        self._forget()

    def _check(self, loader: Any, model: nn.Module) -> None:
        """Check everything but the images."""
        if self.max_memory == 0:
            raise NotInMemoryError('default_hooks.whole_batches.max_memory=0')
        if not isinstance(loader, DataLoader):
            raise NotInMemoryError('train_dataloader is not a DataLoader')
        preprocessor = getattr(model, 'data_preprocessor', None)
        if not isinstance(preprocessor, ClsDataPreprocessor):
            raise NotInMemoryError(f'the data_preprocessor is {type(preprocessor).__name__}, not ClsDataPreprocessor')
        if getattr(loader.collate_fn, 'func', loader.collate_fn) not in (default_collate, pseudo_collate):
            raise NotInMemoryError('train_dataloader has a custom collate_fn')
        split_pipelines(loader.dataset)

    def _make(self, indices: NumberedIndices) -> dict[str, Any] | None:
        try:
            self._keep_up(indices.number)
            self._batches.sample_each = not accepts_merged_samples(model_of(self._runner))
            self._batches.views = self._numbered.loader.views
            return self._batches(indices, indices.number, indices.view)
        except NotInMemoryError as reason:
            if self._numbered.loader.views is not None and self._numbered.loader.views.in_memory:
                self._end_views(f'images are prepared one by one: {reason}')
            self._runner.logger.info(
                f'InMemoryAugmentationHook: from now on training images are prepared one by one: {reason}.'
            )
            self._runner.message_hub.update_info(KEY, False)
            self._numbered.loader.make = self._batches = None
            return None

    def _keep_up(self, iteration: int) -> None:
        """Read the images again if they have changed."""
        if self._numbered.loader.views_in_use is not None:
            self._numbered.loader.views_in_use.look()
        self._check(self._numbered.loader, model_of(self._runner))
        first = iteration >= self._next_check
        if first:
            # in a loop that counts iterations no hook is called when a pass over the data starts
            self._next_check = iteration + len(self._numbered)
        if not self._batches.changed(data=first):
            return
        self._end_views()
        if not first and iteration - self._last_change < len(self._numbered):
            raise NotInMemoryError('the pipeline changes more often than once in a pass over the data')
        self._last_change = iteration
        self._runner.logger.info(
            'InMemoryAugmentationHook: the training set or its pipeline has changed; reading '
            f'{len(self._numbered.loader.dataset):,} images again.'
        )
        self._batches.read()

    def _end_views(self, *reason: str) -> None:
        """Tell a teacher cache that there are other views now than those that are numbered."""
        if self._numbered.loader.views_in_use is not None:
            self._numbered.loader.views_in_use.end(*reason)
