"""The losses of a ``FeatureDistiller`` as its config names them, checked and written out."""

import contextlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mmrazor.registry import MODELS

from icd_mmrazor.checks import is_number
from icd_mmrazor.configuration.building import IMPORTS
from icd_mmrazor.configuration.type_names import known_types, type_name
from icd_mmrazor.errors import SettingError, did_you_mean
from icd_mmrazor.models.networks.features import FeaturePoints, Point

NETWORKS = ('student', 'teacher')
STAGES = ('initial', 'main')
# features that lie in every classifier, whatever its backbone
OF_CLASSIFIER = ('pooled', 'logits')


class Input(NamedTuple):
    """One argument of a loss: a feature of a network, through a connector."""

    network: str
    feature: str
    connector: str | dict | None = None
    method: str | None = None


class Term(NamedTuple):
    """One loss with its arguments."""

    name: str
    loss: dict
    inputs: dict[str, Input]
    stage: str


def checked_entry(name: str, cfg: Any) -> dict:
    """Check an entry of ``losses`` and fill in what it leaves out.

    Args:
        name: Its name.
        cfg: The entry, as :class:`FeatureDistiller` documents it.

    Returns:
        The entry with ``stage`` and ``decay``.

    Raises:
        SettingError: The name or something in the entry is not allowed.
    """
    known = ('loss', 'features', 'inputs', 'student_connector', 'teacher_connector', 'decay', 'stage')
    if not isinstance(name, str) or not name.isidentifier():
        raise SettingError(f'FeatureDistiller: {name!r} in losses cannot be a name: it must be one word.')
    unknown = sorted({*cfg} - {*known}, key=str) if isinstance(cfg, Mapping) else []
    if unknown or not isinstance(cfg, Mapping):
        close = did_you_mean(unknown[0], known) if unknown else ''
        raise SettingError(
            f'FeatureDistiller: {name}={cfg!r} in losses must be a dict of these: {", ".join(known)}.{close}'
        )
    loss, features, inputs = cfg.get('loss'), cfg.get('features'), cfg.get('inputs')
    if not isinstance(loss, Mapping) or 'type' not in loss or (features is None) == (inputs is None):
        raise SettingError(
            f'FeatureDistiller: {name} in losses needs loss=dict(type=...) and either features or inputs.'
        )
    if features is not None and not isinstance(features, str):
        raise SettingError(f'FeatureDistiller: features={features!r} of {name} must be a name, such as "pooled".')
    if inputs is not None and not (isinstance(inputs, Mapping) and inputs):
        raise SettingError(f'FeatureDistiller: inputs={inputs!r} of {name} must be a dict by arguments of the loss.')
    stage, decay = cfg.get('stage', 'main'), cfg.get('decay', 1.0)
    if stage not in STAGES:
        raise SettingError(f'FeatureDistiller: stage={stage!r} of {name} must be one of {", ".join(STAGES)}.')
    if not is_number(decay) or decay <= 0:
        raise SettingError(f'FeatureDistiller: decay={decay!r} of {name} must be a positive number.')
    for argument, i in (inputs or {}).items():
        whole = isinstance(i, Mapping) and {'network', 'feature'} <= {*i} <= {*Input._fields}
        if not whole or i['network'] not in NETWORKS:
            raise SettingError(
                f'FeatureDistiller: inputs of {name}: {argument}={i!r} must be dict(network=..., feature=...), perhaps '
                f'with connector and method; network is one of {", ".join(NETWORKS)}.'
            )
    return {**cfg, 'stage': stage, 'decay': decay}


def feature_names(entry: dict) -> list[str]:
    """Return the names of the features of an entry.

    Args:
        entry: A checked entry.
    """
    return [entry['features']] if 'features' in entry else [i['feature'] for i in entry['inputs'].values()]


