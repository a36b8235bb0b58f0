"""Distillation losses, one per file."""

import importlib
import pkgutil

from icd_mmrazor.models.losses.abkd_loss import ABDKDLoss, ABKDLoss
from icd_mmrazor.models.losses.activation_boundary_loss import ActivationBoundaryLoss
from icd_mmrazor.models.losses.afd_loss import AFDLoss
from icd_mmrazor.models.losses.attention_transfer_loss import AttentionTransferLoss
from icd_mmrazor.models.losses.base import FeatureLoss, LabelledLogitLoss, LogitLoss
from icd_mmrazor.models.losses.binary_kd_loss import BinaryKDLoss
from icd_mmrazor.models.losses.boundary_sample_loss import BoundarySampleLoss
from icd_mmrazor.models.losses.cc_loss import CCLoss
from icd_mmrazor.models.losses.comparative_loss import ComparativeLoss
from icd_mmrazor.models.losses.correlation_distance_loss import CorrelationDistanceLoss
from icd_mmrazor.models.losses.crd_loss import ContrastiveRepresentationLoss
from icd_mmrazor.models.losses.crd_queue_loss import CRDQueueLoss
from icd_mmrazor.models.losses.ctkd_loss import CTKDDKDLoss, CTKDLoss
from icd_mmrazor.models.losses.dist_loss import PearsonCorrelationLoss
from icd_mmrazor.models.losses.dkd_loss import DecoupledKDLoss
from icd_mmrazor.models.losses.ega_loss import EGALoss
from icd_mmrazor.models.losses.embedding_matching_loss import EmbeddingMatchingLoss
from icd_mmrazor.models.losses.factor_transfer_loss import FactorTransferLoss
from icd_mmrazor.models.losses.feature_lists import FeatureListLoss, ShapedListLoss
from icd_mmrazor.models.losses.fsp_loss import FSPLoss
from icd_mmrazor.models.losses.hard_distillation_loss import HardDistillationLoss
from icd_mmrazor.models.losses.icd_loss import ICDLoss
from icd_mmrazor.models.losses.ickd_loss import ICKDLoss
from icd_mmrazor.models.losses.information_flow_loss import InformationFlowLoss
from icd_mmrazor.models.losses.itrd_loss import ITRDLoss
from icd_mmrazor.models.losses.kdsvd_loss import KDSVDLoss
from icd_mmrazor.models.losses.multi_level_logit_loss import MultiLevelLogitLoss
from icd_mmrazor.models.losses.nkd_loss import NKDLoss
from icd_mmrazor.models.losses.nst_loss import NSTLoss
from icd_mmrazor.models.losses.ofa_loss import OFALoss
from icd_mmrazor.models.losses.online_ensemble_loss import OnlineEnsembleLoss
from icd_mmrazor.models.losses.overhaul_loss import OverhaulLoss
from icd_mmrazor.models.losses.pkt_loss import PKTLoss
from icd_mmrazor.models.losses.reviewkd_loss import ReviewKDLoss
from icd_mmrazor.models.losses.rkd_loss import RKDLoss
from icd_mmrazor.models.losses.rld_loss import RLDLoss
from icd_mmrazor.models.losses.rrd_loss import RRDLoss
from icd_mmrazor.models.losses.rrd_memory_loss import RRDMemoryLoss
from icd_mmrazor.models.losses.rsd_loss import RSDLoss
from icd_mmrazor.models.losses.score_distillation_loss import ScoreDistillationLoss
from icd_mmrazor.models.losses.semckd_loss import SemCKDLoss
from icd_mmrazor.models.losses.simkd_loss import SimKDLoss
from icd_mmrazor.models.losses.sp_loss import SPLoss
from icd_mmrazor.models.losses.srd_loss import SRDLoss
from icd_mmrazor.models.losses.srrl_loss import SRRLLoss
from icd_mmrazor.models.losses.ttm_loss import TTMLoss
from icd_mmrazor.models.losses.vid_loss import VIDLoss
from icd_mmrazor.models.losses.vitkd_loss import ViTKDLoss
from icd_mmrazor.models.losses.vkd_loss import VkDLoss
from icd_mmrazor.models.losses.wsld_loss import WeightedSoftLabelLoss

__all__ = [
    'ABDKDLoss',
    'ABKDLoss',
    'AFDLoss',
    'ActivationBoundaryLoss',
    'AttentionTransferLoss',
    'BinaryKDLoss',
    'BoundarySampleLoss',
    'CCLoss',
    'CRDQueueLoss',
    'CTKDDKDLoss',
    'CTKDLoss',
    'ComparativeLoss',
    'ContrastiveRepresentationLoss',
    'CorrelationDistanceLoss',
    'DecoupledKDLoss',
    'EGALoss',
    'EmbeddingMatchingLoss',
    'FSPLoss',
    'FactorTransferLoss',
    'FeatureListLoss',
    'FeatureLoss',
    'HardDistillationLoss',
    'ICDLoss',
    'ICKDLoss',
    'ITRDLoss',
    'InformationFlowLoss',
    'KDSVDLoss',
    'LabelledLogitLoss',
    'LogitLoss',
    'MultiLevelLogitLoss',
    'NKDLoss',
    'NSTLoss',
    'OFALoss',
    'OnlineEnsembleLoss',
    'OverhaulLoss',
    'PKTLoss',
    'PearsonCorrelationLoss',
    'RKDLoss',
    'RLDLoss',
    'RRDLoss',
    'RRDMemoryLoss',
    'RSDLoss',
    'ReviewKDLoss',
    'SPLoss',
    'SRDLoss',
    'SRRLLoss',
    'ScoreDistillationLoss',
    'SemCKDLoss',
    'ShapedListLoss',
    'SimKDLoss',
    'TTMLoss',
    'VIDLoss',
    'ViTKDLoss',
    'VkDLoss',
    'WeightedSoftLabelLoss',
]

# importing a module registers its classes: a new loss needs no line here
for _module in pkgutil.iter_modules(__path__, f'{__name__}.'):
    importlib.import_module(_module.name)
