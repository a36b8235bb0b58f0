"""Validations that would not measure what the run keeps."""

from typing import Any

from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner
from mmpretrain import evaluation
from torch import nn

from icd_mmrazor.datasets.labels import has_labels, plain_datasets
from icd_mmrazor.engine.evaluation import TeacherAgreement
from icd_mmrazor.engine.retrieval_metrics import MeanReciprocalRank
from icd_mmrazor.engine.runs import hooks_of, model_of
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.algorithms.records import classifier_is_used

OF_LABELS = (
    evaluation.Accuracy,
    evaluation.AveragePrecision,
    evaluation.ConfusionMatrix,
    evaluation.MultiLabelMetric,
    evaluation.SingleLabelMetric,
    evaluation.VOCMultiLabelMetric,
)


class ValidationCheck(Hook):
    """Refuse metrics that a validation could not compute, before training.

    Raises:
        SettingError: A metric reads labels that the images do not have, or compares what the predictions do not
            contain (``needs`` of the metric, ``predict_also`` of a ``FrozenTeacherDistill``).
    """

    def before_train(self, runner: Runner) -> None:
        """Check the metrics of the validation."""
        if runner.val_loop is None:
            return
        model, dataset = model_of(runner), runner.val_loop.dataloader.dataset
        metrics = getattr(runner.val_loop.evaluator, 'metrics', [])
        for metric in metrics:
            _check_predictions(metric, model, dataset)
            _check_gallery(metric, dataset)
            if isinstance(metric, (*OF_LABELS, TeacherAgreement)) and not classifier_is_used(model):
                runner.logger.warning(
                    f'val_evaluator ({type(metric).__name__}) measures the classifier of the student, which no loss '
                    'trains. KNNAccuracy and RetrievalPrecision measure its feature, with labelled images.'
                )
        of_labels = next((metric for metric in metrics if isinstance(metric, OF_LABELS)), None)
        if of_labels is not None and any(has_labels(part) is False for part in plain_datasets(dataset)):
            raise SettingError(
                f'val_evaluator ({type(of_labels).__name__}) reads labels, and val_dataloader.dataset has images '
                "without. Set val_evaluator=dict(type='TeacherAgreement') and model.predict_also=['teacher'], give "
                'labelled images, or set val_cfg, val_dataloader and val_evaluator to None.'
            )


class AverageCheck(Hook):
    """Refuse a run that validates other weights than it keeps.

    With an ``EMAHook``, checkpoints and exported students hold the averaged weights. mmpretrain's hook can validate
    those of the optimizer instead, and the best checkpoint would be one that was never validated.

    Raises:
        SettingError: ``evaluate_on_ema`` is off.
    """

    def before_train(self, runner: Runner) -> None:
        """Check the hooks that average."""
        for hook in hooks_of(runner, EMAHook):
            if not getattr(hook, 'evaluate_on_ema', True):
                raise SettingError(
                    'EMAHook: evaluate_on_ema=False validates the weights of the optimizer, but checkpoints and the '
                    'exported student hold the averaged ones. Set evaluate_on_ema=True (and evaluate_on_origin=True to '
                    'see both), or remove the EMAHook.'
                )


def _check_predictions(metric: Any, model: nn.Module, dataset: Any) -> None:
    needs, name = getattr(metric, 'needs', None), type(metric).__name__
    if needs is None:
        return
    if needs not in getattr(model, 'predict_also', ()):
        raise SettingError(
            f'val_evaluator ({name}) compares what the predictions do not contain. Set '
            f'model.predict_also=[{needs!r}] of a FrozenTeacherDistill'
            f'{", or use a FeatureClassifier" if needs == "pooled" else ""}.'
        )
    if needs == 'pooled' and not hasattr(dataset, 'bank'):
        raise SettingError(
            f'val_evaluator ({name}) compares images with a bank of labelled ones, and val_dataloader.dataset is a '
            f"{type(dataset).__name__}. Set dataset=dict(type='KNNDataset', bank=..., queries=...), with the training "
            'set as the bank.'
        )


def _check_gallery(metric: Any, dataset: Any) -> None:
    """Refuse a metric of the first ``topk`` images of a search in a gallery of fewer, which torch does not explain."""
    size = getattr(dataset, 'gallery_size', None)
    kinds = (evaluation.RetrievalRecall, evaluation.RetrievalAveragePrecision, MeanReciprocalRank)
    if size is None or not isinstance(metric, kinds):
        return
    topk = metric.topk if isinstance(metric.topk, int) else max(metric.topk)
    if topk > size:
        raise SettingError(
            f'val_evaluator ({type(metric).__name__}): topk={topk}, and the gallery has {size} images. Set it to at '
            f'most {size}, or give a larger gallery.'
        )
