"""A teacher from its name or config to a network with weights."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from mmrazor.registry import MODELS
from torch import nn

from icd_mmrazor.checkpoints.reading import read_checkpoint
from icd_mmrazor.checkpoints.weights import weights_of
from icd_mmrazor.datasets.class_names import class_names
from icd_mmrazor.errors import SettingError, UserError
from icd_mmrazor.models.algorithms.shared_preprocessor import declared_preparation
from icd_mmrazor.models.networks.headless import as_teacher
from icd_mmrazor.models.networks.hubs import (
    is_published_by_hub,
    loads_itself,
    name_in,
    preprocessor_of_timm,
    published_by_timm,
    with_published_weights,
)
from icd_mmrazor.models.networks.preparation import Preparation, preparation_by, preparation_of_checkpoint
from icd_mmrazor.models.networks.resolve import network_config, published_weights
from icd_mmrazor.models.networks.teacher_weights import load_teacher


class Teacher(NamedTuple):
    """A teacher that is ready to run, and what is known about it."""

    network: nn.Module
    weights: str  # where they come from: a file, an address, 'random', 'published for NAME'
    declared: Preparation | None  # how its config, or who published it, says that images are prepared
    trained: Preparation | None  # how its checkpoint says so
    classes: Sequence[str] | None  # names of its classes, if its checkpoint has them
    size: tuple[int, int] | None  # of the images that timm's weights were published for


def ready_teacher(
    teacher: nn.Module | dict | str, file: str | None = None, random: bool = False, feature: str = 'auto'
) -> Teacher:
    """Build a teacher and load its weights.

    Args:
        teacher: The teacher, by a name or a config (:func:`network_config`), or built.
        file: Its checkpoint: a file or an ``https://`` address. Published networks default to the published weights.
        random: Whether it is used as it is, without a checkpoint.
        feature: The feature of a teacher without a classifier, see :func:`as_teacher`.

    Raises:
        SettingError: The network is unknown, it has no weights, or it cannot have the feature.
        CheckpointError: The checkpoint is missing, is not a plain weights file, or is of another network.
    """
    file = None if random else file or published_weights(teacher)
    if not isinstance(teacher, nn.Module):
        named = teacher if file or random else with_published_weights(teacher)
        teacher = network_config(named, 'model.teacher')
    published = loads_itself(teacher)
    if not file and not random and not published:
        raise SettingError(
            f'FrozenTeacherDistill: teacher_ckpt={file!r} must name the trained weights of the teacher. '
            'Train one with tools/train.py configs/vanilla/..., or convert a published one with '
            'tools/model_converters/repdistiller_to_mmpretrain.py.'
        )
    declared = declared_preparation(teacher)
    network = teacher if isinstance(teacher, nn.Module) else _built(teacher, published)
    checkpoint = read_checkpoint(file) if file else {}
    if file:
        # mmrazor would load leniently, and too late for a distiller that reads the weights
        load_teacher(network, weights_of(checkpoint, file), f'teacher_ckpt={file}')
    trained = preparation_of_checkpoint(checkpoint)
    settings = published_by_timm(network) if trained is None and (file or published) else None
    if settings and declared is None:
        declared = preparation_by(preprocessor_of_timm(settings))
    if declared and declared.turned and (settings or is_published_by_hub(teacher)):
        # their networks take RGB, whatever dataset the config of this one is of
        declared = replace(declared, source='BGR')
    weights = file or (f'published for {name_in(teacher)}' if published else 'random')
    size = tuple(settings['input_size'][-2:]) if settings else None
    return Teacher(as_teacher(network, feature), weights, declared, trained, class_names(checkpoint.get('meta')), size)


def _built(teacher: Mapping[str, Any], published: bool) -> nn.Module:
    try:
        return MODELS.build(teacher)
    except UserError:
        raise
    except (OSError, RuntimeError) as error:
        if not published:
            raise
        reason = ' '.join(str(error).split())[:200]
        raise SettingError(
            f'FrozenTeacherDistill: the published weights of the teacher could not be loaded: {reason} Give a file of '
            'them as model.teacher_ckpt, or set model.random_teacher=True to try things out.'
        ) from error
