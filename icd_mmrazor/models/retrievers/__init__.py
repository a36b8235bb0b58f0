"""Parts of networks that search images."""

from icd_mmrazor.models.retrievers.in_batch_head import InBatchRetrievalHead

__all__ = ['InBatchRetrievalHead']
