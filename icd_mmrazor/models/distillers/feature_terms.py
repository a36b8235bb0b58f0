"""The losses of a ``FeatureDistiller`` as its config names them, expanded to one term per feature."""

import contextlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from mmengine.logging import print_log
from mmrazor.registry import MODELS
from torch import nn

from icd_mmrazor import checks
from icd_mmrazor.configuration.type_names import known_types
from icd_mmrazor.errors import SettingError, did_you_mean
from icd_mmrazor.models.distillers.class_labels import LABELS, SAMPLES
from icd_mmrazor.models.distillers.weight_schedule import WeightSchedule
from icd_mmrazor.models.networks.points import evenly_spaced

OWNER = 'FeatureDistiller'
NETWORKS = ('student', 'teacher')
STAGES = ('initial', 'main')
# features of every stage, and what there must be several of
SEVERAL = {
    'maps': 'maps',
    'tokens': 'maps',
    'consecutive_maps': 'maps',
    'preactivations': 'preactivations',
    'blocks': 'blocks',
}
KNOWN = (
    'loss',
    'features',
    'inputs',
    'student_connector',
    'teacher_connector',
    'decay',
    'stage',
    'standardize',
    'weight_schedule',
    'gather_distributed',
)


class Input(NamedTuple):
    """One argument of a loss: a feature of a network, or a list of several, through a connector."""

    network: str
    feature: str | tuple[str, ...]
    connector: str | dict | None = None
    method: str | None = None

    @property
    def features(self) -> tuple[str, ...]:
        """The feature, or all of them."""
        return (self.feature,) if isinstance(self.feature, str) else self.feature


class Term(NamedTuple):
    """One loss with its arguments.

    Attributes:
        name: Its name, numbered if its entry has several.
        entry: The name of the entry of ``losses`` that it belongs to.
        loss: Its config, or the loss if it is built already.
        inputs: What it takes, by argument.
        stage: When it counts.
        decay: Its share of the weight.
        standardize: Whether logits are standardised.
    """

    name: str
    entry: str
    loss: dict | nn.Module
    inputs: dict[str, Input]
    stage: str
    decay: float = 1.0
    standardize: bool = False


def checked_entries(losses: Any, built: Mapping[str, nn.Module]) -> dict[str, dict]:
    """Check ``losses`` and fill in what its entries leave out.

    Args:
        losses: The setting, as :class:`FeatureDistiller` documents it.
        built: Losses by name, for entries without ``loss``.

    Raises:
        SettingError: A name or something in an entry is not allowed.
    """
    computed = any(hasattr(loss, 'computed_by') for loss in built.values())  # by the algorithm
    if not isinstance(losses, dict) or not (losses or computed):
        raise SettingError(
            f'{OWNER}: losses={losses!r} must name at least one, as in '
            "losses=dict(at=dict(loss=dict(type='AttentionTransferLoss'), features='maps'))."
        )
    return {name: _checked_entry(name, cfg, built) for name, cfg in losses.items()}


def _checked_entry(name: str, cfg: Any, built: Mapping[str, nn.Module]) -> dict:
    owner = f'{OWNER}: {name} in losses'
    if not isinstance(name, str) or not name.isidentifier():
        raise SettingError(f'{OWNER}: {name!r} in losses must be one word.')
    if not isinstance(cfg, Mapping):
        raise SettingError(f'{owner} must be a dict of {", ".join(KNOWN)}; found {cfg!r}.')
    if unknown := sorted({*cfg} - {*KNOWN}, key=str):
        raise SettingError(f'{owner} has no setting {unknown[0]!r}.{did_you_mean(unknown[0], KNOWN)}')
    entry = {'loss': built.get(f'loss_{name}'), 'features': None, 'inputs': None, 'stage': 'main', 'decay': 1.0}
    entry |= {'standardize': False, 'weight_schedule': None, 'gather_distributed': False, **cfg}
    loss, features, inputs = entry['loss'], entry['features'], entry['inputs']
    if not isinstance(loss, nn.Module) and not (isinstance(loss, Mapping) and 'type' in loss):
        raise SettingError(f'{owner} needs loss=dict(type=...).')
    if (features is None) == (inputs is None) or not isinstance(features, str | None):
        raise SettingError(f'{owner} needs either features, a name such as "pooled", or inputs; found {features!r}.')
    if not isinstance(inputs, Mapping | None):
        raise SettingError(f'{owner}: inputs={inputs!r} must be a dict by arguments of the loss.')
    beside = [name for name in ('student_connector', 'teacher_connector') if entry.get(name) is not None]
    if inputs is not None and beside:
        raise SettingError(f'{owner}: {beside[0]} belongs to features. Set the connector of each of the inputs.')
    for argument, i in (inputs or {}).items():
        complete = isinstance(i, Mapping) and {'network', 'feature'} <= {*i} <= {*Input._fields}
        # a list of features has no connector: the loss takes them as they are
        several = complete and isinstance(i['feature'], list | tuple)
        complete = complete and not (several and (not i['feature'] or i.get('connector') is not None))
        complete = complete and (i.get('method') is None or i.get('connector') is not None)
        if not complete or i['network'] not in NETWORKS:
            raise SettingError(
                f'{owner}: {argument}={i!r} in inputs must be dict(network=..., feature=...), optionally with a '
                'connector and a method of it; feature is a name, or a list of names without a connector, and network '
                f'is one of {", ".join(NETWORKS)}.'
            )
    _check_standardize(owner, entry)
    checks.boolean(owner, 'gather_distributed', entry['gather_distributed'])
    entry['weight_schedule'] = WeightSchedule.of(owner, entry['weight_schedule'])
    checks.one_of(owner, 'stage', entry['stage'], STAGES)
    if entry['weight_schedule'] and entry['stage'] == 'initial':
        raise SettingError(f"{owner}: a weight_schedule counts from the main stage, but stage='initial'. Remove it.")
    checks.positive(owner, 'decay', entry['decay'])
    if entry['decay'] != 1 and (entry['inputs'] is not None or split_member(entry['features'])[1] not in SEVERAL):
        raise SettingError(
            f"{owner}: decay={entry['decay']!r} is for features of several stages, such as 'maps'. Remove it."
        )
    return entry


