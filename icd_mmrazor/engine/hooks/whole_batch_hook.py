"""Training batches that are made whole, on the training device."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dataset import default_collate, pseudo_collate
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmpretrain.models import ClsDataPreprocessor
from torch import nn
from torch.utils.data import DataLoader

from icd_mmrazor.compat.layout import channels_last_is_sound
from icd_mmrazor.datasets.in_memory import NoWholeBatchesError, WholeBatches, split_pipeline
from icd_mmrazor.datasets.loaders import MadeBatches, NumberedBatches, NumberedIndices, are_made, number_batches
from icd_mmrazor.datasets.samples import takes_joined_labels
from icd_mmrazor.errors import SettingError

MB = 1e6


@HOOKS.register_module()
class WholeBatchHook(Hook):
    """Crop and flip each training batch at once where the training images fit in memory.

    The images lie on the training device. What a batch looks like has the same distribution as with the pipeline's
    transforms image by image, but other random numbers, drawn from the run's seed and the iteration: a resumed run
    sees what it would have seen. :class:`WholeBatches` says which datasets and pipelines it is for. Where it is not for
    a run, or the images take too much memory, they are prepared one by one as always, and the log says why. Validation
    is never touched.

    While it is at work ``train_dataloader`` has no workers, whatever its ``num_workers``: there is nothing to prepare.
    A batch has one data sample with all labels, or one for each image where the network's head wants them so
    (:func:`icd_mmrazor.datasets.samples.takes_joined_labels`); of the metadata of the images it keeps ``sample_idx``
    alone.

    Args:
        device: Where the images lie; where the model is unless given. With ``'cpu'`` they take no memory of a GPU, but
            each batch is copied to it.
        max_memory: How much memory they may take in each process, in GB, padding included; half of what is free on
            the device unless given, of the CPU's divided by the processes on the machine. With 0 they are prepared
            one by one.

    Raises:
        SettingError: There is no such device, or ``max_memory`` is negative or no number.

    Config example::

        default_hooks=dict(whole_batches=dict(type='WholeBatchHook'))
    """

    # after the hooks that refuse bad input, before those that take long
    priority = 'BELOW_NORMAL'

    def __init__(self, device: str | None = None, max_memory: float | None = None) -> None:
        number = isinstance(max_memory, int | float) and not isinstance(max_memory, bool)
        if max_memory is not None and not (number and max_memory >= 0):
            raise SettingError(
                f'WholeBatchHook: max_memory={max_memory!r} must be a number of GB, 0 or more. With 0 the images are '
                'prepared one by one.'
            )
        try:
            if device is not None:
                torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).partition('\n')[0]
            raise SettingError(
                f"WholeBatchHook: device={device!r} cannot be used ({reason}). Give 'cpu', or no device for that of "
                'the model.'
            ) from None
        self.device = device
        self.max_memory = max_memory
        self._forget()

    def _forget(self) -> None:
        self._runner: Runner | None = None
        self._batches: WholeBatches | None = None
        self._made: MadeBatches | None = None
        self._numbered: NumberedBatches | None = None
        # the iteration from which on the dataset is looked at again, and that of the last change
        self._next_look = self._last_change = -math.inf

    def before_train(self, runner: Runner) -> None:
        """Read the training images, or say why not."""
        loader = runner.train_dataloader
        if are_made(loader):  # FrozenFeatureHook does, and says so
            return
        model = _model_of(runner)
        try:
            # so that a resumed run sees the images that it would have seen
            if runner.message_hub.get_info('whole_batches') is False:
                raise NoWholeBatchesError('they were before this run was resumed')
            _check(loader, model, self.max_memory)
            # first: it may take a while
            runner.logger.info(f'WholeBatchHook: reads the {len(loader.dataset):,} training images.')
            batches = WholeBatches(
                loader.dataset,
                self.device or next(model.parameters()).device,
                seed=runner.seed,
                rank=get_rank(),
                max_memory=self.max_memory,
                channels_last=channels_last_is_sound(model),
            )
        except NoWholeBatchesError as reason:
            runner.logger.info(f'WholeBatchHook: the training images are prepared one by one: {reason}.')
            _note(runner, whole=False)
            return
        _note(runner, whole=True)
        height, width = batches.size
        runner.logger.info(
            f'WholeBatchHook: {len(batches.images):,} training images lie on {batches.device} '
            f'({batches.images.nbytes / MB:,.1f} MB); each batch, {height} x {width}, is made there at once.'
        )
        self._runner, self._batches = runner, batches
        self._numbered = number_batches(runner.train_loop, runner.seed, get_rank())
        self._made = MadeBatches(loader, self._make, in_cpu_memory=batches.device.type == 'cpu')

    def before_train_epoch(self, runner: Runner) -> None:
        """Have the dataset looked at with the first batch, which is after all hooks had their turn."""
        self._next_look = -math.inf
        if self._numbered and runner.train_dataloader is not self._numbered.loader:  # a hook has set another
            self.after_train(runner)
            self.before_train(runner)

    def after_train(self, runner: Runner) -> None:
        """Leave the DataLoader as it was, and the memory."""
        if self._made:
            self._made.undo()
        if self._numbered:
            self._numbered.undo()
        self._forget()

    def _make(self, indices: Sequence[int]) -> dict[str, Any] | None:
        if not isinstance(indices, NumberedIndices):  # of another loader of the same dataset
            return None
        try:
            self._keep_up(indices.number)
            self._batches.sample_each = not takes_joined_labels(_model_of(self._runner))
            return self._batches(indices, indices.number)
        except NoWholeBatchesError as reason:
            self._runner.logger.info(
                f'WholeBatchHook: from now on the training images are prepared one by one: {reason}.'
            )
            self._runner.message_hub.update_info('whole_batches', False)
            self._made.undo()
            self._made = self._batches = None
            return None

    def _keep_up(self, iteration: int) -> None:
        """Read the images again if they would be others now."""
        model = _model_of(self._runner)
        _check_preprocessor(model)
        first = iteration >= self._next_look
        if first:
            # in a loop that counts iterations no hook is told where a pass over the data begins
            self._next_look = iteration + len(self._numbered)
        if not self._batches.changed(data=first):
            return
        if not first and iteration - self._last_change < len(self._numbered):
            raise NoWholeBatchesError('the pipeline changes more often than once in a pass over the data')
        self._last_change = iteration
        self._runner.logger.info(
            f'WholeBatchHook: the training set or its pipeline has changed; reads its '
            f'{len(self._numbered.loader.dataset):,} images again.'
        )
        self._batches.read()


def _model_of(runner: Runner) -> nn.Module:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def _note(runner: Runner, whole: bool) -> None:
    """Keep with the run how its images are prepared, and say so where a resumed one sees others for it."""
    if not whole and runner.message_hub.get_info('whole_batches'):
        runner.logger.warning(
            'WholeBatchHook: the images were prepared as whole batches before this run was resumed, and one by one '
            'now, so they are cropped and flipped otherwise: the result is not that of a run that was not stopped. '
            'default_hooks.whole_batches.max_memory, how many GB the images may take (0: one by one), decides it; '
            'without it the memory that is free at the moment does.'
        )
    runner.message_hub.update_info('whole_batches', whole)


def _check(loader: Any, model: nn.Module, max_memory: float | None) -> None:
    """Check everything but the images."""
    if max_memory == 0:
        raise NoWholeBatchesError('default_hooks.whole_batches.max_memory=0')
    if not isinstance(loader, DataLoader) or loader.batch_sampler is None:
        raise NoWholeBatchesError('train_dataloader is no DataLoader that makes batches')
    _check_preprocessor(model)
    if getattr(loader.collate_fn, 'func', loader.collate_fn) not in (default_collate, pseudo_collate):
        raise NoWholeBatchesError('train_dataloader has a collate_fn of its own')
    split_pipeline(loader.dataset)


def _check_preprocessor(model: nn.Module) -> None:
    preprocessor = getattr(model, 'data_preprocessor', None)
    if not isinstance(preprocessor, ClsDataPreprocessor):
        raise NoWholeBatchesError(f'the data_preprocessor is {type(preprocessor).__name__}, not ClsDataPreprocessor')
