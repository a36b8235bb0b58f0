"""The caches of teachers' outputs that the trainings of a study share."""

import copy
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from icd_mmrazor.configuration.building import explained_settings
from icd_mmrazor.configuration.changes import settings_of
from icd_mmrazor.configuration.type_names import dicts
from icd_mmrazor.datasets.views import all_views, two_views_in_batch
from icd_mmrazor.errors import SettingError, UserError, first_line
from icd_mmrazor.models.teacher_cache.layout import Field, RowLayout
from icd_mmrazor.models.teacher_cache.store_folder import UNITS, readable_size, size_of_files

from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.registry import DATASETS

SETTING = 'model.teacher_cache'
# settings of a cache that no result depends on
OF_CACHE = tuple(f'{SETTING}.{name}' for name in ('path', 'max_size', 'verify'))
# what these settings start with may change the outputs, so that a cache is for one value of each
OF_OUTPUTS = (
    *('model.teacher', 'model.random_teacher', 'model.data_preprocessor', 'model.channels_last', 'data_preprocessor'),
    *('train_dataloader.dataset', 'default_hooks.whole_batches', 'optim_wrapper.type'),
)


def cache_name(cfg: Config, pair: str) -> str:
    """Return the name of the cache of a distillation, ``TEACHER_DATASET-DIGEST``; of other outputs it is another."""
    settings = sorted((name, str(value)) for name, value in settings_of(cfg.to_dict()) if name.startswith(OF_OUTPUTS))
    digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
    return f'{pair.split("_")[0]}_{pair.split("_")[-1]}-{digest[:8]}'


def size_of_cache(cfg: Config) -> int:
    """Return how many bytes the outputs for all views of the images take at most; refuse images without views."""
    hook, head = cfg.default_hooks.get('whole_batches'), cfg.model.teacher.get('head') or {}
    if not hook or hook.get('max_memory') == 0:
        raise SettingError('default_hooks.whole_batches is off, and without it views have no numbers')
    if any(part.get('batch_augments') or part.get('augments') for part in dicts(cfg.to_dict())):
        raise SettingError('its images are mixed at random')
    if not {'in_channels', 'num_classes'} <= {*head}:
        raise SettingError("the config does not say how large the teacher's outputs are")
    outputs = {'pooled': Field((head.in_channels,), 'float32'), 'logits': Field((head.num_classes,), 'float32')}
    with DefaultScope.overwrite_default_scope('mmpretrain'), explained_settings():
        dataset = DATASETS.build(copy.deepcopy(cfg.train_dataloader.dataset))
        if reason := two_views_in_batch(dataset):
            raise SettingError(reason)
        rows = len(dataset) * all_views(dataset).number
    return size_of_files(rows, RowLayout(outputs).row_bytes)


def share_caches(trainings: Sequence[Any], root: Path, max_size: float) -> None:
    """Let distillations (``StudentTraining``) share caches of at most some GB, unless their options have their own."""
    users: dict[str, list[Any]] = {}
    for training in trainings:
        model = training.cell.cfg.model
        if 'teacher' in model and 'teacher_cache' not in model:
            users.setdefault(cache_name(training.cell.cfg, training.cell.pair), []).append(training)
    free = shutil.disk_usage(next(folder for folder in root.parents if folder.is_dir())).free
    for name, group in users.items():
        try:
            size = size_of_cache(group[0].cell.cfg)
            if size > max_size * UNITS['GB']:
                raise SettingError(f'it needs {readable_size(size)}, more than --max-cache-size {max_size:g}')
            missing = max(0, size - sum(512 * file.stat().st_blocks for file in (root / name).glob('*')))
            if missing > free:
                raise SettingError(f'it needs {readable_size(missing)} more, and the disk has {readable_size(free)}')
        except UserError as error:
            print(f'without the teacher cache {name}: {first_line(error)}', flush=True)
            continue
        free -= missing
        options = dict(views='all', path=root / name, max_size=f'{max_size:g}GB')
        for training in group:
            training.command = [*training.command, *(f'{SETTING}.{key}={value}' for key, value in options.items())]
