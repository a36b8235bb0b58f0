"""Galleries of images as a teacher embeds them."""

from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.algorithms.predictions import pooled_feature
from icd_mmrazor.models.networks.ensemble import TeacherEnsemble
from icd_mmrazor.models.networks.passes import explained_pass
from icd_mmrazor.models.networks.retrieval import is_retriever


def gallery_loader(retriever: nn.Module) -> DataLoader:
    """Return the loader of a retriever's images, which it keeps instead of its config.

    Raises:
        SettingError: It has embeddings, or the name of their file, instead of images; or some images are left out.
    """
    prototype = retriever.prototype
    if not _names_images(retriever):
        raise SettingError(
            f'model.architecture.prototype is a {type(prototype).__name__}; the teacher embeds images. Set '
            "prototype=dict(batch_size=256, dataset=dict(type='GalleryDataset', dataset=...))."
        )
    if isinstance(prototype, dict):
        settings = {'num_workers': 0, 'sampler': dict(type='DefaultSampler', shuffle=False), **prototype}
        retriever.prototype = Runner.build_dataloader(settings, seed=0)
    if retriever.prototype.drop_last:
        raise SettingError(
            'model.architecture.prototype: with drop_last=True the last images of the gallery would have no '
            'embeddings. Leave it out.'
        )
    return retriever.prototype


def has_teacher_gallery(retriever: nn.Module) -> bool:
    """Return whether :func:`keep_teacher_gallery` was called; other embeddings may be of any network."""
    return getattr(retriever, 'searches_teacher_gallery', False)


def keep_teacher_gallery(retriever: nn.Module, gallery: Tensor) -> None:
    """Let a retriever search in its teacher's embeddings, ``N x D``."""
    retriever.prototype, retriever.prototype_inited = gallery, False
    retriever.searches_teacher_gallery = True


def _names_images(retriever: nn.Module) -> bool:
    return isinstance(retriever.prototype, dict | DataLoader)


@torch.no_grad()
def teacher_gallery(algorithm: nn.Module, loader: DataLoader) -> Tensor:
    """Embed the images of a gallery with the teacher of a ``FrozenTeacherDistill``, in eval mode.

    Args:
        algorithm: The distillation, whose data preprocessor prepares the images.
        loader: The loader of the images, whose samples have their positions (``sample_idx``).

    Returns:
        The embeddings, ``N x D``, by their positions, on the device of the algorithm; those of all processes.

    Raises:
        SettingError: The data samples have no positions, the sampler leaves images out, or the teacher does not take
            the images.
    """
    teacher, number = algorithm.teacher, len(loader.dataset)
    gallery, seen = None, None
    for batch in loader:
        data = algorithm.data_preprocessor(batch, False)
        images, samples = data['inputs'], data['data_samples']
        with explained_pass("the teacher's gallery", images, **{'model.teacher': teacher}):
            embeddings = _embedded(algorithm, images)
        index = [sample.get('sample_idx') for sample in samples]
        if None in index:
            raise SettingError(
                'model.architecture.prototype: its images have no sample_idx. Wrap its dataset: '
                "dict(type='GalleryDataset', dataset=...)."
            )
        if gallery is None:
            gallery = embeddings.new_zeros(number, embeddings.shape[1])
            seen = embeddings.new_zeros(number)
        gallery[index], seen[index] = embeddings, 1.0
    # a sampler may give an image to two processes
    all_reduce(gallery)
    all_reduce(seen)
    if missing := int((seen == 0).sum()):
        raise SettingError(
            f'model.architecture.prototype: its sampler leaves out {missing:,} of the {number:,} images of the '
            "gallery. Set sampler=dict(type='DefaultSampler', shuffle=False)."
        )
    return gallery / seen[:, None]


def searches(algorithm: nn.Module) -> bool:
    """Return whether a distillation is validated by searches, as which its teacher is evaluated, too."""
    one_teacher = hasattr(algorithm, 'run_teacher') and not isinstance(algorithm.teacher, TeacherEnsemble)
    return one_teacher and is_retriever(algorithm.architecture)


@torch.no_grad()
def evaluate_search(algorithm: nn.Module, runner: Runner) -> dict[str, Any]:
    """Let a teacher search its own gallery with the queries of a run's validation set; return the metrics.

    Args:
        algorithm: The distillation, for which :func:`searches` is true. Its teacher may be any network.
        runner: The run.

    Returns:
        The metrics; none if ``prototype`` of the student is a file or a tensor of embeddings, not images.
    """
    student = algorithm.architecture
    loader, evaluator = runner.val_loop.dataloader, runner.val_loop.evaluator
    if has_teacher_gallery(student):
        gallery = student.prototype
    elif _names_images(student):
        gallery = teacher_gallery(algorithm, gallery_loader(student))
    else:
        return {}
    for batch in loader:
        data = algorithm.data_preprocessor(batch, False)
        images, samples = data['inputs'], data['data_samples']
        scores_of_queries = student.similarity_fn(_embedded(algorithm, images), gallery)
        for sample, scores in zip(samples, scores_of_queries, strict=True):
            sample.set_pred_score(scores)
        evaluator.process(data_samples=samples, data_batch=batch)
    return evaluator.evaluate(len(loader.dataset))


def _embedded(algorithm: nn.Module, images: Tensor) -> Tensor:
    """Embed a batch of images with the teacher, ``B x D``."""
    with pooled_feature(algorithm.teacher, getattr(algorithm.distiller, 'teacher_source', None)) as found:
        algorithm.run_teacher(images)
    return found[-1].flatten(1).float()
