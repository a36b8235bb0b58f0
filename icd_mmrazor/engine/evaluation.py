"""Metrics of a distillation.

They register in mmengine's registry, so that configs of every scope find them.
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from torch import Tensor
from torch.nn import functional as F

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError

CHUNK = 256


class BankMetric(BaseMetric):
    """Metric of the student's pooled features of images and of a bank of labelled ones.

    The dataset is a :class:`~icd_mmrazor.datasets.knn.KNNDataset`, which has both; the predictions contain the feature.
    """

    needs = 'pooled'

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep the features of a batch.

        Args:
            data_batch: The batch; not read.
            data_samples: The predictions, with ``feature``, ``gt_label`` and ``in_bank``.

        Raises:
            SettingError: The predictions lack one of them, or an image does not have one label.
        """
        name = type(self).__name__
        for sample in data_samples:
            for field, remedy in (
                ('feature', "model.predict_also=['pooled'] of a FrozenTeacherDistill, or use a FeatureClassifier"),
                ('in_bank', "the dataset, dict(type='KNNDataset', bank=..., queries=...)"),
            ):
                if field not in sample:
                    raise SettingError(f'{name}: a prediction has no {field}. Set {remedy}.')
            label = sample.get('gt_label')
            if label is None or label.numel() != 1:
                raise SettingError(f'{name}: an image does not have one label. Use labelled images.')
            self.results.append((sample['in_bank'], int(label), sample['feature'].detach().cpu()))


def bank_and_queries(results: Sequence[tuple[bool, int, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Return features, ``N x D``, and labels, ``N``, of the bank, then those of the other images."""
    parts = [[result for result in results if result[0] is which] for which in (True, False)]
    return [
        (torch.stack([each[2] for each in part]) if part else torch.empty(0), torch.tensor([each[1] for each in part]))
        for part in parts
    ]


@METRICS.register_module()
class KNNAccuracy(BankMetric):
    """Accuracy of classifying by the nearest neighbours of the student's pooled feature among labelled images.

    The weighted vote of Wu et al. (CVPR 2018, arXiv 1805.01978, section 3.4), as it is usual for features without a
    classifier: of the ``k`` images of the bank with the largest cosine similarity ``s_i``, each votes for its class
    with weight ``exp(s_i / temperature)``.

    The validation set is a :class:`~icd_mmrazor.datasets.knn.KNNDataset`, which has the bank and the images to be
    classified; ``FrozenTeacherDistill`` has ``predict_also=['pooled']``. A validation runs the student on both, so it
    takes as long as the two have images.

    Args:
        k: Number of neighbours; all images of the bank if it has fewer.
        temperature: Divides the similarities.
        collect_device, prefix: Same as in mmengine's ``BaseMetric``.

    Raises:
        SettingError: An argument is not positive, the predictions lack the feature, or the images one label each.

    Config example::

        model=dict(predict_also=['pooled'])
        val_dataloader=dict(dataset=dict(type='KNNDataset', bank=dict(...), queries=dict(...)))
        val_evaluator=dict(type='KNNAccuracy')
        default_hooks=dict(checkpoint=dict(save_best='knn/top1', rule='greater'))
    """

    default_prefix = 'knn'

    def __init__(
        self, k: int = 20, temperature: float = 0.07, collect_device: str = 'cpu', prefix: str | None = None
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.k = checks.positive_int(self, 'k', k)
        self.temperature = checks.positive(self, 'temperature', temperature)

    def compute_metrics(self, results: list[tuple[bool, int, Tensor]]) -> dict[str, float]:
        """Classify the queries by the bank; NaN if there is none of either, as in a check of one image."""
        (bank, labels), (asked, truth) = bank_and_queries(results)
        if not len(bank) or not len(asked):
            return {'top1': float('nan')}
        bank, asked = F.normalize(bank.float()), F.normalize(asked.float())
        found = [self._classify(part, bank, labels) for part in asked.split(CHUNK)]
        return {'top1': 100 * (torch.cat(found) == truth).double().mean().item()}

    def _classify(self, asked: Tensor, bank: Tensor, labels: Tensor) -> Tensor:
        similarities, neighbours = (asked @ bank.T).topk(min(self.k, len(bank)), dim=1)
        votes = torch.zeros(len(asked), int(labels.max()) + 1)
        return votes.scatter_add_(1, labels[neighbours], (similarities / self.temperature).exp()).argmax(1)


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
