"""Files that somebody made to do harm, and files that were damaged. All are made here, none is larger than 1 MB."""

import pickle
import tarfile
import zipfile
from _codecs import encode
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch._utils import _rebuild_tensor_v2
from torch.storage import TypedStorage

HUGE = 10**12


class Calls:
    """Pickles as a call of a function, then of ``__setstate__`` of what it returns."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.call = function, arguments, state

    def __reduce__(self) -> tuple:
        return self.call


def touching(trace: Path) -> Calls:
    """Return what creates a file when it is unpickled."""
    return Calls(Path.touch, trace)


def rewritten(source: Path, out: Path, compression: int = zipfile.ZIP_STORED, **members: bytes) -> None:
    """Copy an archive of torch with other contents of some members, named by their last part without its suffix."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(out, 'w', compression) as new:
        for member in old.infolist():
            new.writestr(member.filename, members.get(Path(member.filename).stem, old.read(member)))


def typed_storage(count: int) -> TypedStorage:
    """Return data of tensors, as it is in a checkpoint."""
    return TypedStorage(wrap_storage=torch.zeros(count).untyped_storage(), dtype=torch.float32, _internal=True)


def view(*shape: int, stride: tuple[int, ...] = (), data: int = 4, offset: int = 0) -> Calls:
    """Return a tensor of any shape with four numbers of data."""
    return Calls(
        _rebuild_tensor_v2, typed_storage(data), offset, shape, stride or (0,) * len(shape), False, OrderedDict()
    )


def laughs(depth: int) -> list:
    """Return lists of two that unfold to ``2 ** depth``."""
    value: list = []
    for _ in range(depth):
        value = [value, value]
    return value


def nested(depth: int) -> Any:
    """Return a list in a list in a list."""
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


def repeated_hex(times: int) -> Any:
    """Return bytes that double with every step of a pickle."""
    value = Calls(encode, 'a', 'latin1')
    for _ in range(times):
        value = Calls(encode, value, 'hex')
    return value


def contents(trace: Path) -> dict[str, Any]:
    """Return what hostile checkpoints hold."""
    weights = {'backbone.conv1.weight': torch.zeros(4), 'head.fc.weight': torch.zeros(2, 2)}
    itself: list = []
    itself.append(itself)
    return {
        'code': touching(trace),
        'code in state_dict': {'state_dict': touching(trace)},
        'code in meta': {'meta': {'cfg': touching(trace)}, 'state_dict': weights},
        'code in optimizer': {'meta': {}, 'state_dict': weights, 'optimizer': {'state': [touching(trace)]}},
        'code as a key': {'state_dict': {Calls(getattr, trace, 'touch'): 1}},
        'code by eval': {'state_dict': Calls(eval, f'open({str(trace)!r}, "w")')},
        'module': {'state_dict': torch.nn.Linear(1, 1)},
        'bytearray': {'state_dict': weights, 'meta': Calls(bytearray, HUGE)},
        'tensor type': {'state_dict': {'a': Calls(torch.FloatTensor, HUGE)}},
        'storage type': {'state_dict': {'a': Calls(torch.UntypedStorage, HUGE)}},
        'hex': {'state_dict': weights, 'meta': repeated_hex(60)},
        'one element many times': {'state_dict': {'a': view(HUGE, HUGE)}},
        'beyond its data': {'state_dict': {'a': view(5, stride=(1,))}},
        'before its data': {'state_dict': {'a': view(2, stride=(1,), offset=-1)}},
        'negative': {'state_dict': {'a': view(-1, stride=(1,))}},
        'overflowing': {'state_dict': {'a': view(2**62, 4, 2**62)}},
        'empty and long': {'state_dict': {'a': view(HUGE, 0)}},
        'set again': {'state_dict': {'a': Calls(torch.Tensor, state=(typed_storage(1), 0, (HUGE,), (0,)))}},
        'sparse': {'state_dict': {'a': torch.eye(2).to_sparse()}},
        'complex': {'state_dict': {'a': torch.zeros(2, dtype=torch.complex64)}},
        'meta device': {'state_dict': {'a': torch.zeros(2, 3, device='meta')}},
        'numpy objects': {'state_dict': weights, 'meta': np.array([{}], dtype=object)},
        'numpy pointers': {'state_dict': weights, 'meta': Calls(np.dtype, 'V8', False, True, state=POINTERS)},
        'laughs': {'state_dict': weights, 'meta': laughs(60)},
        'nested': {'state_dict': weights, 'meta': nested(200)},
        'itself': {'state_dict': weights, 'meta': itself},
        'key of tuples': {'state_dict': weights, 'meta': {_tuples(60): 1}},
    }


