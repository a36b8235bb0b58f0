"""One teacher or several, from their settings to a network."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from torch import nn

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError, UserError, did_you_mean
from icd_mmrazor.models.algorithms.teacher import Teacher, ready_teacher
from icd_mmrazor.models.algorithms.teacher_preparation import (
    TeacherPreparation,
    check_teacher_preprocessor,
)
from icd_mmrazor.models.networks.ensemble import TeacherEnsemble
from icd_mmrazor.models.networks.image_size import tell_image_size
from icd_mmrazor.models.networks.offload import Offload, blocks_of
from icd_mmrazor.models.networks.preparation import preparation_by
from icd_mmrazor.models.networks.pruned_copy import SETTING, Pruning, pruned_copy
from icd_mmrazor.models.networks.pruned_pair import PrunedPair
from icd_mmrazor.models.networks.view import TeacherView
from icd_mmrazor.models.precision import FROZEN_PRECISIONS, TRUE, store_weights_in
from icd_mmrazor.models.teacher_cache.stored_teacher import StoredTeacher

OWNER = 'FrozenTeacherDistill'
# settings of the algorithm that each teacher may have for itself
SHARED = ('teacher_feature', 'teacher_preprocessor', 'teacher_precision', 'random_teacher')
KNOWN = ('teacher', 'teacher_ckpt', 'weight', *SHARED)
OFFLOADED = ('networks', 'blocks')


def check_frozen(settings: dict[str, Any], fold_teacher_norms: Any) -> None:
    """Refuse settings of the base class that would not leave the teacher frozen; report one that has no effect."""
    for name, frozen in (('teacher_trainable', False), ('teacher_norm_eval', True)):
        if settings.get(name, frozen) != frozen:
            raise SettingError(
                f'{OWNER}: {name}={settings[name]}, but its teacher is frozen. Remove the setting, or use '
                "mmrazor's SingleTeacherDistill."
            )
    if fold_teacher_norms is not None:
        print_log(f'{OWNER}: fold_teacher_norms has no effect any more. Remove it.', 'current')


def checked_teachers(settings: Mapping[str, Any], several: Any) -> list[dict[str, Any]]:
    """Check the settings of one teacher or several.

    Args:
        settings: ``teacher``, ``teacher_ckpt`` and those of ``SHARED`` of the algorithm.
        several: Its ``teachers``; None: there is one.

    Returns:
        The settings of each teacher, in full.

    Raises:
        SettingError: There is no teacher or only one of several, or a setting is unknown or out of range.
    """
    if several is None:
        if settings['teacher'] is None:
            raise SettingError(f'{OWNER}: there is no teacher. Set model.teacher, or model.teachers to a list of them.')
        _check_teacher('', settings)
        return [{'weight': 1.0, **settings}]
    given = next((name for name in ('teacher', 'teacher_ckpt') if settings[name] is not None), None)
    if given:
        raise SettingError(f'{OWNER}: {given} and teachers are both set. Move {given} into an entry of teachers.')
    if not isinstance(several, list | tuple) or len(several) < 2:
        raise SettingError(
            f'{OWNER}: teachers={several!r} must be a list of two or more dict(teacher=..., teacher_ckpt=...). A '
            'single one is model.teacher.'
        )
    return [_checked_member(i, member, settings) for i, member in enumerate(several)]


def _checked_member(i: int, member: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    where = f'teachers[{i}].'
    if not isinstance(member, Mapping) or member.get('teacher') is None:
        raise SettingError(f'{OWNER}: {where[:-1]} must be dict(teacher=..., teacher_ckpt=...); found {member!r:.100}.')
    if unknown := sorted({*member} - {*KNOWN}, key=str):
        hint = did_you_mean(unknown[0], KNOWN)
        raise SettingError(f'{OWNER}: {where[:-1]} has no setting {unknown[0]!r}.{hint} It has {", ".join(KNOWN)}.')
    full = {'weight': 1.0, **settings, **member}
    checks.not_negative(OWNER, f'{where}weight', full['weight'])
    with located(i):
        _check_teacher(where, full)
    return full


def _check_teacher(where: str, settings: Mapping[str, Any]) -> None:
    checks.boolean(OWNER, f'{where}random_teacher', settings['random_teacher'])
    checks.one_of(OWNER, f'{where}teacher_precision', settings['teacher_precision'], FROZEN_PRECISIONS)
    check_teacher_preprocessor(settings['teacher_preprocessor'])


@contextlib.contextmanager
def located(i: int | None) -> Iterator[None]:
    """Name one of several teachers in errors that know nothing of others; None: there are none."""
    try:
        yield
    except UserError as error:
        name = f'teachers[{i}]'
        if i is None or name in str(error):
            raise
        raise type(error)(f'{name}: {error}') from error


class ReadyTeachers:
    """One teacher or several, with their weights, as one network.

    Args:
        settings: Those of each, see :func:`checked_teachers`.
        combination: How the logits of several are combined.
        stored: The stand-in for a single teacher whose outputs are all stored, if it is to be used.
        pruning: How a copy of a single teacher is pruned that counts, too; None: there is none.

    Attributes:
        network (nn.Module): The teacher, or a ``TeacherEnsemble``.
        weights (str | list[str]): Where their weights come from.
        classes: Names of the classes of the teacher, if its checkpoint has them; a list of them for several.
        dtype: The precision of the teacher; None for several, which have their own.
        draws: States of torch's generator before and after they were built.

    Raises:
        SettingError: A network does not exist, has no weights, or cannot be pruned.
        CheckpointError: A checkpoint is missing, is not a plain weights file, or is of another network.
    """

    def __init__(
        self,
        settings: Sequence[Mapping[str, Any]],
        combination: Any = 'mean',
        stored: StoredTeacher | None = None,
        pruning: Pruning | None = None,
    ) -> None:
        self.settings, self._stored, before = settings, stored, torch.get_rng_state()
        self.teachers = [self._ready(i, each) for i, each in enumerate(settings)]
        self.draws = before, torch.get_rng_state()
        if pruning is not None:
            self._add_pruned_copy(pruning)
        dtypes = [FROZEN_PRECISIONS[each['teacher_precision']] for each in self.settings]
        if not self.several:
            (ready,), (self.dtype,) = self.teachers, dtypes
            self.network, self.weights, self.classes = ready.network, ready.weights, ready.classes
            return
        networks, weights = [each.network for each in self.teachers], [each['weight'] for each in self.settings]
        if len({*map(id, networks)}) < len(networks):
            raise SettingError(f'{OWNER}: a network is given twice in teachers. Leave one out, or raise its weight.')
        if pruning is None:
            self.network = TeacherEnsemble(networks, combination, weights, dtypes)
        else:
            self.network = PrunedPair(networks, combination, pruning, dtypes)
        self.weights, self.classes = [each.weights for each in self.teachers], [each.classes for each in self.teachers]
        self.dtype = None

    @property
    def several(self) -> bool:
        """Whether there are several teachers."""
        return len(self.settings) > 1

    def _ready(self, i: int, settings: Mapping[str, Any]) -> Teacher:
        if self._stored is not None:
            where = f'not loaded: its outputs are in {self._stored.folder}'
            print_log(f'{OWNER}: the teacher is {where}.', 'current')
            return Teacher(self._stored, where, None, None, self._stored.classes, None)
        names = ('teacher', 'teacher_ckpt', 'random_teacher', 'teacher_feature')
        with located(i if self.several else None):
            ready = ready_teacher(*(settings[name] for name in names))
        tell_image_size(ready.network, settings['teacher_preprocessor'], ready.size)
        return ready

    def _add_pruned_copy(self, pruning: Pruning) -> None:
        (teacher,), (settings,) = self.teachers, self.settings
        if self._stored is not None:
            raise SettingError(
                f'{OWNER}: {SETTING} prunes the weights of the teacher, and only its outputs are known '
                f'({self._stored.folder}). Set model.teacher_ckpt, or remove {SETTING}.'
            )
        self.settings = [settings, settings]
        self.teachers.append(teacher._replace(network=pruned_copy(teacher.network, pruning.amount)))

    def store_weights(self) -> None:
        """Store weights in half precision where that is set, once nothing runs a network any more without autocast."""
        for ready, each in zip(self.teachers, self.settings, strict=True):
            if each['teacher_precision'].endswith(TRUE):
                store_weights_in(ready.network, FROZEN_PRECISIONS[each['teacher_precision']])

    def preparation(self, preprocessor: nn.Module) -> 'TeacherPreparation | SeveralPreparations':
        """Return what turns the images of a data preprocessor into those of the teachers."""
        each = [
            TeacherPreparation(settings['teacher_preprocessor'], preprocessor, ready)
            for settings, ready in zip(self.settings, self.teachers, strict=True)
        ]
        return SeveralPreparations(self.network, each, preprocessor) if self.several else each[0]


class SeveralPreparations:
    """Preparations of a run's images for several teachers, each of which has its own view of them.

    Args:
        network: The teachers.
        each: The preparation for each of them.
        preprocessor: The run's data preprocessor.

    Attributes:
        view (TeacherView): One that changes nothing: that of all of them together.
    """

    def __init__(self, network: TeacherEnsemble, each: list[TeacherPreparation], preprocessor: nn.Module) -> None:
        self._each = each
        network.views.extend(preparation.view for preparation in each)
        self.view = TeacherView(preparation_by(preprocessor))

    @property
    def settled(self) -> bool:
        """Whether the order of the channels is known for each teacher."""
        return all(each.settled for each in self._each)

    def settle_order(self, source: str | None = None, gray: Callable[[], bool] = lambda: False) -> None:
        """Give each teacher the channels in its order, see :meth:`TeacherPreparation.settle_order`."""
        for i, each in enumerate(self._each):
            with located(i):
                each.settle_order(source, gray)


def check_offload(setting: Any, torch_compile: Any) -> None:
    """Refuse a setting ``teacher_offload`` that is unknown, or does not go together with compilation."""
    if setting is False:
        return
    checks.one_of(OWNER, 'teacher_offload', setting, OFFLOADED)
    if torch_compile:
        raise SettingError(
            f'{OWNER}: teacher_offload={setting!r} moves weights during the forward pass, which a compiled graph '
            'cannot contain. Set model.torch_compile=False.'
        )


def offload_of(setting: Any, network: nn.Module) -> Offload | None:
    """Return what keeps the weights of the teachers on the CPU, or of their blocks, until they run; None: nothing.

    Raises:
        SettingError: None of the networks has repeated blocks.
    """
    if setting is False:
        return None
    networks = network.members if isinstance(network, TeacherEnsemble) else [network]
    if setting == 'networks':
        return Offload(network, networks)
    blocks = [blocks_of(each) for each in networks]
    if not any(blocks):
        kind = type(networks[0]).__name__
        raise SettingError(
            f"{OWNER}: teacher_offload='blocks', but this {kind} has no repeated blocks, which a transformer or a "
            "ResNet has. Set model.teacher_offload='networks'."
        )
    # a network without any waits as a whole
    return Offload(network, [part for each, own in zip(networks, blocks, strict=True) for part in own or [each]])
