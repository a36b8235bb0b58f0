"""DataLoaders whose batches a hook makes."""

from collections.abc import Callable, Sequence
from typing import Any

from mmengine.dataset import InfiniteSampler
from mmengine.runner import BaseLoop
from torch.utils.data import DataLoader


class MadeBatches:
    """Let a function make the batches of a DataLoader, in the loader's own order, until :meth:`undo`.

    Meanwhile the loader has no workers, whatever its ``num_workers``: there is nothing to prepare.

    Args:
        loader: The DataLoader; changed.
        make: Takes the places of a batch's images in the dataset and returns the batch.
        in_cpu_memory: Whether the batches lie there, so that pinning them makes sense.
    """

    def __init__(
        self, loader: DataLoader, make: Callable[[Sequence[int]], dict[str, Any]], in_cpu_memory: bool
    ) -> None:
        settings = dict(
            collate_fn=_as_it_is,
            pin_memory=loader.pin_memory and in_cpu_memory,
            num_workers=0,
            timeout=0,  # of waiting for workers: an error without any
        )
        self.loader = loader
        self._before = {name: getattr(loader, name) for name in settings}
        self._set(settings)
        # torch's DataLoader asks a dataset that has this method for a whole batch
        loader.dataset.__getitems__ = make

    def undo(self) -> None:
        """Leave the DataLoader as it was."""
        self._set(self._before)
        del self.loader.dataset.__getitems__

    def _set(self, settings: dict[str, Any]) -> None:
        for name, value in settings.items():
            setattr(self.loader, name, value)


def are_made(loader: Any) -> bool:
    """Return whether a function makes the batches of a DataLoader (:class:`MadeBatches`).

    Args:
        loader: Any loader.
    """
    return getattr(loader, 'collate_fn', None) is _as_it_is


def restart(loop: BaseLoop) -> None:
    """Let a training loop see that its DataLoader was changed in ``before_train``.

    An ``IterBasedTrainLoop`` of mmengine 0.10.7 makes its iterator before the hooks are called: with the loader as it
    was, whose workers have begun with an endless sampler, which ends with them.

    Args:
        loop: The loop.
    """
    if hasattr(loop, 'dataloader_iterator'):
        sampler = loop.dataloader.sampler
        if isinstance(sampler, InfiniteSampler):
            sampler.indices = InfiniteSampler(loop.dataloader.dataset, sampler.shuffle, sampler.seed).indices
        loop.dataloader_iterator = type(loop.dataloader_iterator)(loop.dataloader)


def _as_it_is(batch: dict) -> dict:
    return batch
