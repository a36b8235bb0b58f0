"""Sizes of the training batches in all processes."""

import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import all_gather, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from icd_mmrazor.engine.runs import counts_iterations, model_of
from icd_mmrazor.errors import SettingError


class BatchCheck(Hook):
    """Refuse training batches that would hang the processes or train nothing; warn of a last batch of one image.

    Raises:
        SettingError: There are fewer images than processes, or no batch at all (``drop_last``); the processes have
            different numbers of batches; every batch is one image, and a loss compares the images of a batch without
            ``gather_distributed``.
    """

    def before_train(self, runner: Runner) -> None:
        """Check the training batches."""
        loader = runner.train_dataloader
        if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
            return
        endless = isinstance(loader.sampler, InfiniteSampler)
        if not endless:
            _check_numbers(runner, loader)
        # None: a batch_sampler of the user; of one image, there are two views to compare
        if loader.batch_size is None or getattr(loader.dataset, 'views', 1) == 2:
            return
        setting = f'train_dataloader.batch_size={loader.batch_size}'
        single = not (endless or loader.drop_last) and len(loader.sampler) % loader.batch_size == 1
        if loader.batch_size == 1 or (single and len(loader) == 1):
            _refuse_comparisons(setting, model_of(runner))
        elif single:
            runner.logger.warning(
                f'{setting}: the last batch of an epoch has a single image, which some batch norms cannot normalize. '
                'Set train_dataloader.drop_last=True, or another batch_size.'
            )


def _check_numbers(runner: Runner, loader: DataLoader) -> None:
    """Refuse an epoch without batches, or with different numbers of them in the processes."""
    images, processes = len(loader.dataset), get_world_size()
    if images < processes:
        raise SettingError(
            f'train_dataloader.dataset has {images} images for {processes} processes. Start at most {images}.'
        )
    numbers = [int(number) for number in all_gather(torch.tensor(len(loader)))]
    if min(numbers) == 0:
        raise SettingError(
            f'train_dataloader: {images} images and {processes} processes give no batch of '
            f'batch_size={loader.batch_size} with drop_last={loader.drop_last}. Lower batch_size.'
        )
    # a loop that counts iterations starts the next pass where one ends
    if len(set(numbers)) > 1 and not counts_iterations(runner):
        raise SettingError(
            f'train_dataloader.sampler gives the {processes} processes {numbers} batches; they must have equally '
            'many. Set train_dataloader.sampler.round_up=True, or drop_last=True.'
        )


def _refuse_comparisons(setting: str, model: nn.Module) -> None:
    for name, loss in model.named_modules():
        # its own setting, or that of its entry in a FeatureDistiller
        own, of_entry = getattr(loss, 'gather_distributed', False), getattr(loss, 'gets_all_images', False)
        gathered = get_world_size() > 1 and (own or of_entry)
        if getattr(loss, 'compares_images', False) and not gathered:
            raise SettingError(
                f'{setting}: each batch of a process is one image. {type(loss).__name__} ({name}) compares the images '
                f'of a batch, and would always be 0. Take larger batches, or, over several '
                'processes, set its gather_distributed=True.'
            )
