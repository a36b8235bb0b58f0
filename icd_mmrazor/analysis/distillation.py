"""The distillation of a run, built again for its teacher."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmrazor.registry import MODELS
from torch import nn

from icd_mmrazor.checkpoints.weights import load_strictly, tensors_in
from icd_mmrazor.configuration.building import explained_settings
from icd_mmrazor.configuration.image_size import tell_distillers
from icd_mmrazor.errors import SettingError
from icd_mmrazor.export.network import quiet

TEACHER = 'teacher.'  # its weights in the checkpoint of an algorithm that trains it, too


def build_algorithm(cfg: Config, checkpoint: Mapping[str, Any] | None = None) -> nn.Module:
    """Build a distillation from the config of its run, with the weights of its teacher.

    Args:
        cfg: The config of the run.
        checkpoint: A checkpoint of the run. A teacher that is trained along is in it alone.

    Raises:
        UserError: The weights are not where the config says, or the config cannot be built.
    """
    model = cfg.model.copy()
    model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
    scope = DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmpretrain')
    with scope, quiet(), explained_settings():  # the log of the run has what it says
        tell_distillers({**cfg, 'model': model})
        algorithm = MODELS.build(model)
    name = type(algorithm).__name__
    if not hasattr(algorithm, 'teacher'):
        raise SettingError(f'{name} has no single teacher (model.teacher), so none is shown.')
    found = {k.removeprefix(TEACHER): v for k, v in tensors_in(checkpoint or {}).items() if k.startswith(TEACHER)}
    if found and 'teacher' in algorithm._modules:
        load_strictly(algorithm.teacher, found, 'the teacher in the checkpoint')
    elif getattr(algorithm, 'teacher_trainable', False):
        raise SettingError(
            f'{name} trains the teacher, too (teacher_trainable=True), and an exported student is without it. Give the '
            'checkpoint of the run, such as epoch_1.pth, or the config of the student alone.'
        )
    return algorithm


def in_float32(cfg: Config) -> Config:
    """Copy the config of a run, with its teachers in float32.

    Args:
        cfg: The config. Its ``teacher_precision`` is for speed; attacks need gradients that half precision rounds to 0.
    """
    cfg = copy.deepcopy(cfg)
    for settings in (cfg.model, *(cfg.model.get('teachers') or ())):
        if isinstance(settings, dict):  # what is not is refused later, with a message
            settings.pop('teacher_precision', None)
    return cfg


def way_to_run_teacher(algorithm: nn.Module) -> Callable[..., Any]:
    """Return how a distillation runs its teacher; one of mmrazor shows it the student's images."""
    return getattr(algorithm, 'run_teacher', algorithm.teacher)
