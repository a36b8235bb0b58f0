"""Types that a checkpoint may hold in addition to tensors."""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import numpy
import torch
from mmengine.logging import HistoryBuffer

NUMPY_KINDS = ('b1', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'f2', 'f4', 'f8')


@contextlib.contextmanager
def allowed_in_checkpoints(also: Sequence[type] = ()) -> Iterator[None]:
    """Let ``torch.load(weights_only=True)`` read what a training of mmengine stores.

    That is ``HistoryBuffer`` objects, numpy arrays and scalars, and no others. A checkpoint may call whatever it can
    name, with any arguments, and numpy's own names run code that way: an array of Python objects is made of any bytes,
    and ``getattr`` leads everywhere. These names therefore stand for functions that only make arrays of numbers, or
    only return statistics of a ``HistoryBuffer``.

    Args:
        also: More types to allow.
    """
    others = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        with torch.serialization.safe_globals([*values_of_checkpoints(), *also]):
            yield
    finally:
        torch.serialization.add_safe_globals(others)


@functools.cache
def values_of_checkpoints() -> list[Any]:
    """Return the names that a checkpoint of mmengine may use, for ``torch.serialization.add_safe_globals``."""

    def statistic(owner: Any, name: str) -> Any:
        if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
            raise ValueError('it asks for an attribute that is not a statistic of a HistoryBuffer')
        return getattr(owner, name)

    def kind_of_numbers(kind: str, *_: Any) -> numpy.dtype:
        if kind not in NUMPY_KINDS:
            raise ValueError(f'non-numeric numpy dtype {kind!r:.40}')
        return numpy.dtype(kind)

    class NumbersAlone(numpy.ndarray):
        """Stand-in for numpy's class, which makes objects of bytes when it is called."""

        def __new__(cls, *_: Any, **__: Any) -> NoReturn:
            raise ValueError('malformed numpy array')

    def empty_array(cls: Any, shape: tuple, kind: bytes) -> numpy.ndarray:
        if cls not in (NumbersAlone, numpy.ndarray) or (shape, kind) != ((0,), b'b'):
            raise ValueError('malformed numpy array')
        return numpy.empty(0)

    scalar = (getattr(numpy, '_core', None) or numpy.core).multiarray.scalar
    allowed: list[Any] = [
        HistoryBuffer,
        slice,
        (statistic, 'builtins.getattr'),
        (kind_of_numbers, 'numpy.dtype'),
        (NumbersAlone, 'numpy.ndarray'),
        # a name without a dot: no pickle can call them, only their states can be set
        (numpy.ndarray, 'array'),
        *((type(numpy.dtype(kind)), kind) for kind in NUMPY_KINDS),
    ]
    for core in ('numpy._core', 'numpy.core'):  # of numpy 2 and numpy 1
        allowed += [(empty_array, f'{core}.multiarray._reconstruct'), (scalar, f'{core}.multiarray.scalar')]
    return allowed
