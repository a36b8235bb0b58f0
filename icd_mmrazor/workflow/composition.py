"""A composed config with the options of a training."""

from collections.abc import Sequence

import torch
from mmengine.config import Config
from mmrazor.registry import MODELS

from icd_mmrazor import recipes
from icd_mmrazor.configuration.files import apply_cfg_options
from icd_mmrazor.errors import SettingError
from icd_mmrazor.export.network import quiet
from icd_mmrazor.launch.command_line import parse_options


def configured(pair: str, methods: str, options: Sequence[str]) -> Config:
    """Compose a config with its options; building the model checks those of the model.

    Args:
        pair: One of :func:`~icd_mmrazor.recipes.pair_names`.
        methods: A method, or several: ``'icd+kd'``.
        options: Items of ``--cfg-options``, ``KEY=VALUE``.

    Raises:
        SettingError: A name is unknown, the methods do not fit the pair, or an option does not fit them.
    """
    cfg = recipes.compose(pair, recipes.split_methods(methods))
    apply_cfg_options(cfg, parse_options(options))
    if any(option.startswith('model.') for option in options):
        model = cfg.model.to_dict()
        # checkpoints may be trained only later
        if model.get('teachers'):
            model['teachers'] = [{**each, 'teacher_ckpt': None, 'random_teacher': True} for each in model['teachers']]
        elif 'teacher' in model:
            model |= dict(teacher_ckpt=None, random_teacher=True)
        if model.get('teacher_cache'):
            model['teacher_cache'].pop('path', None)
        try:
            with torch.random.fork_rng(devices=[]), quiet(), MODELS.switch_scope_and_registry('mmrazor'):
                MODELS.build(model)
        except Exception as error:  # whatever a constructor raises
            shown = ' '.join(options)
            raise SettingError(f'--cfg-options {shown} do not fit {methods} on {pair}: {error}') from error
    return cfg