def _check_standardize(owner: str, entry: dict) -> None:
    if not checks.boolean(owner, 'standardize', entry['standardize']):
        return
    names = [name for network in NETWORKS for name in feature_names(entry, network)]
    if not all(map(is_logits, names)):
        raise SettingError(
            f'{owner}: standardize=True standardises logits, but the loss compares {", ".join(dict.fromkeys(names))}. '
            'Remove it, or compare logits.'
        )
    loss = entry['loss']
    cls = type(loss) if isinstance(loss, nn.Module) else class_of(loss)
    if 'standardize' in inspect.signature(cls).parameters:
        raise SettingError(
            f'{owner}: standardize=True would standardise all that {cls.__name__} compares; it has its own setting. '
            f"Set loss=dict(type='{cls.__name__}', standardize=True)."
        )


def is_logits(feature: str) -> bool:
    """Return whether a feature is logits, of whichever teacher or token."""
    return feature.endswith('logits')


def feature_names(entry: dict, network: str) -> list[str]:
    """Return the names of the features of a network in a checked entry."""
    if entry['inputs'] is None:
        return [entry['features'] if network == 'teacher' else split_member(entry['features'])[1]]
    found = [i['feature'] for i in entry['inputs'].values() if i['network'] == network]
    return [name for each in found for name in ([each] if isinstance(each, str) else each)]


def split_member(feature: str) -> tuple[str, str]:
    """Split a feature of one of several teachers: ``('1.', 'map2')``; any other has the prefix ``''``."""
    number, dot, name = feature.partition('.')
    return (f'{number}.', name) if dot and number.isdecimal() else ('', feature)


def connector_names(entry: dict) -> list[str]:
    """Return the names of the shared connectors of a checked entry."""
    cfgs = [entry.get(f'{network}_connector') for network in NETWORKS]
    cfgs += [i.get('connector') for i in (entry['inputs'] or {}).values()]
    return [cfg for cfg in cfgs if isinstance(cfg, str)]


def terms_of(name: str, entry: dict, counts: Mapping[str, Mapping[str, int]]) -> list[Term]:
    """Expand a checked entry of ``losses`` to one term per feature, numbered from 1 if there are several.

    ``counts`` are the numbers of ``maps`` (with the stem's), ``preactivations`` and ``blocks`` of student and teacher,
    or of each of several teachers (``1.teacher``).

    Raises:
        SettingError: The features do not fit the arguments of the loss, or a network has none of them.
    """
    loss, stage = entry['loss'], entry['stage']
    cls = type(loss) if isinstance(loss, nn.Module) else class_of(loss)
    parameters = inspect.signature(cls.forward).parameters.values()
    arguments = [p.name for p in parameters if p.name not in ('self', SAMPLES, LABELS)]
    needed = [p.name for p in parameters if p.name in arguments and p.default is p.empty]
    takes = f'{cls.__name__} takes {", ".join(needed)}'
    if entry['inputs'] is not None:
        inputs = {argument: _expanded(name, Input(**i), counts) for argument, i in entry['inputs'].items()}
        if {*inputs} - {*arguments} or {*needed} - {*inputs}:
            raise SettingError(f'{OWNER}: inputs of {name} are {", ".join(inputs)}, but {takes}.')
        return [Term(name, name, loss, inputs, stage, standardize=entry['standardize'])]

    prefix, features = split_member(entry['features'])
    if features in SEVERAL and f'{prefix}teacher' not in counts:
        raise SettingError(
            f'{OWNER}: features={entry["features"]!r} of {name} names one of several teachers, but there is only '
            f'one, or teacher_member chooses it. Set features={features!r}.'
        )
    groups = _groups(name, features, {'student': counts['student'], 'teacher': counts.get(f'{prefix}teacher', {})})
    if len(groups) > 1 and isinstance(loss, nn.Module):
        raise SettingError(f'{OWNER}: {name} in losses compares several features and needs loss=dict(type=...).')
    terms = []
    for i, group in enumerate(groups):
        items = [
            Input(network, f'{prefix}{each}' if network == 'teacher' else each, entry.get(f'{network}_connector'))
            for network, features in zip(NETWORKS, group, strict=True)
            for each in features
        ]
        if not len(needed) <= len(items) <= len(arguments):
            features = f'features={entry["features"]!r} of {name} are {len(items)} at once'
            raise SettingError(f'{OWNER}: {features}, but {takes}.')
        numbered = f'{name}{i + 1}' if len(groups) > 1 else name
        decay = entry['decay'] ** (len(groups) - 1 - i)
        terms.append(
            Term(numbered, name, loss, dict(zip(arguments, items, strict=False)), stage, decay, entry['standardize'])
        )
    return terms


