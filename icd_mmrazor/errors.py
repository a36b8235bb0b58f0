"""Errors that a user can fix."""

import copyreg
import difflib
import functools
from collections.abc import Iterable
from typing import Any

MAX_SUGGESTIONS = 16
MAX_LETTERS = 120
MAX_REASON = 300


class UserError(Exception):
    """Base class of errors that a user can fix; the tools print their message without a stack trace."""


class SettingError(UserError, ValueError):
    """A setting in a config or on the command line is wrong."""


class CheckpointError(UserError, RuntimeError):
    """A checkpoint is missing, is not a plain weights file, or does not fit the model."""


class DatasetError(UserError, RuntimeError):
    """A dataset is missing, damaged, or does not fit the model."""


class CacheError(UserError, RuntimeError):
    """The files of a teacher cache are missing or damaged, are not those of a cache, or hold wrong outputs."""


class NonFiniteLossError(UserError, ArithmeticError):
    """Training produced an infinite or undefined number."""


class _KindOfBoth(type):
    """The class of classes made by :func:`raised_as`."""


@functools.cache
def _kind_of_both(kind: type[UserError], other: type[Exception]) -> type[UserError]:
    # the message as it is, for a KeyError too; between processes the error is one of ours alone
    own = dict(__str__=BaseException.__str__, __reduce__=lambda self: (kind, self.args), bases=(kind, other))
    return _KindOfBoth(kind.__name__, (kind, other), own)


# DataLoader workers send the class of an error on its own
copyreg.pickle(_KindOfBoth, lambda both: (_kind_of_both, both.bases))


def raised_as(kind: type[UserError], message: str, error: Exception) -> UserError:
    """Explain an error so that code that catches its original class still catches it.

    Returns:
        An instance of both classes; of ``kind`` alone if the original class needs more than a message.
    """
    try:
        return kind(message) if isinstance(error, kind) else _kind_of_both(kind, type(error))(message)
    except TypeError:
        return kind(message)


def did_you_mean(name: Any, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Suggest names for an unknown one: ``' Did you mean lr?'``, or a list of the names that exist."""
    known = sorted(known)
    close = difflib.get_close_matches(str(name), known, n=4, cutoff=cutoff)
    if close:
        return f' Did you mean {" or ".join(close)}?'
    more = ', ...' if len(known) > MAX_SUGGESTIONS else ''
    return f' Available: {", ".join(known[:MAX_SUGGESTIONS])}{more}.' if known else ''


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, for a message of ours; its class if it has none."""
    return str(error).strip().partition('\n')[0][:MAX_REASON] or type(error).__name__


def printable(names: Iterable[Any], separator: str = ', ') -> str:
    """Join names that come from a file so that they are safe to print: short, without control characters."""
    short = (str(name)[:MAX_LETTERS] for name in names)
    return separator.join(''.join(letter if letter.isprintable() else '?' for letter in name) for name in short)
