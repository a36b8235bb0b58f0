"""Images that search for others in a gallery."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmpretrain.registry import DATASETS
from torch import Tensor

from icd_mmrazor import checks
from icd_mmrazor.datasets.parts import data_samples_of, filled_dataset
from icd_mmrazor.datasets.randomness import VIEW, seed_cpu, undrawn
from icd_mmrazor.datasets.samples import AUGMENTATION, STRONG, WEAK, number_labeled
from icd_mmrazor.errors import DatasetError, SettingError

NAME = 'QueryDataset'
SAME_IMAGE, SAME_CLASS = 'same_image', 'same_class'
EMPTY = f'{NAME}: {{}} has no images. Correct its data_root, ann_file or indices.'
# what queries without relevant images lack, and the remedy
WITHOUT = {
    SAME_IMAGE: (
        'are not in',
        'Take them from its images (ann_file, indices), by the same data_root and data_prefix if the images are files.',
    ),
    SAME_CLASS: (
        'have no other image of their class in',
        "Add images of their classes to it, leave these queries out, or set relevant='same_image'.",
    ),
}


@DATASETS.register_module()
class QueryDataset:
    """Images as queries, each with the positions of the relevant images of a gallery as its ``gt_label``.

    With ``relevant='same_image'`` a query is a view of an image of the gallery, which it should find: known-item
    search. The pipeline degrades the image (:class:`~icd_mmrazor.datasets.degraded_view.DegradedView`), and with a
    ``seed`` always in the same way, as a validation needs it. Exactly one image is relevant, the one of the same file,
    or with the same pixels if the images are arrays; the first of several copies.

    With ``relevant='same_class'`` all images of the query's class are relevant, but for the query itself.

    Args:
        dataset: The images of the queries, or the config of their dataset.
        gallery: The dataset of the gallery, or its config, in the order of ``prototype`` of the retriever; by default
            ``dataset`` itself. Its pipeline is used only ``with_documents``.
        relevant: ``'same_image'`` or ``'same_class'``.
        with_documents: Whether a batch has the relevant image of each query, by the pipeline of the gallery, before the
            queries; of several, one that is drawn. A network that embeds both is trained with it
            (:class:`~icd_mmrazor.models.retrievers.in_batch_head.InBatchRetrievalHead`). Data samples say
            ``augmentation='weak'`` for a document and ``'strong'`` for a query, as those of a ``TwoViewDataset``.
        seed: Seed of the random numbers of each query; None: a new view each time.

    Raises:
        SettingError: A setting is invalid.
        DatasetError: There are no queries, or no images in the gallery; a query has no relevant image in it; or images
            have no classes to compare.

    Config example::

        val_dataloader=dict(dataset=dict(
            type='QueryDataset',
            seed=0,
            gallery=dict(type='CustomDataset', data_root='data/images', with_label=False, pipeline=[...]),
            dataset=dict(type='CustomDataset', data_root='data/images', with_label=False, indices=500, pipeline=[
                dict(type='LoadImageFromFile'), dict(type='DegradedView', noise=0.1), dict(type='PackInputs')])))
    """

    def __init__(
        self,
        dataset: Any,
        gallery: Any = None,
        relevant: str = SAME_IMAGE,
        with_documents: bool = False,
        seed: int | None = None,
    ) -> None:
        self.dataset = filled_dataset(dataset, NAME, 'dataset', EMPTY.format('dataset'))
        self.gallery = gallery
        if gallery is not None:
            self.gallery = filled_dataset(gallery, NAME, 'gallery', EMPTY.format('gallery'))
        self.relevant = checks.one_of(self, 'relevant', relevant, (SAME_IMAGE, SAME_CLASS))
        self.with_documents = checks.boolean(self, 'with_documents', with_documents)
        if seed is not None and (type(seed) is not int or seed < 0):
            raise SettingError(f'{NAME}: seed={seed!r} must be an integer, 0 or greater, or None.')
        if with_documents and gallery is None:
            raise SettingError(f'{NAME}: with_documents=True needs the images that are searched: set gallery.')
        self.seed = seed
        self.positions = self._positions()

    @property
    def views(self) -> int:
        """How many images of a batch each query has, 2 with its document."""
        return 1 + self.with_documents

    @property
    def gallery_size(self) -> int:
        """Number of images in the gallery."""
        return len(self.dataset if self.gallery is None else self.gallery)

    @property
    def metainfo(self) -> dict:
        """Empty: labels are positions in the gallery, not classes."""
        return {}

    def full_init(self) -> None:
        """Read the annotations, if they have not been read yet."""
        for each in (self.dataset, self.gallery):
            if each is not None:
                each.full_init()

    def get_data_info(self, idx: int) -> dict:
        """Return the annotation of a query, with its index and the positions of the relevant images."""
        index = range(len(self))[idx]
        return {**self.dataset.get_data_info(index), 'sample_idx': index, 'gt_label': [*self.positions[index]]}

    def __len__(self) -> int:
        """Return the number of queries."""
        return len(self.dataset)

    def __getitem__(self, idx: int) -> dict:
        """Prepare a query."""
        index = range(len(self))[idx]
        if self.seed is None:
            sample = self.dataset[index]
        else:
            with undrawn():
                seed_cpu(self.seed, index, VIEW)
                sample = self.dataset[index]
        return self._labelled(sample, index, STRONG)

    def __getitems__(self, indices: Sequence[int]) -> list[dict]:
        """Prepare a batch: the documents if there are any, then the queries."""
        documents = [self._document(index) for index in indices] if self.with_documents else []
        return [*documents, *(self[index] for index in indices)]

    def _document(self, index: int) -> dict:
        found = self.positions[index]
        chosen = found[0] if len(found) == 1 else found[np.random.randint(len(found))]  # noqa: NPY002 seeded as mmcv's
        return self._labelled(self.gallery[chosen], index, WEAK)

    def _labelled(self, sample: dict, index: int, augmentation: str) -> dict:
        for each in data_samples_of(sample, NAME):
            each.set_gt_label(torch.tensor(self.positions[index]))
            each.set_metainfo({'sample_idx': index})
            if self.with_documents:
                each.set_metainfo({AUGMENTATION: augmentation})
        return sample

    def _positions(self) -> list[list[int]]:
        """Find the relevant images of each query."""
        own = self.gallery is None
        queries = [self.dataset.get_data_info(i) for i in range(len(self.dataset))]
        documents = queries if own else [self.gallery.get_data_info(i) for i in range(len(self.gallery))]
        same_image = [[i] for i in range(len(queries))] if own else _matches(queries, documents, _image)
        if self.relevant == SAME_IMAGE:
            found = [each[:1] for each in same_image]
        else:
            same_class = _matches(queries, documents, _class)
            found = [sorted({*each} - {*image}) for each, image in zip(same_class, same_image, strict=True)]
        if without := sum(not each for each in found):
            what, remedy = WITHOUT[self.relevant]
            raise DatasetError(
                f'{NAME}: {without:,} of {len(found):,} queries {what} the gallery of {len(documents):,} images. '
                f'{remedy}'
            )
        return found


def _matches(queries: Sequence[dict], documents: Sequence[dict], key: Any) -> list[list[int]]:
    places = defaultdict(list)
    for position, info in enumerate(documents):
        places[key(info)].append(position)
    return [places.get(key(info), []) for info in queries]


def _image(info: dict) -> Any:
    """Return what two annotations of one image have in common."""
    if info.get('img_path') is not None:
        return str(info['img_path'])
    if isinstance(image := info.get('img'), np.ndarray):
        return image.shape, image.tobytes()
    raise DatasetError(
        f'{NAME}: queries and gallery are compared by the files or pixels of their images, and get_data_info() of a '
        'dataset returns neither img_path nor img. Use a dataset that does, or leave out gallery: then each query '
        'searches among all queries.'
    )


def _class(info: dict) -> int:
    label = info.get('gt_label')
    if label is None or np.size(label) != 1:
        raise DatasetError(
            f"{NAME}: relevant='same_class' needs one label for each image. Give labelled images, or set "
            "relevant='same_image'."
        )
    return int(np.asarray(label).item())


def documents_of(data_samples: list | None, queries: int, reader: str) -> Tensor:
    """Return the positions in the gallery of the documents of a batch's queries, as far as these have some.

    Args:
        data_samples: Those of the batch, one for each query or one for all. Of several relevant images, the first
            counts.
        queries: The number of queries; those without a label (``PartlyLabeledDataset``) come last.
        reader: What reads them, for the message.

    Returns:
        Integers, one for each of the first queries.

    Raises:
        SettingError: No query has a label.
    """
    labeled = number_labeled(data_samples, queries)
    samples = [*(data_samples or [])]
    if len(samples) not in (1, queries) or any('gt_label' not in each for each in samples) or not samples:
        raise SettingError(
            f'{reader}: the queries do not say which images of the gallery they search. Set '
            "train_dataloader.dataset=dict(type='QueryDataset', ...), of labelled images in a PartlyLabeledDataset."
        )
    if len(samples) == queries:
        return torch.cat([each.gt_label[:1] for each in samples[:labeled]])
    return samples[0].gt_label
