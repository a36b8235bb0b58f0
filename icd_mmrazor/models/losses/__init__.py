"""Distillation losses, one per file."""

import importlib
import pkgutil

from icd_mmrazor.models.losses.activation_boundary_loss import ActivationBoundaryLoss
from icd_mmrazor.models.losses.attention_transfer_loss import AttentionTransferLoss
from icd_mmrazor.models.losses.base import FeatureLoss
from icd_mmrazor.models.losses.binary_kd_loss import BinaryKDLoss
from icd_mmrazor.models.losses.cc_loss import CCLoss
from icd_mmrazor.models.losses.comparative_loss import ComparativeLoss
from icd_mmrazor.models.losses.crd_loss import ContrastiveRepresentationLoss
from icd_mmrazor.models.losses.factor_transfer_loss import FactorTransferLoss
from icd_mmrazor.models.losses.fsp_loss import FSPLoss
from icd_mmrazor.models.losses.icd_loss import ICDLoss
from icd_mmrazor.models.losses.nst_loss import NSTLoss
from icd_mmrazor.models.losses.pkt_loss import PKTLoss
from icd_mmrazor.models.losses.rkd_loss import RKDLoss
from icd_mmrazor.models.losses.rrd_loss import RRDLoss
from icd_mmrazor.models.losses.sp_loss import SPLoss
from icd_mmrazor.models.losses.vid_loss import VIDLoss

__all__ = [
    'ActivationBoundaryLoss',
    'AttentionTransferLoss',
    'BinaryKDLoss',
    'CCLoss',
    'ComparativeLoss',
    'ContrastiveRepresentationLoss',
    'FSPLoss',
    'FactorTransferLoss',
    'FeatureLoss',
    'ICDLoss',
    'NSTLoss',
    'PKTLoss',
    'RKDLoss',
    'RRDLoss',
    'SPLoss',
    'VIDLoss',
]

# importing a module registers its classes: a new loss needs no line here
for _module in pkgutil.iter_modules(__path__, f'{__name__}.'):
    importlib.import_module(_module.name)
