"""Accuracy of an exported file on the test images of its config."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import Evaluator
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.data import DataLoader

from icd_mmrazor.configuration.building import explained_settings
from icd_mmrazor.errors import SettingError, UserError, first_line
from icd_mmrazor.export.running import Network, network_in, onnx_network
from icd_mmrazor.export.trained import TrainedStudent


def evaluate(
    student: TrainedStudent, file: Path | bytes | None = None, images: DataLoader | None = None
) -> dict[str, float]:
    """Evaluate an exported file, run in plain onnxruntime or torch, on the images of the config's ``test_dataloader``.

    The images are prepared by the student's own pipeline and data preprocessor, and its ``test_evaluator`` computes
    the metrics, as in mmpretrain's ``tools/test.py``. Only the logits come from the file.

    Args:
        student: The student that the file was exported from.
        file: A file (``.onnx``, ``.pt``, ``.pt2``), or the content of an ONNX file; the student itself by default.
        images: The loader of the test images, from :func:`test_images`, which is built by default.

    Returns:
        The metrics that are numbers: ``{'accuracy/top1': 98.8}``.

    Raises:
        SettingError: The config has no test images, or their dataset cannot be built.
        UserError: The file does not take the images.
    """
    network: Network = student.logits() if file is None else _loaded(file)
    loader = test_images(student) if images is None else images
    with DefaultScope.overwrite_default_scope(student.cfg.default_scope), explained_settings():
        evaluator = Evaluator(student.cfg.test_evaluator)
    evaluator.dataset_meta = getattr(loader.dataset, 'metainfo', None)
    predictions = _predictions_of(student)
    for inputs, batch in prepared(student, loader):
        try:
            with torch.no_grad():
                logits = network(inputs)
        except Exception as error:  # of another library
            name = file if isinstance(file, Path) else 'the exported file'
            raise UserError(f'{name} fails on a batch of shape {tuple(inputs.shape)}: {first_line(error)}') from error
        evaluator.process(data_samples=predictions(logits, batch['data_samples']), data_batch=batch)
    metrics = evaluator.evaluate(len(loader.dataset))
    return {name: float(value) for name, value in metrics.items() if _is_number(value)}


def test_images(student: TrainedStudent) -> DataLoader:
    """Build the loader of a student's test images.

    Raises:
        SettingError: The config has none, they have no labels, or their dataset cannot be built.
    """
    if not student.cfg.get('test_dataloader'):
        raise SettingError(
            'test_dataloader: the config has no test images, so no accuracy can be measured. Give the config of the '
            'training, --config CONFIG.'
        )
    loader = build_loader(student, student.cfg.test_dataloader)
    sample = loader.dataset[0].get('data_samples')
    if not any(getattr(sample, name, torch.empty(0)).numel() for name in ('gt_label', 'gt_score')):
        raise SettingError(
            'test_dataloader: its images have no labels, so no accuracy can be measured. Name labelled images, such as '
            '--cfg-options test_dataloader.dataset.data_root=FOLDER.'
        )
    return loader


def build_loader(student: TrainedStudent, settings: dict[str, Any]) -> DataLoader:
    """Build a loader in the scope of a student's config."""
    settings = {'collate_fn': dict(type='default_collate'), **settings, 'persistent_workers': False}
    with DefaultScope.overwrite_default_scope(student.cfg.default_scope), explained_settings():
        return Runner.build_dataloader(settings)


def build_loader_of_some(student: TrainedStudent, settings: dict[str, Any], at_most: int) -> DataLoader:
    """Build a loader of some images of a dataset, drawn by a fixed seed; its ``sampler`` is their places, ascending."""
    # mmengine passes a sampler that is not a config to torch, which takes any sequence of indices
    dataset = build_loader(student, {**settings, 'sampler': [0]}).dataset
    places = sorted(np.random.default_rng(0).permutation(len(dataset))[:at_most].tolist())
    return build_loader(student, {**settings, 'dataset': dataset, 'sampler': places, 'drop_last': False})


def prepared(student: TrainedStudent, loader: DataLoader) -> Iterator[tuple[Tensor, dict]]:
    """Yield the normalised images of each batch, as an exported file takes them, and the batch."""
    for batch in loader:
        prepared_batch = student.model.data_preprocessor(batch, False)
        yield prepared_batch['inputs'], prepared_batch


def _loaded(file: Path | bytes) -> Network:
    return onnx_network(file) if isinstance(file, bytes) else network_in(file)


def _predictions_of(student: TrainedStudent) -> Callable[[Tensor, list], list]:
    """Return how the student's classifier turns logits into predictions: by softmax, or by sigmoid for many labels."""
    head = getattr(student.model, 'head', None)
    owner = head if hasattr(head, '_get_predictions') else student.model
    if not hasattr(owner, '_get_predictions'):
        raise SettingError(
            f'the student ({student.kind}) does not say how logits become predictions (_get_predictions), so no '
            'accuracy of an exported file can be measured. Use tools/test.py.'
        )
    return owner._get_predictions


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1)
