"""The preparation of a run's images for its teacher."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError, did_you_mean
from icd_mmrazor.models.algorithms.shared_preprocessor import (
    USUAL_KINDS,
    compare_preparations,
    is_intended,
    warn_of_preparation,
)
from icd_mmrazor.models.algorithms.teacher import Teacher
from icd_mmrazor.models.networks.image_size import image_size_of
from icd_mmrazor.models.networks.preparation import OTHER_ORDER, Preparation, preparation_by
from icd_mmrazor.models.networks.view import INTERPOLATIONS, TeacherView

KNOWN = ('mean', 'std', 'to_rgb', 'size', 'interpolation')


def check_teacher_preprocessor(setting: Any) -> None:
    """Refuse what is not ``'auto'``, ``'student'`` or a dictionary of known settings.

    Raises:
        SettingError: It is something else, or a value is out of range.
    """
    owner = 'FrozenTeacherDistill'
    if not isinstance(setting, Mapping):
        checks.one_of(owner, 'teacher_preprocessor', setting, ('auto', 'student'))
        return
    if unknown := sorted({*setting} - {*KNOWN}, key=str):
        hint = did_you_mean(unknown[0], KNOWN)
        raise SettingError(
            f'{owner}: teacher_preprocessor has no setting {unknown[0]!r}.{hint} It has {", ".join(KNOWN)}.'
        )
    if ('mean' in setting) != ('std' in setting):
        raise SettingError(f'{owner}: teacher_preprocessor={dict(setting)} needs both mean and std, or neither.')
    for name in ('mean', 'std'):
        values = setting.get(name, [1.0])
        numbers = isinstance(values, list | tuple) and len(values) in (1, 3) and all(map(checks.is_number, values))
        if not numbers or (name == 'std' and min(values) <= 0):
            raise SettingError(
                f'{owner}: teacher_preprocessor.{name}={values!r} must be a list of one number for each channel, of '
                'pixels between 0 and 255' + ('; each positive.' if name == 'std' else '.')
            )
    checks.boolean(owner, 'teacher_preprocessor.to_rgb', setting.get('to_rgb', False))
    checks.one_of(owner, 'teacher_preprocessor.interpolation', setting.get('interpolation', 'bilinear'), INTERPOLATIONS)
    size = setting.get('size', 1)
    sizes = size if isinstance(size, list | tuple) and len(size) == 2 else [size]
    if not all(type(each) is int and each > 0 for each in sizes):
        raise SettingError(
            f'{owner}: teacher_preprocessor.size={size!r} must be the side of a square in pixels, or height and width.'
        )


class TeacherPreparation:
    """What turns a run's images into those of a teacher, and what it follows from.

    Args:
        setting: ``'auto'``: as the teacher was trained, by its checkpoint, its config or who published it.
            ``'student'``: as the student gets them. Or what is known better: ``mean``, ``std``, ``to_rgb`` (as in a
            data preprocessor), ``size``, ``interpolation``.
        preprocessor: The run's data preprocessor.
        teacher: The teacher.

    Attributes:
        view (TeacherView): What turns them.
        settled (bool): Whether the order of the channels is known.
    """

    def __init__(self, setting: Any, preprocessor: nn.Module, teacher: Teacher) -> None:
        self.setting, self._preprocessor = setting, preprocessor
        self._declared, self._trained = teacher.declared, teacher.trained
        used, known = preparation_by(preprocessor), teacher.trained or teacher.declared
        whose = f"the teacher's {'checkpoint' if teacher.trained else 'config'}"
        self.settled = False
        if setting == 'student':
            self.view = TeacherView(used)
            warn_of_preparation(used, known, whose)
            if teacher.trained is None:  # otherwise the order also depends on the datasets of both trainings
                self.settle_order()
            return
        own, told = known, setting if isinstance(setting, Mapping) else {}
        if 'mean' in told:
            own = preparation_by({'mean': told['mean'], 'std': told['std']})
        if own is not None and not _can_be_converted(used, own):
            warn_of_preparation(used, own, whose)
            own = None
        size = image_size_of(teacher.network)
        self.view = TeacherView(used, own, size, told.get('interpolation', 'bilinear'))
        if 'to_rgb' in told:
            self.settled = True
            self.view.turn(told['to_rgb'] != used.turned)
        elif known is None:
            self.settled = True

    def settle_order(self, source: str | None = None, gray: Callable[[], bool] = lambda: False) -> None:
        """Do what ``FrozenTeacherDistill.check_order_of_channels`` says, for this teacher."""
        if self.settled and self.setting != 'student':
            return
        self.settled = True
        used = preparation_by(self._preprocessor, source)
        turned = None if self.setting == 'student' else _turned(used, self._declared, self._trained)
        if turned is None:
            compare_preparations(used, self._declared, self._trained, gray)
        else:
            self.view.turn(turned)


def _can_be_converted(used: Preparation, own: Preparation) -> bool:
    """Return whether normalisation is all that differs; padding has its value after it."""
    if own.normalisation == used.normalisation:
        return {own.kind, used.kind} <= USUAL_KINDS or own.kind == used.kind
    channels = {len(each.mean) for each in (used, own)} - {0, 1}
    unpadded = used.padding[0] == own.padding[0] == 1
    return unpadded and len(channels) <= 1 and {own.kind, used.kind} <= USUAL_KINDS


def _turned(used: Preparation, declared: Preparation | None, trained: Preparation | None) -> bool | None:
    """Return whether a teacher expects the channels in the other order; None if that is unknown."""
    known = trained or declared
    if known is None or 'gray' in (used.source, known.source) or 1 in (len(known.mean), len(used.mean)):
        return False
    if trained is not None or (known.source and used.source):
        same = known.has_order_of(used)
        return None if same is None or (is_intended(used, declared, trained) and not same) else not same
    if known.turned == used.turned:  # on the same kind of dataset
        return False
    # what turns BGR, as images are read, into RGB is said of a network that takes RGB
    return used.order != 'RGB' if known.turned and used.source in OTHER_ORDER else None
