"""Classifiers built from stored configs."""

import contextlib
import copy
import logging
from collections.abc import Iterator

from mmengine.config import ConfigDict
from mmengine.logging import MMLogger
from mmpretrain.registry import MODELS
from torch import nn

from icd_mmrazor.configuration.building import explained_settings
from icd_mmrazor.errors import SettingError, UserError

REMEDY = (
    'Your own modules are found if a config file that is given by name imports them (custom_imports); a config in a '
    'work folder is read, not run.'
)


@contextlib.contextmanager
def quiet(logger: logging.Logger | None = None, least: int = logging.WARNING) -> Iterator[None]:
    """Raise the level of a log, mmengine's by default: initialisation logs a line for each weight."""
    logger = logger or MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(least)
    try:
        yield
    finally:
        logger.setLevel(level)


def build_network(name: str, cfg: ConfigDict, remedy: str = REMEDY) -> nn.Module:
    """Build a classifier from a config that may be stored, damaged or of another installation.

    Raises:
        SettingError: It cannot be built; with the name of the network, and what to do about it.
    """
    try:
        with quiet(), explained_settings():
            return MODELS.build(copy.deepcopy(cfg))
    except UserError as error:
        raise SettingError(f'{name} cannot be built from its config. {error}\n{remedy}') from error
