"""Matching of embeddings, the embedding distillation of EmbedDistill."""

from collections.abc import Callable

import torch
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor import checks
from icd_mmrazor.models.losses.base import FeatureLoss
from icd_mmrazor.models.losses.functional import unit_vectors

DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    # not squared; torch gives two equal embeddings the gradient 0
    'l2': lambda student, teacher: torch.linalg.vector_norm(student - teacher, dim=1),
    'cosine': lambda student, teacher: 1 - (unit_vectors(student) * unit_vectors(teacher)).sum(dim=1),
    'mse': lambda student, teacher: (student - teacher).square().mean(dim=1),
}


@MODELS.register_module()
class EmbeddingMatchingLoss(FeatureLoss):
    """Distance between the embeddings of student and teacher (EmbedDistill, Kim et al., arXiv 2301.12005).

    For queries, ``R_Q = mean_i || v_i - u_i ||`` (equation 7) with the student's embedding ``u`` and the teacher's
    ``v``; for documents likewise, ``R_D`` (equation 8), if the student encodes them. On a batch of documents and their
    queries (``QueryDataset(with_documents=True)``) the loss is the mean over both, ``(R_Q + R_D) / 2``: for their sum
    set ``loss_weight=2``. The equations follow a secondary account of the paper; its own code was not found. mmrazor's
    ``L2Loss(dist=True)`` is another loss: it takes one root over the whole batch.

    It needs neither labels nor relevant documents, so it also counts for generated queries. A student without the
    teacher's width needs a connector, which it keeps for searching (``LinearNeck`` in its ``image_encoder``).

    Args:
        distance: ``'l2'``, the Euclidean length of the difference, as in the paper; ``'cosine'``, 1 less the cosine; or
            ``'mse'``, the mean of the squares.
        normalize: Whether to compare unit vectors, as a search by cosine similarity does.
        loss_weight: Weight of the loss; 1 in the paper, 5 for its smallest student with generated queries.

    Raises:
        SettingError: ``distance`` is unknown.

    Config example::

        losses=dict(matching=dict(
            loss=dict(type='EmbeddingMatchingLoss', normalize=True),
            features='embedding'))
    """

    takes_embeddings = True
    same_width_by = 'LinearProjection'

    def __init__(self, distance: str = 'l2', normalize: bool = False, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        self.distance = checks.one_of(self, 'distance', distance, DISTANCES)
        self.normalize = checks.boolean(self, 'normalize', normalize)

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss of embeddings, ``B x D``."""
        if self.normalize:
            student, teacher = unit_vectors(student), unit_vectors(teacher)
        return DISTANCES[self.distance](student, teacher).mean()
