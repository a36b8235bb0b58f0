"""Checks of constructor arguments.

Each but :func:`feature_map` takes the object that has a setting (or the name of its class), the name of the setting
and its value. It returns the value, or raises a ``SettingError`` that names all three::

    self.alpha = checks.positive(self, 'alpha', alpha)
"""

import math
from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor

from icd_mmrazor.errors import SettingError


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number; a bool is not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def finite(owner: Any, name: str, value: Any) -> float:
    """Check that a setting is a finite number."""
    return _checked(is_number(value), owner, name, value, 'a finite number')


def positive(owner: Any, name: str, value: Any) -> float:
    """Check that a setting is a finite number greater than 0."""
    return _checked(is_number(value) and value > 0, owner, name, value, 'a positive number')


def not_negative(owner: Any, name: str, value: Any) -> float:
    """Check that a setting is a finite number, 0 or greater."""
    return _checked(is_number(value) and value >= 0, owner, name, value, 'a number, 0 or greater')


def positive_int(owner: Any, name: str, value: Any) -> int:
    """Check that a setting is an integer greater than 0."""
    return _checked(type(value) is int and value > 0, owner, name, value, 'a positive integer')


def boolean(owner: Any, name: str, value: Any) -> bool:
    """Check that a setting is True or False."""
    return _checked(isinstance(value, bool), owner, name, value, 'True or False')


def settings(owner: Any, name: str, value: Any) -> dict[str, Any]:
    """Check that a setting is a dict or None, and return a dict."""
    return _checked(isinstance(value, dict | None), owner, name, value, 'a dict or None') or {}


def one_of(owner: Any, name: str, value: Any, choices: Collection[Any]) -> Any:
    """Check that a setting is one of several values."""
    known = any(value is choice or (type(value) is type(choice) and value == choice) for choice in choices)
    return _checked(known, owner, name, value, f'one of {", ".join(map(repr, choices))}')


def shape(owner: Any, name: str, value: Any, dims: Collection[int] = (3,)) -> tuple[int, ...]:
    """Check that a setting is the shape of a feature or an image, without the batch, and return it as a tuple.

    ``dims`` are the numbers of dimensions that are allowed: 3 for ``(C, H, W)``, 2 for tokens, ``(N, C)``, 1 for
    ``(C,)``.
    """
    sizes = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else ()
    expected = ' or '.join({1: '(C,)', 2: '(N, C)', 3: '(C, H, W)'}[n] for n in dims)
    right = len(sizes) in dims and all(type(size) is int and size > 0 for size in sizes)
    _checked(right, owner, name, value, f'{expected}: positive integers, without the batch')
    return sizes


def feature_map(owner: Any, name: str, shape: tuple[int, ...], feature: Tensor) -> None:
    """Check that a map that a connector gets has the shape of its argument ``name``, ``(C, H, W)`` or ``(C,)``."""
    if feature.ndim != 4 or tuple(feature.shape[1 : 1 + len(shape)]) != shape:
        raise SettingError(
            f'{type(owner).__name__}({name}={shape}) got a feature of shape {tuple(feature.shape)}. Set '
            f"distiller.image_shape to the images' shape, C x H x W; if you set {name} yourself, set it to that of the "
            'map.'
        )


def _checked(right: bool, owner: Any, name: str, value: Any, expected: str) -> Any:
    if right:
        return value
    owner = owner if isinstance(owner, str) else type(owner).__name__
    raise SettingError(f'{owner}: {name}={value!r} must be {expected}.')
