"""Files that somebody made to do harm, and files that were damaged. All are made here, none is larger than 1 MB."""

import io
import pickle
import resource
import struct
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
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


def contents(trace: Path) -> dict[str, Any]:
    """Return what hostile checkpoints hold.

    Args:
        trace: What appears if one of them is run.
    """
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
        'numpy objects over bytes': {'state_dict': weights, 'meta': Calls(np.ndarray, (2,), 'O', b'a' * 16)},
        'numpy flags': {'state_dict': weights, 'meta': Calls(np.dtype, 'i8', False, True, state=FLAGS)},
        'another method': {'state_dict': weights, 'meta': Calls(getattr, HistoryBuffer, '__getattribute__')},
        'numpy pointers': {'state_dict': weights, 'meta': Calls(np.dtype, 'V8', False, True, state=POINTERS)},
        'laughs': {'state_dict': weights, 'meta': laughs(60)},
        'nested': {'state_dict': weights, 'meta': nested(200)},
        'itself': {'state_dict': weights, 'meta': itself},
        'key of tuples': {'state_dict': weights, 'meta': {_tuples(60): 1}},
    }


# a dtype of numbers that says it holds Python objects, and one of them that says it holds none
FLAGS = (3, '<', None, None, None, -1, -1, 63)
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
        'flipped bit': bytes(flipped),
        'nothing but a directory': b'PK\x05\x06' + bytes(18),
    }
    files = {name: folder / f'{name}.pth' for name in (*plain, 'tar', 'bomb', 'short data', 'folder')}
    for name, bytes_ in plain.items():
        files[name].write_bytes(bytes_)
    with tarfile.open(files['tar'], 'w') as tar:
        (folder / 'part').write_bytes(pickle.dumps(touching(trace)))
        for name in ('storages', 'tensors', 'pickle', '../escaped'):
            tar.add(folder / 'part', name)
        (folder / 'part').unlink()
    rewritten(whole, files['bomb'], zipfile.ZIP_DEFLATED, **{Path(data.filename).stem: bytes(20_000_000)})
    rewritten(whole, files['short data'], **{Path(data.filename).stem: bytes(2)})
    files['folder'].mkdir()
    files['dangling link'] = folder / 'link.pth'
    files['dangling link'].symlink_to(folder / 'nothing')
    return files


def archive_data(file: Path, name: str) -> bytes:
    """Return a member of an archive."""
    with zipfile.ZipFile(file) as archive:
        return archive.read(name)


def pickled(operations: bytes, file: Path) -> Path:
    """Write a checkpoint of any pickle."""
    with zipfile.ZipFile(file, 'w') as archive:
        archive.writestr('archive/data.pkl', pickle.PROTO + b'\x02' + operations + pickle.STOP)
        archive.writestr('archive/version', '3')
    return file


def text(value: str) -> bytes:
    """Return a string in a pickle."""
    return pickle.BINUNICODE + struct.pack('<I', len(value)) + value.encode()


def bombs() -> dict[str, bytes]:
    """Return small pickles that would take much memory or time if each object were a copy."""
    long = pickle.MARK + 20_000 * pickle.NONE + pickle.TUPLE
    first = pickle.BINGET + b'\x00'
    pair = text('a' * 20_000) + b'q\x00' + text('latin1') + b'q\x01'
    pairs = pickle.EMPTY_LIST + pickle.MARK + 5_000 * (b'K\x01' + b'N\x86') + pickle.APPENDS
    integers = b''.join(b'\x8a\x0b' + (i * (2**61 - 1)).to_bytes(11, 'little') + b'N' for i in range(1, 9))
    return {
        'bytes': b'](' + pair + 10 * (ENCODE + b'R') + b'e',
        'size': b'](' + long + b'\x85q\x00' + 9 * (b'ctorch\nSize\n' + first + b'R') + b'e',
        'size made': b'](' + long + b'\x85q\x00' + 9 * (b'ctorch\nSize\n' + first + b'\x81') + b'e',
        'dictionary': b'](' + pairs + b'\x85q\x00' + 9 * (ORDERED + first + b'R') + b'e',
        'counter': b'](' + COUNTS + b'\x85q\x00' + 9 * (b'ccollections\nCounter\n' + first + b'R') + b'e',
        'attributes': b'](' + COUNTS + b'q\x00' + 9 * (ORDERED + b')R' + first + b'b') + b'e',
        'not a tuple': b'](' + pairs + b'q\x00' + ORDERED + first + b'Re',
        'integers of one hash': b'}(' + integers + b'u',
        'objects': b'](' + 10_000 * pickle.EMPTY_DICT + b'e',
        'marks': 10_001 * pickle.MARK,
        'state of a type': b'ctorch\nSize\nN}U\x01aK\x01s\x86b',
    }


