"""Corrections that mmpretrain's retrievers of images need."""

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmpretrain.engine.hooks import PrepareProtoBeforeValLoopHook
from mmpretrain.evaluation.metrics import retrieval as metrics
from mmpretrain.models import BaseRetriever, ImageToImageRetriever
from mmpretrain.utils import track_on_main_process
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from icd_mmrazor.errors import SettingError, did_you_mean

SIMILARITIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    'cosine_similarity': lambda queries, gallery: F.normalize(queries, dim=-1) @ F.normalize(gallery, dim=-1).T,
    'dot_product': lambda queries, gallery: queries @ gallery.T,
}
# where a retriever keeps the embeddings
GALLERY = 'prototype_vecs'


def compare_with_a_gallery_at_once() -> None:
    """Let a retriever compute the similarities of queries and gallery as one product of matrices, by any known name.

    Where: mmpretrain 1.2 and 1.3.6, ``ImageToImageRetriever.similarity_fn``: ``'cosine_similarity'`` makes a tensor of
    queries x gallery x width, 1.3 GB for 32 queries of width 1,024 and 10,000 images. Any other name ends in a
    ``RecursionError``, since the message that refuses it asks for the function again.
    """

    def similarity_fn(self: ImageToImageRetriever) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the function from queries, ``N x C``, and gallery, ``M x C``, to similarities, ``N x M``."""
        if callable(self.similarity):
            return self.similarity
        if self.similarity not in SIMILARITIES:
            raise SettingError(
                f'ImageToImageRetriever: similarity_fn={self.similarity!r} is not known.'
                f'{did_you_mean(self.similarity, SIMILARITIES)} Or give a function of queries and gallery.'
            )
        return SIMILARITIES[self.similarity]

    ImageToImageRetriever.similarity_fn = property(similarity_fn)


def encode_galleries_of_students() -> None:
    """Let ``PrepareProtoBeforeValLoopHook`` serve a retriever that is the student of a distillation, and averaged ones.

    Where: mmpretrain 1.2 and 1.3.6, ``PrepareProtoBeforeValLoopHook``: it knows a retriever that is the whole model.
    Inside an algorithm of mmrazor it only warns: the gallery is encoded in the first validation, and is stale in all
    others. Its images are prepared by the student's own data preprocessor, which no config of an algorithm sets. It
    encodes before an ``EMAHook`` puts the averaged weights in, so these search in a gallery of others. And the loader
    of the gallery is built again each time.

    The gallery is marked as stale instead, and the first prediction of the validation encodes it.
    """

    def before_val(_: PrepareProtoBeforeValLoopHook, runner: Runner) -> None:
        """Mark the gallery of the retriever as stale."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        retriever = getattr(model, 'architecture', model)
        if not isinstance(retriever, BaseRetriever):
            runner.logger.warning(
                f'PrepareProtoBeforeValLoopHook: neither the model nor its student is a retriever of mmpretrain, but a '
                f'{type(retriever).__name__}. Remove the hook.'
            )
            return
        if isinstance(retriever.prototype, dict):
            retriever.prototype = Runner.build_dataloader(retriever.prototype, seed=0)
        if retriever is not model and hasattr(model, 'data_preprocessor'):
            retriever.data_preprocessor = model.data_preprocessor
        retriever.prototype_inited = False

    PrepareProtoBeforeValLoopHook.before_val = before_val


def measure_searches_with_a_new_numpy() -> None:
    """Let the metrics of a search run with NumPy 2.4 and later.

    Where: mmpretrain 1.2, ``RetrievalRecall`` and ``RetrievalAveragePrecision``: they call ``np.in1d``, which is gone.
    """
    if hasattr(np, 'in1d') or 'np.in1d' not in inspect.getsource(metrics):
        return

    # for this module alone
    metrics.np = SimpleNamespace(**vars(np), in1d=np.isin)


def embed_each_image_of_a_gallery_once() -> None:
    """Let a retriever of several processes embed each image of its gallery as one process does.

    Where: mmpretrain 1.2 and 1.3.6, ``ImageToImageRetriever._get_prototype_vecs_from_dataloader``: it adds up what the
    processes have. A sampler that gives all of them as many images repeats some, as ``DefaultSampler`` does, and their
    embeddings are doubled, which counts in a ``'dot_product'``. Images that are in no batch (``drop_last=True``) have
    zeros.
    """

    def from_dataloader(self: ImageToImageRetriever, loader: DataLoader) -> Tensor:
        """Embed the images of a loader, in eval mode; return their embeddings by their positions, ``N x D``."""
        self.eval()
        parts, index = [], []
        for batch in track_on_main_process(loader, 'Prepare prototype'):
            features = self(**self.data_preprocessor(batch, False))
            parts.append((features[-1] if isinstance(features, tuple) else features).cpu())
            index += [sample.get('sample_idx') for sample in batch['data_samples']]
        embeddings, number = torch.cat(parts), len(loader.dataset)
        gallery, seen = embeddings.new_zeros(number, embeddings.shape[-1]), torch.zeros(number)
        gallery[index], seen[index] = embeddings, 1.0
        all_reduce(gallery)
        all_reduce(seen)
        if missing := int((seen == 0).sum()):
            raise SettingError(
                f'ImageToImageRetriever: {missing:,} of the {number:,} images of the gallery are in no batch of '
                "prototype. Leave out drop_last, and set sampler=dict(type='DefaultSampler', shuffle=False)."
            )
        return gallery / seen[:, None]

    ImageToImageRetriever._get_prototype_vecs_from_dataloader = from_dataloader


def keep_galleries_out_of_buffers() -> None:
    """Let the weights of a retriever be averaged.

    Where: mmpretrain 1.2 and 1.3.6, ``ImageToImageRetriever.prepare_prototype``: it registers the gallery as a buffer
    once it is known. mmengine's ``AveragedModel`` (``EMAHook``) pairs the buffers of its earlier copy with those of the
    model by their places, so all after it are averaged with others, or their shapes differ.
    """
    prepare = ImageToImageRetriever.prepare_prototype

    def prepare_prototype(self: ImageToImageRetriever) -> None:
        """Encode the gallery, or take its embeddings; keep them as a plain attribute."""
        vars(self).pop(GALLERY, None)
        prepare(self)
        gallery = self._buffers.pop(GALLERY)
        self._non_persistent_buffers_set.discard(GALLERY)
        setattr(self, GALLERY, gallery)

    def apply(self: ImageToImageRetriever, function: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Any:
        """Move the gallery with the weights, as a buffer would be."""
        super(ImageToImageRetriever, self)._apply(function, *args, **kwargs)
        if isinstance(gallery := vars(self).get(GALLERY), Tensor):
            setattr(self, GALLERY, function(gallery))
        return self

    ImageToImageRetriever.prepare_prototype = prepare_prototype
    ImageToImageRetriever._apply = apply
