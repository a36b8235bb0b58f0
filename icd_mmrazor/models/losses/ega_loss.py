"""Embedding graph alignment (EGA)."""

import math

import torch
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor import checks
from icd_mmrazor.models.losses.base import FeatureLoss
from icd_mmrazor.models.losses.functional import deviations


@MODELS.register_module()
class EGALoss(FeatureLoss):
    """Embedding graph alignment (EGA, Ma et al., BMVC 2022, arXiv 2211.13264).

    The images of a batch are the nodes of a graph, whose edges are Pearson correlations between their embeddings,
    ``E_s`` and ``E_t``, ``B x B``. With ``N`` the correlations between the teacher's and the student's embeddings::

        node_weight * ||N - identity|| + edge_weight * ||E_t - E_s||

    These are Frobenius norms, neither squared nor divided by the number of images. The authors (yccm/EGA, 0963f8e)
    compare the outputs of linear layers of width 256, and the CIFAR code of giakoumoglou/distillers (a2ee80b) the
    pooled features themselves, which must then have the same width, with weights 1 and 0.3.

    An image whose embedding is a constant, where the releases give NaN, correlates with none. A batch of one image
    has no graph, and gives 0. With several processes, each compares the images in its batch.

    Args:
        node_weight: Weight of the nodes, 0 or greater.
        edge_weight: Weight of the edges, 0 or greater. The authors' script for a CLIP ResNet-101 has 0.3.
        loss_weight: Weight of the loss.

    Raises:
        SettingError: A setting is out of range.

    Config example::

        distiller=dict(
            type='FeatureDistiller',
            frozen=['teacher_embedding'],
            connectors=dict(teacher_embedding=dict(type='LinearProjection', out_features=256)),
            losses=dict(ega=dict(
                loss=dict(type='EGALoss'),
                features='pooled',
                student_connector=dict(type='LinearProjection', out_features=256),
                teacher_connector='teacher_embedding')))
    """

    takes_embeddings = True
    same_width_by = 'LinearProjection'
    compares_images = True

    def __init__(self, node_weight: float = 0.8, edge_weight: float = 0.24, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        self.node_weight = checks.not_negative(self, 'node_weight', node_weight)
        self.edge_weight = checks.not_negative(self, 'edge_weight', edge_weight)

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss of embeddings ``B x D``."""
        if len(student) == 1:
            return (0 * student).sum()
        student, teacher = (deviations(each, dim=1) / math.sqrt(each.shape[1]) for each in (student, teacher))
        nodes = teacher @ student.T - torch.eye(len(student), dtype=student.dtype, device=student.device)
        edges = teacher @ teacher.T - student @ student.T
        return self.node_weight * torch.linalg.vector_norm(nodes) + self.edge_weight * torch.linalg.vector_norm(edges)
