"""The losses of terms, built for the shapes of the features that they compare."""

import inspect
from collections.abc import Mapping
from typing import Any

from mmrazor.registry import MODELS
from torch import nn

from icd_mmrazor import checks
from icd_mmrazor.errors import SettingError
from icd_mmrazor.models.distillers.feature_terms import NETWORKS, Term, class_of
from icd_mmrazor.models.losses import FeatureLoss

Shape = tuple[int, ...]


def build_for(cfg: Mapping[str, Any], given: Mapping[str, Any]) -> nn.Module:
    """Build a loss or connector, with those of the given arguments that its constructor has and the config does not."""
    cls = class_of(cfg)
    accepted = inspect.signature(cls).parameters
    # by its class, whatever the default scope is
    return MODELS.build({**{name: value for name, value in given.items() if name in accepted}, **cfg, 'type': cls})


def shapes_by_network(term: Term, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Return the shapes of a term's arguments by the names that constructors have for them: ``'student_shape'``."""
    return {f'{item.network}_shape': shapes[argument] for argument, item in term.inputs.items()}


def loss_of(owner: str, term: Term, shapes: Mapping[str, Shape], sources: Mapping[str, str]) -> nn.Module:
    """Build the loss of a term, or take the one that is built already, with its share of the weight.

    Args:
        owner: Who has the term, for messages.
        term: The term.
        shapes: The shape of each argument, ``C x H x W`` or ``C``, before its connector.
        sources: The classifying layer of each network, for messages.

    Raises:
        SettingError: Its weight cannot be shared, or it does not take these shapes.
    """
    loss = term.loss if isinstance(term.loss, nn.Module) else build_for(term.loss, shapes_by_network(term, shapes))
    if term.decay != 1:
        if not checks.is_number(getattr(loss, 'loss_weight', None)):
            raise SettingError(
                f'{owner}: {term.name} has a decay, but its {type(loss).__name__} has no loss_weight that is a number. '
                'Remove the decay, or use another loss.'
            )
        loss.loss_weight *= term.decay
    plain_logits = all(item.feature.endswith('logits') and item.connector is None for item in term.inputs.values())
    # a FeatureLoss may compare images instead of classes
    of_classes = not isinstance(loss, FeatureLoss) or loss.same_width_by
    if plain_logits and of_classes and len({*shapes.values()}) > 1:
        width = {item.network: shapes[argument][0] for argument, item in term.inputs.items()}
        student, teacher = (width.get(network) for network in NETWORKS)
        raise SettingError(
            f'{owner}: {term.name} compares logits, but the teacher has {teacher} classes ({sources["teacher"]}) and '
            f'the student {student} ({sources["student"]}). Use a teacher of the same classes, or leave out '
            f'{term.name}.'
        )
    if hasattr(loss, 'check_shapes'):
        loss.check_shapes(**shapes)
    return loss
