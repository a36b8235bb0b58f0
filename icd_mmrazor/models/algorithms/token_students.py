"""Students with a distillation token."""

import warnings
from typing import Any

from mmrazor.models.task_modules.recorder import ModuleInputsRecorder
from torch import Tensor, nn

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.algorithms.records import recorders_of
from icd_mmrazor.models.networks.distillation_token import TokenClassifiers, token_classifiers


class ClassTokenScores:
    """What a student's classifier of the class token returns in training.

    Such a student (DeiT, arXiv 2012.12877) returns the average of two classifiers. In training, its own loss counts for
    that of the class token alone; the distiller compares the other one (``distillation_logits``) with the teacher.

    Args:
        student: The student.
        classifiers: The names of its classifiers.
    """

    def __init__(self, student: nn.Module, classifiers: TokenClassifiers) -> None:
        # mmpretrain knows no loss for the token; the distiller has one
        warnings.filterwarnings('ignore', 'MMPretrain cannot train the distilled version DeiT')
        self._scores: Tensor | None = None
        student.get_submodule(classifiers.class_token).register_forward_hook(self._keep)

    def _keep(self, layer: nn.Module, _: Any, output: Tensor) -> None:
        if layer.training:
            self._scores = output

    def take(self) -> Tensor:
        """Return the scores of the last batch, ``B x C``, once."""
        scores, self._scores = self._scores, None
        return scores


def class_token_scores(algorithm: Any) -> ClassTokenScores | None:
    """Return the scores that the student's own loss counts for; None if it has no distillation token.

    Args:
        algorithm: A ``FrozenTeacherDistill``, its distiller prepared.

    Raises:
        SettingError: Nothing would train one of the student's two classifiers.
    """
    classifiers = token_classifiers(algorithm.student)
    if classifiers is None:
        return None
    of_both = {classifiers.average, ''}
    recorders = list(recorders_of(algorithm.distiller, 'student'))
    read = {recorder.source for recorder in recorders}
    if not read & {classifiers.distillation_token, *of_both}:
        raise SettingError(
            'FrozenTeacherDistill: the student has a distillation token, whose classifier '
            f'({classifiers.distillation_token}) nothing trains, and which counts in its predictions. Compare '
            'distillation_logits (configs/_base_/methods/deit.py), or use a student without the token.'
        )
    # otherwise only the feature is distilled, which is the input of the classifiers
    reads_outputs = not all(isinstance(recorder, ModuleInputsRecorder) for recorder in recorders)
    if not algorithm.calculate_student_loss and reads_outputs and not read & {classifiers.class_token, *of_both}:
        raise SettingError(
            'FrozenTeacherDistill: calculate_student_loss=False, so nothing trains the classifier of the class token '
            f'({classifiers.class_token}) of the student, which counts in its predictions. Compare its logits, too, or '
            'remove the setting.'
        )
    return ClassTokenScores(algorithm.student, classifiers)
