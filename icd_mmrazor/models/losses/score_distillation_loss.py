"""Distillation of the scores of documents, with in-batch negatives."""

from typing import Any

import torch
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import Tensor

from icd_mmrazor import checks
from icd_mmrazor.datasets.queries import documents_of
from icd_mmrazor.datasets.samples import number_of_weak_views
from icd_mmrazor.errors import CheckpointError, SettingError
from icd_mmrazor.models.losses.base import FeatureLoss
from icd_mmrazor.models.losses.functional import full_precision, unit_vectors


@MODELS.register_module()
class ScoreDistillationLoss(FeatureLoss):
    """Scores of the documents of a batch, the student's against the teacher's (EmbedDistill, arXiv 2301.12005).

    The score of a document is its inner product with the query. Of ``n`` queries with one relevant document each, with
    ``S`` the student's scores and ``T`` the teacher's, ``n x n``, the document of query ``i`` in column ``i``::

        one-hot (equation 9)              L_1 = - mean_i log softmax_j(S_ij / tau)_i
        score distillation (equation 11)  L_s = - mean_i sum_j softmax_j(T_ij / tau) log softmax_j(S_ij / tau)

    ``L_s`` is a divergence plus the teacher's entropy, so it does not reach 0. Equations and weights (1 each)
    follow a secondary account of the paper; its temperature is not known.

    An asymmetric student searches in the teacher's documents: it embeds queries alone. ``TeacherGalleryHook`` gives the
    loss the teacher's embeddings of all images of the gallery, once, and the ``gt_label`` of a query is the position of
    its document (:class:`~icd_mmrazor.datasets.queries.QueryDataset`). They are saved in checkpoints and resumed.
    Queries without a label (``PartlyLabeledDataset``), such as generated ones, do not count here.

    A symmetric student has batches of the documents, then their queries (``QueryDataset(with_documents=True)``): both
    networks embed both, and the gallery is not used.

    The negatives of a query are the documents of the other queries in its batch, those of one process: a batch of one
    query has none, and its loss and gradient are 0. Batches of several processes are not gathered.

    Args:
        tau: Temperature of both softmaxes.
        score_weight: Weight of the score distillation.
        one_hot_weight: Weight of the one-hot term.
        normalize: Whether to compare unit vectors, so that scores are cosines.
        loss_weight: Weight of their sum.

    Raises:
        SettingError: A setting is out of range.

    Config example, of a student that searches in the teacher's gallery::

        custom_hooks=[dict(type='TeacherGalleryHook')]
        losses=dict(retrieval=dict(
            loss=dict(type='ScoreDistillationLoss', tau=0.05, normalize=True),
            inputs=dict(
                s_query=dict(network='student', feature='embedding'),
                t_query=dict(network='teacher', feature='embedding'))))
    """

    takes_embeddings = True
    same_width_by = 'LinearProjection'
    compares_images = True
    # those of the images in the training set do not count
    reads_positions = False

    gallery: Tensor

    def __init__(
        self,
        tau: float = 0.05,
        score_weight: float = 1.0,
        one_hot_weight: float = 1.0,
        normalize: bool = False,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight)
        self.tau = checks.positive(self, 'tau', tau)
        self.score_weight = checks.not_negative(self, 'score_weight', score_weight)
        self.one_hot_weight = checks.not_negative(self, 'one_hot_weight', one_hot_weight)
        self.normalize = checks.boolean(self, 'normalize', normalize)
        self.register_buffer('gallery', torch.empty(0, 0))
        # whether the documents of a batch were found in it
        self._fits = False

    def set_gallery(self, embeddings: Tensor) -> None:
        """Keep the teacher's embeddings of all documents, ``N x D``; ``TeacherGalleryHook`` calls it."""
        self.gallery = embeddings.detach().to(self.gallery.device, self.gallery.dtype).clone()
        self._fits = False

    def forward(
        self,
        s_query: Tensor,
        t_query: Tensor,
        t_document: Tensor | None = None,
        s_document: Tensor | None = None,
        data_samples: list[DataSample] | None = None,
    ) -> Tensor:
        """Compute the loss of a batch, a scalar.

        Args:
            s_query: The student's embeddings of queries, ``n x D``; of documents, then their queries, if that is what
                ``data_samples`` say.
            t_query: The teacher's embeddings of the same, ``n x D``.
            t_document: The teacher's embeddings of the documents, ``n x D``; by default those in the gallery, by the
                labels of the queries.
            s_document: The student's embeddings of the documents; by default it uses the teacher's.
            data_samples: Those of the batch.

        Raises:
            SettingError: The shapes do not fit, or the documents are unknown.
        """
        self._check(s_query, t_query)
        if t_document is None:
            documents = number_of_weak_views(data_samples)
            if documents is not None:
                (s_document, s_query), (t_document, t_query) = s_query.split(documents), t_query.split(documents)
            else:
                index = self._documents(data_samples, len(s_query)).to(self.gallery.device)
                t_document, s_query, t_query = self.gallery[index], s_query[: len(index)], t_query[: len(index)]
                if not len(index):  # generated queries alone
                    return 0.0 * s_query.sum()
        s_document = t_document if s_document is None else s_document
        self._check_scores(s_query, s_document, 'student')
        self._check_scores(t_query, t_document, 'teacher')
        with full_precision(s_query, t_query, s_document, t_document) as embeddings:
            if self.normalize:
                embeddings = [unit_vectors(each) for each in embeddings]
            s_query, t_query, s_document, t_document = embeddings
            student = (s_query @ s_document.T / self.tau).log_softmax(dim=1)
            teacher = (t_query @ t_document.T / self.tau).softmax(dim=1)
            one_hot, scores = -student.diagonal().mean(), -(teacher * student).sum(dim=1).mean()
            return self.loss_weight * (self.one_hot_weight * one_hot + self.score_weight * scores)

    @torch.compiler.disable  # it reads Python numbers
    def _documents(self, data_samples: list[DataSample] | None, queries: int) -> Tensor:
        name = type(self).__name__
        index = documents_of(data_samples, queries, name)
        if not len(self.gallery):
            raise SettingError(
                f"{name} does not know the teacher's gallery. Add custom_hooks=[dict(type='TeacherGalleryHook')]; in "
                'your own loop call set_gallery(), or pass t_document.'
            )
        # on a GPU in the first batch alone: later ones must not wait for it
        looked_at = len(index) and not (self._fits and index.is_cuda)
        if looked_at and not 0 <= int(index.min()) <= int(index.max()) < len(self.gallery):
            raise SettingError(
                f'{name}: documents {int(index.min())} to {int(index.max())}, but the gallery has {len(self.gallery)}. '
                'Use one gallery for prototype of the student and for QueryDataset.'
            )
        self._fits = self._fits or len(index) > 0
        return index

    def _check_scores(self, query: Tensor, document: Tensor, network: str) -> None:
        if query.shape != document.shape:
            raise SettingError(
                f'{type(self).__name__}: {network} queries are {tuple(query.shape)}, documents '
                f'{tuple(document.shape)}. It takes one document for each query, of the same width: add a connector '
                f'({self.same_width_by}), or LinearNeck(out_channels={document.shape[-1]}) to the image_encoder.'
            )

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        """Load the gallery of a checkpoint, before its size is known too."""
        stored = state_dict.get(f'{prefix}gallery')
        if isinstance(stored, Tensor) and not stored.numel():  # of a symmetric student
            state_dict[f'{prefix}gallery'] = self.gallery
        elif isinstance(stored, Tensor) and stored.ndim == 2:
            if len(self.gallery) and stored.shape != self.gallery.shape:
                raise CheckpointError(
                    f'{type(self).__name__}: the checkpoint has a gallery of shape {tuple(stored.shape)}, this run one '
                    f'of {tuple(self.gallery.shape)}. Resume with the gallery and the teacher of that run.'
                )
            self.gallery = self.gallery.new_empty(stored.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)
