"""The losses of a distiller that count on one of two batches."""

import contextlib
import inspect
from collections.abc import Collection, Iterator
from typing import Any

from torch import nn

from icd_mmrazor.errors import SettingError, did_you_mean
from icd_mmrazor.models.algorithms.student_losses import reads_label
from icd_mmrazor.models.distillers.mixed_distiller import named_distillers


def losses_by_name(distiller: nn.Module) -> dict[str, nn.Module]:
    """Return the losses of a distiller, in all its stages, by their names in the log, without ``distill.``."""
    losses = {}
    for prefix, each in named_distillers(distiller):
        stages = getattr(each, 'stage_mappings', {'main': getattr(each, 'loss_forward_mappings', {})})
        losses |= {f'{prefix}{name}': each.distill_losses[name] for stage in stages.values() for name in stage}
    return losses


@contextlib.contextmanager
def only(distiller: nn.Module, names: Collection[str]) -> Iterator[None]:
    """Let a distiller compute no other losses than these within the context, nor need the networks for them."""
    configurable = [(prefix, each) for prefix, each in named_distillers(distiller) if hasattr(each, 'distill_losses')]
    found = [(prefix, each, each.loss_forward_mappings) for prefix, each in configurable]
    try:
        for prefix, each, mappings in found:
            each.loss_forward_mappings = {
                name: mapping for name, mapping in mappings.items() if f'{prefix}{name}' in names
            }
        yield
    finally:
        for _, each, mappings in found:
            each.loss_forward_mappings = mappings


def chosen_losses(owner: str, setting: str, names: Any, losses: Collection[str]) -> list[str]:
    """Check a setting that names losses; None: all of them.

    Raises:
        SettingError: It is not a list, or a name is unknown.
    """
    if names is None:
        return [*losses]
    if not isinstance(names, list | tuple):
        raise SettingError(f'{owner}: {setting}={names!r} must be a list of losses: {", ".join(losses)}.')
    for name in names:
        if name not in losses:
            raise SettingError(f'{owner}: {setting} names {name!r}, which is not a loss.{did_you_mean(name, losses)}')
    return [*names]


def why_not_augmented(loss: nn.Module, mixes: bool) -> str | None:
    """Return why a loss cannot be computed of augmented images; None if it can.

    Args:
        loss: The loss.
        mixes: Whether the augmentation mixes images.
    """
    if not mixes or getattr(loss, 'reads_scores', False):
        return None
    if reads_label(loss):
        return 'reads one label for each image'
    if 'data_samples' in inspect.signature(loss.forward).parameters:
        return 'reads the data samples of each image, such as its position in the training set'
    return None
