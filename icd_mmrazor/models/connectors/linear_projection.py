"""The embedding of pooled features."""

from collections.abc import Sequence

import torch
from mmrazor.models.architectures.connectors.base_connector import BaseConnector
from mmrazor.registry import MODELS
from torch import Tensor, nn

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError


@MODELS.register_module()
class LinearProjection(BaseConnector):
    """A learned linear embedding of a pooled feature: ``W f + b`` (arXiv 2407.11802, of width 128).

    It is computed in the precision of its weights, also under autocast: large features would overflow half precision.

    Args:
        in_features: Width of the feature.
        out_features: Width of the embedding; None for that of the teacher's feature.
        init_cfg: Same as in mmengine's ``BaseModule``. By default torch's initialisation, as published.
        teacher_shape: Shape of the teacher's feature, ``(C,)``, for ``out_features=None``. A ``FeatureDistiller`` finds
            it.

    Raises:
        SettingError: A width is invalid or unknown.

    Config example::

        connectors=dict(student=dict(type='LinearProjection', in_features=64))
    """

    def __init__(
        self,
        in_features: int,
        out_features: int | None = 128,
        init_cfg: dict | None = None,
        teacher_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        checks.positive_int(self, 'in_features', in_features)
        if out_features is None:
            (out_features,) = checks.shape(self, 'teacher_shape', teacher_shape, dims=(1,))
        checks.positive_int(self, 'out_features', out_features)
        self.linear = nn.Linear(in_features, out_features)

    def forward_train(self, feature: Tensor) -> Tensor:
        """Project features ``B x in_features`` to ``B x out_features``."""
        if feature.ndim != 2 or feature.shape[1] != self.linear.in_features:
            raise SettingError(
                f'LinearProjection(in_features={self.linear.in_features}) got a feature of shape '
                f'{tuple(feature.shape)}. Record a pooled feature, images x in_features (the input of the classifier).'
            )
        with torch.autocast(feature.device.type, enabled=False):
            return self.linear(feature.to(self.linear.weight.dtype))