def _expanded(name: str, item: Input, counts: Mapping[str, Mapping[str, int]]) -> Input:
    """Replace ``maps`` and other groups in a list of features by the names of all of them, the shallowest first."""
    if isinstance(item.feature, str):
        return item
    features = []
    for each in item.feature:
        prefix, feature = split_member(each)
        if feature not in SEVERAL:
            features.append(each)
            continue
        if feature == 'consecutive_maps':
            raise SettingError(f'{OWNER}: {name} in losses takes consecutive_maps as features, not in a list.')
        kind = SEVERAL[feature]
        number = counts.get(f'{prefix}{item.network}', {}).get(kind, 0) - (kind == 'maps')
        if number < 1:
            raise _unknown_features(name, feature, item.network)
        features += [f'{prefix}{_single(feature)}{i + 1}' for i in range(number)]
    return item._replace(feature=tuple(features))


def _single(features: str) -> str:
    """Return the name of one of several features without its number."""
    return features if features == 'tokens' else features[:-1]


def _unknown_features(name: str, features: str, network: str) -> SettingError:
    others = 'a method that compares maps or pooled features'
    if features == 'blocks':
        return SettingError(
            f'{OWNER}: {name} compares blocks, but the backbone of the {network} is not a row of residual blocks or '
            f'the like, or they are not declared. Use {others}, or declare them (icd_mmrazor.models.networks.features).'
        )
    return SettingError(
        f'{OWNER}: {name} compares {features}, and it is not known where the {network} has any. Use {others}.'
    )


def _groups(name: str, features: str, counts: Mapping[str, Mapping[str, int]]) -> list[tuple[list[str], list[str]]]:
    """Return what each of the losses of an entry compares: features of the student, those of the teacher."""
    if features not in SEVERAL:
        return [([features], [features])]
    kind = SEVERAL[features]
    numbers = [counts[network][kind] - (kind == 'maps') for network in NETWORKS]
    if without := [network for network, number in zip(NETWORKS, numbers, strict=True) if number < 1]:
        raise _unknown_features(name, features, without[0])
    # stages by their numbers, from 1
    stages = [[i + 1 for i in evenly_spaced(min(numbers), number)] for number in numbers]
    if numbers[0] != numbers[1]:
        pairs = ', '.join(f'{s} with {t}' for s, t in zip(*stages, strict=True))
        print_log(
            f'{OWNER}: {name} compares {features} of stages {pairs}: the student has {numbers[0]}, the teacher '
            f'{numbers[1]}.',
            logger='current',
        )
    if features == 'consecutive_maps':
        chains = [[f'map{i}' for i in [0, *each]] for each in stages]
        return [tuple(chain[i : i + 2] for chain in chains) for i in range(len(stages[0]))]
    each = _single(features)
    return [([f'{each}{s}'], [f'{each}{t}']) for s, t in zip(*stages, strict=True)]


def class_of(cfg: Any) -> Callable:
    """Return the class of the config of a loss or connector; refuse one that is not registered."""
    kind = cfg.get('type') if isinstance(cfg, Mapping) else None
    if callable(kind):
        return kind
    if not isinstance(kind, str):
        raise SettingError(f'{OWNER}: {cfg!r} is not a loss or connector. Give dict(type=..., ...).')
    with contextlib.suppress(Exception):  # one of the families raises if it does not find a name
        if cls := MODELS.get(kind):
            return cls
    close = did_you_mean(kind.rpartition('.')[2], known_types())
    raise SettingError(
        f'{OWNER}: type={kind!r} is not registered.{close} Your own modules are found if the config imports them: '
        "custom_imports=dict(imports=['my_module'])."
    )


def refuse_unknown(what: str, names: Iterable[str], known: Mapping[str, Any]) -> None:
    """Refuse names of connectors that do not exist, and what is not a list of names; ``what`` says where they are."""
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise SettingError(f'{what}={names!r} must be a list of names of connectors.')
    if unknown := sorted(str(name) for name in names if name not in known):
        raise SettingError(f'{what} {", ".join(unknown)} is not in connectors: {", ".join(known) or "there are none"}.')
