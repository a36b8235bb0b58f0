"""YAML files that hold values alone."""

import collections
from pathlib import Path
from typing import IO, Any

import yaml
from mmrazor.structures.subnet.candidate import Candidates

from icd_mmrazor.errors import DatasetError

MAX_NESTING = 1000  # levels
PYTHON = 'tag:yaml.org,2002:python'


# that in C is ten times as fast, and mmpretrain has 85 files to look a config up in
class _PlainLoader(getattr(yaml, 'CSafeLoader', yaml.SafeLoader)):  # type: ignore[misc]
    """Reads what mmengine and mmrazor write: tuples, ordered dictionaries and candidates of a search too."""


def _construct_tuple(loader: Any, node: yaml.SequenceNode) -> tuple:
    return tuple(loader.construct_sequence(node, deep=True))


def _construct_ordered(loader: Any, node: yaml.SequenceNode) -> dict:
    return collections.OrderedDict(*loader.construct_sequence(node, deep=True))


def _construct_candidates(loader: Any, node: yaml.MappingNode) -> Candidates:
    candidates = Candidates()
    candidates.data = list(loader.construct_mapping(node, deep=True).get('data', []))
    return candidates


_PlainLoader.add_constructor(f'{PYTHON}/tuple', _construct_tuple)
_PlainLoader.add_constructor(f'{PYTHON}/object/apply:collections.OrderedDict', _construct_ordered)
_PlainLoader.add_constructor(f'{PYTHON}/object:{Candidates.__module__}.Candidates', _construct_candidates)


def read_yaml(file: IO[str]) -> Any:
    """Return the values of a YAML file.

    Args:
        file: An opened file.

    Raises:
        DatasetError: The file is damaged, nested too deep, or holds more than values.
    """
    try:
        text = file.read()
        _check_nesting(text)
        return yaml.load(text, _PlainLoader)
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise DatasetError(
            f'the YAML file{_name(file)} is damaged, or holds more than plain values, which can run any code: '
            f'{error}. Write it as JSON, and name that file.'
        ) from error


def _check_nesting(text: str) -> None:
    # the loader in C calls itself, and the process dies of some ten thousand levels; most texts cannot have so many
    if text.count('[') + text.count('{') + 2 * max(map(len, text.split('\n'))) <= MAX_NESTING:
        return
    depth = 0
    for event in yaml.parse(text, _PlainLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_NESTING:
            raise yaml.YAMLError(f'it is nested more than {MAX_NESTING} levels deep')


def _name(file: Any) -> str:
    name = getattr(file, 'name', None)
    return f' {Path(name)}' if isinstance(name, str) else ''
