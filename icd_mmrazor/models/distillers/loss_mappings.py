"""What losses take of a batch, as mmrazor's ``loss_forward_mappings`` names it."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.distillers.class_labels import SAMPLES
from icd_mmrazor.models.losses.base import MemoryLoss
from icd_mmrazor.models.networks.features import Point

Mappings = dict[str, dict[str, Any]]


def record_of(recorder: str, network: str, point: Point) -> dict[str, Any]:
    """Return what a loss takes of a recorder that records a place in a network."""
    return dict(
        recorder=recorder,
        from_student=network == 'student',
        record_idx=point.record_idx,
        data_idx=point.data_idx,
        layout=point.layout,
    )


def records_of(mapping: Mapping[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield what a loss takes, one by one where an argument gets a list of several."""
    for record in mapping.values():
        yield from record.get('records', (record,))


def gather(name: str, loss: nn.Module, mapping: Mapping[str, dict[str, Any]]) -> None:
    """Let a loss take the images of all processes, for ``gather_distributed`` in its entry.

    Raises:
        SettingError: It reads data samples, which are those of its process, gathers images itself, or is built for
            batches of one size.
    """
    reason = next((reason for reason, holds in _WHY_NOT.items() if holds(loss, mapping)), None)
    if reason:
        raise SettingError(
            f'FeatureDistiller: {name} ({type(loss).__name__}) {reason}, so gather_distributed=True in its entry '
            'cannot give it the images of all processes. Remove it.'
        )
    for record in records_of(mapping):
        record['gathered'] = True
    loss.gets_all_images = True


_WHY_NOT: dict[str, Callable[[nn.Module, Mapping], bool]] = {
    'gathers by itself': lambda loss, _: isinstance(loss, MemoryLoss) or getattr(loss, 'gather_distributed', False),
    'reads the data samples of its process': lambda _, mapping: SAMPLES in mapping,
    'is built for the batches of a process': lambda loss, _: getattr(loss, 'built_for_batches', False),
}


def join_own(owner: str, own: Mappings, staged: Mapping[str, Mappings], check: Callable[[], None]) -> None:
    """Add the mappings that a user wrote to those of the main stage.

    Args:
        owner: Who has them, for messages.
        own: Those of the user.
        staged: The mappings of each stage.
        check: Checks those of the user as mmrazor does.

    Raises:
        SettingError: They are invalid, or one has the name of a loss in ``losses``.
    """
    try:
        check()
    except (AssertionError, TypeError) as error:
        reason = ' '.join(str(error).split())
        raise SettingError(f'{owner}: loss_forward_mappings: {reason}') from error
    if twice := [name for name in own if any(name in each for each in staged.values())]:
        names = f'{", ".join(twice)} in loss_forward_mappings'
        raise SettingError(f'{owner}: {names} is the name of a loss in losses. Rename yours.')
    staged['main'].update(own)
