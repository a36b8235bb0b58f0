"""Test-time augmentation: several views of each test image, with averaged scores."""

import copy
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.model import BaseTTAModel
from torch import nn

from icd_mmrazor.errors import SettingError


def show_views(cfg: Config) -> None:
    """Let a test of a plain classifier show it several views of each image, as mmpretrain's ``--tta`` does.

    The views are those of the config's ``tta_pipeline``, by default the image and its mirror image; the config's
    ``tta_model`` merges the predictions, by default it averages the scores.

    Raises:
        SettingError: ``tta_model`` or ``tta_pipeline`` is something else, or the test set has no pipeline.
    """
    model = cfg.get('tta_model', dict(type='mmpretrain.AverageClsScoreTTA'))
    if not isinstance(model, dict) or 'type' not in model:
        raise SettingError(
            f"--tta: tta_model={model!r} must be dict(type=...), such as dict(type='mmpretrain.AverageClsScoreTTA')."
        )
    given = cfg.get('tta_pipeline')
    if given is not None and not (isinstance(given, list | tuple) and given):
        raise SettingError(f'--tta: tta_pipeline={given!r} must be a list of transforms with a TestTimeAug in it.')
    datasets = list(_datasets_with_pipeline(cfg.test_dataloader.get('dataset')))
    if not datasets:
        raise SettingError(
            "--tta: test_dataloader.dataset has no pipeline for the views. Give it one: [dict(type='PackInputs')]."
        )
    for dataset in datasets:
        dataset['pipeline'] = copy.deepcopy(given) if given is not None else _with_mirror_image(dataset['pipeline'])
    # mmengine would give the wrapper the preprocessor, and the wrapper would replace the model's own
    cfg.pop('data_preprocessor', None)
    cfg.model = ConfigDict(**model, module=cfg.model)


def shown_model(model: nn.Module, dataset: Any) -> nn.Module:
    """Return the network inside the model that merges views, of a test whose config :func:`show_views` changed.

    Raises:
        SettingError: ``tta_model`` does not merge views, or the pipeline of the test set makes only one.
    """
    if not isinstance(model, BaseTTAModel):
        raise SettingError(
            f'--tta: tta_model={type(model).__name__} does not merge views. Give a BaseTTAModel, such as '
            "dict(type='mmpretrain.AverageClsScoreTTA')."
        )
    if not isinstance(dataset[0].get('inputs'), list | tuple):
        raise SettingError(
            '--tta: tta_pipeline makes one view of an image. Let it make several: '
            "[..., dict(type='TestTimeAug', transforms=[[VIEW, ANOTHER], [dict(type='PackInputs')]])]."
        )
    return model.module


def _with_mirror_image(pipeline: list[dict]) -> list[dict]:
    *before, pack = pipeline
    mirrored = [dict(type='RandomFlip', prob=prob, direction='horizontal') for prob in (1.0, 0.0)]
    return [*before, dict(type='TestTimeAug', transforms=[mirrored, [pack]])]


def _datasets_with_pipeline(dataset: Any) -> Iterator[dict]:
    """Yield the configs of datasets with a pipeline, also inside a wrapper such as ``ConcatDataset``."""
    if not isinstance(dataset, dict):
        return
    if dataset.get('pipeline'):
        yield dataset
    for inside in (dataset.get('dataset'), *(dataset.get('datasets') or [])):
        yield from _datasets_with_pipeline(inside)