ENCODE = b'c_codecs\nencode\nh\x00h\x01\x86'
ORDERED = b'ccollections\nOrderedDict\n'
COUNTS = b'}(' + b''.join(b'M' + struct.pack('<H', i) + b'N' for i in range(5_000)) + b'u'


def with_two_contents(folder: Path) -> dict[str, Path]:
    """Write archives in which one reader may see one checkpoint and another reader another."""
    seen, unseen = io.BytesIO(), io.BytesIO()
    torch.save({'a': torch.ones(4)}, seen)
    torch.save({'b': view(10, 10)}, unseen)
    # the members of both, then a directory of each
    first, first_directory = _members(seen.getvalue(), 0)
    second, _ = _members(unseen.getvalue(), 0)
    _, second_directory = _members(unseen.getvalue(), len(first))
    members, size = first + second, len(first_directory)
    count = first_directory.count(b'PK\x01\x02')
    assert size == len(second_directory)

    def end(entries: int, bytes_: int, offset: int, comment: bytes = b'') -> bytes:
        return struct.pack('<4s4H2LH', b'PK\x05\x06', 0, 0, entries, entries, bytes_, offset, len(comment)) + comment

    def end64(offset: int) -> bytes:
        return struct.pack('<4sQ2H2L4Q', b'PK\x06\x06', 44, 45, 45, 0, 0, count, count, size, offset)

    # after the end, which points to it
    _, shifted = _members(seen.getvalue(), size + 22)
    trailing = members + shifted + end(count, size, len(members) + size + 22) + second_directory
    # by a record that the locator points to
    hidden = members + second_directory + end64(len(members))
    visible = hidden + first_directory + end64(len(hidden))
    locator = struct.pack('<4sLQL', b'PK\x06\x07', 0, len(hidden) - 56, 1)
    located = visible + locator + end(0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
    # in a comment
    commented = members + first_directory + end(count, size, len(members), b'comment')
    # before the one that is read, which is where the end says it is not
    stated = members + second_directory + first_directory + end(count, size, len(members))
    contents = dict(trailing=trailing, located=located, commented=commented, stated=stated)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    # of which the one is code
    (folder / 'pickles').write_bytes(seen.getvalue())
    with zipfile.ZipFile(folder / 'pickles', 'a') as archive:
        code = pickle.dumps(touching(folder / 'trace'), protocol=2)
        archive.writestr(archive.namelist()[0].partition('/')[0] + '/DATA.pkl', code)
    return {name: folder / name for name in (*contents, 'pickles')}


def _members(archive: bytes, shift: int) -> tuple[bytes, bytes]:
    """Return the members of an archive, and a directory of them whose stated places are so much larger."""
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        start, members = opened.start_dir, opened.infolist()
    directory = b''
    for m in members:
        offset = m.header_offset + shift
        fields = (20, 0, 20, 0, 0, 0, 0, 0, m.CRC, m.compress_size, m.file_size, len(m.filename), 0, 0, 0, 0, 0, offset)
        directory += struct.pack('<4s4B4HL2L5H2L', b'PK\x01\x02', *fields) + m.filename.encode()
    return archive[:start], directory


@contextmanager
def bounded(extra: int) -> Iterator[None]:
    """Let this process have so many bytes more than it has."""
    pages = int(Path('/proc/self/statm').read_text().split()[0])
    old = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + extra, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, old)


def below(folder: Path) -> set[Path]:
    """Return all files below a folder."""
    return {path for path in folder.rglob('*') if not path.is_dir()}
