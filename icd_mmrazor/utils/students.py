"""The student of a distillation as a plain classifier: its config and its weights."""

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmengine.config import Config, ConfigDict

from icd_mmrazor.compat import PACKAGE
from icd_mmrazor.models.networks import network_config
from icd_mmrazor.utils.checkpoints import weights_of
from icd_mmrazor.utils.config_text import read_config_text, registered
from icd_mmrazor.utils.errors import SettingError

# what is kept of a checkpoint's meta, and what each must be
META = {'dataset_meta': Mapping, 'epoch': int, 'iter': int, 'metrics': Mapping}
# what comes with mmpretrain; types from elsewhere have to be imported by the config
STACK = ('mmcv', 'mmengine', 'mmpretrain', 'mmrazor', 'torch', 'torchvision')


def student_of(cfg: Config) -> ConfigDict:
    """Return the config of a distillation's student, or of the model itself if it is no distillation.

    Of a ``LinearProbe`` whose config says the network that it reads, it is that network with the new head. No teacher
    is needed for it. What both saw the images through belongs to it. Its weights come from a checkpoint, so nothing in
    it asks for pretrained ones.

    Args:
        cfg: The config of a run.

    Returns:
        The config of a plain classifier, with its ``data_preprocessor``.

    Raises:
        SettingError: The config has no model.
    """
    if not isinstance(cfg.get('model'), dict):
        raise SettingError(
            f'config {cfg.filename or "(stored)"} has no model=dict(...); it has {", ".join(cfg) or "nothing"}. '
            'Give the config of a training.'
        )
    student = network_config(copy.deepcopy(cfg.model.get('architecture', cfg.model)), 'model.architecture')
    if str(student.type).rpartition('.')[2] == 'LinearProbe' and isinstance(student.get('student'), dict):
        student = _classifier_of_probe(student)
    # mmengine hands the config's to the algorithm, and mmrazor gives the algorithm's to the student
    preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor')
    if preprocessor:
        student.data_preprocessor = copy.deepcopy(preprocessor)
    _drop_pretrained(student)
    return student


def _classifier_of_probe(probe: ConfigDict) -> ConfigDict:
    """Return what a ``LinearProbe`` is when it is trained: a student with a new head."""
    student = network_config(probe.student, 'model.student')
    student.head = dict(type='LinearClsHead', num_classes=probe.num_classes, in_channels=student.head.in_channels)
    return student


def _drop_pretrained(model: dict) -> None:
    for part in list(_dicts(model)):
        for name in ('pretrained', 'checkpoint_path'):  # the latter is timm's
            part.pop(name, None)
        if any(each.get('type') == 'Pretrained' for each in _dicts(part.get('init_cfg'))):
            del part['init_cfg']


def plain_student(cfg: Config) -> Config:
    """Make the config of a run's student: a plain classifier, for mmpretrain's tools and inferencers.

    It holds the model and how it is tested, nothing of the training, and is flat, without ``_base_``. It imports this
    package only where something of it is used, so that a student of mmpretrain's own parts needs mmpretrain alone.

    Args:
        cfg: The config of a run, of a distillation or of a plain classifier.

    Returns:
        The student's config; made from itself, it is the same.

    Raises:
        SettingError: The config has no model, or a setting of it is nan.
    """
    plain = {
        'default_scope': 'mmpretrain',
        'model': student_of(cfg),
        # as in mmpretrain's own configs: its tools/test.py --show-dir draws with it
        'default_hooks': dict(visualization=dict(type='VisualizationHook', enable=False)),
        'visualizer': dict(type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')]),
    }
    if plain['model'].get('_scope_') == plain['default_scope']:
        del plain['model']['_scope_']
    split = 'test' if cfg.get('test_dataloader') else 'val'
    if cfg.get(f'{split}_dataloader') and cfg.get(f'{split}_evaluator'):
        plain['test_dataloader'] = copy.deepcopy(cfg[f'{split}_dataloader'])
        plain['test_evaluator'] = copy.deepcopy(cfg[f'{split}_evaluator'])
        plain['test_cfg'] = copy.deepcopy(cfg.get('test_cfg')) or {}
        _take_image_files(plain['test_dataloader'], cfg.get('train_dataloader'))
    if any(isinstance(value, float) and math.isnan(value) for each in _dicts(plain) for value in each.values()):
        raise SettingError(
            "a setting of the student is nan, which a config file cannot hold. Give it a number, or None, in the run's "
            'config.'
        )
    imports = _imports(plain)
    if imports:
        plain['custom_imports'] = dict(imports=imports)
    return Config(plain)


def _take_image_files(dataloader: dict, train_dataloader: dict | None) -> None:
    """Let a pipeline of a dataset that holds its images as arrays take image files, too."""
    pipeline = dataloader.dataset.get('pipeline') or []
    kinds = [str(transform.get('type')).rpartition('.')[2] for transform in pipeline]
    if not kinds or 'LoadImageFromFile' in kinds or 'ImageAsInDataset' in kinds:
        return
    crops = [d['crop_size'] for d in _dicts(train_dataloader) if d.get('type') == 'RandomCrop' and 'crop_size' in d]
    dataloader.dataset.pipeline = [dict(type='ImageAsInDataset', **({'size': crops[0]} if crops else {})), *pipeline]


def _dicts(value: Any) -> Iterator[dict]:
    """Walk through all dictionaries in a config."""
    if isinstance(value, dict):
        yield value
    if isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _dicts(item)


def _imports(plain: dict) -> list[str]:
    """Return the modules that register what the config names and mmpretrain does not bring."""
    modules = {
        cls.__module__
        for each in _dicts(plain)
        if isinstance(each.get('type'), str)
        for cls in registered(each['type'])
        if cls.__module__.partition('.')[0] not in STACK
    }
    return sorted({PACKAGE if module.startswith(f'{PACKAGE}.') else module for module in modules})


def config_of(checkpoint: Mapping[str, Any], what: str) -> Config:
    """Return the config that mmengine has stored in a checkpoint; it is read, not run.

    Args:
        checkpoint: What was read from the file.
        what: The file, for messages.

    Raises:
        SettingError: There is none in it, or it holds more than plain values.
    """
    meta = checkpoint.get('meta')
    text = meta.get('cfg') if isinstance(meta, Mapping) else None
    if not text:
        raise SettingError(
            f"checkpoint {what} does not say its config: it has no meta['cfg'], which mmengine writes. "
            'Name the config it was trained with.'
        )
    return read_config_text(text, f'the config in {what}')


def student_checkpoint(checkpoint: Mapping[str, Any], cfg: Config, what: str) -> dict:
    """Make the checkpoint of a plain classifier from that of a run.

    Args:
        checkpoint: What was read from the file: of a distillation, with or without the teacher inside, or of a plain
            classifier.
        cfg: The student's config, :func:`plain_student`.
        what: The file, for messages.

    Returns:
        ``meta`` with ``cfg`` (the text of the config) and, where the checkpoint has them, ``dataset_meta``, ``epoch``,
        ``iter`` and ``metrics``; ``state_dict``, contiguous, on the CPU, in float32 where it was of another precision.

    Raises:
        CheckpointError: There are no weights in it.
    """
    known = checkpoint.get('meta')
    known = known if isinstance(known, Mapping) else {}
    meta = {key: known[key] for key, kind in META.items() if isinstance(known.get(key), kind)}
    weights = {
        name: (w.to('cpu', torch.float32) if w.is_floating_point() else w.cpu()).contiguous()
        for name, w in weights_of(checkpoint, what).items()
    }
    return {'meta': {**meta, 'cfg': cfg.pretty_text}, 'state_dict': weights}
