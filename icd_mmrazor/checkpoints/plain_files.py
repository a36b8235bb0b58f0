"""Files of plain values (numbers, texts, arrays, tensors, containers of them): pickles, or YAML."""

import collections
import io
import pickle
import re
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy
import torch
import yaml
from mmengine.config import Config, ConfigDict
from mmrazor.structures.subnet.candidate import Candidates

from icd_mmrazor.checkpoints.allowed import allowed_in_checkpoints, values_of_checkpoints
from icd_mmrazor.errors import DatasetError

MAX_NESTING = 1000  # levels of YAML
PYTHON = 'tag:yaml.org,2002:python'


def _from_items(kind: Any) -> Any:
    return lambda items=(): kind(items if isinstance(items, list | tuple | dict) else [])


def _bytes(text: str = '', encoding: str = 'latin1') -> bytes:
    return text.encode({'latin1': 'latin1'}[encoding])


def _dtype(kind: str, *_: Any) -> numpy.dtype:
    return numpy.dtype(kind) if re.fullmatch(r'[US]\d+', kind) else NAMED['numpy.number'](kind)


def _storage(content: bytes) -> Any:
    # torch's own function of this name loads an arbitrary pickle
    with allowed_in_checkpoints():
        return torch.load(io.BytesIO(content), weights_only=True)


def _tensor(storage: Any, offset: int, size: tuple, stride: tuple, requires_grad: bool, *_: Any) -> torch.Tensor:
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if min(offset, *size, *stride, 0) < 0 or (0 not in size and last >= storage._size()):
        raise pickle.UnpicklingError('a tensor is larger than what is stored of it')
    return torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, collections.OrderedDict())


# what a pickle may name, by its module and name: functions that make values and run nothing that is given to them
NAMED: dict[str, Any] = {pair[1]: pair[0] for pair in values_of_checkpoints() if isinstance(pair, tuple)}
NAMED |= {'numpy.number': NAMED['numpy.dtype'], 'numpy.dtype': _dtype}
NAMED |= {f'torch.{name}': kind for name, kind in vars(torch).items() if isinstance(kind, torch.dtype)}
NAMED |= {
    'builtins.set': _from_items(set),
    'builtins.frozenset': _from_items(frozenset),
    'builtins.complex': complex,
    'builtins.bytes': _bytes,
    '_codecs.encode': _bytes,  # how protocol 2, which mmengine writes, has bytes
    'collections.OrderedDict': _from_items(collections.OrderedDict),
    'torch.Size': _from_items(torch.Size),
    'torch.device': torch.device,
    'torch._utils._rebuild_tensor_v2': _tensor,
    'torch._utils._rebuild_parameter': lambda data, requires_grad, _: torch.nn.Parameter(data, requires_grad),
    'torch.storage._load_from_bytes': _storage,
    f'{Candidates.__module__}.Candidates': Candidates,
    f'{Config.__module__}.Config': Config,
    f'{Config.__module__}.ConfigDict': _from_items(ConfigDict),
}


# of the two of the standard library the one in Python: a few bytes can have that in C take gigabytes for its memo
class _PlainUnpickler(pickle._Unpickler):
    # a bytearray takes the memory that the file says before any of it is read
    dispatch: ClassVar = {
        code: load for code, load in pickle._Unpickler.dispatch.items() if code != pickle.BYTEARRAY8[0]
    }

    def find_class(self, module: str, name: str) -> Any:
        module = {'__builtin__': 'builtins'}.get(module, module)
        if f'{module}.{name}' not in NAMED:
            raise pickle.UnpicklingError(f'{module}.{name} is not a plain value')
        return NAMED[f'{module}.{name}']

    def load_build(self) -> None:
        """Set the state of an object; that of a class or function would change this process."""
        state, value = self.stack.pop(), self.stack[-1]  # type: ignore[attr-defined]
        if isinstance(value, numpy.ndarray) or (isinstance(value, Config) and isinstance(state[0], ConfigDict)):
            value.__setstate__(state)
        elif isinstance(value, Candidates):
            value.data = state['data']
        elif not isinstance(value, numpy.dtype) or state[1] == '>':
            raise pickle.UnpicklingError(f'the state of a {type(value).__name__} is not a plain value')

    dispatch[pickle.BUILD[0]] = load_build  # type: ignore[assignment]


# that in C is ten times as fast, and mmpretrain has 85 files to look a config up in
class _PlainLoader(getattr(yaml, 'CSafeLoader', yaml.SafeLoader)):  # type: ignore[misc]
    """Reads what mmengine and mmrazor write: tuples, ordered dictionaries and candidates of a search too."""

    def construct_tuple(self, node: yaml.SequenceNode) -> tuple:
        return tuple(self.construct_sequence(node, deep=True))

    def construct_ordered(self, node: yaml.SequenceNode) -> dict:
        return collections.OrderedDict(*self.construct_sequence(node, deep=True))

    def construct_candidates(self, node: yaml.MappingNode) -> Candidates:
        candidates = Candidates()
        candidates.data = list(self.construct_mapping(node, deep=True).get('data', []))
        return candidates


_PlainLoader.add_constructor(f'{PYTHON}/tuple', _PlainLoader.construct_tuple)
_PlainLoader.add_constructor(f'{PYTHON}/object/apply:collections.OrderedDict', _PlainLoader.construct_ordered)
_PlainLoader.add_constructor(f'{PYTHON}/object:{Candidates.__module__}.Candidates', _PlainLoader.construct_candidates)


def read_pickle(file: IO[bytes], **options: Any) -> Any:
    """Return the values of a pickle.

    Args:
        file: An opened file.
        options: As for ``pickle.load``.

    Raises:
        DatasetError: The file is damaged, or holds more than values; it was not unpickled.
    """
    try:
        return _PlainUnpickler(file, **options).load()
    except Exception as error:  # a parser given any bytes raises anything
        raise _refusal('pickle', file, error) from error


def read_yaml(file: IO[str]) -> Any:
    """Return the values of an opened YAML file.

    Raises:
        DatasetError: The file is damaged, nested too deep, or holds more than values.
    """
    try:
        text = file.read()
        _check_nesting(text)
        return yaml.load(text, _PlainLoader)
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise _refusal('YAML', file, error) from error


def _check_nesting(text: str) -> None:
    # the loader in C calls itself, and the process dies of some ten thousand levels; most texts cannot have so many
    if text.count('[') + text.count('{') + 2 * max(map(len, text.split('\n'))) <= MAX_NESTING:
        return
    depth = 0
    for event in yaml.parse(text, _PlainLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_NESTING:
            raise yaml.YAMLError(f'it is nested more than {MAX_NESTING} levels deep')


def _refusal(kind: str, file: Any, error: Exception) -> DatasetError:
    name = getattr(file, 'name', None)
    name = f' {Path(name)}' if isinstance(name, str) else ''
    return DatasetError(
        f'the {kind} file{name} is damaged, or holds more than plain values: {error}. It was not loaded, because that '
        'could run any code. Write it as JSON, and name that file.'
    )
