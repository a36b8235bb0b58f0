"""The student of a distillation as a plain classifier."""

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from icd_mmrazor.checkpoints.weights import weights_of
from icd_mmrazor.configuration.type_names import PACKAGE, TYPES, by_names, dicts, import_for, registered, type_name
from icd_mmrazor.errors import SettingError
from icd_mmrazor.export.plain_test import plain_dataset, plain_evaluator
from icd_mmrazor.models.networks.pruned import unpruned
from icd_mmrazor.models.networks.student import SCOPE, student_of

# the teacher's embeddings that a student searches in, in the work folder (TeacherGalleryHook)
GALLERY = 'gallery.pth'
# entries of a checkpoint's meta that are kept, with their types
META = {'dataset_meta': Mapping, 'epoch': int, 'iter': int, 'metrics': Mapping}


def plain_student(cfg: Config) -> Config:
    """Make the config of a run's student as a plain classifier, for mmpretrain's tools and inferencers.

    It is flat and holds the model and its test, nothing of the training. It imports this package only if it uses
    something of it or of mmrazor. The run may be of a distillation or of a plain classifier.

    Raises:
        SettingError: The config has no model, or one of its settings is nan.
    """
    cfg = by_names(cfg)
    plain = {
        'default_scope': SCOPE,
        'model': student_of(cfg),
        # mmpretrain's tools/test.py --show-dir needs it
        'default_hooks': dict(visualization=dict(type='VisualizationHook', enable=False)),
        'visualizer': dict(type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')]),
    }
    if _searches_teachers_gallery(cfg):
        plain['model'].prototype = str(Path(cfg.get('work_dir') or '.', GALLERY).absolute())
    split = 'test' if cfg.get('test_dataloader') else 'val'
    if cfg.get(f'{split}_dataloader') and cfg.get(f'{split}_evaluator'):
        plain['test_dataloader'] = copy.deepcopy(cfg[f'{split}_dataloader'])
        plain['test_dataloader'].dataset = plain_dataset(plain['test_dataloader'].dataset)
        plain['test_evaluator'] = plain_evaluator(copy.deepcopy(cfg[f'{split}_evaluator']))
        plain['test_cfg'] = copy.deepcopy(cfg.get('test_cfg')) or {}
        dataset = plain['test_dataloader'].dataset
        if dataset.get('pipeline'):
            dataset.pipeline = _for_image_files(dataset.pipeline, plain['model'], cfg.get('train_dataloader'))
    if any(isinstance(value, float) and math.isnan(value) for each in dicts(plain) for value in each.values()):
        raise SettingError('a setting of the student is nan, which no config file can hold. Give it a number, or None.')
    _drop_scopes(plain, SCOPE)
    # names are looked up in its default scope now
    plain = by_names(Config(plain)).to_dict()
    imports = sorted(_imports(plain, SCOPE) - {''})
    return Config({**plain, 'custom_imports': dict(imports=imports)} if imports else plain)


def _searches_teachers_gallery(cfg: Config) -> bool:
    hooks = [*(cfg.get('custom_hooks') or []), *(cfg.get('default_hooks') or {}).values()]
    return any(type_name(hook.get('type')) == 'TeacherGalleryHook' for hook in hooks if isinstance(hook, Mapping))


def _for_image_files(pipeline: list[dict], student: dict, train_dataloader: dict | None) -> list[dict]:
    """Let a pipeline take images as mmpretrain's inferencers read them: three channels, BGR."""
    kinds = [type_name(transform.get('type')) for transform in pipeline]
    if 'ImageAsInDataset' in kinds:
        return pipeline
    if 'LoadImageFromFile' in kinds:
        begin = kinds.index('LoadImageFromFile') + 1
        gray = str(pipeline[begin - 1].get('color_type')).startswith('grayscale')
        return [*pipeline[:begin], dict(type='ImageAsInDataset', channels=1), *pipeline[begin:]] if gray else pipeline
    # the images of the dataset are arrays
    channels = _channels(student)
    if channels not in (1, 3):  # no image file has them
        return pipeline
    crops = (each for each in dicts(train_dataloader) if type_name(each.get('type')) == 'RandomCrop')
    sizes = [crop['crop_size'] for crop in crops if 'crop_size' in crop]
    settings = {'size': sizes[0]} if sizes else {}
    return [dict(type='ImageAsInDataset', **settings, **({'channels': 1} if channels == 1 else {})), *pipeline]


def _channels(student: dict) -> int:
    """Return the number of channels of a network's images, 3 if its config does not say."""
    network = unpruned(student)
    backbone, preprocessor = network.get('backbone') or {}, network.get('data_preprocessor') or {}
    for name in ('in_channels', 'in_chans'):  # the latter is timm's
        if name in {**network, **backbone}:
            return {**network, **backbone}[name]
    return len(preprocessor.get('mean') or [0] * 3)


def _drop_scopes(value: Any, scope: str) -> None:
    """Remove scopes that are the same as the enclosing one."""
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        # parts of this package's configs are looked up in mmpretrain's scope
        inner = part.get('_scope_') if isinstance(part, dict) else None
        inner = SCOPE if inner == PACKAGE else inner
        if inner and inner == scope:
            del part['_scope_']
        elif inner:
            part['_scope_'] = inner
        _drop_scopes(part, inner or scope)


def _imports(value: Any, scope: str) -> set[str]:
    """Return the modules to import for the types in a config, other than mmpretrain's."""
    if isinstance(value, dict):
        scope = value.get('_scope_') or scope
        of_types = {
            import_for(cls) for key in TYPES if isinstance(value.get(key), str) for cls in registered(value[key], scope)
        }
        # mmrazor cannot be imported without this package
        of_scope = {PACKAGE} if scope == 'mmrazor' else set()
        return of_types.union(of_scope, *(_imports(item, scope) for item in value.values()))
    return set().union(*(_imports(item, scope) for item in value)) if isinstance(value, list | tuple) else set()


def student_checkpoint(checkpoint: Mapping[str, Any], cfg: Config, what: str) -> dict:
    """Make the checkpoint of a plain classifier from that of a run.

    Args:
        checkpoint: The run's, of a distillation or of a plain classifier.
        cfg: The student's config, from :func:`plain_student`.
        what: The checkpoint's file, for messages.

    Returns:
        ``state_dict``, contiguous float32 tensors on the CPU, and ``meta`` with ``cfg`` (the text of the config) and
        ``dataset_meta``, ``epoch``, ``iter`` and ``metrics`` if the checkpoint has them.

    Raises:
        CheckpointError: It holds no weights.
    """
    known = checkpoint.get('meta')
    known = known if isinstance(known, Mapping) else {}
    meta = {key: known[key] for key, kind in META.items() if isinstance(known.get(key), kind)}
    weights = {
        name: (w.to('cpu', torch.float32) if w.is_floating_point() else w.cpu()).contiguous()
        for name, w in weights_of(checkpoint, what).items()
    }
    return {'meta': {**meta, 'cfg': cfg.pretty_text}, 'state_dict': weights}
