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
def quiet() -> Iterator[None]:
    """Raise the level of the log to warnings: initialisation logs a line for each weight."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def build_network(name: str, cfg: ConfigDict, remedy: str = REMEDY) -> nn.Module:
    """Build a classifier from a config that may be stored, damaged or of another installation.

    Args:
        name: What to call it in the message.
        cfg: The classifier's config.
        remedy: What to do about an error.

    Raises:
        SettingError: It cannot be built.
    """
    try:
        with quiet(), explained_settings():
            return MODELS.build(copy.deepcopy(cfg))
    except UserError as error:
        raise SettingError(f'{name} cannot be built from its config. {error}\n{remedy}') from error
