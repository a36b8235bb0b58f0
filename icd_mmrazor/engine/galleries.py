"""Galleries of images as a teacher embeds them."""

from collections.abc import Callable
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.networks.classifier_layer import find_classifier, pooling_layer
from icd_mmrazor.models.networks.ensemble import TeacherEnsemble
from icd_mmrazor.models.networks.features import Point, feature_points
from icd_mmrazor.models.networks.passes import explained_pass
from icd_mmrazor.models.networks.retrieval import is_retriever


def gallery_loader(retriever: nn.Module) -> DataLoader:
    """Return the loader of a retriever's images, which it keeps instead of its config.

    Raises:
        SettingError: It has embeddings, or the name of their file, instead of images.
    """
    prototype = retriever.prototype
    if not isinstance(prototype, dict | DataLoader):
        raise SettingError(
            f'model.architecture.prototype is a {type(prototype).__name__}; the teacher embeds images. Set '
            "prototype=dict(batch_size=256, dataset=dict(type='GalleryDataset', dataset=...))."
        )
    if isinstance(prototype, dict):
        settings = {'num_workers': 0, 'sampler': dict(type='DefaultSampler', shuffle=False), **prototype}
        retriever.prototype = Runner.build_dataloader(settings, seed=0)
    return retriever.prototype


def embedding_point(network: nn.Module, classifier: str | None = None) -> Point:
    """Return the place of a network's embedding: the output of a retriever, or what a classifier classifies."""
    layer = None if pooling_layer(network) else classifier or find_classifier(network)
    return feature_points(network, maps=False, classifier=layer).pooled


def embed(network: nn.Module, point: Point, run: Callable[[], Any]) -> Tensor:
    """Return the embeddings, ``B x D``, of the images that ``run`` runs a network on."""
    found: list[Tensor] = []

    def record(_module: nn.Module, inputs: tuple, output: Any) -> None:
        data = inputs if point.type == 'ModuleInputs' else output
        data = data if point.data_idx is None else data[point.data_idx]
        found.append((data if point.layout is None else point.layout(data)).flatten(1).float())

    handle = network.get_submodule(point.source).register_forward_hook(record)
    try:
        run()
    finally:
        handle.remove()
    return found[-1]


@torch.no_grad()
def teacher_gallery(algorithm: nn.Module, loader: DataLoader) -> Tensor:
    """Embed the images of a gallery with the teacher of a ``FrozenTeacherDistill``, in eval mode.

    Args:
        algorithm: The distillation, whose data preprocessor prepares the images.
        loader: The loader of the images, whose samples have their positions (``sample_idx``).

    Returns:
        The embeddings, ``N x D``, by their positions, on the device of the algorithm; those of all processes.

    Raises:
        SettingError: The data samples have no positions, or the teacher does not take the images.
    """
    teacher, number = algorithm.teacher, len(loader.dataset)
    point = embedding_point(teacher, getattr(algorithm.distiller, 'teacher_source', None))
    gallery, seen = None, None
    for batch in loader:
        data = algorithm.data_preprocessor(batch, False)
        images, samples = data['inputs'], data['data_samples']
        with explained_pass("the teacher's gallery", images, **{'model.teacher': teacher}):
            embeddings = embed(teacher, point, lambda images=images: algorithm.run_teacher(images))
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
    return gallery / seen[:, None].clamp(min=1)


def searches(algorithm: nn.Module) -> bool:
    """Return whether a distillation is validated by searches, in which its teacher can be evaluated, too."""
    one_teacher = hasattr(algorithm, 'run_teacher') and not isinstance(algorithm.teacher, TeacherEnsemble)
    return one_teacher and is_retriever(algorithm.architecture)


@torch.no_grad()
def evaluate_search(algorithm: nn.Module, runner: Runner) -> dict[str, Any]:
    """Let a teacher search its own gallery with the queries of a run's validation set; return the metrics.

    Args:
        algorithm: The distillation, for which :func:`searches` is true. Its teacher may be any network.
        runner: The run.
    """
    student, teacher = algorithm.architecture, algorithm.teacher
    loader, evaluator = runner.val_loop.dataloader, runner.val_loop.evaluator
    point = embedding_point(teacher, getattr(algorithm.distiller, 'teacher_source', None))
    gallery = student.prototype
    if not isinstance(gallery, Tensor):
        gallery = teacher_gallery(algorithm, gallery_loader(student))
    for batch in loader:
        data = algorithm.data_preprocessor(batch, False)
        images, samples = data['inputs'], data['data_samples']
        queries = embed(teacher, point, lambda images=images: algorithm.run_teacher(images))
        for sample, scores in zip(samples, student.similarity_fn(queries, gallery), strict=True):
            sample.set_pred_score(scores)
        evaluator.process(data_samples=samples, data_batch=batch)
    return evaluator.evaluate(len(loader.dataset))
