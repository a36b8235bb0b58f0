"""YAML files that hold values alone."""

import collections
from pathlib import Path
from typing import IO, Any

import yaml

from icd_mmrazor.errors import DatasetError

MAX_NESTING = 1000  # levels


# that in C is ten times as fast, and mmpretrain has 85 files to look a config up in
class _PlainLoader(getattr(yaml, 'CSafeLoader', yaml.SafeLoader)):
    """Reads what mmengine writes, tuples and ordered dictionaries too."""


def _construct_tuple(loader: Any, node: yaml.SequenceNode) -> tuple:
    return tuple(loader.construct_sequence(node, deep=True))


def _construct_ordered(loader: Any, node: yaml.SequenceNode) -> dict:
    return collections.OrderedDict(*loader.construct_sequence(node, deep=True))


_PlainLoader.add_constructor('tag:yaml.org,2002:python/tuple', _construct_tuple)
_PlainLoader.add_constructor('tag:yaml.org,2002:python/object/apply:collections.OrderedDict', _construct_ordered)


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
