"""Rows of stored outputs in files that several processes share."""

import logging
import mmap
import os
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log

from icd_mmrazor.errors import CacheError, SettingError
from icd_mmrazor.models.teacher_cache.store_folder import (
    CHECK_BYTES,
    CHECKS,
    OTHER_PLACE,
    PATH,
    ROWS,
    check_facts,
    check_space,
    create_folder,
    padded,
    read_about,
    readable_size,
    size_of_files,
    unreadable,
)

# the factors of the checks; they belong to the version of the files
SEED = 20190517


class OutputStore:
    """A table of outputs in a folder, which fills up over several processes and runs.

    The folder holds ``about.json`` (what is stored), ``rows.bin`` (the rows, in a sparse file) and ``checks.bin`` (a
    checksum for each row, which covers its number, too; 0: not stored). Every row that is read is compared with its
    checksum, and counts as missing if it differs. So a row that was half written when a process was killed, or that
    changed on the disk, is never used.

    Rows are read through a mapping of the file. They are written by ``pwrite``, because a full disk then is an error
    that can be handled. Processes may write the same rows at the same time, with the same values.

    The file system must support sparse files and shared mappings. On a network file system, a machine may see the rows
    of another one late; it then computes them itself.

    Args:
        folder: The folder; it is created if it is missing.
        rows: The number of rows.
        row_bytes: The number of bytes in a row.
        facts: What the outputs depend on, in values of JSON. An existing folder must have the same; facts of the folder
            that are not given here do not count.
        max_size: The most bytes that the files may take.

    Raises:
        SettingError: The files are too large for ``max_size`` or for the disk, the folder cannot be created, or it
            holds outputs of something else.
        CacheError: The folder is damaged, or is not a cache.
    """

    def __init__(self, folder: Path, rows: int, row_bytes: int, facts: Mapping[str, Any], max_size: int) -> None:
        folder = Path(folder).absolute()
        size = size_of_files(rows, row_bytes)
        if size > max_size:
            raise SettingError(
                f'model.teacher_cache.max_size is {readable_size(max_size)}, and the files need {readable_size(size)}. '
                "Store fewer views, dtype='bfloat16' or only the top_k logits, or give a larger max_size."
            )
        if self.about(folder) is None:
            create_folder(folder, rows, row_bytes, facts)
        self._map(folder, facts, rows=rows, row_bytes=row_bytes)
        if self.writable and not self.complete:
            check_space(folder, size)

    @classmethod
    def open(cls, folder: Path, facts: Mapping[str, Any]) -> 'OutputStore':
        """Open an existing folder as it is.

        Raises:
            SettingError: Its facts differ from those that are given.
            CacheError: It is missing or damaged, or is not a cache.
        """
        store = cls.__new__(cls)
        store._map(Path(folder).absolute(), facts)
        return store

    @staticmethod
    def about(folder: Path) -> dict[str, Any] | None:
        """Return what a folder says about itself: its ``version``, ``rows``, ``row_bytes`` and ``facts``.

        Returns:
            None if the folder holds no cache: it is missing or empty, or its creation was interrupted.

        Raises:
            CacheError: The folder is damaged, or is not a cache.
        """
        return read_about(Path(folder))

    @property
    def filled(self) -> int:
        """The number of rows that are stored."""
        return int(np.count_nonzero(self._checks))

    @property
    def complete(self) -> bool:
        """Whether all rows are stored."""
        return self.filled == self.rows

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read rows.

        Args:
            rows: Their numbers, ``B``.

        Returns:
            Their bytes, ``B x row_bytes``, and which of them are stored, ``B``. The others' bytes are 0.
        """
        rows = self._numbers(rows)
        # before the rows, which are written first
        checks = self._checks.take(rows)
        stored = checks != 0
        if stored.all():
            words = self._words.take(rows, axis=0)
        else:
            words = np.zeros((len(rows), self._words.shape[1]), self._words.dtype)
            words[stored] = self._words.take(rows[stored], axis=0)
        found = checks == self._checks_of(rows, words)
        damaged = stored & ~found
        if damaged.any():
            words[damaged] = 0
            self._warn_of_damage(int(damaged.sum()))
        return np.ascontiguousarray(words.view(np.uint8)[:, : self.row_bytes]), found

    def write(self, rows: np.ndarray, values: np.ndarray) -> bool:
        """Write rows.

        Args:
            rows: Their numbers, ``B``.
            values: Their bytes, ``B x row_bytes``, uint8.

        Returns:
            Whether they are stored. False if the folder cannot be written, or once the disk is full; this is logged
            once, and later calls do nothing.
        """
        if not self.writable:
            if not self._told:
                self._told = True
                print_log(f'{self.folder} is read-only: no more outputs of the teacher are stored.', logger='current')
            return False
        rows, values = self._numbers(rows), np.asarray(values)
        if values.shape != (len(rows), self.row_bytes) or values.dtype != np.uint8:
            raise ValueError(f'expected uint8 values of shape {(len(rows), self.row_bytes)}, got {values.shape}')
        rows, first = np.unique(rows, return_index=True)
        whole = np.zeros((len(rows), padded(self.row_bytes)), np.uint8)
        whole[:, : self.row_bytes] = values[first]
        checks = self._checks_of(rows, whole.view('<u4'))
        try:
            # a row comes before its check: if the process ends in between, it is not stored
            for file, content in (self._rows_file, whole), (self._checks_file, checks[:, None].view(np.uint8)):
                for start, stop in _consecutive(rows):
                    _write_all(file, content[start:stop], int(rows[start]) * content.shape[1])
        except OSError as error:
            self.writable, self._told = False, True
            print_log(
                f'{self.folder}: no more outputs of the teacher are stored: {error.strerror or error}. '
                f'The {self.filled} of {self.rows} rows that are stored stay in use.',
                logger='current',
                level=logging.WARNING,
            )
        return self.writable

    def _map(self, folder: Path, facts: Mapping[str, Any], **table: int) -> None:
        about = self.about(folder)
        if about is None:
            raise CacheError(f'{folder} is not a teacher cache. Give the {PATH} of an existing one.')
        check_facts(folder, about, facts, table)
        self.folder, self.facts = folder, about['facts']
        self.rows, self.row_bytes = about['rows'], about['row_bytes']
        self.size = size_of_files(self.rows, self.row_bytes)
        self.writable, self._told = True, False
        self._damaged, self._next_warning = 0, 1
        self._rows_file, rows = self._mapped(ROWS, self.rows * padded(self.row_bytes))
        self._checks_file, checks = self._mapped(CHECKS, self.rows * CHECK_BYTES)
        self._words = np.frombuffer(rows, '<u4').reshape(self.rows, -1)
        self._checks = np.frombuffer(checks, '<u8')
        # the streams of a bit generator are the same in each version of NumPy
        factors = np.random.PCG64(SEED).random_raw(1 + self._words.shape[1]).astype(np.uint64) | np.uint64(1)
        self._row_factor, self._factors = factors[0], factors[1:]

    def _mapped(self, name: str, size: int) -> tuple[int, mmap.mmap]:
        path = self.folder / name
        try:
            try:
                file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except OSError:
                self.writable = False
                file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            weakref.finalize(self, os.close, file)
            if (found := os.fstat(file).st_size) != size:
                raise CacheError(f'{path} is damaged: it has {found} bytes instead of {size}. {OTHER_PLACE}')
            return file, mmap.mmap(file, size, prot=mmap.PROT_READ)
        except FileNotFoundError:
            raise CacheError(f'{path} is missing. {OTHER_PLACE}') from None
        except OSError as error:
            raise unreadable(path, error) from error

    def _numbers(self, rows: np.ndarray) -> np.ndarray:
        rows = np.asarray(rows, np.int64)
        if rows.size and not 0 <= rows.min() <= rows.max() < self.rows:
            raise IndexError(f'rows {rows.min()} to {rows.max()} of a table with {self.rows} rows')
        return rows

    def _checks_of(self, rows: np.ndarray, words: np.ndarray) -> np.ndarray:
        # Every factor is odd, so that a bit that flips in a row changes the sum. Words have half of its bits, so that
        # any other change shows, too, but for one in 2^32. A check is odd, hence not 0; no factor is 1 or -1, so that
        # this hides no flip
        sums = words.astype(np.uint64) @ self._factors + (rows.astype(np.uint64) + np.uint64(1)) * self._row_factor
        return sums | np.uint64(1)

    def _warn_of_damage(self, number: int) -> None:
        self._damaged += number
        if self._damaged >= self._next_warning:
            # then after ten times as many
            self._next_warning = 10 * self._damaged
            print_log(
                f'{self.folder}: {self._damaged} rows that were read are damaged, and count as missing. A few are '
                'what a power cut leaves. If there are more and more, check the disk.',
                logger='current',
                level=logging.WARNING,
            )

    def __deepcopy__(self, memo: dict) -> 'OutputStore':
        return self

    def __reduce__(self) -> tuple:
        return OutputStore.open, (self.folder, {})


def _consecutive(rows: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield the start and the end of each run of consecutive numbers in ascending ones."""
    starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
    return zip(starts.tolist(), [*starts[1:].tolist(), len(rows)], strict=False)


def _write_all(file: int, content: np.ndarray, offset: int) -> None:
    rest = memoryview(content).cast('B')
    while rest:
        written = os.pwrite(file, rest, offset)
        rest, offset = rest[written:], offset + written