# a dtype of Python objects that says it holds none
POINTERS = (3, '|', None, ('a',), {'a': (np.dtype('O'), 0)}, 8, 1, 0)


class _Tuples(tuple):
    """A tuple of tuples that takes no time to hash here."""

    def __hash__(self) -> int:
        return 0

    def __reduce__(self) -> tuple:
        return tuple, (list(self),)


def _tuples(depth: int) -> Any:
    value: Any = ()
    for _ in range(depth):
        value = _Tuples((value, value))
    return value


def write(content: Any, file: Path, legacy: bool = False) -> Path:
    """Write a checkpoint as torch does since 1.6, or as it did before."""
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file


def damaged(whole: Path, folder: Path, trace: Path) -> dict[str, Path]:
    """Write what a checkpoint becomes, and what is none.

    Args:
        whole: A checkpoint.
        folder: Where the files go.
        trace: What appears if one of them is run.
    """
    content = whole.read_bytes()
    with zipfile.ZipFile(whole) as archive:
        data = next(member for member in archive.infolist() if '/data/' in member.filename)
    flipped = bytearray(content)
    flipped[content.index(archive_data(whole, data.filename)) + 1] ^= 4
    plain = {
        'pickle': pickle.dumps({'state_dict': touching(trace)}),
        'empty': b'',
        'text': b'state_dict',
        'picture': b'\x89PNG\r\n\x1a\n' + bytes(100),
        'cut at 4 bytes': content[:4],
        'cut in half': content[: len(content) // 2],
        'cut at the end': content[:-30],
        'twice': content + content,
        'flipped bit': bytes(flipped),
        'nothing but a directory': b'PK\x05\x06' + bytes(18),
    }
    files = {name: folder / f'{name}.pth' for name in (*plain, 'tar', 'bomb', 'short data', 'two pickles', 'folder')}
    for name, bytes_ in plain.items():
        files[name].write_bytes(bytes_)
    with tarfile.open(files['tar'], 'w') as tar:
        (folder / 'part').write_bytes(pickle.dumps(touching(trace)))
        for name in ('storages', 'tensors', 'pickle', '../escaped'):
            tar.add(folder / 'part', name)
        (folder / 'part').unlink()
    rewritten(whole, files['bomb'], zipfile.ZIP_DEFLATED, **{Path(data.filename).stem: bytes(20_000_000)})
    rewritten(whole, files['short data'], **{Path(data.filename).stem: bytes(2)})
    rewritten(whole, files['two pickles'])
    with zipfile.ZipFile(files['two pickles'], 'a') as archive:
        archive.writestr(data.filename.partition('/')[0] + '/DATA.pkl', pickle.dumps(touching(trace), protocol=2))
    files['folder'].mkdir()
    files['dangling link'] = folder / 'link.pth'
    files['dangling link'].symlink_to(folder / 'nothing')
    return files


def archive_data(file: Path, name: str) -> bytes:
    """Return a member of an archive."""
    with zipfile.ZipFile(file) as archive:
        return archive.read(name)


def below(folder: Path) -> set[Path]:
    """Return all files below a folder."""
    return {path for path in folder.rglob('*') if not path.is_dir()}
