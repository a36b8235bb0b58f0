"""Configs of networks pruned by mmrazor."""

import copy
from pathlib import Path
from typing import Any

from mmengine.config import ConfigDict
from mmengine.fileio import load

from icd_mmrazor.configuration.type_names import type_name
from icd_mmrazor.errors import SettingError

# the types that mmrazor builds a subnet with, and their setting that is the whole network
PRUNED = {'sub_model': 'cfg', 'GroupFisherDeploySubModel': 'architecture'}


def is_pruned(network: Any) -> bool:
    """Return whether a network, in any form, is the config of a pruned one."""
    return isinstance(network, dict) and type_name(network.get('type')) in PRUNED


def unpruned(network: ConfigDict) -> ConfigDict:
    """Return the config of the whole network that a pruned one is a part of; that of any other as it is."""
    return network[PRUNED[type_name(network.type)]] if is_pruned(network) else network


def with_subnet(network: ConfigDict, setting: str) -> ConfigDict:
    """Insert the subnet of a pruned network, which stands in ``setting``, into its config: no file is needed then.

    Raises:
        SettingError: The file of the subnet is missing, or does not hold one.
    """
    subnet = ConfigDict(_read_subnet(network.get('fix_subnet', {}), f'{setting}.fix_subnet'))
    parts = subnet.get('channel_unit_cfg')
    if isinstance(parts, dict) and parts.get('units'):
        parts.units = _read_subnet(parts.units, f'{setting}.fix_subnet.channel_unit_cfg.units')
        if all('channels' in unit for unit in parts.units.values()):
            # the units are complete: mmrazor need not trace the network
            subnet.parse_cfg = dict(type='Config')
    return ConfigDict({**network, 'fix_subnet': subnet})


def _read_subnet(subnet: Any, setting: str) -> dict:
    if isinstance(subnet, str | Path):
        try:
            # mmrazor's own call, which compat restricts to plain values
            return _read_subnet(load(str(Path(subnet).expanduser())), setting)
        except Exception as error:  # of any parser
            raise SettingError(
                f'{setting}={str(subnet)!r} cannot be read (working folder: {Path.cwd()}). {type(error).__name__}: '
                f'{error}. Give the JSON or YAML file that mmrazor wrote for the subnet.'
            ) from error
    if not isinstance(subnet, dict):
        raise SettingError(f"{setting}={subnet!r} is not a subnet. Give what mmrazor's export_fix_subnet returns.")
    # mmrazor writes into it while building
    return copy.deepcopy(subnet)
