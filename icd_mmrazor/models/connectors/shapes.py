"""Checks of shapes that a connector is given, and of what it then gets."""

from collections.abc import Sequence

from torch import Tensor

from icd_mmrazor.errors import SettingError


def checked_shape(owner: str, name: str, shape: Sequence[int], dims: tuple[int, ...] = (3,)) -> tuple[int, ...]:
    """Check the shape of a feature, without the batch.

    Args:
        owner: The class that it is an argument of, for the message.
        name: Name of the argument.
        shape: ``(C, H, W)`` or ``(C,)``.
        dims: Allowed numbers of dimensions.

    Returns:
        The shape as a tuple.

    Raises:
        SettingError: It is not so many positive integers.
    """
    numbers = tuple(shape) if isinstance(shape, Sequence) and not isinstance(shape, str) else ()
    if len(numbers) not in dims or not all(type(n) is int and n > 0 for n in numbers):
        wanted = ' or '.join({1: '(C,)', 3: '(C, H, W)'}[n] for n in dims)
        raise SettingError(
            f'{owner}: {name}={shape!r} must be {wanted}: channels, height and width of the feature, without the batch.'
        )
    return numbers


def check_feature(owner: str, name: str, shape: tuple[int, ...], feature: Tensor) -> None:
    """Check that a map has the shape that its connector was made for.

    Args:
        owner: The connector's class, for the message.
        name: Name of its argument that says the shape.
        shape: ``(C, H, W)``, or ``(C,)`` where any height and width will do.
        feature: The map, ``B x C x H x W``.

    Raises:
        SettingError: It has another shape.
    """
    if feature.ndim != 4 or tuple(feature.shape[1 : 1 + len(shape)]) != shape:
        raise SettingError(
            f'{owner}({name}={shape}) got a feature of shape {tuple(feature.shape)}. Set {name} to the shape of the '
            'recorded map, without the batch, or record another.'
        )
