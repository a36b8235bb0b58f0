"""Reading of pickle and YAML files that hold plain values: numbers, strings, lists and dictionaries."""

import pickle
from pathlib import Path
from typing import IO, Any, ClassVar

import yaml

from icd_mmrazor.errors import DatasetError

MAX_NESTING = 1000  # levels of a YAML file
# that in C is ten times as fast, and mmpretrain has 85 files to look a config up in
YAML_LOADER = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)


# of the two of the standard library the one in Python: a few bytes can have that in C take gigabytes for its memo
class _PlainUnpickler(pickle._Unpickler):
    # a bytearray takes the memory that the file says before any of it is read
    dispatch: ClassVar = {
        code: load for code, load in pickle._Unpickler.dispatch.items() if code != pickle.BYTEARRAY8[0]
    }

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f'{module}.{name} is no plain value')


def read_pickle(file: IO[bytes], **options: Any) -> Any:
    """Return the plain values of a pickle.

    Args:
        file: An opened file.
        options: As of ``pickle.load``.

    Raises:
        DatasetError: The file is damaged, or holds more than plain values; it was not unpickled.
    """
    try:
        return _PlainUnpickler(file, **options).load()
    except Exception as error:  # a parser given any bytes raises anything
        raise DatasetError(
            f'the pickle file{_name(file)} is damaged, or holds more than plain values; it was not unpickled, '
            f'because a pickle can run any code: {error}. Write it as JSON, and name that file.'
        ) from error


def read_yaml(file: IO[str], **options: Any) -> Any:  # noqa: ARG001 (the interface of mmengine's handler)
    """Return the plain values of a YAML file.

    Args:
        file: An opened file.
        options: As of ``yaml.load``; not heeded, so that no other loader can be asked for.

    Raises:
        DatasetError: The file is damaged, nested too deep, or holds more than plain values.
    """
    try:
        text = file.read()
        _check_nesting(text)
        return yaml.load(text, YAML_LOADER)
    except yaml.YAMLError as error:
        raise DatasetError(
            f'the YAML file{_name(file)} is damaged, or holds more than plain values, which can run any code: '
            f'{error}. Write it as JSON, and name that file.'
        ) from error


def _check_nesting(text: str) -> None:
    # either loader calls itself, and the process dies of some ten thousand levels; most texts cannot have so many
    if text.count('[') + text.count('{') + 2 * max(map(len, text.split('\n'))) <= MAX_NESTING:
        return
    depth = 0
    for event in yaml.parse(text, YAML_LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_NESTING:
            raise yaml.YAMLError(f'it is nested more than {MAX_NESTING} levels deep')


def _name(file: Any) -> str:
    name = getattr(file, 'name', None)
    return f' {Path(name)}' if isinstance(name, str) else ''
