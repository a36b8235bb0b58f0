"""Sizes of the training batches in all processes."""

import functools
from typing import Any

import torch
from mmengine.dataset import InfiniteSampler, pseudo_collate
from mmengine.dist import all_gather, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from icd_mmrazor.engine.runs import counts_iterations, model_of
from icd_mmrazor.errors import SettingError


class BatchCheck(Hook):
    """Refuse training batches that would hang the processes, train nothing, or fail at the end of the first epoch.

    Raises:
        SettingError: There are fewer images than processes, or no batch at all (``drop_last``); the processes have
            different numbers of batches; every batch is one image, and a loss compares the images of a batch (ICD
            without ``gather_distributed``, SP, CC, PKT, RKD); a batch norm sees one value per channel in a batch of
            one image.
    """

    only_watches = True

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
        # a loop that counts iterations starts the next pass where one ends
        if len(set(numbers)) > 1 and not counts_iterations(runner):
            raise SettingError(
                f'train_dataloader.sampler gives the {processes} processes {numbers} batches; those with more would '
                'wait for the others. Set train_dataloader.sampler.round_up=True, or drop_last=True.'
            )
        if loader.batch_size is not None:  # None: a batch_sampler of the user
            _check_single_images(loader, model_of(runner), processes)


def _check_single_images(loader: DataLoader, model: nn.Module, processes: int) -> None:
    last = len(loader.sampler) % loader.batch_size
    if loader.batch_size != 1 and (last != 1 or loader.drop_last):
        return
    setting = f'train_dataloader.batch_size={loader.batch_size}'
    if loader.batch_size == 1 or len(loader) == 1:
        for name, loss in model.named_modules():
            gathered = processes > 1 and getattr(loss, 'gather_distributed', False)
            if getattr(loss, 'compares_images', False) and not gathered:
                remedy = ', or set its gather_distributed=True' if hasattr(loss, 'gather_distributed') else ''
                raise SettingError(
                    f'{setting}: each batch of a process is one image, and {type(loss).__name__} ({name}) compares '
                    f'the images of a batch: it would always be 0. Take larger batches{remedy}.'
                )
    norm = _norm_of_single_values(model, loader.dataset, processes)
    if norm:
        which = 'each batch' if loader.batch_size == 1 else 'the last batch of an epoch'
        raise SettingError(
            f'{setting}: {which} has a single image, so batch norm {norm} sees one value per channel. Set '
            'train_dataloader.drop_last=True, or another batch_size.'
        )


@torch.no_grad()
def _norm_of_single_values(model: nn.Module, dataset: Any, processes: int) -> str | None:
    """Find a batch norm that sees one value per channel of an image, by a pass in eval mode."""
    network = getattr(model, 'architecture', model)
    found: list[str] = []

    def note(name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0][:, 0].numel() == len(inputs[0]):
            found.append(name)

    training = network.training
    handles = [
        module.register_forward_pre_hook(functools.partial(note, name))
        # in train mode: not one that the network keeps frozen
        for name, module in network.train().named_modules()
        if isinstance(module, _BatchNorm)
        and module.training
        and not (isinstance(module, nn.SyncBatchNorm) and processes > 1)
    ]
    if handles:
        batch = model.data_preprocessor(pseudo_collate([dataset[0]]), False)
        network.eval()(batch['inputs'], mode='tensor')
    for handle in handles:
        handle.remove()
    network.train(training)
    return found[0] if found else None
