"""The first training image of a run."""

import copy
import inspect
from collections.abc import Mapping

from mmengine.registry import DefaultScope
from mmpretrain.registry import DATASETS
from torch import Tensor

from icd_mmrazor.configuration.type_names import dicts, type_name
from icd_mmrazor.datasets.randomness import undrawn


def shape_of_first_image(cfg: Mapping) -> tuple[int, int, int] | None:
    """Return the shape of the first training image of a run, ``C x H x W``, as its pipeline prepares it.

    Nothing is downloaded, and no random number is drawn from the generators of the run.

    Args:
        cfg: The config of the run.

    Returns:
        None if the dataset cannot be read here, which the run itself says best, or its samples are of another form.
    """
    settings = copy.deepcopy((cfg.get('train_dataloader') or {}).get('dataset'))
    for part in dicts(settings):
        cls = DATASETS.module_dict.get(type_name(part.get('type')))
        if cls is not None and 'download' in inspect.signature(cls).parameters:
            part['download'] = False
    try:
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmpretrain'), undrawn():
            image = DATASETS.build(settings)[0]['inputs']
    except Exception:  # a dataset may raise anything
        return None
    return tuple(image.shape) if isinstance(image, Tensor) and image.ndim == 3 else None
