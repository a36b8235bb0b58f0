"""The head of a network that is trained to search, with in-batch negatives."""

from typing import Any

import torch
from mmengine.model import BaseModule
from mmpretrain.registry import MODELS
from torch import Tensor
from torch.nn import functional as F

from icd_mmrazor import checks
from icd_mmrazor.datasets.samples import number_of_weak_views
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.losses.functional import full_precision, unit_vectors


@MODELS.register_module()
class InBatchRetrievalHead(BaseModule):
    """Loss of mmpretrain's ``ImageToImageRetriever``: each query should find its document among those of the batch.

    With the embeddings ``u_i`` of ``n`` queries and ``d_j`` of their documents, by one network, the loss is the mean of
    ``-log softmax_j(<u_i, d_j> / tau)_i``: the one-hot term of EmbedDistill (equation 9), and the loss of most dual
    encoders. A batch has the documents, then the queries
    (:class:`~icd_mmrazor.datasets.queries.QueryDataset` with ``with_documents=True``). It has no weights.

    The negatives of a query are the documents of the other queries in its batch, those of one process: a batch of one
    query has none, and its loss is 0. Batches of several processes are not gathered.

    Args:
        tau: Temperature.
        normalize: Whether to compare unit vectors, as a search by cosine similarity does.
        init_cfg: Same as in mmengine's ``BaseModule``.

    Raises:
        SettingError: A setting is out of range, or (in the first batch) a batch has other images.

    Config example::

        model=dict(
            type='ImageToImageRetriever',
            image_encoder=[dict(type='CIFARResNet', depth=20), dict(type='GlobalAveragePooling')],
            head=dict(type='InBatchRetrievalHead', tau=0.05),
            prototype=dict(batch_size=500, dataset=dict(type='GalleryDataset', dataset=...)))
    """

    def __init__(self, tau: float = 0.05, normalize: bool = True, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.tau = checks.positive(self, 'tau', tau)
        self.normalize = checks.boolean(self, 'normalize', normalize)

    def loss(self, feats: Tensor | tuple[Tensor, ...], data_samples: list[Any]) -> dict[str, Tensor]:
        """Compute the loss of a batch.

        Args:
            feats: The embeddings of ``n`` documents, then of their queries, ``2n x D``, or a tuple that ends with them.
            data_samples: Those of the batch, which say what is a document.

        Returns:
            The loss under ``loss``.
        """
        feats = feats[-1] if isinstance(feats, tuple) else feats
        documents = number_of_weak_views(data_samples)
        if documents is None or 2 * documents != len(feats):
            raise SettingError(
                'InBatchRetrievalHead: a batch must have documents, then a query for each. Set '
                "train_dataloader.dataset=dict(type='QueryDataset', with_documents=True, ...)."
            )
        with full_precision(feats.flatten(1)) as (embeddings,):
            if self.normalize:
                embeddings = unit_vectors(embeddings)
            document, query = embeddings.split(documents)
            scores = query @ document.T / self.tau
            return {'loss': F.cross_entropy(scores, torch.arange(documents, device=scores.device))}
