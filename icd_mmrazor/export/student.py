"""The student of a distillation as a plain classifier: its config and its weights."""

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmengine.config import Config, ConfigDict

from icd_mmrazor.checkpoints.reading import weights_of
from icd_mmrazor.configuration.stored import read_config_text
from icd_mmrazor.configuration.type_names import PACKAGE, TYPES, by_names, import_for, registered, type_name
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.networks.pruned import is_pruned, unpruned
from icd_mmrazor.models.networks.resolve import network_config

# what is kept of a checkpoint's meta, and what each must be
META = {'dataset_meta': Mapping, 'epoch': int, 'iter': int, 'metrics': Mapping}
SCOPE = 'mmpretrain'


def student_of(cfg: Config) -> ConfigDict:
    """Return the config of a distillation's student, or of the model itself if it is no distillation.

    Of a ``LinearProbe`` whose config says the network that it reads, it is that network with the new head. No teacher
    is needed for it. It names the scope that it is built in, which for a network that mmrazor has pruned is mmrazor's.
    What both saw the images through belongs to it. Its weights come from a checkpoint, so nothing in
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
    cfg = by_names(cfg)
    student = cfg.model if is_pruned(cfg.model) else cfg.model.get('architecture', cfg.model)
    student = network_config(copy.deepcopy(student), 'model.architecture')
    if type_name(student.type) == 'LinearProbe' and isinstance(student.get('student'), dict):
        student = _classifier_of_probe(student)
    student.setdefault('_scope_', cfg.model.get('_scope_') or cfg.get('default_scope') or SCOPE)
    # mmengine hands the config's to the algorithm, and mmrazor gives the algorithm's to the student
    preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor')
    if preprocessor:
        unpruned(student).data_preprocessor = copy.deepcopy(preprocessor)
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
        if any(type_name(each.get('type')) == 'Pretrained' for each in _dicts(part.get('init_cfg'))):
            del part['init_cfg']


def plain_student(cfg: Config) -> Config:
    """Make the config of a run's student: a plain classifier, for mmpretrain's tools and inferencers.

    It holds the model and how it is tested, nothing of the training, and is flat, without ``_base_``. It imports this
    package only where something of it or of mmrazor is used, so that a student of mmpretrain's own parts needs
    mmpretrain alone.

    Args:
        cfg: The config of a run, of a distillation or of a plain classifier.

    Returns:
        The student's config; made from itself, it is the same.

    Raises:
        SettingError: The config has no model, or a setting of it is nan.
    """
    cfg = by_names(cfg)
    plain = {
        'default_scope': SCOPE,
        'model': student_of(cfg),
        # as in mmpretrain's own configs: its tools/test.py --show-dir draws with it
        'default_hooks': dict(visualization=dict(type='VisualizationHook', enable=False)),
        'visualizer': dict(type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')]),
    }
    split = 'test' if cfg.get('test_dataloader') else 'val'
    if cfg.get(f'{split}_dataloader') and cfg.get(f'{split}_evaluator'):
        plain['test_dataloader'] = copy.deepcopy(cfg[f'{split}_dataloader'])
        plain['test_evaluator'] = copy.deepcopy(cfg[f'{split}_evaluator'])
        plain['test_cfg'] = copy.deepcopy(cfg.get('test_cfg')) or {}
        dataset = plain['test_dataloader'].dataset
        if dataset.get('pipeline'):
            dataset.pipeline = _for_image_files(dataset.pipeline, plain['model'], cfg.get('train_dataloader'))
    if any(isinstance(value, float) and math.isnan(value) for each in _dicts(plain) for value in each.values()):
        raise SettingError(
            "a setting of the student is nan, which a config file cannot hold. Give it a number, or None, in the run's "
            'config.'
        )
    _drop_scopes(plain, SCOPE)
    # names are looked up in its default scope now
    plain = by_names(Config(plain)).to_dict()
    imports = sorted(_imports(plain, SCOPE) - {''})
    return Config({**plain, 'custom_imports': dict(imports=imports)} if imports else plain)


def _for_image_files(pipeline: list[dict], student: dict, train_dataloader: dict | None) -> list[dict]:
    """Let a pipeline take image files as mmpretrain's inferencers read them: three channels, BGR."""
    kinds = [type_name(transform.get('type')) for transform in pipeline]
    if 'ImageAsInDataset' in kinds:
        return pipeline
    if 'LoadImageFromFile' in kinds:
        begin = kinds.index('LoadImageFromFile') + 1
        gray = str(pipeline[begin - 1].get('color_type')).startswith('grayscale')
        return [*pipeline[:begin], dict(type='ImageAsInDataset', channels=1), *pipeline[begin:]] if gray else pipeline
    # a dataset that holds its images as arrays
    channels = _channels(student)
    if channels not in (1, 3):  # no image file has them
        return pipeline
    crops = (each for each in _dicts(train_dataloader) if type_name(each.get('type')) == 'RandomCrop')
    sizes = [crop['crop_size'] for crop in crops if 'crop_size' in crop]
    settings = {'size': sizes[0]} if sizes else {}
    return [dict(type='ImageAsInDataset', **settings, **({'channels': 1} if channels == 1 else {})), *pipeline]


def _channels(student: dict) -> int:
    """Return how many channels the images of a network have, as far as its config says it."""
    network = unpruned(student)
    backbone, preprocessor = network.get('backbone') or {}, network.get('data_preprocessor') or {}
    for name in ('in_channels', 'in_chans'):  # the latter is timm's
        if name in {**network, **backbone}:
            return {**network, **backbone}[name]
    return len(preprocessor.get('mean') or [0] * 3)


def _drop_scopes(value: Any, scope: str) -> None:
    """Leave out scopes that say no more than the one around them."""
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        # what is inherited from this package's configs is looked up as in mmpretrain's scope
        inner = part.get('_scope_') if isinstance(part, dict) else None
        inner = SCOPE if inner == PACKAGE else inner
        if inner and inner == scope:
            del part['_scope_']
        elif inner:
            part['_scope_'] = inner
        _drop_scopes(part, inner or scope)


def _dicts(value: Any) -> Iterator[dict]:
    """Walk through all dictionaries in a config."""
    if isinstance(value, dict):
        yield value
    if isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _dicts(item)


def _imports(value: Any, scope: str) -> set[str]:
    """Return the modules that register what a config names and mmpretrain does not bring."""
    if isinstance(value, dict):
        scope = value.get('_scope_') or scope
        of_types = {
            import_for(cls) for key in TYPES if isinstance(value.get(key), str) for cls in registered(value[key], scope)
        }
        # mmrazor is not to be imported without this package
        of_scope = {PACKAGE} if scope == 'mmrazor' else set()
        return of_types.union(of_scope, *(_imports(item, scope) for item in value.values()))
    return set().union(*(_imports(item, scope) for item in value)) if isinstance(value, list | tuple) else set()


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
    return by_names(read_config_text(text, f'the config in {what}'))


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
