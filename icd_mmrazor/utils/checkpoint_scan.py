"""What a checkpoint holds is known before any of it is made: names, numbers and sizes; nothing is run or allocated.

``torch.load(weights_only=True)`` runs no code, but it believes what a file says of its sizes, and does not compare
checksums: a few bytes can ask it for 100 GB or for hours, and before torch 2.10 for memory beyond the file's own. So
every file is gone through first, with stand-ins for all objects.
"""

import io
import math
import pickle
import struct
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

ZIP = b'PK\x03\x04'
# the last records of a zip archive, https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT (4.3.14 to 4.3.16)
END, END_BYTES = b'PK\x05\x06', 22
LOCATOR64, LOCATOR64_BYTES = b'PK\x06\x07', 20
END64, END64_BYTES = b'PK\x06\x06', 56
# before torch 1.6 the content comes after three pickles: a magic number, a version, a description of the system
LEGACY_HEADERS = 3
MAX_ITEMS = 20_000_000  # in all dictionaries and lists, those that are referred to twice counted twice
MAX_OBJECTS = 1_000_000  # that are no numbers and no text; a tensor takes about ten
MAX_DEPTH = 100
MAX_KEY = 2**48  # torch before 1.6 named optimizer states by addresses; numbers that collide begin at 2**61 - 1
MAX_EMPTY = 100_000  # length of a side of a tensor without elements
ELEMENT_BYTES = {
    'Double': 8,
    'Float': 4,
    'Half': 2,
    'BFloat16': 2,
    'Long': 8,
    'Int': 4,
    'Short': 2,
    'Char': 1,
    'Byte': 1,
    'Bool': 1,
}
DTYPES = ('float64', 'float32', 'float16', 'bfloat16', 'int64', 'int32', 'int16', 'int8', 'uint8', 'bool')
NUMPY_KINDS = ('b1', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'f2', 'f4', 'f8')
# numpy's state of such a dtype after its byte order: no parts, names and fields, sizes of its own, no flags
PLAIN_DTYPE = (None, None, None, -1, -1, 0)
# what torch writes
OPERATIONS = (
    *(
        'PROTO',
        'STOP',
        'GLOBAL',
        'BUILD',
        'BINPUT',
        'LONG_BINPUT',
        'BINGET',
        'LONG_BINGET',
        'NONE',
        'NEWTRUE',
        'NEWFALSE',
    ),
    *('BININT', 'BININT1', 'BININT2', 'LONG1', 'BINFLOAT', 'BINUNICODE', 'SHORT_BINSTRING'),
    *('APPEND', 'APPENDS', 'SETITEM', 'SETITEMS'),
)
# those of one byte that make an object of a hundred
MAKING_OPERATIONS = (
    *('MARK', 'REDUCE', 'NEWOBJ', 'BINPERSID', 'EMPTY_LIST', 'EMPTY_DICT'),
    *('EMPTY_TUPLE', 'TUPLE', 'TUPLE1', 'TUPLE2', 'TUPLE3'),
)


