"""The cache of a teacher's outputs, opened for the training images of a run."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from torch import Tensor

from icd_mmrazor.datasets.labels import image_labels
from icd_mmrazor.datasets.pipelines import pipelines_of
from icd_mmrazor.datasets.randomness import IMAGES, seed_cpu, undrawn
from icd_mmrazor.datasets.view_numbers import ALL, FIRST, Views
from icd_mmrazor.datasets.views import number_views, two_views_in_batch
from icd_mmrazor.engine.runs import model_of
from icd_mmrazor.errors import DatasetError
from icd_mmrazor.models.networks.preparation import preparation_by
from icd_mmrazor.models.teacher_cache.cache import FOLDER

# images that are looked at, to notice another dataset
IMAGES_TO_COMPARE = 16


def open_teacher_cache(runner: Runner) -> Views | None:
    """Open the cache of a distillation, if it has one, and have the views of its training images numbered.

    Returns:
        The numbering of the views, if they have been numbered.

    Raises:
        SettingError: The files are of another teacher, dataset, pipeline or precision, are too large, or the views
            cannot be numbered.
        CacheError: The files are damaged, or are not those of a cache.
        DatasetError: The training images differ in shape.
    """
    algorithm = model_of(runner)
    cache = getattr(algorithm, 'teacher_cache', None)
    if cache is None:
        return None
    dataset = runner.train_dataloader.dataset
    reason = two_views_in_batch(dataset) or cache.why_not(algorithm.distiller, algorithm.teacher)
    views = None
    # a method that cannot use stored outputs sees the same fixed views as those that it is compared with
    if not reason or cache.views_setting not in (ALL, FIRST):
        views = number_views(runner, cache.views_setting, cache.seed)
    if reason:
        cache.leave_out(reason)
        return views
    samples = _some_samples(dataset)
    with torch.no_grad():
        images = algorithm.data_preprocessor(pseudo_collate(samples), False)['inputs']
    facts = facts_of_images(dataset, samples) | {'preprocessor': asdict(preparation_by(algorithm.data_preprocessor))}
    cache.open(algorithm, views, images, facts, Path(runner.work_dir, FOLDER))
    return views


def facts_of_images(dataset: Any, samples: Sequence[dict]) -> dict[str, Any]:
    """Describe a training set as JSON: what stored outputs depend on.

    Args:
        dataset: The training set.
        samples: Some of its samples, prepared with the same random numbers each time.
    """
    labels = image_labels(dataset)
    return {
        'number': len(dataset),
        'labels': None if labels is None else _digest(np.int64(labels).tobytes()),
        'pixels': _digest(*(sample['inputs'].numpy().tobytes() for sample in samples)),
        # by their places, so that a message names the one that differs
        'pipeline': dict(enumerate(map(_described, _transforms(dataset)))),
    }


def _some_samples(dataset: Any) -> list[dict]:
    """Prepare a few images, evenly spaced; the random numbers of the run stay as they are."""
    samples = []
    with undrawn():
        for i in np.unique(np.linspace(0, len(dataset) - 1, IMAGES_TO_COMPARE, dtype=int)).tolist():
            seed_cpu(0, i, IMAGES)
            samples.append(dataset[i])
    inputs = [sample.get('inputs') if isinstance(sample, dict) else None for sample in samples]
    if not all(isinstance(each, Tensor) and each.shape == inputs[0].shape for each in inputs):
        raise DatasetError(
            'FrozenTeacherDistill: teacher_cache is set, and the training images are not tensors of one shape. Resize '
            'or crop them in train_dataloader.dataset.pipeline, or remove model.teacher_cache.'
        )
    return samples


def _transforms(dataset: Any) -> list[Any]:
    return [each for pipeline in pipelines_of(dataset) for each in getattr(pipeline, 'transforms', [])]


def _described(transform: Any) -> str:
    """Describe a transform with its settings, the same in every process."""
    text = ' '.join(repr(transform).split())
    if ' at 0x' not in text:
        return text
    return f'{type(transform).__name__} {json.dumps(getattr(transform, "__dict__", {}), default=_kind, sort_keys=True)}'


def _kind(value: Any) -> str:
    return getattr(value, '__qualname__', type(value).__name__)  # a function by its name


def _digest(*contents: bytes) -> str:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return digest.hexdigest()[:16]
