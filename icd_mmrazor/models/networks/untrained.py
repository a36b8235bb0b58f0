"""Networks that are built without their weights."""

import copy

from mmrazor.registry import MODELS
from torch import nn

from icd_mmrazor.configuration.building import explained_settings
from icd_mmrazor.configuration.type_names import dicts, type_name
from icd_mmrazor.datasets.randomness import undrawn


def drop_pretrained(network: dict) -> None:
    """Remove from the config of a network what loads weights into it, in place."""
    for part in list(dicts(network)):
        for name in ('pretrained', 'checkpoint_path'):  # the latter is timm's
            part.pop(name, None)
        if any(type_name(each.get('type')) == 'Pretrained' for each in dicts(part.get('init_cfg'))):
            del part['init_cfg']


def untrained(network: dict) -> nn.Module:
    """Build a network from its full config with random weights, and leave all generators as they are.

    Raises:
        SettingError: It cannot be built.
    """
    network = copy.deepcopy(network)
    drop_pretrained(network)
    with undrawn(), explained_settings():
        return MODELS.build(network)
