"""Agreement of a student with its teacher, which needs no labels."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS

from icd_mmrazor.errors import SettingError


@METRICS.register_module()
class TeacherAgreement(BaseMetric):
    """Agreement of the predictions of student and teacher, on images that need no labels.

    * ``agreement/top1``: percentage of the images for which both predict the same class;
    * ``agreement/kl``: mean of the divergence ``sum_c t_c log(t_c / s_c)`` of the probabilities ``t`` of the teacher
      and ``s`` of the student, at temperature 1.

    The teacher predicts each image once in a validation, prepared in its own way, if ``FrozenTeacherDistill`` has
    ``predict_also=['teacher']``. Agreement is not accuracy: a student that repeats the mistakes of its teacher has
    100 %. For networks whose classes exclude each other.

    Args:
        collect_device, prefix: Same as in mmengine's ``BaseMetric``.

    Raises:
        SettingError: The predictions do not have the teacher's, or the classes of the two differ in number.

    Config example, with the best checkpoint by agreement::

        model=dict(predict_also=['teacher'])
        val_evaluator=dict(type='TeacherAgreement')
        default_hooks=dict(checkpoint=dict(save_best='agreement/top1', rule='greater'))
    """

    default_prefix = 'agreement'
    needs = 'teacher'

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Compare the predictions of a batch.

        Args:
            data_batch: The batch; not read.
            data_samples: The predictions, with ``pred_score`` and ``teacher_score``.
        """
        if any('teacher_score' not in sample for sample in data_samples):
            raise SettingError(
                "TeacherAgreement: the predictions do not have the teacher's. Set model.predict_also=['teacher'] of a "
                'FrozenTeacherDistill.'
            )
        student, teacher = (
            torch.stack([sample[name] for sample in data_samples]).double() for name in ('pred_score', 'teacher_score')
        )
        if student.shape != teacher.shape:
            raise SettingError(
                f'TeacherAgreement: the student has {student.shape[1]} classes and the teacher {teacher.shape[1]}. Use '
                'a teacher of the same classes, or KNNAccuracy.'
            )
        same = student.argmax(1) == teacher.argmax(1)
        # a probability may be 0 in float32
        logarithm = student.clamp_min(torch.finfo(torch.float32).tiny).log()
        divergence = (torch.xlogy(teacher, teacher) - teacher * logarithm).sum(1)
        self.results.extend(zip(same.tolist(), divergence.tolist(), strict=True))

    def compute_metrics(self, results: list[tuple[bool, float]]) -> dict[str, float]:
        """Return the means over all images."""
        same, divergence = torch.tensor(results, dtype=torch.float64).mean(0).tolist()
        return {'top1': 100 * same, 'kl': divergence}
