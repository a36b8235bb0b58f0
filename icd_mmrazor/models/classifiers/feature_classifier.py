"""A classifier whose predictions contain its feature."""

from typing import Any, ClassVar

from mmpretrain.models import ImageClassifier
from mmpretrain.registry import MODELS
from torch import Tensor

from icd_mmrazor.models.algorithms.predictions import POOLED, add_feature, pooled_feature


@MODELS.register_module()
class FeatureClassifier(ImageClassifier):
    """mmpretrain's ``ImageClassifier`` for metrics of its pooled feature: ``KNNAccuracy``, ``RetrievalPrecision``.

    Arguments and weights are those of the base class. Each prediction also has ``feature``, what the classifier reads,
    as with ``predict_also=['pooled']`` of a ``FrozenTeacherDistill``.

    Config example::

        model = dict(
            type='FeatureClassifier',
            backbone=dict(type='CIFARConvNet', width=8),
            head=dict(type='LinearClsHead', num_classes=10, in_channels=64))
    """

    predict_also: ClassVar[tuple[str, ...]] = (POOLED,)

    def predict(self, inputs: Tensor, data_samples: list | None = None, **kwargs: Any) -> list:
        """Predict images, ``B x C x H x W``; return their data samples."""
        with pooled_feature(self) as found:
            predictions = super().predict(inputs, data_samples, **kwargs)
        add_feature(predictions, found)
        return predictions