def scan_checkpoint(file: BinaryIO, also_allowed: Sequence[type] = ()) -> None:
    """Check that a checkpoint is whole and holds nothing but tensors, each as large as its data, and plain values.

    The checksum of every member of a zip archive, which torch writes since 1.6, is compared; older files have none.

    Args:
        file: The file, at its beginning. It is left at another place.
        also_allowed: Types that it may hold beside those.

    Raises:
        ValueError: It holds anything else, or is damaged; the message says what. Damage may raise anything.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    zipped = file.read(len(ZIP)) == ZIP
    file.seek(0)
    if zipped:
        content, members = _read_archive(file, size)
        scan = _Scan(io.BytesIO(content), len(content), also_allowed)
        value = scan.load()
        for key, storage in scan.storages.items():
            if members.get(f'data/{key}') != storage.bytes:
                raise ValueError(f'data/{key} has {members.get(f"data/{key}")} bytes, its tensors say {storage.bytes}')
    else:
        for _ in range(LEGACY_HEADERS):
            _Scan(file, size).load()
        scan = _Scan(file, size, also_allowed)
        value = scan.load()
        needed = sum(storage.bytes for storage in scan.storages.values())
        if needed > size:
            raise ValueError(f'its tensors need {needed:,} bytes, the file has {size:,}')
        if sorted(_Scan(file, size).load()) != sorted(scan.storages):
            raise ValueError('it has not the data of all its tensors')
    if _measure(value, {})[0] > MAX_ITEMS:
        raise ValueError(f'its lists and dictionaries unfold to more than {MAX_ITEMS:,} items')


def _read_archive(file: BinaryIO, size: int) -> tuple[bytes, dict[str, int]]:
    """Return the pickle of an archive, and how many bytes each of its members has; all were read once."""
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        names = [member.filename for member in members]
        if not _has_one_directory(file, size, archive.start_dir) or min(member.header_offset for member in members):
            raise ValueError('there is more in the file than one archive')
        if len({name.lower() for name in names}) < len(names):  # torch's reader takes a for A
            raise ValueError('two members of the archive have one name')
        if any(member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1 for member in members):
            raise ValueError('members of the archive are compressed or encrypted; torch.save writes them as they are')
        if sum(member.file_size for member in members) > size:
            raise ValueError(f'the members of the archive claim to be larger than its {size:,} bytes')
        damaged = archive.testzip()
        if damaged:
            raise ValueError(f'{damaged} in the archive has not the checksum that it was written with')
        folder = names[0].partition('/')[0] + '/'
        content = archive.read(f'{folder}data.pkl')
    return content, {member.filename.removeprefix(folder): member.file_size for member in members}


def _has_one_directory(file: BinaryIO, size: int, start: int) -> bool:
    """Return whether all that an archive states of its directory leads to the one that zipfile read.

    zipfile takes the directory that lies before the last records; torch's reader goes where these point to.

    Args:
        file: The archive.
        size: Its size in bytes.
        start: Where the directory begins that zipfile read.
    """
    file.seek(-END_BYTES, io.SEEK_END)
    signature, stated, comment_bytes = struct.unpack('<4s12xLH', file.read(END_BYTES))
    if signature != END or comment_bytes:
        return False
    at64 = size - END_BYTES - LOCATOR64_BYTES - END64_BYTES
    if at64 < 0:
        return stated == start
    file.seek(at64)
    end64, stated64, locator, locator_points_to = struct.unpack(
        '<4s44xQ4s4xQ4x', file.read(END64_BYTES + LOCATOR64_BYTES)
    )
    if locator != LOCATOR64:
        return stated == start
    return end64 == END64 and locator_points_to == at64 and stated64 == start and stated in (start, 0xFFFFFFFF)


def _measure(value: Any, known: dict[int, tuple[int, int]], depth: int = 0) -> tuple[int, int]:
    """Return how many items there are in a container with all that is in them, and how deep they lie."""
    if not isinstance(value, Mapping | list | tuple):
        return 1, 0
    if id(value) not in known:
        if depth > MAX_DEPTH:  # as what holds itself is
            raise ValueError(f'its lists and dictionaries are nested more than {MAX_DEPTH} deep')
        inner = [_measure(v, known, depth + 1) for v in (value.values() if isinstance(value, Mapping) else value)]
        known[id(value)] = 1 + sum(items for items, _ in inner), 1 + max((height for _, height in inner), default=0)
    items, height = known[id(value)]
    if depth + height > MAX_DEPTH:
        raise ValueError(f'its lists and dictionaries are nested more than {MAX_DEPTH} deep')
    return items, height


def _count(shape: Any) -> int:
    """Return the number of elements of a shape."""
    if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError('a shape is not of numbers from 0')
    return math.prod(shape)


def _check_keys(keys: Sequence[Any]) -> None:
    # the hash of a tuple of tuples of tuples can take forever
    if not all(isinstance(key, str | int | float | None) for key in keys):
        raise ValueError('a dictionary has other keys than strings and numbers')
    # as can the search for one of many integers of one hash
    if any(isinstance(key, int) and abs(key) >= MAX_KEY for key in keys):
        raise ValueError(f'a dictionary has an integer of {MAX_KEY:,} or more as a key')


class _Storage:
    """Stands in for the numbers of tensors."""

    def __init__(self, count: int, element_bytes: int) -> None:
        self.count = count
        self.bytes = count * element_bytes


class _Tensor:
    """Stands in for a tensor."""

    def __init__(self, storage: _Storage, offset: int, size: tuple, stride: tuple, *_: Any) -> None:
        if not isinstance(storage, _Storage) or len(size) != len(stride):
            raise ValueError('a tensor is not written as torch does')
        count, _ = _count(size), _count((offset, *stride))
        last = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True))
        # more elements than there is data for would be one element many times, and a side of what is empty anything
        if (max(count, last + 1) > storage.count) if count else (max(size) > MAX_EMPTY):
            raise ValueError(f'a tensor of shape {tuple(size)} has data for {storage.count:,} elements only')

    def __setstate__(self, state: Any) -> None:
        raise ValueError('a tensor is not written as torch does')


class _Parameter(_Tensor):
    def __init__(self, data: _Tensor, *_: Any) -> None:
        if not isinstance(data, _Tensor):
            raise ValueError('a parameter is none of a tensor')


class _Object:
    """Stands in for an object of an allowed type."""

    def __setstate__(self, state: Any) -> None:
        pass


class _Size(tuple):
    """Stands in for ``torch.Size``."""


class _NumpyKind:
    """Stands in for a numpy dtype of numbers. One with fields could take any memory for Python objects."""

    def __init__(self, kind: str, *_: Any) -> None:
        if kind not in NUMPY_KINDS:
            raise ValueError(f'a numpy dtype is none of {", ".join(NUMPY_KINDS)}')
        self.bytes = int(kind[1:])

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or state[2:] != PLAIN_DTYPE or state[1] not in ('<', '>', '|', '='):
            raise ValueError('a numpy dtype is none of numbers')


class _NumpyArray:
    """Stands in for a numpy array."""

    def __init__(self, *args: Any) -> None:
        if len(args) != 3 or args[1:] != ((0,), b'b'):
            raise ValueError('a numpy array is not written as numpy does')

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, _, content = state
        if not isinstance(kind, _NumpyKind) or not isinstance(content, bytes):
            raise ValueError('a numpy array is none of numbers')
        if _count(shape) * kind.bytes != len(content):
            raise ValueError('a numpy array has another size than its data')


def _numpy_scalar(kind: Any, content: Any) -> float:
    if not isinstance(kind, _NumpyKind) or not isinstance(content, bytes) or len(content) != kind.bytes:
        raise ValueError('a numpy scalar is no number')
    return 0.0


def _ordered(pairs: Sequence[Sequence] = ()) -> OrderedDict:
    _check_keys([key for key, _ in pairs])
    return OrderedDict(pairs)


def _counter(counts: dict) -> Counter:
    if not isinstance(counts, dict):
        raise ValueError('a Counter is none of a dictionary')
    return Counter(counts)


def _as_bytes(text: str, encoding: str) -> bytes:
    if encoding != 'latin1':  # 'hex' doubles what it is given, again and again
        raise ValueError('bytes are not written as pickle does')
    return text.encode('latin1')


def _stand_in(*_: Any) -> None:
    return None


STAND_INS: dict[str, Any] = {
    'collections.OrderedDict': _ordered,
    'collections.Counter': _counter,
    'torch.Size': _Size,
    'torch.device': _stand_in,
    **{f'torch.{dtype}': None for dtype in DTYPES},
    'torch._utils._rebuild_tensor': _Tensor,
    'torch._utils._rebuild_tensor_v2': _Tensor,
    'torch._utils._rebuild_parameter': _Parameter,
    # as pickle writes bytes, a HistoryBuffer of mmengine, and numpy's numbers
    '_codecs.encode': _as_bytes,
    '__builtin__.getattr': _stand_in,
    '__builtin__.slice': _stand_in,
    'mmengine.logging.history_buffer.HistoryBuffer': _Object,
    'numpy.dtype': _NumpyKind,
    'numpy.ndarray': None,
    **{f'numpy.{core}.multiarray._reconstruct': _NumpyArray for core in ('core', '_core')},
    **{f'numpy.{core}.multiarray.scalar': _numpy_scalar for core in ('core', '_core')},
}


def _counted(load: Callable) -> Callable:
    """Return an operation that counts what it makes."""

    def load_counted(scan: '_Scan') -> None:
        scan.objects += 1
        if scan.objects > MAX_OBJECTS:
            raise ValueError(f'it holds more than {MAX_OBJECTS:,} objects')
        load(scan)

    return load_counted


class _Operations(dict):
    def __missing__(self, operation: int) -> Callable:
        raise ValueError(f'it has an operation {operation:#04x}, which is none of torch.save')


class _Scan(pickle._Unpickler):
    """Goes through a pickle with stand-ins for all objects that torch writes, and refuses all others."""

    def __init__(self, file: BinaryIO, size: int, also_allowed: Sequence[type] = ()) -> None:
        super().__init__(file, encoding='utf-8')
        self.size = size  # of the pickle at most, bytes
        self.objects = 0
        self.copied = 0
        self.allowed = {**STAND_INS, **{f'{cls.__module__}.{cls.__qualname__}': _Object for cls in also_allowed}}
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands in for an object."""
        full = f'{module}.{name}'
        if module == 'torch' and name.removesuffix('Storage') in ELEMENT_BYTES:
            return name.removesuffix('Storage')
        if full not in self.allowed:
            raise ValueError(f'Unsupported: {full:.100} is no plain value')
        return self.allowed[full]

    def persistent_load(self, pid: Any) -> _Storage:
        """Return what stands in for the data of tensors."""
        if not isinstance(pid, tuple) or len(pid) not in (5, 6):
            raise ValueError('the data of a tensor are not written as torch does')
        what, kind, key, location, count, *view = pid
        if (what, *view) not in (('storage',), ('storage', None)) or not isinstance(location, str):
            raise ValueError('the data of a tensor are not written as torch does')
        if not isinstance(key, str):
            raise ValueError('the data of a tensor have no name')
        return self.storages.setdefault(key, _Storage(_count((count,)), ELEMENT_BYTES[kind]))

    def load_setitem(self) -> None:
        """Put an item into a dictionary."""
        _check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        """Put items into a dictionary."""
        _check_keys(self.stack[::2])
        super().load_setitems()

    def load_reduce(self) -> None:
        """Call a stand-in."""
        self._count_copied(self.stack[-1])
        super().load_reduce()

    def load_newobj(self) -> None:
        """Make an object."""
        self._count_copied(self.stack[-1])
        super().load_newobj()

    def load_build(self) -> None:
        """Set the state of an object."""
        made, state = self.stack[-2:]
        if isinstance(made, OrderedDict) and isinstance(state, dict):
            self._count_copied((state,))
        elif not isinstance(made, _Tensor | _NumpyKind | _NumpyArray | _Object):
            raise ValueError(f'the state of a {type(made).__name__} is not written as torch does')
        super().load_build()

    def _count_copied(self, arguments: Any) -> None:
        """Refuse what is written once and copied again and again."""
        if not isinstance(arguments, tuple):
            raise ValueError('the arguments of a call are no tuple')
        self.copied += len(arguments)
        self.copied += sum(len(argument) for argument in arguments if isinstance(argument, Sequence | Mapping))
        if self.copied > self.size:
            raise ValueError('its objects repeat more than is written in it')

    dispatch = _Operations(
        {getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]] for name in OPERATIONS}
    )
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    for _name in MAKING_OPERATIONS:
        _code = getattr(pickle, _name)[0]
        dispatch[_code] = _counted(pickle._Unpickler.dispatch[_code])
    dispatch[pickle.REDUCE[0]] = _counted(load_reduce)
    dispatch[pickle.NEWOBJ[0]] = _counted(load_newobj)