def terms_of(name: str, entry: dict, points: dict[str, FeaturePoints]) -> list[Term]:
    """Write out an entry of ``losses``: one term a feature.

    Args:
        name: Its name.
        entry: The checked entry.
        points: The features of student and teacher.

    Returns:
        The terms, numbered from 1 where there are several.

    Raises:
        SettingError: The features do not fit the arguments of the loss, or the networks have different numbers of them.
    """
    loss = dict(entry['loss'])
    parameters = inspect.signature(class_of(loss).forward).parameters.values()
    arguments = [p.name for p in parameters if p.name not in ('self', 'data_samples')]
    needed = [p.name for p in parameters if p.name in arguments and p.default is p.empty]
    if 'inputs' in entry:
        inputs = {argument: Input(**i) for argument, i in entry['inputs'].items()}
        if {*inputs} - {*arguments} or {*needed} - {*inputs}:
            raise SettingError(
                f'FeatureDistiller: inputs of {name} are {", ".join(inputs)}; {type_name(loss["type"])} takes '
                f'{", ".join(arguments)}.'
            )
        return [Term(name, loss, inputs, entry['stage'])]

    groups = _groups(name, entry['features'], points)
    terms = []
    for i, group in enumerate(groups):
        items = [
            Input(network, feature, entry.get(f'{network}_connector')) for network in NETWORKS for feature in group
        ]
        if not len(needed) <= len(items) <= len(arguments):
            raise SettingError(
                f'FeatureDistiller: {name} has features={entry["features"]!r}, {len(items)} at once; '
                f'{type_name(loss["type"])} takes {len(needed)}: {", ".join(needed)}.'
            )
        weight = entry['decay'] ** (len(groups) - 1 - i)
        if weight != 1.0:
            loss = {**entry['loss'], 'loss_weight': weight * entry['loss'].get('loss_weight', 1.0)}
        else:
            loss = dict(entry['loss'])
        numbered = f'{name}{i + 1}' if len(groups) > 1 else name
        terms.append(Term(numbered, loss, dict(zip(arguments, items, strict=False)), entry['stage']))
    return terms


def _groups(name: str, features: str, points: dict[str, FeaturePoints]) -> list[list[str]]:
    """Return what each of the losses of an entry compares."""
    if features not in ('maps', 'preactivations', 'consecutive_maps'):
        return [[features]]
    counts = {network: len(points[network].maps) for network in NETWORKS}
    if counts['student'] != counts['teacher']:
        raise SettingError(
            f'FeatureDistiller: {name} compares {features}, but the student has {counts["student"]} of them and the '
            f'teacher {counts["teacher"]}. Name the features to compare, or use a method that compares pooled ones.'
        )
    count = counts['student']
    if features == 'consecutive_maps':
        return [[f'map{i}', f'map{i + 1}'] for i in range(count - 1)]
    return [[f'{features[:-1]}{i}'] for i in range(1, count)]


def find_point(points: FeaturePoints, name: str, network: str) -> Point:
    """Return where a feature lies.

    Args:
        points: The features of the network.
        name: Name of the feature.
        network: ``'student'`` or ``'teacher'``, for the message.

    Returns:
        The point.

    Raises:
        SettingError: The network has no such feature.
    """
    known = {
        **{f'map{i}': point for i, point in enumerate(points.maps)},
        **{f'preactivation{i}': point for i, point in enumerate(points.preactivations, start=1)},
        **({'last_map': points.maps[-1]} if points.maps else {}),
        'pooled': points.pooled,
        'logits': points.logits,
    }
    if name not in known:
        raise SettingError(f'FeatureDistiller: the {network} has no feature {name!r}. It has: {", ".join(known)}.')
    return known[name]


def class_of(cfg: Mapping[str, Any]) -> Callable:
    """Return the class of a loss or connector.

    Args:
        cfg: Its config.

    Returns:
        The class.

    Raises:
        SettingError: It is not registered.
    """
    kind = cfg.get('type') if isinstance(cfg, Mapping) else None
    if callable(kind):
        return kind
    cls = None
    if isinstance(kind, str):
        # the fork raises for what it does not find
        with contextlib.suppress(Exception):
            cls = MODELS.get(kind)
    if cls is None:
        if not isinstance(kind, str):
            raise SettingError(f'FeatureDistiller: {cfg!r} is no loss or connector: give dict(type=..., ...).')
        close = did_you_mean(kind.rpartition('.')[2], known_types())
        raise SettingError(f'FeatureDistiller: type={kind!r} is no registered loss or connector.{close} {IMPORTS}')
    return cls
