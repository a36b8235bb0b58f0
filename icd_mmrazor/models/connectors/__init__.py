"""Modules between a recorded feature and a loss."""

from icd_mmrazor.models.connectors.conv_regressor import ConvRegressor
from icd_mmrazor.models.connectors.factor_transfer import FTParaphraser, FTTranslator
from icd_mmrazor.models.connectors.linear_projection import LinearProjection
from icd_mmrazor.models.connectors.orthogonal_projection import OrthogonalProjection
from icd_mmrazor.models.connectors.pointwise_regressor import PointwiseRegressor
from icd_mmrazor.models.connectors.rsd_projector import RSDProjector
from icd_mmrazor.models.connectors.simkd_projector import SimKDProjector
from icd_mmrazor.models.connectors.vid_regressor import VIDRegressor

__all__ = [
    'ConvRegressor',
    'FTParaphraser',
    'FTTranslator',
    'LinearProjection',
    'OrthogonalProjection',
    'PointwiseRegressor',
    'RSDProjector',
    'SimKDProjector',
    'VIDRegressor',
]
