"""Sizes of the training batches in all processes, before the first one."""

from collections.abc import Iterator
from typing import Any

import torch
from mmengine.dataset import InfiniteSampler, pseudo_collate
from mmengine.dist import all_gather, get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from icd_mmrazor.errors import SettingError


@HOOKS.register_module()
class CheckBatchesHook(Hook):
    """Refuse training batches that would hang the processes, train nothing, or fail at the end of the first epoch.

    Refused are

    * a training set that is smaller than the number of processes, and one that gives no batch (``drop_last``);
    * processes with different numbers of batches: those with one more would wait for the others for ever;
    * batches that are all of one image, with a loss that compares the images of a batch (ICD without
      ``gather_distributed``, SP, CC, PKT, RKD): it would always be 0. A last batch of one image is fine: the loss is 0
      for it;
    * a batch of one image that a batch norm cannot normalise, since it sees one value a channel of it.

    A DataLoader with a ``batch_sampler`` of its own is checked for the number of batches only.

    Raises:
        SettingError: See above.

    Config example::

        default_hooks=dict(check_batches=dict(type='CheckBatchesHook'))
    """

    def before_train(self, runner: Runner) -> None:
        """Check the training batches."""
        loader, processes = runner.train_dataloader, get_world_size()
        if not isinstance(loader, DataLoader) or isinstance(loader.sampler, InfiniteSampler):
            return
        images = len(loader.dataset)
        if images < processes:
            raise SettingError(
                f'train_dataloader.dataset has {images} images for {processes} processes. Start at most {images}.'
            )
        numbers = [int(number) for number in all_gather(torch.tensor(len(loader)))]
        if min(numbers) == 0:
            raise SettingError(
                f'train_dataloader: {images} images and {processes} processes give no batch of '
                f'batch_size={loader.batch_size} with drop_last={loader.drop_last}. Lower batch_size, or set '
                'drop_last=False.'
            )
        # a loop that counts iterations begins the next pass where one ends
        if len(set(numbers)) > 1 and not isinstance(runner.train_loop, IterBasedTrainLoop):
            raise SettingError(
                f'train_dataloader.sampler gives the {processes} processes {numbers} batches; those with more would '
                'wait for the others. Set train_dataloader.sampler.round_up=True, or drop_last=True.'
            )
        if loader.batch_size is not None:
            model = runner.model.module if is_model_wrapper(runner.model) else runner.model
            _check_single_images(loader, model, processes)


def _check_single_images(loader: DataLoader, model: nn.Module, processes: int) -> None:
    last = len(loader.sampler) % loader.batch_size
    if loader.batch_size != 1 and (last != 1 or loader.drop_last):
        return
    setting = f'train_dataloader.batch_size={loader.batch_size}'
    if loader.batch_size == 1 or len(loader) == 1:
        for name, loss in _losses_between_images(model, processes):
            gathered = ', or set its gather_distributed=True' if hasattr(loss, 'gather_distributed') else ''
            raise SettingError(
                f'{setting}: each batch of a process is one image, and {type(loss).__name__} ({name}) compares the '
                f'images of a batch: it would always be 0. Take larger batches{gathered}.'
            )
    norm = _unable_to_normalise(model, loader.dataset, processes)
    if norm:
        which = 'each batch' if loader.batch_size == 1 else 'the last batch of an epoch'
        raise SettingError(
            f'{setting}: {which} is one image, of which the batch norm {norm} sees one value a channel: it cannot be '
            'normalised. Set train_dataloader.drop_last=True, or another batch_size.'
        )


def _losses_between_images(model: nn.Module, processes: int) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        gathered = processes > 1 and getattr(module, 'gather_distributed', False)
        if getattr(module, 'compares_images', False) and not gathered:
            yield name, module


@torch.no_grad()
def _unable_to_normalise(model: nn.Module, dataset: Any, processes: int) -> str | None:
    """Return the name of a batch norm with one value a channel for one image, found by a pass in eval mode."""
    network = getattr(model, 'architecture', model)
    training = network.training
    network.train()
    norms = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm)
        and module.training
        and not (isinstance(module, nn.SyncBatchNorm) and processes > 1)
    }
    found: list[str] = []

    def note(name: str, values: torch.Tensor) -> None:
        if values[:, 0].numel() == len(values):
            found.append(name)

    handles = [
        module.register_forward_pre_hook(lambda _, inputs, name=name: note(name, inputs[0]))
        for name, module in norms.items()
    ]
    if norms:
        network.eval()
        batch = model.data_preprocessor(pseudo_collate([dataset[0]]), False)
        network(batch['inputs'], mode='tensor')
    for handle in handles:
        handle.remove()
    network.train(training)
    return found[0] if found else None
